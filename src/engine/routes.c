#include "engine/routes.h"

#include <string.h>

#include "base/error.h"

#define NAME_MAX_BYTES 253u
#define LONGEST_HISTORY_MINUTES (30 * 24 * 60)

/* A body, or none, with no other keys than these. */
static gboolean check_body(const EngineCall *call, const char *const *known, gboolean needed,
                           GError **error)
{
    const char *key;
    json_t *value;

    if (!call->body && needed) {
        error_set(error, VMFERRY_ERROR_INVALID, "the request has no body");
        return FALSE;
    }
    json_object_foreach(call->body, key, value)
    {
        if (known && !g_strv_contains(known, key)) {
            error_set(error, VMFERRY_ERROR_INVALID, "unknown key \"%.64s\"", key);
            return FALSE;
        }
    }
    return TRUE;
}

static json_t *get_cluster(EngineCall *call, GError **error)
{
    return engine_show_cluster(call->engine);
}

static json_t *get_hosts(EngineCall *call, GError **error)
{
    return engine_show_hosts(call->engine);
}

static json_t *get_guests(EngineCall *call, GError **error)
{
    return engine_show_guests(call->engine);
}

static json_t *get_plan(EngineCall *call, GError **error)
{
    return engine_show_plan(call->engine);
}

static json_t *get_moves(EngineCall *call, GError **error)
{
    return engine_show_moves(call->engine, error);
}

static gboolean read_id(const EngineCall *call, gint64 *ret, GError **error)
{
    if (g_ascii_string_to_signed(call->name, 10, 1, G_MAXINT64, ret, NULL))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not a move's number", call->name);
    return FALSE;
}

static json_t *get_move(EngineCall *call, GError **error)
{
    gint64 id;

    return read_id(call, &id, error) ? engine_show_move(call->engine, id, error) : NULL;
}

static const char *query_of(const EngineCall *call, const char *key)
{
    return call->query ? g_hash_table_lookup(call->query, key) : NULL;
}

static json_t *get_history(EngineCall *call, GError **error)
{
    const char *host = query_of(call, "host");
    const char *text = query_of(call, "minutes");
    guint64 minutes = 60;

    if (!host)
        error_set(error, VMFERRY_ERROR_INVALID, "\"host\" is missing");
    else if (text &&
             !g_ascii_string_to_unsigned(text, 10, 1, LONGEST_HISTORY_MINUTES, &minutes, NULL))
        error_set(error, VMFERRY_ERROR_INVALID, "\"minutes\" is not a number from 1 to %d",
                  LONGEST_HISTORY_MINUTES);
    else
        return engine_show_history(call->engine, host, (guint)minutes, error);
    return NULL;
}

static json_t *get_rules(EngineCall *call, GError **error)
{
    return engine_show_rules(call->engine);
}

static json_t *get_slas(EngineCall *call, GError **error)
{
    return engine_show_slas(call->engine);
}

static json_t *get_metrics(EngineCall *call, GError **error)
{
    call->text = engine_show_metrics(call->engine);
    return NULL;
}

static json_t *post_drain(EngineCall *call, GError **error)
{
    static const char *const known[] = {"dry_run", NULL};

    if (!check_body(call, known, FALSE, error))
        return NULL;
    return engine_drain(call->engine, call->name, json_flag_or(call->body, "dry_run", FALSE),
                        error);
}

static json_t *post_undrain(EngineCall *call, GError **error)
{
    static const char *const known[] = {NULL};

    return check_body(call, known, FALSE, error) ? engine_undrain(call->engine, call->name, error)
                                                 : NULL;
}

/* {"guest": NAME}, or nothing for all. */
static gboolean read_guest(const EngineCall *call, const char **ret, GError **error)
{
    static const char *const known[] = {"guest", NULL};

    *ret = NULL;
    return check_body(call, known, FALSE, error) &&
           (!json_object_get(call->body, "guest") ||
            json_get_text(call->body, "guest", ret, error));
}

static json_t *post_freeze(EngineCall *call, GError **error)
{
    const char *guest;

    return read_guest(call, &guest, error) ? engine_freeze(call->engine, guest, error) : NULL;
}

static json_t *post_thaw(EngineCall *call, GError **error)
{
    const char *guest;

    return read_guest(call, &guest, error) ? engine_thaw(call->engine, guest, error) : NULL;
}

static json_t *post_moves(EngineCall *call, GError **error)
{
    static const char *const known[] = {"guest", "to", NULL};
    const char *guest, *to;

    if (!check_body(call, known, TRUE, error) ||
        !json_get_text(call->body, "guest", &guest, error) ||
        !json_get_text(call->body, "to", &to, error))
        return NULL;
    call->status = 202;
    return engine_order_move(call->engine, guest, to, error);
}

static json_t *delete_move(EngineCall *call, GError **error)
{
    gint64 id;

    call->status = 202;
    return read_id(call, &id, error) ? engine_cancel_move(call->engine, id, error) : NULL;
}

static json_t *post_rules(EngineCall *call, GError **error)
{
    if (!check_body(call, NULL, TRUE, error))
        return NULL;
    call->status = 201;
    return engine_add_rule(call->engine, call->body, error);
}

static json_t *delete_rule(EngineCall *call, GError **error)
{
    return engine_remove_rule(call->engine, call->name, error);
}

static json_t *put_sla(EngineCall *call, GError **error)
{
    if (!check_body(call, NULL, TRUE, error))
        return NULL;
    return engine_set_sla(call->engine, call->name, call->body, error);
}

static const EngineRoute routes[] = {
    {"GET", "/v1/cluster", get_cluster},
    {"GET", "/v1/hosts", get_hosts},
    {"GET", "/v1/guests", get_guests},
    {"GET", "/v1/plan", get_plan},
    {"GET", "/v1/moves", get_moves},
    {"POST", "/v1/moves", post_moves},
    {"GET", "/v1/moves/NAME", get_move},
    {"DELETE", "/v1/moves/NAME", delete_move},
    {"GET", "/v1/history", get_history},
    {"POST", "/v1/hosts/NAME/drain", post_drain},
    {"POST", "/v1/hosts/NAME/undrain", post_undrain},
    {"POST", "/v1/freeze", post_freeze},
    {"POST", "/v1/thaw", post_thaw},
    {"GET", "/v1/rules", get_rules},
    {"POST", "/v1/rules", post_rules},
    {"DELETE", "/v1/rules/NAME", delete_rule},
    {"GET", "/v1/slas", get_slas},
    {"PUT", "/v1/slas/NAME", put_sla},
    {"GET", "/metrics", get_metrics},
};

static gboolean matches(const char *pattern, const char *path, char **ret_name)
{
    g_auto(GStrv) wanted = g_strsplit(pattern, "/", -1);
    g_auto(GStrv) given = g_strsplit(path, "/", 8);
    guint count = g_strv_length(wanted);

    if (g_strv_length(given) != count)
        return FALSE;
    for (guint i = 0; i < count; i++) {
        gboolean name = strcmp(wanted[i], "NAME") == 0;
        size_t length = strlen(given[i]);

        if (name ? length == 0 || length > NAME_MAX_BYTES : strcmp(wanted[i], given[i]) != 0) {
            g_clear_pointer(ret_name, g_free);
            return FALSE;
        }
        if (name)
            *ret_name = g_strdup(given[i]);
    }
    return TRUE;
}

const EngineRoute *engine_route_find(const char *method, const char *path, char **ret_name,
                                     gboolean *ret_known)
{
    *ret_name = NULL;
    *ret_known = FALSE;
    for (guint i = 0; i < G_N_ELEMENTS(routes); i++) {
        if (!matches(routes[i].path, path, ret_name))
            continue;
        *ret_known = TRUE;
        if (strcmp(routes[i].method, method) == 0)
            return &routes[i];
        g_clear_pointer(ret_name, g_free);
    }
    return NULL;
}
