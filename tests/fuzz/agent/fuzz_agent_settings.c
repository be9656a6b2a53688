/* The configuration file, and the words in it. */
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

    agent_settings_parse(settings, (const char *)data, size, "fuzz", NULL);
    rate_parse(text, &rate, NULL);
    settings_split_address(text, &host, &port, NULL);
    return 0;
}
