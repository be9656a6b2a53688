#include "wire/error_message.h"

#include <string.h>

#include "base/error.h"
#include "wire/channel_private.h"
#include "wire/json_fields.h"

#define MAX_BYTES 65536

/* At most *max* bytes of valid UTF-8 without control characters. */
static char *tame(const char *text, size_t max)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);

    if (strlen(valid) > max) {
        char *end = valid + max;

        while (end > valid && ((guchar)*end & 0xc0) == 0x80)
            end--;
        *end = '\0';
    }
    for (char *at = valid; *at; at++)
        if (((guchar)*at < 0x20 && *at != '\n') || *at == 0x7f)
            *at = '?';
    return g_steal_pointer(&valid);
}

char *error_message_encode(const GError *cause)
{
    VmferryErrorCode code =
        cause->domain == VMFERRY_ERROR ? (VmferryErrorCode)cause->code : VMFERRY_ERROR_FAILED;
    g_autofree char *message = tame(cause->message, ERROR_MESSAGE_MAX_BYTES);
    json_t *object = json_object();

    json_object_set_new(object, "code", json_string(vmferry_error_code_name(code)));
    json_object_set_new(object, "message", json_string(message));
    return json_field_finish(object);
}

void error_message_decode(const char *text, size_t length, const char *peer, GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, MAX_BYTES, NULL);
    g_autofree char *message = NULL;

    if (!object) {
        error_set(error, VMFERRY_ERROR_FAILED, "%s failed, and its reason is not readable", peer);
        return;
    }
    message = tame(json_text_or(object, "message", ""), ERROR_MESSAGE_MAX_BYTES);
    error_set(error, vmferry_error_code_from_name(json_text_or(object, "code", NULL)), "%s: %s",
              peer, *message ? message : "failed and gave no reason");
}

/* ---- on a channel ---- */

static void send_cause(Channel *channel, FrameType type, const GError *cause)
{
    g_autofree char *text = error_message_encode(cause);

    channel_send_bytes(channel, type, text, strlen(text), NULL);
}

void channel_send_error(Channel *channel, const GError *cause)
{
    send_cause(channel, FRAME_ERROR, cause);
}

void channel_send_abort(Channel *channel, const GError *cause)
{
    send_cause(channel, FRAME_ABORT, cause);
}

void channel_error_from_frame(Channel *channel, const Frame *frame, GError **error)
{
    error_message_decode((const char *)frame->payload, frame->length, channel->peer_name, error);
}
