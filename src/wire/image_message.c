/* IMAGES and IMAGES_SEEN: are the disks' images the same on both hosts? */
#include <string.h>

#include "base/error.h"
#include "wire/json_fields.h"
#include "wire/messages.h"

#define MAX_BYTES (4u << 20)
#define MAX_FILE_BYTES 65536
#define MAX_ID_BYTES 1024
#define DIGEST_DIGITS 32
#define MAX_OFFSET ((uint64_t)G_MAXINT64)

void images_message_clear(ImagesMessage *message)
{
    for (guint i = 0; i < message->count; i++)
        g_free(message->images[i].samples);
    g_clear_pointer(&message->images, g_free);
    message->count = 0;
}

void images_seen_message_clear(ImagesSeenMessage *message)
{
    for (guint i = 0; i < message->count; i++) {
        g_free(message->images[i].file);
        g_free(message->images[i].device_id);
        g_free(message->images[i].digest);
    }
    g_clear_pointer(&message->images, g_free);
    message->count = 0;
}

/* ---- questions ---- */

static json_t *encode_question(const ImageQuestion *question)
{
    json_t *object = json_pack("{s:I}", "lock", (json_int_t)question->lock);
    json_t *samples = json_array();

    for (guint i = 0; i < question->sample_count; i++)
        json_array_append_new(samples, json_integer((json_int_t)question->samples[i]));
    json_object_set_new(object, "samples", samples);
    if (question->content)
        json_object_set_new(object, "content", json_integer((json_int_t)question->bytes));
    return object;
}

char *images_message_encode(const ImagesMessage *message)
{
    json_t *array = json_array();

    for (guint i = 0; i < message->count; i++)
        json_array_append_new(array, encode_question(&message->images[i]));
    return json_field_finish(json_pack("{s:o}", "images", array));
}

static gboolean decode_question(json_t *object, ImageQuestion *ret, GError **error)
{
    json_t *samples, *sample;
    size_t i;

    if (!json_get_count(object, "lock", MAX_OFFSET, &ret->lock, error) ||
        !json_get_array(object, "samples", MESSAGE_MAX_SAMPLES, &samples, error))
        return FALSE;
    ret->content = json_object_get(object, "content") != NULL;
    if (ret->content && !json_get_count(object, "content", MAX_OFFSET, &ret->bytes, error))
        return FALSE;
    ret->samples = g_new0(uint64_t, json_array_size(samples) + 1);
    json_array_foreach(samples, i, sample)
    {
        if (!json_is_integer(sample) || json_integer_value(sample) < 0) {
            error_set(error, VMFERRY_ERROR_INVALID, "\"samples\" holds something else at %zu", i);
            return FALSE;
        }
        ret->samples[ret->sample_count++] = (uint64_t)json_integer_value(sample);
    }
    return TRUE;
}

gboolean images_message_decode(const char *text, size_t length, ImagesMessage *ret, GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, MAX_BYTES, error);
    g_auto(ImagesMessage) message = {0};
    json_t *array, *entry;
    size_t i;

    if (!object || !json_get_array(object, "images", MESSAGE_MAX_IMAGES, &array, error)) {
        g_prefix_error(error, "IMAGES: ");
        return FALSE;
    }
    message.images = g_new0(ImageQuestion, json_array_size(array) + 1);
    json_array_foreach(array, i, entry)
    {
        message.count++;
        if (!decode_question(entry, &message.images[i], error)) {
            g_prefix_error(error, "IMAGES: image %zu: ", i);
            return FALSE;
        }
    }
    *ret = message;
    message = (ImagesMessage){0};
    return TRUE;
}

/* ---- answers ---- */

static json_t *encode_seen(const ImageSeen *seen)
{
    json_t *object = json_object();

    json_object_set_new(object, "file", json_field_make_text(seen->file));
    json_object_set_new(object, "local", json_boolean(seen->local));
    json_object_set_new(object, "device", json_boolean(seen->device));
    json_object_set_new(object, "sees_lock", json_boolean(seen->sees_lock));
    json_object_set_new(object, "bytes", json_integer((json_int_t)seen->bytes));
    json_object_set_new(object, "token_s", json_integer((json_int_t)seen->token_s));
    json_object_set_new(object, "token_ms", json_integer(seen->token_ms));
    json_object_set_new(object, "device_id", json_field_make_text(seen->device_id));
    if (seen->digest)
        json_object_set_new(object, "digest", json_string(seen->digest));
    return object;
}

char *images_seen_message_encode(const ImagesSeenMessage *message)
{
    json_t *array = json_array();

    for (guint i = 0; i < message->count; i++)
        json_array_append_new(array, encode_seen(&message->images[i]));
    return json_field_finish(json_pack("{s:o}", "images", array));
}

static gboolean decode_digest(json_t *object, ImageSeen *ret, GError **error)
{
    if (!json_object_get(object, "digest"))
        return TRUE;
    if (!json_field_text(object, "digest", DIGEST_DIGITS, TRUE, &ret->digest, error))
        return FALSE;
    if (json_field_is_hex(ret->digest, DIGEST_DIGITS))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"digest\" is not of %d hex digits", DIGEST_DIGITS);
    return FALSE;
}

static gboolean decode_seen(json_t *object, ImageSeen *ret, GError **error)
{
    uint64_t milliseconds;

    if (!json_field_text(object, "file", MAX_FILE_BYTES, FALSE, &ret->file, error) ||
        !json_field_text(object, "device_id", MAX_ID_BYTES, FALSE, &ret->device_id, error) ||
        !json_get_count(object, "bytes", G_MAXINT64, &ret->bytes, error) ||
        !json_get_count(object, "token_s", G_MAXINT64, &ret->token_s, error) ||
        !json_get_count(object, "token_ms", 999, &milliseconds, error) ||
        !decode_digest(object, ret, error))
        return FALSE;
    ret->token_ms = (uint32_t)milliseconds;
    ret->local = json_flag_or(object, "local", FALSE);
    ret->device = json_flag_or(object, "device", FALSE);
    ret->sees_lock = json_flag_or(object, "sees_lock", FALSE);
    return TRUE;
}

gboolean images_seen_message_decode(const char *text, size_t length, ImagesSeenMessage *ret,
                                    GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, MAX_BYTES, error);
    g_auto(ImagesSeenMessage) message = {0};
    json_t *array, *entry;
    size_t i;

    if (!object || !json_get_array(object, "images", MESSAGE_MAX_IMAGES, &array, error)) {
        g_prefix_error(error, "IMAGES_SEEN: ");
        return FALSE;
    }
    message.images = g_new0(ImageSeen, json_array_size(array) + 1);
    json_array_foreach(array, i, entry)
    {
        message.count++;
        if (!decode_seen(entry, &message.images[i], error)) {
            g_prefix_error(error, "IMAGES_SEEN: image %zu: ", i);
            return FALSE;
        }
    }
    *ret = message;
    message = (ImagesSeenMessage){0};
    return TRUE;
}
