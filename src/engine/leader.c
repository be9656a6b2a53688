#include "engine/leader.h"

#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/lock_guard.h"
#include "base/log.h"
#include "base/name.h"
#include "base/thread.h"
#include "engine/etcd_keys.h"
#include "engine/leadership.h"
#include "migrate/etcd.h"

#define ANSWER_LIMIT (64u << 10)
#define NS_PER_MS ((uint64_t)1000000)
#define LEAST_WAIT_MS 500u
#define GIVE_BACK_MS 1000u
#define NAME_LIMIT 256u

struct Leader {
    char *key, *value;
    guint lease_ms;
    Etcd *etcd; /* the thread's */

    GMutex lock; /* of all below */
    GCond wake;
    gboolean stopping, looks;
    Leadership leadership;
    char *name, *problem;

    GThread *thread;
};

static json_t *ask(Leader *leader, const char *path, json_t *body, uint64_t *ret_sent_ns,
                   GError **error)
{
    guint wait_ms = MAX(leader->lease_ms / 3, LEAST_WAIT_MS);
    g_autoptr(json_t) owned = body;

    return etcd_request(leader->etcd, path, owned, ANSWER_LIMIT,
                        clock_now_ns() + wait_ms * NS_PER_MS, ret_sent_ns, error);
}

static json_t *lease_body(uint64_t lease)
{
    char text[24];

    g_snprintf(text, sizeof text, "%" G_GUINT64_FORMAT, lease);
    return json_pack("{s:s}", "ID", text);
}

/* In ms of what etcd tells in seconds. */
static gboolean read_length(json_t *object, guint *ret_ms, GError **error)
{
    uint64_t seconds;

    if (!etcd_get_number(object, "TTL", LEADER_LONGEST_LEASE_S * 10, &seconds, error))
        return FALSE;
    *ret_ms = (guint)seconds * 1000;
    return TRUE;
}

static gboolean keep_lease(Leader *leader, uint64_t lease, GError **error)
{
    uint64_t sent_ns;
    g_autoptr(json_t) answer =
        ask(leader, "/v3/lease/keepalive", lease_body(lease), &sent_ns, error);
    json_t *result = json_object_get(answer, "result");
    guint left_ms;

    if (!answer)
        return FALSE;
    if (!json_is_object(result)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"result\" is missing");
        return FALSE;
    }
    if (!read_length(result, &left_ms, error))
        return FALSE;
    lock_guard(&leader->lock);
    leadership_note_kept(&leader->leadership, left_ms, sent_ns);
    return TRUE;
}

static gboolean get_lease(Leader *leader, GError **error)
{
    uint64_t sent_ns, lease;
    g_autoptr(json_t) answer =
        ask(leader, "/v3/lease/grant", json_pack("{s:i}", "TTL", (int)(leader->lease_ms / 1000)),
            &sent_ns, error);
    guint length_ms;

    if (!answer || !read_length(answer, &length_ms, error) ||
        !etcd_get_number(answer, "ID", G_MAXINT64, &lease, error))
        return FALSE;
    if (lease == 0 || length_ms == 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "it has granted no lease");
        return FALSE;
    }
    lock_guard(&leader->lock);
    leadership_note_granted(&leader->leadership, lease, length_ms, sent_ns);
    return TRUE;
}

static char *name_of(const EtcdFound *found)
{
    g_autoptr(json_t) object =
        json_parse_object(found->value, strlen(found->value), ANSWER_LIMIT, NULL);

    return g_utf8_substring(
        json_text_or(object, "engine", "?"), 0,
        MIN(NAME_LIMIT, g_utf8_strlen(json_text_or(object, "engine", "?"), -1)));
}

static void note_key(Leader *leader, const EtcdFound *found)
{
    lock_guard(&leader->lock);

    g_clear_pointer(&leader->name, g_free);
    if (found)
        leader->name = name_of(found);
    leadership_note_key(&leader->leadership, found ? found->made : 0, found ? found->lease : 0);
}

/* *ret_free*: nobody leads. */
static gboolean commit(Leader *leader, json_t *transaction, gboolean *ret_free, GError **error)
{
    uint64_t sent_ns;
    g_autoptr(json_t) answer = ask(leader, ETCD_KEYS_TXN, transaction, &sent_ns, error);
    g_auto(EtcdOutcome) outcome = {0};
    const EtcdFound *found;

    if (!answer || !etcd_outcome_read(answer, &outcome, error))
        return FALSE;
    found = etcd_outcome_first(&outcome, 0);
    if (found && strcmp(found->key, leader->key) != 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "another key than %s", leader->key);
        return FALSE;
    }
    *ret_free = !found;
    note_key(leader, found);
    return TRUE;
}

static gboolean read_key(Leader *leader, gboolean *ret_free, GError **error)
{
    return commit(leader,
                  etcd_transaction(json_array(), json_pack("[o]", etcd_read(leader->key)), NULL),
                  ret_free, error);
}

/* Unless somebody else was faster; it reads what is there then. */
static gboolean make_key(Leader *leader, uint64_t lease, GError **error)
{
    gboolean unused;

    return commit(leader,
                  etcd_transaction(json_pack("[o]", etcd_compare_made(leader->key, 0)),
                                   json_pack("[o, o]", etcd_put(leader->key, leader->value, lease),
                                             etcd_read(leader->key)),
                                   json_pack("[o]", etcd_read(leader->key))),
                  &unused, error);
}

static uint64_t lease_of(Leader *leader)
{
    lock_guard(&leader->lock);

    return leader->leadership.lease;
}

static gboolean look(Leader *leader, GError **error)
{
    gboolean is_free;

    if (lease_of(leader) > 0 && !keep_lease(leader, lease_of(leader), error))
        return FALSE;
    if (!read_key(leader, &is_free, error))
        return FALSE;
    if (!is_free)
        return TRUE;
    return (lease_of(leader) > 0 || get_lease(leader, error)) &&
           make_key(leader, lease_of(leader), error);
}

static void note_outcome(Leader *leader, const GError *error)
{
    lock_guard(&leader->lock);

    g_clear_pointer(&leader->problem, g_free);
    if (error)
        leader->problem = g_strdup_printf("etcd: %s", error->message);
}

/* FALSE: it is to end. */
static gboolean wait_for_next(Leader *leader)
{
    gint64 until = g_get_monotonic_time() +
                   leadership_interval_ms(leader->lease_ms) * (gint64)G_TIME_SPAN_MILLISECOND;
    lock_guard(&leader->lock);

    while (!leader->stopping && !leader->looks)
        if (!g_cond_wait_until(&leader->wake, &leader->lock, until))
            break;
    leader->looks = FALSE;
    return !leader->stopping;
}

static gpointer watch(gpointer user)
{
    Leader *leader = user;

    do {
        g_autoptr(GError) error = NULL;

        if (!look(leader, &error))
            log_debug("who leads: %s", error->message);
        note_outcome(leader, error);
    } while (wait_for_next(leader));
    return NULL;
}

/* ---- life ---- */

Leader *leader_new(const char *address, const char *key, const char *name, guint lease_ms,
                   GError **error)
{
    g_autoptr(Leader) leader = g_new0(Leader, 1);
    g_autofree char *instance = random_id_new();
    g_autoptr(json_t) value = json_pack("{s:s, s:s}", "engine", name, "instance", instance);
    char *text = json_dumps(value, JSON_LINE);

    g_mutex_init(&leader->lock);
    g_cond_init(&leader->wake);
    leader->key = g_strdup(key);
    leader->value = g_strdup(text);
    free(text);
    leader->lease_ms = lease_ms;
    leader->problem = g_strdup("etcd has not answered yet");
    leader->etcd = etcd_new(address, error);
    if (!leader->etcd)
        return NULL;
    leader->thread = thread_start("leader", watch, leader, error);
    return leader->thread ? g_steal_pointer(&leader) : NULL;
}

static void give_back(Leader *leader)
{
    uint64_t sent_ns, end_ns = clock_now_ns() + GIVE_BACK_MS * NS_PER_MS;
    g_autoptr(json_t) body = lease_body(leader->leadership.lease);
    g_autoptr(json_t) answer =
        etcd_request(leader->etcd, "/v3/lease/revoke", body, ANSWER_LIMIT, end_ns, &sent_ns, NULL);

    if (!answer)
        log_debug("the lease in etcd runs out by itself");
}

void leader_free(Leader *leader)
{
    if (!leader)
        return;
    g_mutex_lock(&leader->lock);
    leader->stopping = TRUE;
    g_cond_signal(&leader->wake);
    g_mutex_unlock(&leader->lock);
    if (leader->thread)
        g_thread_join(leader->thread);
    if (leader->etcd && leader->leadership.lease > 0)
        give_back(leader);
    etcd_free(leader->etcd);
    g_mutex_clear(&leader->lock);
    g_cond_clear(&leader->wake);
    g_free(leader->key);
    g_free(leader->value);
    g_free(leader->name);
    g_free(leader->problem);
    g_free(leader);
}

/* ---- what is known ---- */

void leader_get(Leader *leader, LeaderState *ret)
{
    lock_guard(&leader->lock);

    *ret = (LeaderState){
        .term = leader->leadership.term,
        .left_ms = leadership_left_ms(&leader->leadership, clock_boot_ns()),
        .name = g_strdup(leader->name),
        .problem = g_strdup(leader->problem),
    };
}

void leader_state_clear(LeaderState *state)
{
    g_free(state->name);
    g_free(state->problem);
    *state = (LeaderState){0};
}

void leader_look(Leader *leader)
{
    lock_guard(&leader->lock);

    leader->looks = TRUE;
    g_cond_signal(&leader->wake);
}
