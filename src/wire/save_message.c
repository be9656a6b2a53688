/*
 * SAVE and SAVED: the file that a guest is saved into
 */
#include <string.h>

#include "base/error.h"
#include "wire/json_fields.h"
#include "wire/messages.h"

#define MAX_BYTES 65536
#define MAX_PATH_BYTES 4095

/* ---- SAVE ---- */

void save_message_clear(SaveMessage *message)
{
    g_clear_pointer(&message->path, g_free);
}

char *save_message_encode(const SaveMessage *message)
{
    json_t *object = json_object();

    json_object_set_new(object, "path", json_field_make_text(message->path));
    if (message->replace)
        json_object_set_new(object, "replace", json_true());
    return json_field_finish(object);
}

static gboolean decode_save(json_t *object, SaveMessage *message, GError **error)
{
    json_t *replace = json_object_get(object, "replace");

    if (!json_field_text(object, "path", MAX_PATH_BYTES, TRUE, &message->path, error))
        return FALSE;
    message->replace = json_is_true(replace);
    if (replace && !json_is_boolean(replace))
        error_set(error, VMFERRY_ERROR_INVALID, "\"replace\" is neither true nor false");
    else if (!g_path_is_absolute(message->path))
        error_set(error, VMFERRY_ERROR_INVALID, "\"path\" is not an absolute path");
    else
        return TRUE;
    return FALSE;
}

gboolean save_message_decode(const char *text, size_t length, SaveMessage *ret, GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, MAX_BYTES, error);
    g_auto(SaveMessage) message = {0};

    if (!object || !decode_save(object, &message, error)) {
        g_prefix_error(error, "SAVE: ");
        return FALSE;
    }
    *ret = message;
    message = (SaveMessage){0};
    return TRUE;
}

/* ---- SAVED ---- */

void saved_message_clear(SavedMessage *message)
{
    g_clear_pointer(&message->id, g_free);
}

char *saved_message_encode(const SavedMessage *message)
{
    json_t *object = json_object();

    json_object_set_new(object, "id", json_field_make_text(message->id));
    json_object_set_new(object, "bytes", json_integer((json_int_t)message->bytes));
    return json_field_finish(object);
}

gboolean saved_message_decode(const char *text, size_t length, SavedMessage *ret, GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, MAX_BYTES, error);
    g_auto(SavedMessage) message = {0};

    if (!object || !json_field_id(object, "id", &message.id, error) ||
        !json_get_count(object, "bytes", G_MAXINT64, &message.bytes, error)) {
        g_prefix_error(error, "SAVED: ");
        return FALSE;
    }
    *ret = message;
    message = (SavedMessage){0};
    return TRUE;
}
