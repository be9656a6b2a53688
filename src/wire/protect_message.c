/*
 * PROTECT: what a standby is to know besides the machine
 */
#include <string.h>

#include "base/error.h"
#include "wire/json_fields.h"
#include "wire/messages.h"

#define MAX_BYTES (1u << 20)
#define MAX_PATH_BYTES 4096
#define MAX_FORMAT_BYTES 64
#define SECTOR_BYTES 512u

static const char *const sync_words[] = {"auto", "output", "timed"};

void protect_message_clear(ProtectMessage *message)
{
    for (guint i = 0; i < message->image_count; i++) {
        g_free(message->images[i].path);
        g_free(message->images[i].format);
    }
    g_clear_pointer(&message->images, g_free);
    message->image_count = 0;
}

static void encode_options(json_t *object, const ProtectMessage *message)
{
    if (message->sync)
        json_object_set_new(object, "sync", json_string(message->sync));
    if (message->overhead_percent > 0)
        json_object_set_new(object, "overhead_percent",
                            json_integer((json_int_t)message->overhead_percent));
    if (message->copies_writes)
        json_object_set_new(object, "copies_writes", json_true());
}

char *protect_message_encode(const ProtectMessage *message)
{
    json_t *object = json_object(), *images = json_array();

    for (guint i = 0; i < message->image_count; i++) {
        json_t *image = json_object();

        json_object_set_new(image, "path", json_field_make_text(message->images[i].path));
        json_object_set_new(image, "format", json_field_make_text(message->images[i].format));
        json_object_set_new(image, "bytes", json_integer((json_int_t)message->images[i].bytes));
        json_array_append_new(images, image);
    }
    json_object_set_new(object, "port", json_integer(message->port));
    json_object_set_new(object, "images", images);
    encode_options(object, message);
    return json_field_finish(object);
}

static gboolean decode_image(json_t *object, WireImage *image, GError **error)
{
    if (!json_is_object(object)) {
        error_set(error, VMFERRY_ERROR_INVALID, "an image is not an object");
        return FALSE;
    }
    if (!json_field_text(object, "path", MAX_PATH_BYTES, TRUE, &image->path, error) ||
        !json_field_text(object, "format", MAX_FORMAT_BYTES, TRUE, &image->format, error) ||
        !json_get_count(object, "bytes", G_MAXINT64, &image->bytes, error))
        return FALSE;
    if (image->bytes > 0 && image->bytes % SECTOR_BYTES == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"bytes\" is not a number of whole sectors");
    return FALSE;
}

static gboolean decode_images(json_t *object, ProtectMessage *message, GError **error)
{
    json_t *array, *entry;
    size_t i;

    if (!json_get_array(object, "images", PROTECT_MESSAGE_MAX_IMAGES, &array, error))
        return FALSE;
    message->images = g_new0(WireImage, json_array_size(array) + 1);
    json_array_foreach(array, i, entry)
    {
        if (!decode_image(entry, &message->images[message->image_count++], error))
            return FALSE;
    }
    return TRUE;
}

static gboolean decode_sync(json_t *object, ProtectMessage *message, GError **error)
{
    const char *word;

    if (!json_object_get(object, "sync"))
        return TRUE;
    if (!json_get_text(object, "sync", &word, error))
        return FALSE;
    for (guint i = 0; i < G_N_ELEMENTS(sync_words) && !message->sync; i++)
        if (strcmp(word, sync_words[i]) == 0)
            message->sync = sync_words[i];
    if (!message->sync)
        error_set(error, VMFERRY_ERROR_INVALID, "\"sync\" is not auto, output or timed");
    return message->sync != NULL;
}

static gboolean decode_overhead(json_t *object, ProtectMessage *message, GError **error)
{
    uint64_t percent = 0;

    if (!json_object_get(object, "overhead_percent"))
        return TRUE;
    if (!json_get_count(object, "overhead_percent", PROTECT_MESSAGE_MAX_OVERHEAD_PERCENT, &percent,
                        error))
        return FALSE;
    message->overhead_percent = (guint)percent;
    if (percent == 0)
        error_set(error, VMFERRY_ERROR_INVALID, "\"overhead_percent\" is 0");
    return percent > 0;
}

static gboolean decode_copies(json_t *object, ProtectMessage *message, GError **error)
{
    json_t *flag = json_object_get(object, "copies_writes");

    message->copies_writes = json_is_true(flag);
    if (flag && !json_is_boolean(flag))
        error_set(error, VMFERRY_ERROR_INVALID, "\"copies_writes\" is neither true nor false");
    return !flag || json_is_boolean(flag);
}

static gboolean decode_options(json_t *object, ProtectMessage *message, GError **error)
{
    return decode_sync(object, message, error) && decode_overhead(object, message, error) &&
           decode_copies(object, message, error);
}

gboolean protect_message_decode(const char *text, size_t length, ProtectMessage *ret,
                                GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, MAX_BYTES, error);
    g_auto(ProtectMessage) message = {0};
    uint64_t port = 0;

    if (!object || !json_get_count(object, "port", UINT16_MAX, &port, error) ||
        !decode_images(object, &message, error) || !decode_options(object, &message, error)) {
        g_prefix_error(error, "PROTECT: ");
        return FALSE;
    }
    if (port == 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "PROTECT: \"port\" is 0");
        return FALSE;
    }
    message.port = (uint16_t)port;
    *ret = message;
    message = (ProtectMessage){0};
    return TRUE;
}
