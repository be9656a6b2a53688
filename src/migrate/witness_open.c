#include "migrate/witness_open.h"

#include "base/error.h"
#include "migrate/etcd.h"
#include "migrate/witness_etcd.h"
#include "wire/address.h"
#include "wire/messages.h"

gboolean witness_address_is_foreign(const char *address)
{
    return etcd_is_address(address);
}

gboolean witness_address_check(const char *address, GError **error)
{
    g_auto(Address) parsed = {0};

    return etcd_is_address(address) ? etcd_address_check(address, error)
                                    : address_parse(address, CHANNEL_DEFAULT_PORT, &parsed, error);
}

Witness *witness_new(const WitnessClientOptions *options)
{
    return etcd_is_address(options->address) ? witness_etcd_new(options)
                                             : witness_client_new(options);
}

static char *find_agent(const char *address, const ChannelOptions *options, int timeout_ms,
                        GCancellable *cancellable, GError **error)
{
    g_autoptr(Channel) channel = channel_connect(address, options, timeout_ms, cancellable, error);
    HelloMessage peer = {0};
    g_autofree char *agent = NULL;

    if (!channel || !handshake_connect(channel, "ping", &peer, NULL, error))
        return NULL;
    agent = g_strdup(peer.agent);
    hello_message_clear(&peer);
    if (agent && *agent)
        return g_steal_pointer(&agent);
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "%s does not say which agent it is", address);
    return NULL;
}

char *witness_find_id(const char *address, const ChannelOptions *channel, int timeout_ms,
                      GCancellable *cancellable, GError **error)
{
    return etcd_is_address(address) ? witness_etcd_find_id(address, timeout_ms, error)
                                    : find_agent(address, channel, timeout_ms, cancellable, error);
}
