/* Reaching the agents: HOST[:PORT] over HTTPS with our certificate, or unix:PATH. */
#pragma once

#include "client/client.h"

#define AGENT_LINK_CONNECT_MS 3000
#define AGENT_LINK_ANSWER_MS 8000

/* NULL with *error* where the address or the certificate cannot be used; nothing is sent yet.  *stop*: cancelled when the
 * engine ends (client_set_stop()). */
Client *agent_link_open(const char *address, const char *pki_dir, GCancellable *stop,
                        GError **error);
