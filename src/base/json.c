#include "base/json.h"

#include "base/error.h"

json_t *json_parse_object(const char *text, size_t length, size_t limit, GError **error)
{
    json_error_t where;
    json_t *value;

    if (length > limit) {
        error_set(error, VMFERRY_ERROR_INVALID, "JSON of %zu bytes is over the limit of %zu",
                  length, limit);
        return NULL;
    }
    value = json_loadb(text, length, JSON_REJECT_DUPLICATES, &where);
    if (!value) {
        error_set(error, VMFERRY_ERROR_INVALID, "not JSON: %s (at byte %d)", where.text,
                  where.position);
        return NULL;
    }
    if (!json_is_object(value)) {
        error_set(error, VMFERRY_ERROR_INVALID, "JSON is not an object");
        json_decref(value);
        return NULL;
    }
    return value;
}

gboolean json_get_text(json_t *object, const char *key, const char **ret, GError **error)
{
    const char *text = json_string_value(json_object_get(object, key));

    if (!text) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is missing or no text", key);
        return FALSE;
    }
    *ret = text;
    return TRUE;
}

gboolean json_get_count(json_t *object, const char *key, uint64_t max, uint64_t *ret,
                        GError **error)
{
    json_t *value = json_object_get(object, key);

    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is missing or no count", key);
        return FALSE;
    }
    if ((uint64_t)json_integer_value(value) > max) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "\"%s\" is %" JSON_INTEGER_FORMAT ", the limit is %" G_GUINT64_FORMAT, key,
                  json_integer_value(value), (guint64)max);
        return FALSE;
    }
    *ret = (uint64_t)json_integer_value(value);
    return TRUE;
}

gboolean json_get_array(json_t *object, const char *key, size_t max_entries, json_t **ret,
                        GError **error)
{
    json_t *value = json_object_get(object, key);

    if (!json_is_array(value) || json_array_size(value) > max_entries) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "\"%s\" is missing, no array or longer than %zu entries", key, max_entries);
        return FALSE;
    }
    *ret = value;
    return TRUE;
}

const char *json_text_or(json_t *object, const char *key, const char *fallback)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : fallback;
}

uint64_t json_count_or(json_t *object, const char *key, uint64_t fallback)
{
    json_t *value = json_object_get(object, key);

    return json_is_integer(value) && json_integer_value(value) >= 0
               ? (uint64_t)json_integer_value(value)
               : fallback;
}

gboolean json_flag_or(json_t *object, const char *key, gboolean fallback)
{
    json_t *value = json_object_get(object, key);

    return json_is_boolean(value) ? json_is_true(value) : fallback;
}
