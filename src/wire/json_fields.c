#include "wire/json_fields.h"

#include <string.h>

#include "base/error.h"
#include "wire/messages.h"

#define ID_DIGITS 32

static gboolean has_control_characters(const char *text)
{
    for (; *text; text++)
        if ((guchar)*text < 0x20 || *text == 0x7f)
            return TRUE;
    return FALSE;
}

gboolean json_field_text(json_t *object, const char *key, size_t max, gboolean required, char **ret,
                         GError **error)
{
    const char *text = "";

    if ((required || json_object_get(object, key)) && !json_get_text(object, key, &text, error))
        return FALSE;
    if ((required && !*text) || strlen(text) > max || has_control_characters(text)) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "\"%s\" is empty, longer than %zu bytes or has control characters", key, max);
        return FALSE;
    }
    *ret = g_strdup(text);
    return TRUE;
}

gboolean json_field_texts(json_t *object, const char *key, size_t max_entries, size_t max_bytes,
                          char ***ret, GError **error)
{
    g_autoptr(GPtrArray) texts = g_ptr_array_new_with_free_func(g_free);
    json_t *array;
    json_t *entry;
    size_t i;

    if (!json_get_array(object, key, max_entries, &array, error))
        return FALSE;
    json_array_foreach(array, i, entry)
    {
        if (!json_is_string(entry) || json_string_length(entry) > max_bytes) {
            error_set(error, VMFERRY_ERROR_INVALID,
                      "\"%s\": entry %zu is not a text or longer than %zu bytes", key, i,
                      max_bytes);
            return FALSE;
        }
        g_ptr_array_add(texts, g_strdup(json_string_value(entry)));
    }
    g_ptr_array_add(texts, NULL);
    *ret = (char **)g_ptr_array_free(g_steal_pointer(&texts), FALSE);
    return TRUE;
}

json_t *json_field_make_text(const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text ? text : "", -1);

    return json_string(valid);
}

json_t *json_field_make_texts(char *const *texts)
{
    json_t *array = json_array();

    for (; texts && *texts; texts++)
        json_array_append_new(array, json_field_make_text(*texts));
    return array;
}

char *json_field_finish(json_t *object)
{
    char *text = json_dumps(object, JSON_COMPACT);
    char *copy = g_strdup(text ? text : "{}");

    /* jansson allocates with malloc, callers free with g_free(). */
    free(text);
    json_decref(object);
    return copy;
}

gboolean json_field_is_hex(const char *text, size_t digits)
{
    size_t length = strspn(text, "0123456789abcdef");

    return text[length] == '\0' && (digits == 0 || length == digits);
}

gboolean json_field_id(json_t *object, const char *key, char **ret, GError **error)
{
    g_autofree char *id = NULL;

    if (!json_field_text(object, key, ID_DIGITS, TRUE, &id, error))
        return FALSE;
    if (!json_field_is_hex(id, ID_DIGITS)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not of %d hex digits", key, ID_DIGITS);
        return FALSE;
    }
    *ret = g_steal_pointer(&id);
    return TRUE;
}

gboolean json_field_term(json_t *object, uint64_t *ret, GError **error)
{
    if (!json_get_count(object, "term", MESSAGE_MAX_TERM, ret, error))
        return FALSE;
    if (*ret > 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"term\" is 0; terms begin with 1");
    return FALSE;
}

gboolean json_field_retry(json_t *object, guint *ret, GError **error)
{
    uint64_t ms = 0;

    if (json_object_get(object, "retry_for_ms") &&
        !json_get_count(object, "retry_for_ms", GUEST_MAX_RETRY_MS, &ms, error))
        return FALSE;
    *ret = (guint)ms;
    return TRUE;
}
