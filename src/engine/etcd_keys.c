#include "engine/etcd_keys.h"

#include <string.h>

#include "base/error.h"
#include "migrate/etcd.h"

/* ---- what is sent ---- */

static json_t *encode(const char *text, size_t length)
{
    g_autofree char *encoded = g_base64_encode((const guchar *)text, length);

    return json_string(encoded);
}

static json_t *number(gint64 value)
{
    char text[24];

    g_snprintf(text, sizeof text, "%" G_GINT64_FORMAT, value);
    return json_string(text);
}

static json_t *compare(const char *key, const char *target, const char *field, gint64 revision)
{
    return json_pack("{s:o, s:s, s:s, s:o}", "key", encode(key, strlen(key)), "target", target,
                     "result", "EQUAL", field, number(revision));
}

json_t *etcd_compare_made(const char *key, gint64 revision)
{
    return compare(key, "CREATE", "create_revision", revision);
}

json_t *etcd_compare_written(const char *key, gint64 revision)
{
    return compare(key, "MOD", "mod_revision", revision);
}

json_t *etcd_put(const char *key, const char *value, uint64_t lease)
{
    json_t *put = json_pack("{s:o, s:o}", "key", encode(key, strlen(key)), "value",
                            encode(value, strlen(value)));

    if (lease > 0)
        json_object_set_new(put, "lease", number((gint64)lease));
    return json_pack("{s:o}", "request_put", put);
}

json_t *etcd_delete(const char *key)
{
    return json_pack("{s:{s:o}}", "request_delete_range", "key", encode(key, strlen(key)));
}

json_t *etcd_read(const char *key)
{
    return json_pack("{s:{s:o}}", "request_range", "key", encode(key, strlen(key)));
}

json_t *etcd_read_all(const char *prefix, gint64 since, guint limit)
{
    size_t length = strlen(prefix);
    g_autofree char *end = g_strdup(prefix);

    end[length - 1]++;
    return json_pack("{s:{s:o, s:o, s:o, s:o, s:s, s:s}}", "request_range", "key",
                     encode(prefix, length), "range_end", encode(end, length), "min_mod_revision",
                     number(since), "limit", number(limit), "sort_target", "MOD", "sort_order",
                     "ASCEND");
}

json_t *etcd_transaction(json_t *compares, json_t *operations, json_t *otherwise)
{
    return json_pack("{s:o, s:o, s:o}", "compare", compares, "success", operations, "failure",
                     otherwise ? otherwise : json_array());
}

/* ---- what comes ---- */

static void found_free(gpointer data)
{
    EtcdFound *found = data;

    g_free(found->key);
    g_free(found->value);
    g_free(found);
}

static void list_free(gpointer data)
{
    EtcdFoundList *list = data;

    g_ptr_array_unref(list->entries);
    g_free(list);
}

void etcd_outcome_clear(EtcdOutcome *outcome)
{
    g_clear_pointer(&outcome->reads, g_ptr_array_unref);
    *outcome = (EtcdOutcome){0};
}

static gboolean get_revision(json_t *object, const char *key, gint64 *ret, GError **error)
{
    uint64_t value;

    if (!etcd_get_number(object, key, G_MAXINT64, &value, error))
        return FALSE;
    *ret = (gint64)value;
    if (value > 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is missing", key);
    return FALSE;
}

/* NULL where it is none. */
static char *get_text(json_t *object, const char *key, size_t limit, GError **error)
{
    size_t length = 0;
    guchar *bytes = etcd_get_bytes(object, key, limit, &length, error);
    char *text;

    if (!bytes)
        return NULL;
    text = g_strndup((const char *)bytes, length);
    g_free(bytes);
    if (strlen(text) == length && g_utf8_validate(text, -1, NULL))
        return text;
    g_free(text);
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is no text", key);
    return NULL;
}

static gboolean read_found(json_t *object, EtcdFound *ret, GError **error)
{
    if (!get_revision(object, "create_revision", &ret->made, error) ||
        !get_revision(object, "mod_revision", &ret->written, error) ||
        !etcd_get_number(object, "lease", G_MAXINT64, &ret->lease, error))
        return FALSE;
    ret->key = get_text(object, "key", ETCD_KEYS_MAX_KEY_BYTES, error);
    if (ret->key)
        ret->value = get_text(object, "value", ETCD_KEYS_MAX_VALUE_BYTES, error);
    return ret->value != NULL;
}

static EtcdFoundList *list_new(void)
{
    EtcdFoundList *list = g_new0(EtcdFoundList, 1);

    list->entries = g_ptr_array_new_with_free_func(found_free);
    return list;
}

static gboolean read_list(json_t *range, EtcdFoundList *ret, GError **error)
{
    json_t *kvs, *entry;
    size_t i;

    ret->more = json_flag_or(range, "more", FALSE);
    if (!json_object_get(range, "kvs"))
        return TRUE;
    if (!json_get_array(range, "kvs", ETCD_KEYS_MAX_FOUND, &kvs, error))
        return FALSE;
    json_array_foreach(kvs, i, entry)
    {
        EtcdFound *found = g_new0(EtcdFound, 1);

        g_ptr_array_add(ret->entries, found);
        if (!read_found(entry, found, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean read_responses(json_t *answer, EtcdOutcome *ret, GError **error)
{
    json_t *responses, *response;
    size_t i;

    ret->reads = g_ptr_array_new_with_free_func(list_free);
    if (!json_object_get(answer, "responses"))
        return TRUE;
    if (!json_get_array(answer, "responses", ETCD_KEYS_MAX_FOUND, &responses, error))
        return FALSE;
    json_array_foreach(responses, i, response)
    {
        json_t *range = json_object_get(response, "response_range");
        EtcdFoundList *list;

        if (!range)
            continue;
        list = list_new();
        g_ptr_array_add(ret->reads, list);
        if (!read_list(range, list, error))
            return FALSE;
    }
    return TRUE;
}

gboolean etcd_outcome_read(json_t *answer, EtcdOutcome *ret, GError **error)
{
    json_t *header = json_object_get(answer, "header");
    json_t *succeeded = json_object_get(answer, "succeeded");

    *ret = (EtcdOutcome){.done = json_is_true(succeeded)};
    if (succeeded && !json_is_boolean(succeeded))
        error_set(error, VMFERRY_ERROR_INVALID, "\"succeeded\" is neither true nor false");
    else if (get_revision(header, "revision", &ret->revision, error) &&
             read_responses(answer, ret, error))
        return TRUE;
    etcd_outcome_clear(ret);
    return FALSE;
}

const EtcdFoundList *etcd_outcome_list(const EtcdOutcome *outcome, guint number)
{
    return outcome->reads && number < outcome->reads->len ? outcome->reads->pdata[number] : NULL;
}

const EtcdFound *etcd_outcome_first(const EtcdOutcome *outcome, guint number)
{
    const EtcdFoundList *list = etcd_outcome_list(outcome, number);

    return list && list->entries->len > 0 ? list->entries->pdata[0] : NULL;
}
