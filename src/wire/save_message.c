/*
 * SAVE, SAVE_BASE and SAVED: the file that a guest is saved into, and the one below it
 */
#include <string.h>

#include "base/error.h"
#include "wire/json_fields.h"
#include "wire/messages.h"

#define MAX_BYTES 65536
#define MAX_PATH_BYTES 4095
#define MAX_BASE_BYTES (1u << 20)
#define MAX_DISK_ID_BYTES 4095
#define MAX_NAME_BYTES 255
#define MAX_FORMAT_BYTES 31

/* ---- SAVE ---- */

void save_message_clear(SaveMessage *message)
{
    g_clear_pointer(&message->path, g_free);
    g_clear_pointer(&message->base, g_free);
}

char *save_message_encode(const SaveMessage *message)
{
    json_t *object = json_object();

    json_object_set_new(object, "path", json_field_make_text(message->path));
    if (message->replace)
        json_object_set_new(object, "replace", json_true());
    if (message->base)
        json_object_set_new(object, "base", json_field_make_text(message->base));
    return json_field_finish(object);
}

static gboolean decode_save(json_t *object, SaveMessage *message, GError **error)
{
    json_t *replace = json_object_get(object, "replace");

    if (!json_field_text(object, "path", MAX_PATH_BYTES, TRUE, &message->path, error) ||
        !json_field_text(object, "base", MAX_PATH_BYTES, FALSE, &message->base, error))
        return FALSE;
    if (message->base && !*message->base)
        g_clear_pointer(&message->base, g_free);
    message->replace = json_is_true(replace);
    if (replace && !json_is_boolean(replace))
        error_set(error, VMFERRY_ERROR_INVALID, "\"replace\" is neither true nor false");
    else if (!g_path_is_absolute(message->path))
        error_set(error, VMFERRY_ERROR_INVALID, "\"path\" is not an absolute path");
    else if (message->base && !g_path_is_absolute(message->base))
        error_set(error, VMFERRY_ERROR_INVALID, "\"base\" is not an absolute path");
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

/* ---- SAVE_BASE ---- */

void save_base_message_clear(SaveBaseMessage *message)
{
    for (guint i = 0; i < message->disk_count; i++) {
        g_free(message->disks[i].id);
        g_free(message->disks[i].saved);
        g_free(message->disks[i].format);
        g_free(message->disks[i].bitmap);
        g_strfreev(message->disks[i].backing);
    }
    message->disk_count = 0;
    g_clear_pointer(&message->disks, g_free);
    g_clear_pointer(&message->id, g_free);
}

char *save_base_message_encode(const SaveBaseMessage *message)
{
    json_t *object = json_object(), *disks = json_array();

    for (guint i = 0; i < message->disk_count; i++) {
        const SaveBaseDisk *disk = &message->disks[i];
        json_t *entry = json_object();

        json_object_set_new(entry, "id", json_field_make_text(disk->id));
        json_object_set_new(entry, "saved", json_field_make_text(disk->saved));
        json_object_set_new(entry, "format", json_field_make_text(disk->format));
        json_object_set_new(entry, "bytes", json_integer((json_int_t)disk->bytes));
        if (disk->bitmap)
            json_object_set_new(entry, "bitmap", json_field_make_text(disk->bitmap));
        json_object_set_new(entry, "backing", json_field_make_texts(disk->backing));
        json_array_append_new(disks, entry);
    }
    json_object_set_new(object, "id", json_field_make_text(message->id));
    json_object_set_new(object, "disks", disks);
    return json_field_finish(object);
}

static gboolean is_name(const char *name)
{
    for (const char *at = name; *at; at++)
        if (*at == '/' || g_ascii_iscntrl(*at))
            return FALSE;
    return *name && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static gboolean check_names(const SaveBaseDisk *disk, GError **error)
{
    gboolean valid = is_name(disk->saved);

    for (guint i = 0; valid && disk->backing[i]; i++)
        valid = is_name(disk->backing[i]);
    if (!valid)
        error_set(error, VMFERRY_ERROR_INVALID,
                  "\"saved\" or \"backing\" is not a valid name of a file");
    return valid;
}

static gboolean decode_base_disk(json_t *entry, SaveBaseDisk *disk, GError **error)
{
    if (!json_is_object(entry)) {
        error_set(error, VMFERRY_ERROR_INVALID, "a disk is not an object");
        return FALSE;
    }
    if (!json_field_text(entry, "id", MAX_DISK_ID_BYTES, TRUE, &disk->id, error) ||
        !json_field_text(entry, "saved", MAX_NAME_BYTES, TRUE, &disk->saved, error) ||
        !json_field_text(entry, "format", MAX_FORMAT_BYTES, TRUE, &disk->format, error) ||
        !json_get_count(entry, "bytes", G_MAXINT64, &disk->bytes, error) ||
        !json_field_text(entry, "bitmap", MAX_NAME_BYTES, FALSE, &disk->bitmap, error) ||
        !json_field_texts(entry, "backing", SAVE_BASE_MAX_BACKING, MAX_NAME_BYTES, &disk->backing,
                          error))
        return FALSE;
    if (!*disk->bitmap)
        g_clear_pointer(&disk->bitmap, g_free);
    return check_names(disk, error);
}

static gboolean decode_base(json_t *object, SaveBaseMessage *message, GError **error)
{
    json_t *disks, *entry;
    size_t i;

    if (!json_field_id(object, "id", &message->id, error) ||
        !json_get_array(object, "disks", SAVE_BASE_MAX_DISKS, &disks, error))
        return FALSE;
    message->disks = g_new0(SaveBaseDisk, json_array_size(disks) + 1);
    json_array_foreach(disks, i, entry)
    {
        message->disk_count++;
        if (!decode_base_disk(entry, &message->disks[i], error))
            return FALSE;
    }
    return TRUE;
}

gboolean save_base_message_decode(const char *text, size_t length, SaveBaseMessage *ret,
                                  GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, MAX_BASE_BYTES, error);
    g_auto(SaveBaseMessage) message = {0};

    if (!object || !decode_base(object, &message, error)) {
        g_prefix_error(error, "SAVE_BASE: ");
        return FALSE;
    }
    *ret = message;
    message = (SaveBaseMessage){0};
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
    if (message->above_base)
        json_object_set_new(
            object, "pages",
            json_pack("{s:I, s:I, s:I, s:I}", "compared", (json_int_t)message->compared, "equal",
                      (json_int_t)message->equal, "stored", (json_int_t)message->stored, "zeroed",
                      (json_int_t)message->zeroed));
    return json_field_finish(object);
}

static gboolean decode_pages(json_t *object, SavedMessage *message, GError **error)
{
    json_t *pages = json_object_get(object, "pages");

    message->above_base = pages != NULL;
    if (!pages)
        return TRUE;
    if (!json_is_object(pages)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"pages\" is not an object");
        return FALSE;
    }
    return json_get_count(pages, "compared", G_MAXINT64, &message->compared, error) &&
           json_get_count(pages, "equal", G_MAXINT64, &message->equal, error) &&
           json_get_count(pages, "stored", G_MAXINT64, &message->stored, error) &&
           json_get_count(pages, "zeroed", G_MAXINT64, &message->zeroed, error);
}

gboolean saved_message_decode(const char *text, size_t length, SavedMessage *ret, GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, MAX_BYTES, error);
    g_auto(SavedMessage) message = {0};

    if (!object || !json_field_id(object, "id", &message.id, error) ||
        !json_get_count(object, "bytes", G_MAXINT64, &message.bytes, error) ||
        !decode_pages(object, &message, error)) {
        g_prefix_error(error, "SAVED: ");
        return FALSE;
    }
    *ret = message;
    message = (SavedMessage){0};
    return TRUE;
}
