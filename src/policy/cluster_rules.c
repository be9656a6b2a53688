#include "policy/cluster_rules.h"

#include <string.h>

typedef struct {
    const ClusterView *view;
    GArray *conflicts;
    guint *together; /* of each guest: the root of those that have to be with it */
    guint *marks;    /* of each guest or host; see their users */
    guint mark;
} Search;

static gboolean is_strict(const ClusterRule *rule, ClusterRuleKind kind)
{
    return rule->strict && rule->kind == kind;
}

static void found(Search *search, guint a, guint b, guint guest)
{
    ClusterConflict conflict = {MIN(a, b), MAX(a, b), guest};

    for (guint i = 0; i < search->conflicts->len; i++) {
        const ClusterConflict *other = &g_array_index(search->conflicts, ClusterConflict, i);

        if (other->a == conflict.a && other->b == conflict.b)
            return;
    }
    g_array_append_val(search->conflicts, conflict);
}

/* ---- alone ---- */

static void check_alone(Search *search, guint r)
{
    const ClusterRule *rule = &search->view->rules[r];

    if (rule->n_guests == 0 || (rule->kind == CLUSTER_RULE_HOSTS && rule->n_hosts == 0) ||
        (rule->strict && rule->kind == CLUSTER_RULE_APART &&
         rule->n_guests > search->view->n_hosts))
        found(search, r, CLUSTER_NONE, CLUSTER_NONE);
}

/* ---- together and apart ---- */

static guint find_root(Search *search, guint guest)
{
    while (search->together[guest] != guest)
        guest = search->together[guest] = search->together[search->together[guest]];
    return guest;
}

static void join_together(Search *search)
{
    const ClusterView *view = search->view;

    for (guint g = 0; g < view->n_guests; g++)
        search->together[g] = g;
    for (guint r = 0; r < view->n_rules; r++) {
        const ClusterRule *rule = &view->rules[r];

        if (is_strict(rule, CLUSTER_RULE_TOGETHER))
            for (guint i = 1; i < rule->n_guests; i++)
                search->together[find_root(search, rule->guests[i])] =
                    find_root(search, rule->guests[0]);
    }
}

static gboolean names_guest(const ClusterRule *rule, guint guest)
{
    for (guint i = 0; i < rule->n_guests; i++)
        if (rule->guests[i] == guest)
            return TRUE;
    return FALSE;
}

/* A rule that ties *guest* to others; where two do, one that ties it to *other* directly. */
static guint find_tie(const ClusterView *view, guint guest, guint other)
{
    guint tie = CLUSTER_NONE;

    for (guint r = 0; r < view->n_rules; r++) {
        const ClusterRule *rule = &view->rules[r];

        if (!is_strict(rule, CLUSTER_RULE_TOGETHER) || !names_guest(rule, guest))
            continue;
        if (names_guest(rule, other))
            return r;
        if (tie == CLUSTER_NONE)
            tie = r;
    }
    return tie;
}

/* Two guests apart with the same root are together. */
static void check_apart(Search *search, guint r)
{
    const ClusterView *view = search->view;
    const ClusterRule *rule = &view->rules[r];
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);

    for (guint i = 0; i < rule->n_guests; i++) {
        guint guest = rule->guests[i];
        gpointer root = GUINT_TO_POINTER(find_root(search, guest)), other;

        if (!g_hash_table_lookup_extended(seen, root, NULL, &other)) {
            g_hash_table_insert(seen, root, GUINT_TO_POINTER(guest));
        } else if (GPOINTER_TO_UINT(other) != guest) {
            found(search, r, find_tie(view, guest, GPOINTER_TO_UINT(other)), guest);
            return;
        }
    }
}

/* ---- hosts ---- */

static gboolean have_common_host(Search *search, const ClusterRule *a, const ClusterRule *b)
{
    search->mark++;
    for (guint i = 0; i < a->n_hosts; i++)
        search->marks[a->hosts[i]] = search->mark;
    for (guint i = 0; i < b->n_hosts; i++)
        if (search->marks[b->hosts[i]] == search->mark)
            return TRUE;
    return FALSE;
}

/* Rules of hosts for the same guests, or for guests that have to be together: by their roots. */
static void check_hosts(Search *search)
{
    const ClusterView *view = search->view;
    g_autoptr(GHashTable) rules =
        g_hash_table_new_full(NULL, NULL, NULL, (GDestroyNotify)g_array_unref);

    for (guint r = 0; r < view->n_rules; r++) {
        const ClusterRule *rule = &view->rules[r];

        if (!is_strict(rule, CLUSTER_RULE_HOSTS) || rule->n_hosts == 0)
            continue;
        for (guint i = 0; i < rule->n_guests; i++) {
            gpointer root = GUINT_TO_POINTER(find_root(search, rule->guests[i]));
            GArray *others = g_hash_table_lookup(rules, root);

            if (!others) {
                others = g_array_new(FALSE, FALSE, sizeof(guint));
                g_hash_table_insert(rules, root, others);
            }
            for (guint o = 0; o < others->len; o++) {
                guint other = g_array_index(others, guint, o);

                if (other != r && !have_common_host(search, rule, &view->rules[other]))
                    found(search, other, r, rule->guests[i]);
            }
            if (others->len == 0 || g_array_index(others, guint, others->len - 1) != r)
                g_array_append_val(others, r);
        }
    }
}

/* More guests apart than hosts that they are bound to. */
static void check_apart_on_hosts(Search *search, guint apart)
{
    const ClusterView *view = search->view;
    const ClusterRule *rule = &view->rules[apart];
    g_autoptr(GHashTable) guests = g_hash_table_new(NULL, NULL);

    for (guint i = 0; i < rule->n_guests; i++)
        g_hash_table_add(guests, GUINT_TO_POINTER(rule->guests[i]));
    for (guint r = 0; r < view->n_rules; r++) {
        const ClusterRule *hosts = &view->rules[r];
        guint bound = 0;

        if (!is_strict(hosts, CLUSTER_RULE_HOSTS) || hosts->n_hosts == 0)
            continue;
        for (guint i = 0; i < hosts->n_guests; i++)
            bound += g_hash_table_contains(guests, GUINT_TO_POINTER(hosts->guests[i])) ? 1 : 0;
        if (bound > hosts->n_hosts)
            found(search, apart, r, hosts->guests[0]);
    }
}

void cluster_rules_find_conflicts(const ClusterView *view, GArray *conflicts)
{
    g_autofree guint *together = g_new(guint, view->n_guests + 1);
    g_autofree guint *marks = g_new0(guint, view->n_hosts + 1);
    Search search = {view, conflicts, together, marks, 0};

    join_together(&search);
    for (guint r = 0; r < view->n_rules; r++) {
        check_alone(&search, r);
        if (!is_strict(&view->rules[r], CLUSTER_RULE_APART))
            continue;
        check_apart(&search, r);
        check_apart_on_hosts(&search, r);
    }
    check_hosts(&search);
}

static char *describe_alone(const ClusterView *view, const ClusterRule *rule)
{
    if (rule->n_guests == 0)
        return g_strdup_printf("rule %s names no guest", rule->id);
    if (rule->kind == CLUSTER_RULE_HOSTS)
        return g_strdup_printf("rule %s names no host", rule->id);
    return g_strdup_printf("rule %s keeps %u guests apart, and there are %u hosts", rule->id,
                           rule->n_guests, view->n_hosts);
}

char *cluster_conflict_describe(const ClusterView *view, const ClusterConflict *conflict)
{
    if (conflict->b == CLUSTER_NONE)
        return describe_alone(view, &view->rules[conflict->a]);
    return g_strdup_printf("rules %s and %s contradict each other: both bind guest %s",
                           view->rules[conflict->a].id, view->rules[conflict->b].id,
                           view->guests[conflict->guest].name);
}
