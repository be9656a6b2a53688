#include "scratch.h"

#include "agent/registry.h"
#include "base/clock.h"
#include "base/error.h"

typedef struct {
    char *folder;
    StateStore *store;
    Registry *registry;
    Guest *guest; /* "web1", which a move brings */
} Fixture;

static int set_up(void **state)
{
    Fixture *f = g_new0(Fixture, 1);
    GuestRecord *record = g_new0(GuestRecord, 1);

    f->folder = scratch_new();
    f->store = state_store_open(f->folder, NULL);
    f->registry = registry_new(f->store, "boot-1");
    record->name = g_strdup("web1");
    record->role = GUEST_INCOMING;
    f->guest = registry_add(f->registry, record, "receive", NULL);
    assert_non_null(f->guest);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    Fixture *f = *state;

    guest_unref(f->guest);
    registry_free(f->registry);
    state_store_close(f->store);
    scratch_remove(f->folder);
    g_free(f);
    return 0;
}

static GError *claim(Guest *guest)
{
    GError *error = NULL;

    assert_false(registry_claim(guest, GUEST_OURS, "move", &error));
    return error;
}

/* Later than a claim that does not wait would be over. */
static gpointer settle(gpointer data)
{
    clock_sleep_ns(50000000);
    registry_journal_settled(data, 0, NULL);
    registry_release(data);
    registry_set_settling(data, FALSE);
    return NULL;
}

static gpointer end(gpointer data)
{
    clock_sleep_ns(50000000);
    registry_remove(data);
    return NULL;
}

/* Whoever is told by its source that it is here can have it at once. */
static void test_claim_waits_for_what_is_committed(void **state)
{
    Fixture *f = *state;
    GThread *thread;

    registry_set_settling(f->guest, TRUE);
    thread = g_thread_new("settle", settle, f->guest);
    /* All that it lacks is a VMM. */
    assert_error_says(claim(f->guest), VMFERRY_ERROR_BUSY, "guest web1 cannot be reached");
    g_thread_join(thread);
}

static void test_claim_does_not_wait_for_a_move(void **state)
{
    Fixture *f = *state;
    gint64 before = g_get_monotonic_time();

    assert_error_says(claim(f->guest), VMFERRY_ERROR_BUSY, "is incoming; wait for that to end");
    assert_true(g_get_monotonic_time() - before < G_USEC_PER_SEC);
}

static void test_claim_of_what_never_arrives(void **state)
{
    Fixture *f = *state;
    GThread *thread;

    registry_set_settling(f->guest, TRUE);
    thread = g_thread_new("end", end, f->guest);
    assert_error_says(claim(f->guest), VMFERRY_ERROR_NOT_FOUND, "guest web1 has just ended");
    g_thread_join(thread);
}

/* ---- role, activity, claim ---- */

static void vmm_is_freed(Vmm *vmm)
{
    g_free(vmm);
}

static const VmmOps vmm_ops = {.free = vmm_is_freed};

/* "web1" is ours, and reached. */
static void take(Fixture *f)
{
    Vmm *vmm = g_new0(Vmm, 1);

    vmm->ops = &vmm_ops;
    registry_set_vmm(f->guest, vmm);
    registry_journal_settled(f->guest, 0, NULL);
    registry_release(f->guest);
}

static const ActivityKind moving = {.kind = "m", .state = "moving", .drives_run_state = TRUE};
static const ActivityKind protecting = {.kind = "p", .state = "protected"};

static void begin(Guest *guest, const ActivityKind *kind)
{
    g_autoptr(Activity) activity = activity_new(kind, guest->name, NULL);

    registry_set_activity(guest, activity);
}

/* What is watched follows from role and activity, not from who has the claim. */
static void test_watched_by_role(void **state)
{
    Fixture *f = *state;

    assert_false(registry_is_watched(f->guest));
    take(f);
    assert_true(registry_is_watched(f->guest));
    assert_true(registry_is_idle(f->guest));
    assert_true(registry_claim(f->guest, GUEST_OURS, "move", NULL));
    assert_true(registry_is_watched(f->guest));
    assert_false(registry_is_idle(f->guest));
    begin(f->guest, &moving);
    assert_false(registry_is_watched(f->guest));
    registry_set_activity(f->guest, NULL);
    registry_release(f->guest);
    registry_journal_anyway(f->guest, GUEST_LEAVING, RESUME_AS_BEFORE, NULL);
    assert_false(registry_is_watched(f->guest));
}

/* What goes on for months keeps nothing else from being done, and the guest's run state is news. */
static void test_long_activity(void **state)
{
    Fixture *f = *state;

    take(f);
    begin(f->guest, &protecting);
    assert_true(registry_is_watched(f->guest));
    assert_true(registry_note_run_state(f->guest, VMM_RUN_STATE_RUNNING));
    assert_false(registry_note_run_state(f->guest, VMM_RUN_STATE_RUNNING));
    assert_string_equal(guest_get_shown_state(f->guest), "protected");
    assert_true(registry_claim(f->guest, GUEST_OURS, "epoch", NULL));
    /* The holder may be pausing it just now. */
    assert_false(registry_note_run_state(f->guest, VMM_RUN_STATE_PAUSED));
    registry_release(f->guest);
    registry_set_activity(f->guest, NULL);
    assert_string_equal(guest_get_shown_state(f->guest), "running");
}

static void test_claim_by_role(void **state)
{
    Fixture *f = *state;
    GError *error = NULL;

    take(f);
    assert_false(registry_claim(f->guest, GUEST_LEAVING, "end", &error));
    assert_error_says(error, VMFERRY_ERROR_BUSY, "guest web1 is paused; wait for that to end");
    registry_journal_anyway(f->guest, GUEST_LEAVING, RESUME_AS_BEFORE, NULL);
    assert_true(registry_claim(f->guest, GUEST_LEAVING, "end", NULL));
}

static void test_settled_term(void **state)
{
    Fixture *f = *state;

    f->guest->record->term = 5;
    registry_journal_settled(f->guest, 0, NULL);
    assert_int_equal(f->guest->record->term, 5);
    registry_journal_settled(f->guest, 7, NULL);
    assert_int_equal(f->guest->record->term, 7);
}

static void note_outstanding(Fixture *f)
{
    GuestRecord *record = registry_get_record(f->guest);

    record->outstanding = g_strdup("/run/guests/web1/outstanding");
    assert_true(registry_journal_record(f->guest, record, NULL));
}

static void check_record(Fixture *f, GuestRole role, gboolean outstanding)
{
    g_autoptr(GuestRecord) record = registry_get_record(f->guest);

    assert_int_equal(record->role, role);
    assert_int_equal(record->outstanding != NULL, outstanding);
}

/* That it runs and that its memory is here are found by two threads. */
static void test_split_guest_settles_in_any_order(void **state)
{
    Fixture *f = *state;

    note_outstanding(f);
    registry_journal_arrived(f->guest, NULL);
    check_record(f, GUEST_POSTCOPY, TRUE);
    registry_journal_whole(f->guest, NULL);
    check_record(f, GUEST_OURS, FALSE);

    registry_journal_anyway(f->guest, GUEST_INCOMING, RESUME_AFTER, NULL);
    note_outstanding(f);
    registry_journal_whole(f->guest, NULL);
    check_record(f, GUEST_INCOMING, FALSE);
    registry_journal_arrived(f->guest, NULL);
    check_record(f, GUEST_OURS, FALSE);
}

static void test_decision_is_forgotten(void **state)
{
    Fixture *f = *state;

    assert_true(registry_journal(f->guest, GUEST_POSTCOPY_SOURCE, "t1", "b", "agent-b",
                                 RESUME_AS_BEFORE, NULL));
    assert_true(registry_decide(f->guest, DECISION_KEEP_HERE));
    assert_int_equal(registry_get_decision(f->guest), DECISION_KEEP_HERE);
    registry_forget_decision(f->guest);
    assert_int_equal(registry_get_decision(f->guest), DECISION_NONE);
    assert_true(registry_decide(f->guest, DECISION_KEEP_THERE));
}

#define WITH_GUEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_GUEST(test_claim_waits_for_what_is_committed),
        WITH_GUEST(test_claim_does_not_wait_for_a_move),
        WITH_GUEST(test_claim_of_what_never_arrives),
        WITH_GUEST(test_watched_by_role),
        WITH_GUEST(test_long_activity),
        WITH_GUEST(test_claim_by_role),
        WITH_GUEST(test_settled_term),
        WITH_GUEST(test_split_guest_settles_in_any_order),
        WITH_GUEST(test_decision_is_forgotten),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
