#include "engine/agent_link.h"

#include <string.h>

#define UNIX_PREFIX "unix:"

Client *agent_link_open(const char *address, const char *pki_dir, GCancellable *stop,
                        GError **error)
{
    Client *client = g_str_has_prefix(address, UNIX_PREFIX)
                         ? client_new(address + strlen(UNIX_PREFIX))
                         : client_new_tls(address, pki_dir, error);

    if (!client)
        return NULL;
    client_set_timeouts(client, AGENT_LINK_CONNECT_MS, AGENT_LINK_ANSWER_MS);
    client_set_stop(client, stop);
    return client;
}
