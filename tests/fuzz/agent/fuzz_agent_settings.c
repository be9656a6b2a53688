/* The configuration file, its values, and a migrate request over it. */
#include "base/rate.h"
#include "agent/settings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(AgentSettings) settings = agent_settings_new();
    g_autofree char *text = g_strndup((const char *)data, size);
    g_autofree char *host = NULL;
    guint16 port;
    uint64_t rate;
    g_autoptr(json_t) request = json_parse_object((const char *)data, size, size, NULL);

    agent_settings_parse(settings, (const char *)data, size, "fuzz", NULL);
    rate_parse(text, &rate, NULL);
    settings_split_address(text, 4747, &host, &port, NULL);
    if (request && migrate_options_read(request, &settings->moves, NULL))
        migrate_options_write(&settings->moves, G_MAXUINT32, request);
    return 0;
}
