/*
 * DISKS, DISKS_SEEN, DISKS_MAKE and DISKS_DIGESTS: image files that are made at the destination
 *
 * A destination makes files by this message, with its own rights: what is in it is checked
 * here, which places are allowed where they are made.
 */
#include <string.h>

#include "base/error.h"
#include "base/names.h"
#include "wire/json_fields.h"
#include "wire/messages.h"

#define MAX_BYTES (4u << 20)
#define MAX_GUEST_BYTES 128
#define MAX_WORD_BYTES 128
#define MAX_PATH_BYTES 4095
#define MAX_DISK_BYTES ((uint64_t)1 << 60)
#define MAX_LOCK ((uint64_t)G_MAXINT64)
#define MAX_MODE 0777
#define MAX_OPTIONS_BYTES 4096
#define DIGEST_DIGITS 32

static const char *const disk_make_names[] = {
    [DISK_MAKE_NOTHING] = "nothing",
    [DISK_MAKE_FILE] = "file",
    [DISK_MAKE_IMAGE] = "image",
};
NAMES_DEFINE(disk_make, DiskMake, disk_make_names)

/* ---- DISKS ---- */

static void file_clear(WireDiskFile *file)
{
    g_free(file->path);
    g_free(file->format);
    g_free(file->backing);
    g_free(file->backing_format);
    json_decref(file->options);
}

void disks_message_clear(DisksMessage *message)
{
    for (guint i = 0; i < message->file_count; i++)
        file_clear(&message->files[i]);
    g_free(message->files);
    g_free(message->transaction);
    g_free(message->guest);
    g_free(message->vmm_kind);
    g_free(message->program);
    g_free(message->working_directory);
    process_identity_free(message->process);
    *message = (DisksMessage){0};
}

static json_t *encode_file(const WireDiskFile *file)
{
    json_t *object = json_pack("{s:s, s:I, s:I, s:I, s:i, s:I}", "format", file->format, "bytes",
                               (json_int_t)file->bytes, "file_bytes", (json_int_t)file->file_bytes,
                               "allocated_bytes", (json_int_t)file->allocated_bytes, "mode",
                               (int)file->mode, "lock", (json_int_t)file->lock);

    json_object_set_new(object, "path", json_field_make_text(file->path));
    if (file->backing) {
        json_object_set_new(object, "backing", json_field_make_text(file->backing));
        json_object_set_new(object, "backing_format", json_field_make_text(file->backing_format));
    }
    if (file->options)
        json_object_set(object, "options", file->options);
    return object;
}

char *disks_message_encode(const DisksMessage *message)
{
    json_t *object = json_object();
    json_t *files = json_array();

    for (guint i = 0; i < message->file_count; i++)
        json_array_append_new(files, encode_file(&message->files[i]));
    json_object_set_new(object, "transaction", json_field_make_text(message->transaction));
    json_object_set_new(object, "guest", json_field_make_text(message->guest));
    json_object_set_new(object, "vmm_kind", json_field_make_text(message->vmm_kind));
    json_object_set_new(object, "program", json_field_make_text(message->program));
    json_object_set_new(object, "working_directory",
                        json_field_make_text(message->working_directory));
    json_object_set_new(object, "process", process_identity_to_json(message->process));
    json_object_set_new(object, "overwrite", json_boolean(message->overwrite));
    if (message->retry_for_ms > 0)
        json_object_set_new(object, "retry_for_ms", json_integer(message->retry_for_ms));
    json_object_set_new(object, "files", files);
    return json_field_finish(object);
}

static gboolean decode_mode(json_t *object, WireDiskFile *file, GError **error)
{
    uint64_t mode;

    if (!json_get_count(object, "mode", MAX_MODE, &mode, error))
        return FALSE;
    file->mode = (guint)mode;
    return TRUE;
}

static gboolean decode_backing(json_t *object, WireDiskFile *file, GError **error)
{
    return !json_object_get(object, "backing") ||
           (json_field_text(object, "backing", MAX_PATH_BYTES, TRUE, &file->backing, error) &&
            json_field_text(object, "backing_format", MAX_WORD_BYTES, TRUE, &file->backing_format,
                            error));
}

/* What is in them is for the VMM's driver to read. */
static gboolean decode_options(json_t *object, WireDiskFile *file, GError **error)
{
    json_t *options = json_object_get(object, "options");

    if (!options)
        return TRUE;
    if (json_is_object(options) &&
        json_dumpb(options, NULL, 0, JSON_COMPACT) <= MAX_OPTIONS_BYTES) {
        file->options = json_incref(options);
        return TRUE;
    }
    error_set(error, VMFERRY_ERROR_INVALID, "\"options\" is not an object of at most %u bytes",
              MAX_OPTIONS_BYTES);
    return FALSE;
}

static gboolean decode_file(json_t *object, WireDiskFile *file, GError **error)
{
    if (!json_is_object(object)) {
        error_set(error, VMFERRY_ERROR_INVALID, "not an object");
        return FALSE;
    }
    return json_field_text(object, "path", MAX_PATH_BYTES, TRUE, &file->path, error) &&
           json_field_text(object, "format", MAX_WORD_BYTES, TRUE, &file->format, error) &&
           json_get_count(object, "bytes", MAX_DISK_BYTES, &file->bytes, error) &&
           json_get_count(object, "file_bytes", MAX_DISK_BYTES, &file->file_bytes, error) &&
           json_get_count(object, "allocated_bytes", MAX_DISK_BYTES, &file->allocated_bytes,
                          error) &&
           json_get_count(object, "lock", MAX_LOCK, &file->lock, error) &&
           decode_mode(object, file, error) && decode_backing(object, file, error) &&
           decode_options(object, file, error);
}

static gboolean decode_files(json_t *object, DisksMessage *message, GError **error)
{
    json_t *array, *entry;
    size_t i;

    if (!json_get_array(object, "files", MESSAGE_MAX_DISK_FILES, &array, error))
        return FALSE;
    message->files = g_new0(WireDiskFile, json_array_size(array) + 1);
    json_array_foreach(array, i, entry)
    {
        if (!decode_file(entry, &message->files[message->file_count++], error)) {
            g_prefix_error(error, "file %zu: ", i);
            return FALSE;
        }
    }
    return TRUE;
}

static gboolean decode_owner(json_t *object, DisksMessage *message, GError **error)
{
    message->process = process_identity_from_json(json_object_get(object, "process"), error);
    if (!message->process || !json_field_text(object, "working_directory", MAX_PATH_BYTES, TRUE,
                                              &message->working_directory, error))
        return FALSE;
    if (g_path_is_absolute(message->working_directory))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"working_directory\" is not an absolute path");
    return FALSE;
}

gboolean disks_message_decode(const char *text, size_t length, DisksMessage *ret, GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, MAX_BYTES, error);
    g_auto(DisksMessage) message = {0};

    if (!object || !json_field_id(object, "transaction", &message.transaction, error) ||
        !json_field_text(object, "guest", MAX_GUEST_BYTES, TRUE, &message.guest, error) ||
        !json_field_text(object, "vmm_kind", MAX_WORD_BYTES, TRUE, &message.vmm_kind, error) ||
        !json_field_text(object, "program", MAX_PATH_BYTES, TRUE, &message.program, error) ||
        !decode_owner(object, &message, error) || !decode_files(object, &message, error) ||
        !json_field_retry(object, &message.retry_for_ms, error)) {
        g_prefix_error(error, "DISKS: ");
        return FALSE;
    }
    message.overwrite = json_flag_or(object, "overwrite", FALSE);
    *ret = message;
    message = (DisksMessage){0};
    return TRUE;
}

/* ---- DISKS_SEEN ---- */

void disks_seen_message_clear(DisksSeenMessage *message)
{
    for (guint i = 0; i < message->count; i++)
        g_free(message->files[i].path);
    g_free(message->files);
    *message = (DisksSeenMessage){0};
}

char *disks_seen_message_encode(const DisksSeenMessage *message)
{
    json_t *files = json_array();

    for (guint i = 0; i < message->count; i++) {
        const DiskFileSeen *seen = &message->files[i];
        json_t *object = json_pack("{s:b, s:b, s:I}", "exists", seen->exists, "same", seen->same,
                                   "bytes", (json_int_t)seen->bytes);

        json_object_set_new(object, "path", json_field_make_text(seen->path));
        json_array_append_new(files, object);
    }
    return json_field_finish(json_pack("{s:o}", "files", files));
}

static gboolean decode_seen(json_t *entry, DiskFileSeen *seen, GError **error)
{
    if (!json_field_text(entry, "path", MAX_PATH_BYTES, TRUE, &seen->path, error) ||
        !json_get_count(entry, "bytes", MAX_DISK_BYTES, &seen->bytes, error))
        return FALSE;
    seen->exists = json_flag_or(entry, "exists", FALSE);
    seen->same = json_flag_or(entry, "same", FALSE);
    return TRUE;
}

gboolean disks_seen_message_decode(const char *text, size_t length, DisksSeenMessage *ret,
                                   GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, MAX_BYTES, error);
    g_auto(DisksSeenMessage) message = {0};
    json_t *array, *entry;
    size_t i;

    if (!object || !json_get_array(object, "files", MESSAGE_MAX_DISK_FILES, &array, error)) {
        g_prefix_error(error, "DISKS_SEEN: ");
        return FALSE;
    }
    message.files = g_new0(DiskFileSeen, json_array_size(array) + 1);
    json_array_foreach(array, i, entry)
    {
        if (!decode_seen(entry, &message.files[message.count++], error)) {
            g_prefix_error(error, "DISKS_SEEN: file %zu: ", i);
            return FALSE;
        }
    }
    *ret = message;
    message = (DisksSeenMessage){0};
    return TRUE;
}

/* ---- lists with an entry for each file ---- */

/* The array *key* of an object, which must have *count* entries; *ret_object* owns it. */
static json_t *parse_list(const char *text, size_t length, const char *key, guint count,
                          json_t **ret_object, GError **error)
{
    json_t *array;

    *ret_object = json_parse_object(text, length, MAX_BYTES, error);
    if (!*ret_object || !json_get_array(*ret_object, key, MESSAGE_MAX_DISK_FILES, &array, error))
        return NULL;
    if (json_array_size(array) == count)
        return array;
    error_set(error, VMFERRY_ERROR_INVALID, "%zu entries for %u files", json_array_size(array),
              count);
    return NULL;
}

char *disks_make_message_encode(const DiskMake *makes, guint count)
{
    json_t *array = json_array();

    for (guint i = 0; i < count; i++)
        json_array_append_new(array, json_string(disk_make_name(makes[i])));
    return json_field_finish(json_pack("{s:o}", "make", array));
}

gboolean disks_make_message_decode(const char *text, size_t length, guint count, DiskMake *ret,
                                   GError **error)
{
    g_autoptr(json_t) object = NULL;
    json_t *array = parse_list(text, length, "make", count, &object, error);

    for (guint i = 0; array && i < count; i++) {
        const char *name = json_string_value(json_array_get(array, i));

        if (name && disk_make_from_name(name, &ret[i]))
            continue;
        error_set(error, VMFERRY_ERROR_INVALID, "entry %u is not a way to make a file", i);
        array = NULL;
    }
    if (array)
        return TRUE;
    g_prefix_error(error, "DISKS_MAKE: ");
    return FALSE;
}

char *disks_digests_message_encode(char *const *digests, guint count)
{
    json_t *array = json_array();

    for (guint i = 0; i < count; i++)
        json_array_append_new(array, digests[i] ? json_string(digests[i]) : json_null());
    return json_field_finish(json_pack("{s:o}", "digests", array));
}

gboolean disks_digests_message_decode(const char *text, size_t length, guint count, char **ret,
                                      GError **error)
{
    g_autoptr(json_t) object = NULL;
    json_t *array = parse_list(text, length, "digests", count, &object, error);

    for (guint i = 0; array && i < count; i++) {
        const char *digest = json_string_value(json_array_get(array, i));

        ret[i] = digest && json_field_is_hex(digest, DIGEST_DIGITS) ? g_strdup(digest) : NULL;
    }
    if (array)
        return TRUE;
    g_prefix_error(error, "DISKS_DIGESTS: ");
    return FALSE;
}
