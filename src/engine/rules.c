#include "engine/rules.h"

#include <string.h>

#include "base/error.h"
#include "base/name.h"
#include "base/names.h"
#include "policy/cluster_rules.h"

static const char *const kind_names[] = {[RULE_TOGETHER] = "together",
                                         [RULE_APART] = "apart",
                                         [RULE_HOSTS] = "hosts",
                                         [RULE_NEVER] = "never"};

#define HOST_NAME_MAX_BYTES 253u
#define MAX_NETWORK 1e13

ClusterRuleKind rule_cluster_kind(RuleKind kind)
{
    return kind == RULE_TOGETHER ? CLUSTER_RULE_TOGETHER
           : kind == RULE_APART  ? CLUSTER_RULE_APART
                                 : CLUSTER_RULE_HOSTS;
}

void rule_free(Rule *rule)
{
    if (!rule)
        return;
    g_free(rule->id);
    g_strfreev(rule->guests);
    g_strfreev(rule->hosts);
    g_free(rule);
}

/* ---- as JSON ---- */

static gboolean check_host_name(const char *name, GError **error)
{
    size_t length = strlen(name);

    if (length > 0 && length <= HOST_NAME_MAX_BYTES && !strpbrk(name, " \t\n,\"/"))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"%.64s\" is not a valid host's name", name);
    return FALSE;
}

static char **read_names(json_t *object, const char *key,
                         gboolean (*check)(const char *name, GError **error), GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    json_t *list = json_object_get(object, key), *entry;
    size_t i;

    if (list && (!json_is_array(list) || json_array_size(list) > RULE_MAX_NAMES)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not a list of at most %u names", key,
                  RULE_MAX_NAMES);
        return NULL;
    }
    json_array_foreach(list, i, entry)
    {
        const char *name = json_string_value(entry);

        if (!name) {
            error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" holds what is not a text", key);
            return NULL;
        }
        if (!check(name, error))
            return NULL;
        if (g_ptr_array_find_with_equal_func(names, name, g_str_equal, NULL)) {
            error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" names %s twice", key, name);
            return NULL;
        }
        g_ptr_array_add(names, g_strdup(name));
    }
    g_ptr_array_add(names, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&names), FALSE);
}

static gboolean check_keys(json_t *object, const char *const *known, GError **error)
{
    const char *key;
    json_t *value;

    json_object_foreach(object, key, value)
    {
        if (!g_strv_contains(known, key)) {
            error_set(error, VMFERRY_ERROR_INVALID, "unknown key \"%.64s\"", key);
            return FALSE;
        }
    }
    return TRUE;
}

/* How many names each kind takes. */
static gboolean check_counts(const Rule *rule, GError **error)
{
    guint guests = g_strv_length(rule->guests), hosts = g_strv_length(rule->hosts);
    gboolean pairs = rule->kind == RULE_TOGETHER || rule->kind == RULE_APART;

    if (guests < (pairs ? 2u : 1u))
        error_set(error, VMFERRY_ERROR_INVALID, "a rule \"%s\" needs at least %s",
                  kind_names[rule->kind], pairs ? "two guests" : "one guest");
    else if (rule->kind == RULE_HOSTS && hosts == 0)
        error_set(error, VMFERRY_ERROR_INVALID, "a rule \"hosts\" needs at least one host");
    else if (rule->kind != RULE_HOSTS && hosts > 0)
        error_set(error, VMFERRY_ERROR_INVALID, "a rule \"%s\" names no hosts",
                  kind_names[rule->kind]);
    else
        return TRUE;
    return FALSE;
}

static gboolean read_strict(json_t *object, gboolean *ret, GError **error)
{
    json_t *value = json_object_get(object, "strict");

    *ret = !value || json_is_true(value);
    if (!value || json_is_boolean(value))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"strict\" is neither true nor false");
    return FALSE;
}

Rule *rule_from_json(json_t *object, GError **error)
{
    static const char *const known[] = {"id", "kind", "guests", "hosts", "strict", NULL};
    g_autoptr(Rule) rule = g_new0(Rule, 1);
    const char *kind;
    guint found;

    if (!check_keys(object, known, error) || !json_get_text(object, "kind", &kind, error) ||
        !read_strict(object, &rule->strict, error))
        return NULL;
    found = names_find(kind_names, G_N_ELEMENTS(kind_names), kind);
    if (found == G_N_ELEMENTS(kind_names)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"kind\" is together, apart, hosts or never");
        return NULL;
    }
    rule->kind = (RuleKind)found;
    rule->id = g_strdup(json_text_or(object, "id", NULL));
    rule->guests = read_names(object, "guests", guest_name_check, error);
    if (!rule->guests)
        return NULL;
    rule->hosts = read_names(object, "hosts", check_host_name, error);
    return rule->hosts && check_counts(rule, error) ? g_steal_pointer(&rule) : NULL;
}

static json_t *names_to_json(char **names)
{
    json_t *list = json_array();

    for (; *names; names++)
        json_array_append_new(list, json_string(*names));
    return list;
}

json_t *rule_to_json(const Rule *rule)
{
    return json_pack("{s:s?, s:s, s:o, s:o, s:b}", "id", rule->id, "kind", kind_names[rule->kind],
                     "guests", names_to_json(rule->guests), "hosts", names_to_json(rule->hosts),
                     "strict", rule->strict);
}

char *rule_describe(const Rule *rule)
{
    g_autofree char *guests = g_strjoinv(", ", rule->guests);
    g_autofree char *hosts = g_strjoinv(", ", rule->hosts);

    return g_strdup_printf("%s%s (%s: %s%s%s)", rule->id ? "rule " : "the new rule",
                           rule->id ? rule->id : "", kind_names[rule->kind], guests,
                           *hosts ? " on " : "", hosts);
}

/* ---- what contradicts what ---- */

/* Rules as the policy has them: names become indexes of guests and hosts that need not be there. */
typedef struct {
    GPtrArray *names, *owned;
    GArray *rules; /* of ClusterRule */
} Layout;

static guint index_of(GPtrArray *names, const char *name)
{
    guint index;

    if (g_ptr_array_find_with_equal_func(names, name, g_str_equal, &index))
        return index;
    g_ptr_array_add(names, (gpointer)name);
    return names->len - 1;
}

static const guint *lay_out_names(Layout *layout, GPtrArray *known, char **names, guint *ret_count)
{
    guint *indexes = g_new(guint, g_strv_length(names) + 1);

    g_ptr_array_add(layout->owned, indexes);
    for (*ret_count = 0; *names; names++)
        indexes[(*ret_count)++] = index_of(known, *names);
    return indexes;
}

static void lay_out(Layout *layout, GPtrArray *hosts, const Rule *rule)
{
    ClusterRule one = {.id = rule->id ? rule->id : "that is new",
                       .kind = rule_cluster_kind(rule->kind),
                       .strict = rule->strict};

    if (rule->kind == RULE_NEVER)
        return;
    one.guests = lay_out_names(layout, layout->names, rule->guests, &one.n_guests);
    one.hosts = lay_out_names(layout, hosts, rule->hosts, &one.n_hosts);
    g_array_append_val(layout->rules, one);
}

static gboolean find_conflict(Layout *layout, const GPtrArray *hosts, GError **error)
{
    g_autofree ClusterGuest *guests = g_new0(ClusterGuest, layout->names->len + 1);
    g_autofree ClusterHost *filled = g_new0(ClusterHost, hosts->len + 1);
    g_autoptr(GArray) conflicts = g_array_new(FALSE, FALSE, sizeof(ClusterConflict));
    ClusterView view = {.hosts = filled,
                        .n_hosts = hosts->len,
                        .guests = guests,
                        .n_guests = layout->names->len,
                        .rules = (const ClusterRule *)(gpointer)layout->rules->data,
                        .n_rules = layout->rules->len};
    g_autofree char *text = NULL;

    for (guint i = 0; i < layout->names->len; i++)
        guests[i].name = layout->names->pdata[i];
    for (guint i = 0; i < hosts->len; i++)
        filled[i].name = hosts->pdata[i];
    cluster_rules_find_conflicts(&view, conflicts);
    if (conflicts->len == 0)
        return FALSE;
    text = cluster_conflict_describe(&view, &g_array_index(conflicts, ClusterConflict, 0));
    error_set(error, VMFERRY_ERROR_REFUSED, "%s", text);
    return TRUE;
}

static gboolean check_hosts(const Rule *rule, const char *const *hosts, GError **error)
{
    for (char **host = rule->hosts; *host; host++) {
        if (g_strv_contains(hosts, *host))
            continue;
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "there is no host %s", *host);
        return FALSE;
    }
    return TRUE;
}

gboolean rules_agree(const GPtrArray *rules, const Rule *rule, const char *const *hosts,
                     GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    g_autoptr(GPtrArray) owned = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) known = g_ptr_array_new();
    g_autoptr(GArray) laid_out = g_array_new(FALSE, FALSE, sizeof(ClusterRule));
    Layout layout = {.names = names, .owned = owned, .rules = laid_out};

    if (!check_hosts(rule, hosts, error))
        return FALSE;
    for (const char *const *host = hosts; *host; host++)
        g_ptr_array_add(known, (gpointer)*host);
    for (guint i = 0; i < rules->len; i++)
        lay_out(&layout, known, rules->pdata[i]);
    lay_out(&layout, known, rule);
    return !find_conflict(&layout, known, error);
}

/* ---- promises ---- */

static gboolean read_limit(json_t *object, const char *key, double max, double *ret, GError **error)
{
    json_t *value = json_object_get(object, key);

    *ret = 0;
    if (!value || json_is_null(value))
        return TRUE;
    if (json_is_number(value) && json_number_value(value) >= 0 && json_number_value(value) <= max) {
        *ret = json_number_value(value);
        return TRUE;
    }
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not a number from 0 to %g", key, max);
    return FALSE;
}

gboolean sla_from_json(json_t *object, ClusterSla *ret, GError **error)
{
    static const char *const known[] = {"cpu_wait", "network_bytes_per_s", "no_swap", NULL};
    json_t *no_swap = json_object_get(object, "no_swap");

    if (no_swap && !json_is_boolean(no_swap)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"no_swap\" is neither true nor false");
        return FALSE;
    }
    ret->no_swap = json_is_true(no_swap);
    return check_keys(object, known, error) &&
           read_limit(object, "cpu_wait", 1, &ret->cpu_wait, error) &&
           read_limit(object, "network_bytes_per_s", MAX_NETWORK, &ret->network, error);
}

json_t *sla_to_json(const ClusterSla *sla)
{
    return json_pack("{s:f, s:f, s:b}", "cpu_wait", sla->cpu_wait, "network_bytes_per_s",
                     sla->network, "no_swap", sla->no_swap);
}
