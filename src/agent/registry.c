#include "agent/registry.h"

#include <string.h>

#include "agent/directory.h"
#include "agent/shared_images.h"
#include "base/name.h"
#include "base/error.h"
#include "base/lock_guard.h"

/* How long a committed guest is waited for that does not become ours. */
#define SETTLE_MS 3000

Guest *guest_ref(Guest *guest)
{
    g_atomic_ref_count_inc(&guest->references);
    return guest;
}

void guest_unref(Guest *guest)
{
    if (!guest || !g_atomic_ref_count_dec(&guest->references))
        return;
    vmm_free(guest->vmm);
    g_clear_pointer(&guest->former, g_ptr_array_unref);
    if (guest->watch)
        g_source_unref(guest->watch);
    guest_record_free(guest->record);
    shared_image_release(guest->shared);
    json_decref(guest->summary);
    g_free(guest->problem);
    g_free(guest->decided);
    g_free(guest->name);
    g_free(guest);
}

static const char *get_own_state(const Guest *guest)
{
    if (guest->activity)
        return activity_get_kind(guest->activity)->state;
    if (guest->record->transaction)
        return "recovering";
    return guest->vmm ? vmm_run_state_name(guest->run_state) : "unreachable";
}

const char *guest_get_shown_state(const Guest *guest)
{
    switch (guest->record->role) {
    case GUEST_STARTING:
        return "starting";
    case GUEST_OURS:
        return get_own_state(guest);
    case GUEST_SWITCHING_OVER:
        return guest->activity ? activity_get_kind(guest->activity)->state : "recovering";
    case GUEST_IN_DOUBT:
        return "in-doubt";
    case GUEST_LEAVING:
        return "leaving";
    case GUEST_INCOMING:
        return "incoming";
    case GUEST_POSTCOPY:
        if (!guest->record->standby)
            return "postcopy";
        return guest->activity ? activity_get_kind(guest->activity)->state : "protected";
    case GUEST_POSTCOPY_SOURCE:
        if (guest->record->taking_over)
            return "taking-over";
        return guest->record->standby ? "standby" : "postcopy-source";
    case GUEST_TAKEOVER:
        return "takeover";
    case GUEST_RESTORING:
        return "restoring";
    }
    return "unknown";
}

gboolean guest_is_watched(const Guest *guest)
{
    return guest->record->role == GUEST_OURS && guest->vmm && !guest->removed &&
           !(guest->activity && activity_get_kind(guest->activity)->drives_run_state);
}

Registry *registry_new(StateStore *store, const char *boot_id)
{
    Registry *registry = g_new0(Registry, 1);

    g_mutex_init(&registry->lock);
    g_cond_init(&registry->changed);
    registry->guests =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, (GDestroyNotify)guest_unref);
    registry->store = store;
    registry->boot_id = g_strdup(boot_id);
    return registry;
}

void registry_free(Registry *registry)
{
    if (!registry)
        return;
    g_hash_table_unref(registry->guests);
    g_cond_clear(&registry->changed);
    g_mutex_clear(&registry->lock);
    g_free(registry->boot_id);
    g_free(registry);
}

Guest *registry_add(Registry *registry, GuestRecord *record, const char *claim, GError **error)
{
    lock_guard(&registry->lock);
    g_autoptr(GuestRecord) own = record;
    Guest *guest;

    if (!guest_name_check(own->name, error))
        return NULL;
    if (g_hash_table_contains(registry->guests, own->name)) {
        error_set(error, VMFERRY_ERROR_EXISTS,
                  "there is a guest \"%s\" on host %s already; take another name, or see "
                  "`vmferry list` there",
                  own->name, g_get_host_name());
        return NULL;
    }
    guest = g_new0(Guest, 1);
    g_atomic_ref_count_init(&guest->references);
    guest->registry = registry;
    guest->name = g_strdup(own->name);
    guest->claim = claim;
    guest->run_state = VMM_RUN_STATE_PAUSED;
    if (!own->boot_id)
        own->boot_id = g_strdup(registry->boot_id);
    guest->record = g_steal_pointer(&own);
    g_hash_table_insert(registry->guests, g_strdup(guest->name), guest);
    g_cond_broadcast(&registry->changed);
    return guest_ref(guest);
}

Guest *registry_find(Registry *registry, const char *name, GError **error)
{
    lock_guard(&registry->lock);
    Guest *guest = g_hash_table_lookup(registry->guests, name);

    if (!guest) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND,
                  "no guest \"%s\" on this host; see `vmferry list`", name);
        return NULL;
    }
    return guest_ref(guest);
}

static gint compare_names(gconstpointer a, gconstpointer b)
{
    return strcmp((*(Guest *const *)a)->name, (*(Guest *const *)b)->name);
}

GPtrArray *registry_list(Registry *registry)
{
    GPtrArray *list = g_ptr_array_new_with_free_func((GDestroyNotify)guest_unref);
    lock_guard(&registry->lock);
    GHashTableIter iter;
    Guest *guest;

    g_hash_table_iter_init(&iter, registry->guests);
    while (g_hash_table_iter_next(&iter, NULL, (gpointer *)&guest))
        g_ptr_array_add(list, guest_ref(guest));
    g_ptr_array_sort(list, compare_names);
    return list;
}

void registry_set_settling(Guest *guest, gboolean settling)
{
    lock_guard(&guest->registry->lock);

    guest->settling = settling;
    g_cond_broadcast(&guest->registry->changed);
}

/* With the lock held. */
static void await_settled(Guest *guest)
{
    gint64 until = g_get_monotonic_time() + SETTLE_MS * G_TIME_SPAN_MILLISECOND;
    Registry *registry = guest->registry;

    while (guest->settling && !guest->removed &&
           g_cond_wait_until(&registry->changed, &registry->lock, until))
        ;
}

void registry_await_settled(Guest *guest)
{
    lock_guard(&guest->registry->lock);

    await_settled(guest);
}

gboolean registry_check_leaving(Guest *guest, GError **error)
{
    lock_guard(&guest->registry->lock);

    return guest_record_check_leaving(guest->record, error);
}

/* With the lock held. */
static gboolean can_be_cancelled(const Guest *guest)
{
    return guest->activity && activity_get_kind(guest->activity)->cancel;
}

/* With the lock held.  What lasts for as long as its user wants it need not be waited for. */
static void refuse_claim(const Guest *guest, GError **error)
{
    const GuestRecord *record = guest->record;
    const char *state = guest_get_shown_state(guest);

    if (record->standby && strcmp(state, "protected") == 0)
        error_set(error, VMFERRY_ERROR_BUSY,
                  "guest %s is protected by %s: `vmferry unprotect %s` first", guest->name,
                  record->destination, guest->name);
    else if (record->standby && strcmp(state, "standby") == 0 && record->destination)
        error_set(error, VMFERRY_ERROR_BUSY,
                  "guest %s runs on %s, and this host stands by for it: say that there",
                  guest->name, record->destination);
    else
        error_set(error, VMFERRY_ERROR_BUSY, "guest %s is %s; wait for that to end%s", guest->name,
                  state, can_be_cancelled(guest) ? ", or `vmferry cancel` it" : "");
}

gboolean registry_claim(Guest *guest, GuestRole role, const char *claim, GError **error)
{
    lock_guard(&guest->registry->lock);
    const char *name = guest->name;

    await_settled(guest);
    if (guest->removed)
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "guest %s has just ended", name);
    else if (guest->record->role == GUEST_IN_DOUBT && role != GUEST_IN_DOUBT)
        error_set(error, VMFERRY_ERROR_IN_DOUBT,
                  "guest %s is in doubt: %s may have it; see `vmferry resolve --help`", name,
                  guest->record->destination);
    else if (guest->claim || guest->record->role != role)
        refuse_claim(guest, error);
    else if (!guest->vmm)
        error_set(error, VMFERRY_ERROR_BUSY, "guest %s cannot be reached: %s", name,
                  guest->problem ? guest->problem : "its QMP socket does not answer");
    else {
        guest->claim = claim;
        return TRUE;
    }
    return FALSE;
}

void registry_release(Guest *guest)
{
    lock_guard(&guest->registry->lock);

    guest->claim = NULL;
    g_cond_broadcast(&guest->registry->changed);
}

/* With the lock held. */
static gboolean release_if_alive(Guest *guest)
{
    gboolean gone = guest->process_gone && !guest->removed;

    if (!gone)
        guest->claim = NULL;
    g_cond_broadcast(&guest->registry->changed);
    return gone;
}

gboolean registry_release_if_alive(Guest *guest)
{
    lock_guard(&guest->registry->lock);

    return release_if_alive(guest);
}

gboolean registry_release_from_activity(Guest *guest)
{
    Activity *ended;
    gboolean gone;

    g_mutex_lock(&guest->registry->lock);
    ended = g_steal_pointer(&guest->activity);
    gone = release_if_alive(guest);
    g_mutex_unlock(&guest->registry->lock);
    activity_unref(ended);
    return gone;
}

gboolean registry_claim_gone(Guest *guest, const char *claim)
{
    lock_guard(&guest->registry->lock);

    guest->process_gone = TRUE;
    g_cond_broadcast(&guest->registry->changed);
    if (guest->claim || guest->removed)
        return FALSE;
    guest->claim = claim;
    return TRUE;
}

gboolean registry_claim_recovery(Guest *guest)
{
    lock_guard(&guest->registry->lock);

    guest->claim = "recover";
    return guest->record->role == GUEST_IN_DOUBT;
}

gboolean registry_set_watch(Guest *guest, GSource *watch)
{
    lock_guard(&guest->registry->lock);

    if (guest->watch || guest->removed)
        return FALSE;
    guest->watch = g_source_ref(watch);
    return TRUE;
}

void registry_set_shared(Guest *guest, SharedImage *shared)
{
    lock_guard(&guest->registry->lock);

    guest->shared = shared;
}

void registry_set_activity(Guest *guest, Activity *activity)
{
    Activity *before;

    g_mutex_lock(&guest->registry->lock);
    before = guest->activity;
    guest->activity = activity ? activity_ref(activity) : NULL;
    g_mutex_unlock(&guest->registry->lock);
    /* Not with the lock held: the last reference may take the guest's own with it. */
    activity_unref(before);
}

Activity *registry_get_activity(Guest *guest)
{
    lock_guard(&guest->registry->lock);

    return guest->activity ? activity_ref(guest->activity) : NULL;
}

/* With the lock held. */
static void set_decision(Guest *guest, Decision decision, const char *transaction)
{
    guest->decision = decision;
    g_free(guest->decided);
    guest->decided = g_strdup(transaction);
}

Decision guest_get_decision(const Guest *guest)
{
    if (!guest->decided || g_strcmp0(guest->decided, guest->record->transaction) != 0)
        return DECISION_NONE;
    return guest->decision;
}

Decision registry_get_decision(Guest *guest)
{
    lock_guard(&guest->registry->lock);

    return guest_get_decision(guest);
}

gboolean registry_await(Registry *registry, gint64 until, gboolean (*done)(gpointer user),
                        gpointer user)
{
    lock_guard(&registry->lock);

    while (!done(user))
        if (!g_cond_wait_until(&registry->changed, &registry->lock, until))
            return FALSE;
    return TRUE;
}

void registry_wake(Registry *registry)
{
    lock_guard(&registry->lock);

    g_cond_broadcast(&registry->changed);
}

gboolean registry_decide(Guest *guest, Decision decision)
{
    lock_guard(&guest->registry->lock);

    if (guest->removed ||
        (guest->record->role != GUEST_IN_DOUBT && guest->record->role != GUEST_POSTCOPY_SOURCE))
        return FALSE;
    set_decision(guest, decision, guest->record->transaction);
    g_cond_broadcast(&guest->registry->changed);
    return TRUE;
}

void registry_forget_decision(Guest *guest)
{
    lock_guard(&guest->registry->lock);

    set_decision(guest, DECISION_NONE, NULL);
    g_cond_broadcast(&guest->registry->changed);
}

/* With the lock held. */
static void replace_record(Guest *guest, GuestRecord *record)
{
    if (record->role == GUEST_OURS)
        set_decision(guest, DECISION_NONE, NULL);
    guest_record_free(guest->record);
    guest->record = record;
    g_cond_broadcast(&guest->registry->changed);
}

/* With the lock held. */
static gboolean write_record(Guest *guest, GuestRecord *record, GError **error)
{
    g_autoptr(json_t) object = NULL;

    g_free(record->boot_id);
    record->boot_id = g_strdup(guest->registry->boot_id);
    object = guest_record_to_json(record);
    return state_store_write(guest->registry->store, STORE_GUEST, record->name, object, FALSE,
                             error);
}

gboolean registry_journal_record(Guest *guest, GuestRecord *record, GError **error)
{
    lock_guard(&guest->registry->lock);
    g_autoptr(GuestRecord) own = record;

    if (!write_record(guest, own, error))
        return FALSE;
    replace_record(guest, g_steal_pointer(&own));
    return TRUE;
}

static void set_transaction(GuestRecord *record, const char *transaction, const char *destination,
                            const char *agent)
{
    g_free(record->transaction);
    record->transaction = g_strdup(transaction);
    g_free(record->destination);
    record->destination = g_strdup(destination);
    g_free(record->destination_agent);
    record->destination_agent = g_strdup(agent);
    record->split = FALSE;
    g_clear_pointer(&record->outstanding, g_free);
    g_clear_pointer(&record->source_agent, g_free);
    g_clear_pointer(&record->store, g_free);
    g_clear_pointer(&record->store_agent, g_free);
    record->lease_ms = 0;
}

static void wish(GuestRecord *record, ResumeWish resume)
{
    if (resume != RESUME_AS_BEFORE)
        record->resume = resume == RESUME_AFTER;
}

gboolean registry_journal(Guest *guest, GuestRole role, const char *transaction,
                          const char *destination, const char *agent, ResumeWish resume,
                          GError **error)
{
    GuestRecord *record = registry_get_record(guest);

    record->role = role;
    set_transaction(record, transaction, destination, agent);
    wish(record, resume);
    return registry_journal_record(guest, record, error);
}

void registry_journal_anyway(Guest *guest, GuestRole role, ResumeWish resume, GError **error)
{
    lock_guard(&guest->registry->lock);
    GuestRecord *record = guest_record_copy(guest->record);

    record->role = role;
    wish(record, resume);
    write_record(guest, record, error);
    replace_record(guest, record);
}

/* Of *former*, which a record without them has taken the place of: as long as they are on record they
 * are needed. */
static void remove_directories(const GuestRecord *former)
{
    if (former->deltas)
        guest_directory_remove(former->deltas);
    if (former->other_directory)
        guest_directory_remove(former->other_directory);
}

static void settle(GuestRecord *record)
{
    g_clear_pointer(&record->deltas, g_free);
    g_clear_pointer(&record->image, g_free);
    g_clear_pointer(&record->renewal, json_decref);
    g_clear_pointer(&record->other_directory, g_free);
    record->other_pid = 0;
    record->untold = record->taking_over = record->standby = FALSE;
    record->checkpoint_ms = 0;
    record->role = GUEST_OURS;
    set_transaction(record, NULL, NULL, NULL);
    g_clear_pointer(&record->moved_images, g_strfreev);
    wish(record, RESUME_NEVER);
}

/* Takes *record*. */
static void replace_settled(Guest *guest, GuestRecord *record, GError **error)
{
    g_autoptr(GuestRecord) former = guest_record_copy(guest->record);
    gboolean written;

    settle(record);
    written = write_record(guest, record, error);
    replace_record(guest, record);
    if (written)
        remove_directories(former);
}

void registry_journal_settled(Guest *guest, uint64_t term, GError **error)
{
    lock_guard(&guest->registry->lock);
    GuestRecord *record = guest_record_copy(guest->record);

    if (term > 0)
        record->term = term;
    replace_settled(guest, record, error);
}

void registry_journal_arrived(Guest *guest, GError **error)
{
    lock_guard(&guest->registry->lock);
    GuestRecord *record = guest_record_copy(guest->record);

    if (!record->outstanding) {
        replace_settled(guest, record, error);
        return;
    }
    record->role = GUEST_POSTCOPY;
    wish(record, RESUME_NEVER);
    write_record(guest, record, error);
    replace_record(guest, record);
}

void registry_journal_whole(Guest *guest, GError **error)
{
    lock_guard(&guest->registry->lock);
    GuestRecord *record = guest_record_copy(guest->record);

    if (record->role == GUEST_POSTCOPY) {
        replace_settled(guest, record, error);
        return;
    }
    g_clear_pointer(&record->outstanding, g_free);
    write_record(guest, record, error);
    replace_record(guest, record);
}

gboolean registry_journal_protection(Guest *guest, json_t *protection, GError **error)
{
    lock_guard(&guest->registry->lock);
    g_autoptr(GuestRecord) record = guest_record_copy(guest->record);

    json_decref(record->protection);
    record->protection = protection;
    if (!write_record(guest, record, error))
        return FALSE;
    json_decref(guest->record->protection);
    guest->record->protection = json_incref(protection);
    return TRUE;
}

GuestRecord *registry_get_record(Guest *guest)
{
    lock_guard(&guest->registry->lock);

    return guest_record_copy(guest->record);
}

Vmm *registry_get_vmm(Guest *guest, GError **error)
{
    lock_guard(&guest->registry->lock);

    if (!guest->vmm)
        error_set(error, VMFERRY_ERROR_BUSY, "guest %s cannot be reached%s%s", guest->name,
                  guest->problem ? ": " : "", guest->problem ? guest->problem : "");
    return guest->vmm;
}

void registry_set_vmm(Guest *guest, Vmm *vmm)
{
    lock_guard(&guest->registry->lock);

    g_assert(!guest->vmm);
    guest->vmm = vmm;
    g_cond_broadcast(&guest->registry->changed);
}

gboolean registry_replace_vmm(Guest *guest, GuestRecord *record, Vmm *vmm, GError **error)
{
    GSource *watch;

    g_mutex_lock(&guest->registry->lock);
    if (!write_record(guest, record, error)) {
        g_mutex_unlock(&guest->registry->lock);
        guest_record_free(record);
        return FALSE;
    }
    replace_record(guest, record);
    if (!guest->former)
        guest->former = g_ptr_array_new_with_free_func((GDestroyNotify)vmm_free);
    if (guest->vmm)
        g_ptr_array_add(guest->former, guest->vmm);
    guest->vmm = vmm;
    guest->process_gone = FALSE;
    watch = g_steal_pointer(&guest->watch);
    g_mutex_unlock(&guest->registry->lock);
    if (watch) {
        g_source_destroy(watch);
        g_source_unref(watch);
    }
    return TRUE;
}

void registry_set_run_state(Guest *guest, VmmRunState state)
{
    lock_guard(&guest->registry->lock);

    guest->run_state = state;
}

gboolean registry_note_run_state(Guest *guest, VmmRunState state)
{
    lock_guard(&guest->registry->lock);
    gboolean news = guest_is_watched(guest) && !guest->claim && guest->run_state != state;

    if (news)
        guest->run_state = state;
    return news;
}

VmmRunState registry_get_run_state(Guest *guest)
{
    lock_guard(&guest->registry->lock);

    return guest->run_state;
}

void registry_set_supervisor(Guest *guest, char *supervisor)
{
    lock_guard(&guest->registry->lock);

    g_free(guest->record->supervisor);
    guest->record->supervisor = supervisor;
}

void registry_set_summary(Guest *guest, json_t *summary)
{
    lock_guard(&guest->registry->lock);

    json_decref(guest->summary);
    guest->summary = summary;
}

json_t *registry_view(Guest *guest, json_t *(*view)(const Guest *guest))
{
    lock_guard(&guest->registry->lock);

    return view(guest);
}

void registry_look(Guest *guest, void (*look)(const Guest *guest, gpointer user), gpointer user)
{
    lock_guard(&guest->registry->lock);

    look(guest, user);
}

gboolean registry_is_watched(Guest *guest)
{
    lock_guard(&guest->registry->lock);

    return guest_is_watched(guest);
}

gboolean registry_is_idle(Guest *guest)
{
    lock_guard(&guest->registry->lock);

    return guest_is_watched(guest) && !guest->claim && !guest->activity;
}

void registry_set_problem(Guest *guest, const char *text)
{
    lock_guard(&guest->registry->lock);

    g_free(guest->problem);
    guest->problem = g_strdup(text);
}

char *registry_get_problem(Guest *guest)
{
    lock_guard(&guest->registry->lock);

    return g_strdup(guest->problem);
}

void registry_remove(Guest *guest)
{
    Registry *registry = guest->registry;
    GSource *watch;

    g_mutex_lock(&registry->lock);
    if (guest->removed) {
        g_mutex_unlock(&registry->lock);
        return;
    }
    guest->removed = TRUE;
    watch = g_steal_pointer(&guest->watch);
    /* The record goes last: killed in between, the restarted agent still knows what to remove. */
    if (guest->record->directory)
        guest_directory_remove(guest->record->directory);
    if (guest->record->deltas)
        guest_directory_remove(guest->record->deltas);
    if (guest->record->other_directory)
        guest_directory_remove(guest->record->other_directory);
    guest_cgroups_remove(guest->record->cgroups);
    state_store_remove(registry->store, STORE_GUEST, guest->name);
    g_hash_table_remove(registry->guests, guest->name);
    g_cond_broadcast(&registry->changed);
    g_mutex_unlock(&registry->lock);
    if (watch) {
        g_source_destroy(watch);
        g_source_unref(watch);
    }
}

Guest *registry_find_process(Registry *registry, pid_t pid, uint64_t start_time)
{
    lock_guard(&registry->lock);
    GHashTableIter iter;
    Guest *guest;

    g_hash_table_iter_init(&iter, registry->guests);
    while (g_hash_table_iter_next(&iter, NULL, (gpointer *)&guest))
        if (guest->record->pid == pid && guest->record->start_time == start_time)
            return guest_ref(guest);
    return NULL;
}
