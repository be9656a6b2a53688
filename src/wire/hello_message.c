/*
 * HELLO: the sender, its versions and features, and the purpose
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
#define MAX_TRAFFIC_BYTES 32
#define AGENT_DIGITS 32

/* HELLO is answered at once; a peer that does not is stuck. */
#define HELLO_TIMEOUT_MS 10000

void hello_message_clear(HelloMessage *message)
{
    g_clear_pointer(&message->features, g_strfreev);
    g_clear_pointer(&message->software, g_free);
    g_clear_pointer(&message->host, g_free);
    g_clear_pointer(&message->purpose, g_free);
    g_clear_pointer(&message->instance, g_free);
    g_clear_pointer(&message->agent, g_free);
    g_clear_pointer(&message->token, g_free);
    g_clear_pointer(&message->transaction, g_free);
    g_clear_pointer(&message->traffic, g_free);
}

static void set_optional(json_t *object, const char *key, const char *text)
{
    if (text && *text)
        json_object_set_new(object, key, json_field_make_text(text));
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
    set_optional(object, "instance", message->instance);
    set_optional(object, "agent", message->agent);
    set_optional(object, "token", message->token);
    set_optional(object, "transaction", message->transaction);
    set_optional(object, "class", message->traffic);
    if (message->number > 0)
        json_object_set_new(object, "number", json_integer(message->number));
    return json_field_finish(object);
}

/* May be missing. */
static gboolean decode_hex(json_t *object, const char *key, guint digits, char **ret,
                           GError **error)
{
    if (!json_field_text(object, key, digits, FALSE, ret, error))
        return FALSE;
    if (!**ret || json_field_is_hex(*ret, digits))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not of %u hex digits", key, digits);
    return FALSE;
}

/* May be missing. */
static gboolean decode_number(json_t *object, HelloMessage *message, GError **error)
{
    uint64_t number = 0;

    if (json_object_get(object, "number") &&
        !json_get_count(object, "number", HELLO_MOST_NUMBER, &number, error))
        return FALSE;
    message->number = (guint)number;
    return TRUE;
}

static gboolean decode_fields(json_t *object, HelloMessage *message, GError **error)
{
    uint64_t version_min, version_max;

    if (!json_get_count(object, "version_min", MAX_VERSION, &version_min, error) ||
        !json_get_count(object, "version_max", MAX_VERSION, &version_max, error))
        return FALSE;
    if (version_min == 0 || version_min > version_max) {
        error_set(error, VMFERRY_ERROR_INVALID, "versions %u to %u are not a valid range",
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
           decode_hex(object, "agent", AGENT_DIGITS, &message->agent, error) &&
           decode_hex(object, "token", HELLO_TOKEN_DIGITS, &message->token, error) &&
           decode_hex(object, "transaction", HELLO_TRANSACTION_DIGITS, &message->transaction,
                      error) &&
           json_field_text(object, "class", MAX_TRAFFIC_BYTES, FALSE, &message->traffic, error) &&
           decode_number(object, message, error);
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

/* *said* has what is not the same in each of our HELLOs. */
static gboolean send_hello(Channel *channel, const HelloMessage *said, GError **error)
{
    static char software[] = "vmferry " VMFERRY_VERSION;
    static char *features[] = {(char *)FEATURE_PAGES_LZ4,
                               (char *)FEATURE_PAGES_ZSTD,
                               (char *)FEATURE_SEGMENTS,
                               (char *)FEATURE_COPIES,
                               (char *)FEATURE_BALLOON,
                               (char *)FEATURE_DISKS,
                               (char *)FEATURE_POSTCOPY,
                               (char *)FEATURE_STORE,
                               (char *)FEATURE_STANDBY,
                               (char *)FEATURE_DISK_DIGESTS,
                               (char *)FEATURE_SAVE,
                               (char *)FEATURE_SAVE_BASE,
                               (char *)FEATURE_NEUTRAL,
                               (char *)FEATURE_BULK_CHANNELS,
                               (char *)FEATURE_MEASURE,
                               (char *)FEATURE_PAGES_WINDOW,
                               (char *)FEATURE_SEED,
                               (char *)FEATURE_RECONNECT,
                               NULL};
    HelloMessage ours = *said;
    g_autofree char *text = NULL;

    ours.version_min = ours.version_max = PROTOCOL_VERSION;
    ours.features = features;
    ours.software = software;
    ours.host = (char *)g_get_host_name();
    ours.instance = (char *)channel_get_instance(channel);
    ours.agent = (char *)channel_get_agent(channel);
    text = hello_message_encode(&ours);

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

/* FALSE with *error* where the peer is this agent itself. */
static gboolean check_other(Channel *channel, const HelloMessage *peer, GError **error)
{
    const char *ours = channel_get_instance(channel);

    if (!ours || strcmp(ours, peer->instance) != 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED, "%s is this host itself; name another one",
              channel_get_peer_name(channel));
    return FALSE;
}

static gboolean connect_saying(Channel *channel, const HelloMessage *said, HelloMessage *ret_peer,
                               guint *ret_version, GError **error)
{
    HelloMessage peer = {0};

    if (!send_hello(channel, said, error) || !receive_hello(channel, &peer, ret_version, error))
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

gboolean handshake_connect(Channel *channel, const char *purpose, HelloMessage *ret_peer,
                           guint *ret_version, GError **error)
{
    HelloMessage said = {.purpose = (char *)purpose};

    return connect_saying(channel, &said, ret_peer, ret_version, error);
}

static gboolean connect_to_session(Channel *channel, const char *purpose, const char *transaction,
                                   TrafficClass traffic, guint number, const char *token,
                                   HelloMessage *ret_peer, GError **error)
{
    HelloMessage said = {.purpose = (char *)purpose,
                         .transaction = (char *)transaction,
                         .traffic = (char *)traffic_class_name(traffic),
                         .number = number,
                         .token = (char *)token};

    return connect_saying(channel, &said, ret_peer, NULL, error);
}

gboolean handshake_join(Channel *channel, const char *transaction, TrafficClass traffic,
                        guint number, const char *token, HelloMessage *ret_peer, GError **error)
{
    return connect_to_session(channel, "join", transaction, traffic, number, token, ret_peer,
                              error);
}

gboolean handshake_reconnect(Channel *channel, const char *transaction, TrafficClass traffic,
                             guint number, const char *token, HelloMessage *ret_peer,
                             GError **error)
{
    return connect_to_session(channel, "reconnect", transaction, traffic, number, token, ret_peer,
                              error);
}

gboolean handshake_accept(Channel *channel, const char *token, HelloMessage *ret_peer,
                          guint *ret_version, GError **error)
{
    HelloMessage said = {.purpose = (char *)"", .token = (char *)token};
    g_autoptr(GError) failure = NULL;
    HelloMessage peer = {0};

    if (!receive_hello(channel, &peer, ret_version, &failure)) {
        channel_send_error(channel, failure);
        g_propagate_error(error, g_steal_pointer(&failure));
        return FALSE;
    }
    if (!send_hello(channel, &said, error)) {
        hello_message_clear(&peer);
        return FALSE;
    }
    if (ret_peer)
        *ret_peer = peer;
    else
        hello_message_clear(&peer);
    return TRUE;
}
