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
    registry_set_arriving(data, FALSE);
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

    registry_set_arriving(f->guest, TRUE);
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

    registry_set_arriving(f->guest, TRUE);
    thread = g_thread_new("end", end, f->guest);
    assert_error_says(claim(f->guest), VMFERRY_ERROR_NOT_FOUND, "guest web1 has just ended");
    g_thread_join(thread);
}

#define WITH_GUEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_GUEST(test_claim_waits_for_what_is_committed),
        WITH_GUEST(test_claim_does_not_wait_for_a_move),
        WITH_GUEST(test_claim_of_what_never_arrives),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
