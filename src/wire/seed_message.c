/*
 * SEED: an image at the destination whose pages need not travel
 */
#include <inttypes.h>

#include "base/error.h"
#include "wire/json_fields.h"
#include "wire/messages.h"
#include "wire/seed_frame.h"

#define MAX_BYTES 65536
#define MAX_PATH_BYTES 4095
#define KEY_DIGITS 16u
/* Of all regions of an image. */
#define MAX_PAGES (UINT64_C(1) << 34)

/* ---- the question ---- */

void seed_message_clear(SeedMessage *message)
{
    g_clear_pointer(&message->path, g_free);
}

char *seed_message_encode(const SeedMessage *message)
{
    json_t *object = json_object();

    json_object_set_new(object, "path", json_field_make_text(message->path));
    json_object_set_new(object, "most", json_integer(message->most));
    return json_field_finish(object);
}

static gboolean decode_question(json_t *object, SeedMessage *message, GError **error)
{
    uint64_t most = 0;

    if (!json_field_text(object, "path", MAX_PATH_BYTES, TRUE, &message->path, error) ||
        !json_get_count(object, "most", SEED_MAX_DIGESTS, &most, error))
        return FALSE;
    message->most = (uint32_t)most;
    if (!g_path_is_absolute(message->path))
        error_set(error, VMFERRY_ERROR_INVALID, "\"path\" is not an absolute path");
    else if (most == 0)
        error_set(error, VMFERRY_ERROR_INVALID, "\"most\" is 0");
    else
        return TRUE;
    return FALSE;
}

gboolean seed_message_decode(const char *text, size_t length, SeedMessage *ret, GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, MAX_BYTES, error);

    *ret = (SeedMessage){0};
    if (object && decode_question(object, ret, error))
        return TRUE;
    seed_message_clear(ret);
    g_prefix_error(error, "SEED: ");
    return FALSE;
}

/* ---- the answer ---- */

void seed_answer_clear(SeedAnswer *answer)
{
    g_clear_pointer(&answer->id, g_free);
}

char *seed_answer_encode(const SeedAnswer *answer)
{
    g_autofree char *key = g_strdup_printf("%016" PRIx64, answer->key);
    json_t *object = json_object();

    json_object_set_new(object, "id", json_field_make_text(answer->id));
    json_object_set_new(object, "pages", json_integer((json_int_t)answer->pages));
    json_object_set_new(object, "key", json_field_make_text(key));
    return json_field_finish(object);
}

static gboolean decode_answer(json_t *object, SeedAnswer *answer, GError **error)
{
    g_autofree char *key = NULL;

    if (!json_field_id(object, "id", &answer->id, error) ||
        !json_get_count(object, "pages", MAX_PAGES, &answer->pages, error) ||
        !json_field_text(object, "key", KEY_DIGITS, TRUE, &key, error))
        return FALSE;
    if (!json_field_is_hex(key, KEY_DIGITS)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"key\" is not of %u hexadecimal digits",
                  KEY_DIGITS);
        return FALSE;
    }
    answer->key = g_ascii_strtoull(key, NULL, 16);
    return TRUE;
}

gboolean seed_answer_decode(const char *text, size_t length, SeedAnswer *ret, GError **error)
{
    g_autoptr(json_t) object = json_parse_object(text, length, MAX_BYTES, error);

    *ret = (SeedAnswer){0};
    if (object && decode_answer(object, ret, error))
        return TRUE;
    seed_answer_clear(ret);
    g_prefix_error(error, "SEED: ");
    return FALSE;
}
