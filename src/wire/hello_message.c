/*
 * HELLO: who speaks, which versions, what for
 */
#include <string.h>

#include "base/error.h"
#include "vmferry-config.h"
#include "wire/json_fields.h"
#include "wire/messages.h"

#define MAX_BYTES 65536
#define MAX_VERSION 65535
#define MAX_FEATURES 64
#define MAX_FEATURE_BYTES 64
#define MAX_SOFTWARE_BYTES 128
#define MAX_HOST_BYTES 255
#define MAX_PURPOSE_BYTES 32
#define MAX_INSTANCE_BYTES 64
#define AGENT_DIGITS 32

/* HELLO is answered at once; who does not is stuck. */
#define HELLO_TIMEOUT_MS 10000

void hello_message_clear(HelloMessage *message)
{
    g_clear_pointer(&message->features, g_strfreev);
    g_clear_pointer(&message->software, g_free);
    g_clear_pointer(&message->host, g_free);
    g_clear_pointer(&message->purpose, g_free);
    g_clear_pointer(&message->instance, g_free);
    g_clear_pointer(&message->agent, g_free);
}

char *hello_message_encode(const HelloMessage *message)
{
    json_t *object = json_object();

    json_object_set_new(object, "version_min", json_integer(message->version_min));
    json_object_set_new(object, "version_max", json_integer(message->version_max));
    json_object_set_new(object, "features", json_field_make_texts(message->features));
    json_object_set_new(object, "software", json_field_make_text(message->software));
    json_object_set_new(object, "host", json_field_make_text(message->host));
    json_object_set_new(object, "purpose", json_field_make_text(message->purpose));
    if (message->instance && *message->instance)
        json_object_set_new(object, "instance", json_field_make_text(message->instance));
    if (message->agent && *message->agent)
        json_object_set_new(object, "agent", json_field_make_text(message->agent));
    return json_field_finish(object);
}

static gboolean decode_agent(json_t *object, HelloMessage *message, GError **error)
{
    if (!json_field_text(object, "agent", AGENT_DIGITS, FALSE, &message->agent, error))
        return FALSE;
    if (!*message->agent || json_field_is_hex(message->agent, AGENT_DIGITS))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"agent\" is not of %d hex digits", AGENT_DIGITS);
    return FALSE;
}

static gboolean decode_fields(json_t *object, HelloMessage *message, GError **error)
{
    uint64_t version_min, version_max;

    if (!json_get_count(object, "version_min", MAX_VERSION, &version_min, error) ||
        !json_get_count(object, "version_max", MAX_VERSION, &version_max, error))
        return FALSE;
    if (version_min == 0 || version_min > version_max) {
        error_set(error, VMFERRY_ERROR_INVALID, "versions %u to %u are no range",
                  (guint)version_min, (guint)version_max);
        return FALSE;
    }
    message->version_min = (guint)version_min;
    message->version_max = (guint)version_max;
    return json_field_texts(object, "features", MAX_FEATURES, MAX_FEATURE_BYTES, &message->features,
                            error) &&
           json_field_text(object, "software", MAX_SOFTWARE_BYTES, FALSE, &message->software,
                           error) &&
           json_field_text(object, "host", MAX_HOST_BYTES, FALSE, &message->host, error) &&
           json_field_text(object, "purpose", MAX_PURPOSE_BYTES, FALSE, &message->purpose, error) &&
           json_field_text(object, "instance", MAX_INSTANCE_BYTES, FALSE, &message->instance,
                           error) &&
           decode_agent(object, message, error);
}

gboolean hello_message_decode(const char *text, size_t length, HelloMessage *ret, GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, MAX_BYTES, error);
    HelloMessage message = {0};

    if (object && decode_fields(object, &message, error)) {
        *ret = message;
        return TRUE;
    }
    hello_message_clear(&message);
    g_prefix_error(error, "HELLO: ");
    return FALSE;
}

gboolean peer_has_feature(const HelloMessage *peer, const char *feature)
{
    return peer->features && g_strv_contains((const char *const *)peer->features, feature);
}

static gboolean send_hello(Channel *channel, const char *purpose, GError **error)
{
    static char software[] = "vmferry " VMFERRY_VERSION;
    static char *features[] = {(char *)FEATURE_PAGES_LZ4, (char *)FEATURE_PAGES_ZSTD,
                               (char *)FEATURE_SEGMENTS,  (char *)FEATURE_COPIES,
                               (char *)FEATURE_BALLOON,   NULL};
    HelloMessage ours = {.version_min = PROTOCOL_VERSION,
                         .version_max = PROTOCOL_VERSION,
                         .features = features,
                         .software = software,
                         .host = (char *)g_get_host_name(),
                         .purpose = (char *)purpose,
                         .instance = (char *)channel_get_instance(channel),
                         .agent = (char *)channel_get_agent(channel)};
    g_autofree char *text = hello_message_encode(&ours);

    return channel_send_bytes(channel, FRAME_HELLO, text, strlen(text), error);
}

static gboolean agree(const HelloMessage *peer, guint *ret_version, GError **error)
{
    if (peer->version_min > PROTOCOL_VERSION || peer->version_max < PROTOCOL_VERSION) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "%s there speaks versions %u to %u of the protocol, vmferry %s here version %u: "
                  "update the older side",
                  *peer->software ? peer->software : "the software", peer->version_min,
                  peer->version_max, VMFERRY_VERSION, PROTOCOL_VERSION);
        return FALSE;
    }
    if (ret_version)
        *ret_version = PROTOCOL_VERSION;
    return TRUE;
}

static gboolean receive_hello(Channel *channel, HelloMessage *ret, guint *ret_version,
                              GError **error)
{
    HelloMessage peer = {0};
    Frame frame;

    if (!channel_expect(channel, FRAME_HELLO, HELLO_TIMEOUT_MS, &frame, error))
        return FALSE;
    if (!hello_message_decode((const char *)frame.payload, frame.length, &peer, error) ||
        !agree(&peer, ret_version, error)) {
        hello_message_clear(&peer);
        g_prefix_error(error, "%s: ", channel_get_peer_name(channel));
        return FALSE;
    }
    *ret = peer;
    return TRUE;
}

/* FALSE with *error* where the peer is who we are. */
static gboolean check_other(Channel *channel, const HelloMessage *peer, GError **error)
{
    const char *ours = channel_get_instance(channel);

    if (!ours || strcmp(ours, peer->instance) != 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED, "%s is this host itself; name another one",
              channel_get_peer_name(channel));
    return FALSE;
}

gboolean handshake_connect(Channel *channel, const char *purpose, HelloMessage *ret_peer,
                           guint *ret_version, GError **error)
{
    HelloMessage peer = {0};

    if (!send_hello(channel, purpose, error) || !receive_hello(channel, &peer, ret_version, error))
        return FALSE;
    if (!check_other(channel, &peer, error)) {
        hello_message_clear(&peer);
        return FALSE;
    }
    if (ret_peer)
        *ret_peer = peer;
    else
        hello_message_clear(&peer);
    return TRUE;
}

gboolean handshake_accept(Channel *channel, HelloMessage *ret_peer, guint *ret_version,
                          GError **error)
{
    g_autoptr(GError) failure = NULL;
    HelloMessage peer = {0};

    if (!receive_hello(channel, &peer, ret_version, &failure)) {
        channel_send_error(channel, failure);
        g_propagate_error(error, g_steal_pointer(&failure));
        return FALSE;
    }
    if (!send_hello(channel, "", error)) {
        hello_message_clear(&peer);
        return FALSE;
    }
    if (ret_peer)
        *ret_peer = peer;
    else
        hello_message_clear(&peer);
    return TRUE;
}
