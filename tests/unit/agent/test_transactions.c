#include "scratch.h"

#include <string.h>
#include <unistd.h>

#include "agent/transactions.h"
#include "base/error.h"

#define ID "0123456789abcdef0123456789abcdef"

typedef struct {
    char *folder;
    StateStore *store;
    TransactionLog *log;
} Fixture;

static void open_log(Fixture *f, const char *boot)
{
    f->store = state_store_open(f->folder, NULL);
    assert_non_null(f->store);
    f->log = transaction_log_open(f->store, boot, NULL);
    assert_non_null(f->log);
}

/* As after a crash: nothing but the disk is left. */
static void reopen(Fixture *f, const char *boot)
{
    transaction_log_close(f->log);
    state_store_close(f->store);
    open_log(f, boot);
}

static int set_up(void **state)
{
    Fixture *f = g_new0(Fixture, 1);

    f->folder = scratch_new();
    open_log(f, "boot-1");
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    Fixture *f = *state;

    transaction_log_close(f->log);
    state_store_close(f->store);
    scratch_remove(f->folder);
    g_free(f);
    return 0;
}

static void assert_outcome(Fixture *f, TransactionOutcome outcome)
{
    assert_int_equal(transaction_log_resolve(f->log, ID), outcome);
}

static void test_straight_way(void **state)
{
    Fixture *f = *state;

    assert_true(transaction_log_begin(f->log, ID, "web1", NULL));
    assert_outcome(f, OUTCOME_PENDING);
    assert_true(transaction_log_commit(f->log, ID, NULL));
    assert_outcome(f, OUTCOME_PENDING);
    transaction_log_settle(f->log, ID);
    assert_outcome(f, OUTCOME_COMMITTED);
    assert_false(transaction_log_abort(f->log, ID));
    assert_outcome(f, OUTCOME_COMMITTED);
    reopen(f, "boot-1");
    assert_outcome(f, OUTCOME_COMMITTED);
    reopen(f, "boot-2");
    assert_outcome(f, OUTCOME_COMMITTED);
}

static void test_commit_is_taken_back(void **state)
{
    Fixture *f = *state;

    assert_true(transaction_log_begin(f->log, ID, "web1", NULL));
    assert_true(transaction_log_commit(f->log, ID, NULL));
    assert_true(transaction_log_withdraw(f->log, ID, NULL));
    /* Its VMM is still there. */
    assert_outcome(f, OUTCOME_PENDING);
    reopen(f, "boot-1");
    assert_false(transaction_log_reopen(f->log, ID));
    assert_outcome(f, OUTCOME_PENDING);
    assert_true(transaction_log_withdraw(f->log, ID, NULL));
    assert_outcome(f, OUTCOME_PENDING);
    assert_true(transaction_log_abort(f->log, ID));
    assert_outcome(f, OUTCOME_ABORTED);
    reopen(f, "boot-2");
    assert_outcome(f, OUTCOME_ABORTED);
}

static void test_settled_commit_stays(void **state)
{
    Fixture *f = *state;
    GError *error = NULL;

    assert_true(transaction_log_begin(f->log, ID, "web1", NULL));
    assert_true(transaction_log_commit(f->log, ID, NULL));
    transaction_log_settle(f->log, ID);
    assert_false(transaction_log_withdraw(f->log, ID, &error));
    assert_error_says(error, VMFERRY_ERROR_REFUSED, "is committed");
    assert_outcome(f, OUTCOME_COMMITTED);
}

static void test_aborted_cannot_commit(void **state)
{
    Fixture *f = *state;
    GError *error = NULL;

    assert_true(transaction_log_begin(f->log, ID, "web1", NULL));
    assert_true(transaction_log_abort(f->log, ID));
    assert_outcome(f, OUTCOME_ABORTED);
    assert_false(transaction_log_commit(f->log, ID, &error));
    assert_error_says(error, VMFERRY_ERROR_REFUSED, "is aborted, not pending");
    transaction_log_settle(f->log, ID);
    assert_outcome(f, OUTCOME_ABORTED);
    reopen(f, "boot-2");
    assert_outcome(f, OUTCOME_ABORTED);
}

static void test_unknown_is_aborted_for_ever(void **state)
{
    Fixture *f = *state;
    GError *error = NULL;

    assert_outcome(f, OUTCOME_ABORTED);
    assert_false(transaction_log_commit(f->log, ID, NULL));
    assert_false(transaction_log_begin(f->log, ID, "web1", &error));
    assert_error_says(error, VMFERRY_ERROR_REFUSED, "is aborted already");
    assert_outcome(f, OUTCOME_ABORTED);
}

static void test_begins_once(void **state)
{
    Fixture *f = *state;
    GError *error = NULL;

    assert_true(transaction_log_begin(f->log, ID, "web1", NULL));
    assert_false(transaction_log_begin(f->log, ID, "web1", &error));
    assert_error_says(error, VMFERRY_ERROR_REFUSED, "is pending already");
    assert_false(transaction_log_begin(f->log, "short", "web1", NULL));
    assert_false(transaction_log_begin(f->log, "ffffffffffffffffffffffffffffffff", "a/b", NULL));
}

static void test_pending_after_agent_restart(void **state)
{
    Fixture *f = *state;

    assert_true(transaction_log_begin(f->log, ID, "web1", NULL));
    reopen(f, "boot-1");
    assert_outcome(f, OUTCOME_ABORTED);
    assert_false(transaction_log_commit(f->log, ID, NULL));
    /* The decision is on record, not only in memory. */
    reopen(f, "boot-2");
    assert_outcome(f, OUTCOME_ABORTED);
}

static void test_pending_after_reboot_is_lost(void **state)
{
    Fixture *f = *state;

    assert_true(transaction_log_begin(f->log, ID, "web1", NULL));
    reopen(f, "boot-2");
    assert_outcome(f, OUTCOME_LOST);
    assert_false(transaction_log_commit(f->log, ID, NULL));
    reopen(f, "boot-2");
    assert_outcome(f, OUTCOME_LOST);
}

static void test_committed_is_looked_at_again(void **state)
{
    Fixture *f = *state;

    assert_true(transaction_log_begin(f->log, ID, "web1", NULL));
    assert_false(transaction_log_reopen(f->log, ID));
    assert_true(transaction_log_commit(f->log, ID, NULL));
    reopen(f, "boot-1");
    assert_true(transaction_log_reopen(f->log, ID));
    assert_outcome(f, OUTCOME_PENDING);
    assert_false(transaction_log_abort(f->log, ID));
    transaction_log_lose(f->log, ID);
    assert_outcome(f, OUTCOME_LOST);
    reopen(f, "boot-1");
    assert_outcome(f, OUTCOME_LOST);
}

/* A commit that cannot be written has not happened. */
static void test_commit_on_full_disk(void **state)
{
    Fixture *f = *state;
    g_autofree char *temporary = g_build_filename(f->folder, "transactions", ID ".json.new", NULL);
    GError *error = NULL;

    assert_true(transaction_log_begin(f->log, ID, "web1", NULL));
    assert_int_equal(symlink("/dev/full", temporary), 0);
    assert_false(transaction_log_commit(f->log, ID, &error));
    assert_error_says(error, VMFERRY_ERROR_NO_SPACE, "is full");
    assert_outcome(f, OUTCOME_PENDING);
    assert_true(transaction_log_abort(f->log, ID));
    assert_outcome(f, OUTCOME_ABORTED);
}

static void test_begin_on_full_disk(void **state)
{
    Fixture *f = *state;
    g_autofree char *temporary = g_build_filename(f->folder, "transactions", ID ".json.new", NULL);
    GError *error = NULL;

    assert_int_equal(symlink("/dev/full", temporary), 0);
    assert_false(transaction_log_begin(f->log, ID, "web1", &error));
    assert_error_says(error, VMFERRY_ERROR_NO_SPACE, "is full");
    assert_int_equal(transaction_log_count(f->log), 0);
}

static void test_hostile_files_are_lost(void **state)
{
    static const char *const texts[] = {
        "",
        "nonsense",
        "[]",
        "{}",
        "{\"format\":1,\"transaction\":\"ffffffffffffffffffffffffffffffff\",\"guest\":\"a\","
        "\"outcome\":\"committed\",\"boot_id\":\"b\",\"updated\":1}",
        "{\"format\":1,\"transaction\":\"" ID "\",\"guest\":\"../a\","
        "\"outcome\":\"committed\",\"boot_id\":\"b\",\"updated\":1}",
        "{\"format\":1,\"transaction\":\"" ID "\",\"guest\":\"a\","
        "\"outcome\":\"perhaps\",\"boot_id\":\"b\",\"updated\":1}",
    };
    Fixture *f = *state;

    for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
        scratch_write(f->folder, "transactions/" ID ".json", texts[i]);
        reopen(f, "boot-1");
        assert_outcome(f, OUTCOME_LOST);
        assert_false(transaction_log_begin(f->log, ID, "web1", NULL));
        assert_false(transaction_log_commit(f->log, ID, NULL));
    }
}

static void test_questions_are_bounded(void **state)
{
    Fixture *f = *state;
    char id[33];

    assert_true(transaction_log_begin(f->log, ID, "web1", NULL));
    assert_true(transaction_log_commit(f->log, ID, NULL));
    for (guint i = 0; i < TRANSACTION_KEEP_ABORTED + 100; i++) {
        g_snprintf(id, sizeof id, "%032x", i);
        assert_int_equal(transaction_log_resolve(f->log, id), OUTCOME_ABORTED);
    }
    assert_true(transaction_log_count(f->log) <= TRANSACTION_KEEP_ABORTED + 1);
    transaction_log_settle(f->log, ID);
    assert_outcome(f, OUTCOME_COMMITTED);
}

static void test_old_ones_are_forgotten(void **state)
{
    Fixture *f = *state;

    scratch_write(f->folder, "transactions/" ID ".json",
                  "{\"format\":1,\"transaction\":\"" ID "\",\"guest\":\"a\","
                  "\"outcome\":\"committed\",\"boot_id\":\"b\",\"updated\":1000}");
    reopen(f, "boot-1");
    assert_int_equal(transaction_log_count(f->log), 0);
    assert_false(scratch_exists(f->folder, "transactions/" ID ".json"));
}

/* Every order of three steps behind begin: whatever was answered to the source
 * never changes between "aborted" and "committed". */
static void apply(TransactionLog *log, guint step)
{
    if (step == 0)
        transaction_log_commit(log, ID, NULL);
    else if (step == 1)
        transaction_log_abort(log, ID);
    else if (step == 2)
        transaction_log_settle(log, ID);
}

static void test_all_orders(void **state)
{
    for (guint order = 0; order < 4 * 4 * 4 * 4; order++) {
        Fixture f = {.folder = scratch_new()};
        gboolean aborted = FALSE, committed = FALSE;

        open_log(&f, "boot-1");
        /* Step 3 of an order is a question; order 3 first: before it begins. */
        for (guint i = 0; i < 5; i++) {
            guint step = i == 0 ? 4 : (order >> (2 * (i - 1))) & 3;
            TransactionOutcome outcome;

            if (step == 4)
                transaction_log_begin(f.log, ID, "web1", NULL);
            apply(f.log, step);
            outcome = transaction_log_resolve(f.log, ID);
            aborted |= outcome == OUTCOME_ABORTED;
            committed |= outcome == OUTCOME_COMMITTED;
            assert_false(aborted && committed);
        }
        /* And a crash of the agent does not change it either. */
        reopen(&f, "boot-1");
        if (aborted)
            assert_outcome(&f, OUTCOME_ABORTED);
        if (committed)
            assert_outcome(&f, OUTCOME_COMMITTED);
        transaction_log_close(f.log);
        state_store_close(f.store);
        scratch_remove(f.folder);
    }
}

typedef struct {
    TransactionLog *log;
    gint committed;
} Race;

static gpointer race_commit(gpointer data)
{
    Race *race = data;

    if (transaction_log_commit(race->log, ID, NULL))
        g_atomic_int_set(&race->committed, 1);
    return NULL;
}

/* Commit and abort at the same time: exactly one of them wins. */
static void test_race(void **state)
{
    for (guint i = 0; i < 50; i++) {
        Fixture f = {.folder = scratch_new()};
        Race race;
        GThread *thread;
        gboolean aborted;

        open_log(&f, "boot-1");
        race = (Race){.log = f.log};
        assert_true(transaction_log_begin(f.log, ID, "web1", NULL));
        thread = g_thread_new("commit", race_commit, &race);
        aborted = transaction_log_abort(f.log, ID);
        g_thread_join(thread);
        assert_true(aborted != (gboolean)race.committed);
        transaction_log_close(f.log);
        state_store_close(f.store);
        scratch_remove(f.folder);
    }
}

int main(void)
{
#define WITH_LOG(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        WITH_LOG(test_straight_way),
        WITH_LOG(test_commit_is_taken_back),
        WITH_LOG(test_settled_commit_stays),
        WITH_LOG(test_aborted_cannot_commit),
        WITH_LOG(test_unknown_is_aborted_for_ever),
        WITH_LOG(test_begins_once),
        WITH_LOG(test_pending_after_agent_restart),
        WITH_LOG(test_pending_after_reboot_is_lost),
        WITH_LOG(test_committed_is_looked_at_again),
        WITH_LOG(test_commit_on_full_disk),
        WITH_LOG(test_begin_on_full_disk),
        WITH_LOG(test_hostile_files_are_lost),
        WITH_LOG(test_questions_are_bounded),
        WITH_LOG(test_old_ones_are_forgotten),
        cmocka_unit_test(test_all_orders),
        cmocka_unit_test(test_race),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
