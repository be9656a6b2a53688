#include "scratch.h"

#include <string.h>
#include <unistd.h>

#include "agent/transactions.h"
#include "base/error.h"

#define ID "0123456789abcdef0123456789abcdef"
#define LATER_ID "11111111111111111111111111111111"
#define GUEST_ID "fedcba9876543210fedcba9876543210"
#define TERM 4

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

static gboolean begin(TransactionLog *log, const char *id, const char *guest, uint64_t term,
                      GError **error)
{
    TransactionOffer offer = {id, guest, GUEST_ID, term};

    return transaction_log_begin(log, &offer, error);
}

static OutcomeMessage ask(TransactionLog *log, const char *id, uint64_t term)
{
    ResolveMessage question = {(char *)id, (char *)GUEST_ID, term};

    return transaction_log_resolve(log, &question);
}

static void assert_outcome(Fixture *f, TransactionOutcome outcome)
{
    assert_int_equal(ask(f->log, ID, TERM).outcome, outcome);
}

static void test_straight_way(void **state)
{
    Fixture *f = *state;

    assert_true(begin(f->log, ID, "web1", TERM, NULL));
    assert_outcome(f, OUTCOME_PENDING);
    assert_true(transaction_log_commit(f->log, ID, TERM, NULL));
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

    assert_true(begin(f->log, ID, "web1", TERM, NULL));
    assert_true(transaction_log_commit(f->log, ID, TERM, NULL));
    assert_true(transaction_log_withdraw(f->log, ID, NULL));
    /* Its VMM is still there, but it is not given its memory any more. */
    assert_false(transaction_log_settle(f->log, ID));
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

    assert_true(begin(f->log, ID, "web1", TERM, NULL));
    assert_true(transaction_log_commit(f->log, ID, TERM, NULL));
    assert_true(transaction_log_settle(f->log, ID));
    assert_false(transaction_log_withdraw(f->log, ID, &error));
    assert_error_says(error, VMFERRY_ERROR_REFUSED, "is committed");
    assert_outcome(f, OUTCOME_COMMITTED);
}

static void test_alone_survives_the_host(void **state)
{
    Fixture *f = *state;
    GError *error = NULL;

    assert_true(begin(f->log, ID, "web1", TERM, NULL));
    assert_false(transaction_log_note_alone(f->log, ID, &error));
    assert_error_says(error, VMFERRY_ERROR_REFUSED, "not committed");
    assert_true(transaction_log_commit(f->log, ID, TERM, NULL));
    assert_false(transaction_log_is_alone(f->log, ID));
    assert_true(transaction_log_note_alone(f->log, ID, NULL));
    reopen(f, "boot-2");
    assert_true(transaction_log_is_alone(f->log, ID));
    assert_false(transaction_log_is_alone(f->log, LATER_ID));
}

static void test_aborted_cannot_commit(void **state)
{
    Fixture *f = *state;
    GError *error = NULL;

    assert_true(begin(f->log, ID, "web1", TERM, NULL));
    assert_true(transaction_log_abort(f->log, ID));
    assert_outcome(f, OUTCOME_ABORTED);
    assert_false(transaction_log_commit(f->log, ID, TERM, &error));
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
    assert_false(transaction_log_commit(f->log, ID, TERM, NULL));
    assert_false(begin(f->log, ID, "web1", TERM, &error));
    assert_error_says(error, VMFERRY_ERROR_REFUSED, "is aborted already");
    assert_outcome(f, OUTCOME_ABORTED);
}

static void test_begins_once(void **state)
{
    Fixture *f = *state;
    GError *error = NULL;

    assert_true(begin(f->log, ID, "web1", TERM, NULL));
    assert_false(begin(f->log, ID, "web1", TERM, &error));
    assert_error_says(error, VMFERRY_ERROR_REFUSED, "is pending already");
    assert_false(begin(f->log, "short", "web1", TERM, NULL));
    assert_false(begin(f->log, "ffffffffffffffffffffffffffffffff", "a/b", TERM, NULL));
}

static void test_pending_after_agent_restart(void **state)
{
    Fixture *f = *state;

    assert_true(begin(f->log, ID, "web1", TERM, NULL));
    reopen(f, "boot-1");
    assert_outcome(f, OUTCOME_ABORTED);
    assert_false(transaction_log_commit(f->log, ID, TERM, NULL));
    /* The decision is on record, not only in memory. */
    reopen(f, "boot-2");
    assert_outcome(f, OUTCOME_ABORTED);
}

static void test_pending_after_reboot_is_lost(void **state)
{
    Fixture *f = *state;

    assert_true(begin(f->log, ID, "web1", TERM, NULL));
    reopen(f, "boot-2");
    assert_outcome(f, OUTCOME_LOST);
    assert_false(transaction_log_commit(f->log, ID, TERM, NULL));
    /* Its guest is gone: that says nothing of whether it has run. */
    assert_false(transaction_log_abort(f->log, ID));
    assert_outcome(f, OUTCOME_LOST);
    reopen(f, "boot-2");
    assert_outcome(f, OUTCOME_LOST);
}

static void assert_may_be_committed(Fixture *f, gboolean may)
{
    assert_int_equal(transaction_log_may_be_committed(f->log, ID), may);
}

static void test_what_may_be_committed(void **state)
{
    Fixture *f = *state;

    assert_may_be_committed(f, FALSE);
    assert_false(transaction_log_is_committed(f->log, ID));
    assert_true(begin(f->log, ID, "web1", TERM, NULL));
    assert_may_be_committed(f, FALSE);
    reopen(f, "boot-2");
    assert_may_be_committed(f, TRUE);
    assert_false(transaction_log_is_committed(f->log, ID));
    assert_true(begin(f->log, LATER_ID, "web1", TERM, NULL));
    assert_true(transaction_log_commit(f->log, LATER_ID, TERM, NULL));
    assert_true(transaction_log_may_be_committed(f->log, LATER_ID));
    assert_true(transaction_log_is_committed(f->log, LATER_ID));
    transaction_log_lose(f->log, LATER_ID);
    assert_true(transaction_log_may_be_committed(f->log, LATER_ID));
    assert_false(transaction_log_is_committed(f->log, LATER_ID));
}

static void test_alone_is_on_record(void **state)
{
    Fixture *f = *state;
    ResolveMessage question = {(char *)ID, (char *)GUEST_ID, TERM + 1};

    assert_false(transaction_log_note_alone(f->log, ID, NULL));
    assert_true(begin(f->log, ID, "web1", TERM, NULL));
    assert_false(transaction_log_note_alone(f->log, ID, NULL));
    assert_true(transaction_log_commit(f->log, ID, TERM, NULL));
    assert_true(transaction_log_is_superseded(f->log, &question));
    question.term = TERM;
    assert_false(transaction_log_is_superseded(f->log, &question));
    assert_false(transaction_log_is_alone(f->log, ID));
    assert_true(transaction_log_note_alone(f->log, ID, NULL));
    reopen(f, "boot-2");
    assert_true(transaction_log_is_alone(f->log, ID));
    question.term = TERM + 1;
    assert_false(transaction_log_is_superseded(f->log, &question));
}

static void test_what_is_aborted_is_not_committed(void **state)
{
    Fixture *f = *state;

    assert_true(begin(f->log, ID, "web1", TERM, NULL));
    reopen(f, "boot-1");
    assert_may_be_committed(f, FALSE);
    reopen(f, "boot-2");
    assert_may_be_committed(f, FALSE);
}

static void test_committed_is_looked_at_again(void **state)
{
    Fixture *f = *state;

    assert_true(begin(f->log, ID, "web1", TERM, NULL));
    assert_false(transaction_log_reopen(f->log, ID));
    assert_true(transaction_log_commit(f->log, ID, TERM, NULL));
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

    assert_true(begin(f->log, ID, "web1", TERM, NULL));
    assert_int_equal(symlink("/dev/full", temporary), 0);
    assert_false(transaction_log_commit(f->log, ID, TERM, &error));
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
    assert_false(begin(f->log, ID, "web1", TERM, &error));
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
        "\"guest_id\":\"" GUEST_ID "\",\"term\":4,"
        "\"outcome\":\"committed\",\"boot_id\":\"b\",\"updated\":1}",
        "{\"format\":1,\"transaction\":\"" ID "\",\"guest\":\"../a\",\"guest_id\":\"" GUEST_ID
        "\",\"term\":4,"
        "\"outcome\":\"committed\",\"boot_id\":\"b\",\"updated\":1}",
        "{\"format\":1,\"transaction\":\"" ID "\",\"guest\":\"a\",\"guest_id\":\"" GUEST_ID
        "\",\"term\":4,"
        "\"outcome\":\"perhaps\",\"boot_id\":\"b\",\"updated\":1}",
        "{\"format\":1,\"transaction\":\"" ID "\",\"guest\":\"a\",\"guest_id\":\"" GUEST_ID "\","
        "\"term\":0,\"outcome\":\"committed\",\"boot_id\":\"b\",\"updated\":1}",
        "{\"format\":1,\"transaction\":\"" ID "\",\"guest\":\"a\",\"guest_id\":\"x\","
        "\"term\":4,\"outcome\":\"committed\",\"boot_id\":\"b\",\"updated\":1}",
    };
    Fixture *f = *state;

    for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
        scratch_write(f->folder, "transactions/" ID ".json", texts[i]);
        reopen(f, "boot-1");
        assert_outcome(f, OUTCOME_LOST);
        assert_false(begin(f->log, ID, "web1", TERM, NULL));
        assert_false(transaction_log_commit(f->log, ID, TERM, NULL));
    }
}

static void test_questions_are_bounded(void **state)
{
    ResolveMessage question = {NULL, (char *)LATER_ID, TERM};
    Fixture *f = *state;
    char id[33];

    assert_true(begin(f->log, ID, "web1", TERM, NULL));
    assert_true(transaction_log_commit(f->log, ID, TERM, NULL));
    for (guint i = 0; i < TRANSACTION_KEEP_ABORTED + 100; i++) {
        g_snprintf(id, sizeof id, "%032x", i);
        question.transaction = id;
        assert_int_equal(transaction_log_resolve(f->log, &question).outcome, OUTCOME_ABORTED);
    }
    assert_true(transaction_log_count(f->log) <= TRANSACTION_KEEP_ABORTED + 1);
    transaction_log_settle(f->log, ID);
    assert_outcome(f, OUTCOME_COMMITTED);
}

static void test_old_ones_are_forgotten(void **state)
{
    Fixture *f = *state;

    scratch_write(f->folder, "transactions/" ID ".json",
                  "{\"format\":1,\"transaction\":\"" ID
                  "\",\"guest\":\"a\",\"guest_id\":\"" GUEST_ID "\",\"term\":4,"
                  "\"outcome\":\"committed\",\"boot_id\":\"b\",\"updated\":1000}");
    reopen(f, "boot-1");
    assert_int_equal(transaction_log_count(f->log), 0);
    assert_false(scratch_exists(f->folder, "transactions/" ID ".json"));
}

/* ---- terms ---- */

static void own(Fixture *f)
{
    assert_true(begin(f->log, ID, "web1", TERM, NULL));
    assert_true(transaction_log_commit(f->log, ID, TERM, NULL));
    transaction_log_settle(f->log, ID);
}

static void test_commit_is_of_its_term(void **state)
{
    Fixture *f = *state;
    GError *error = NULL;

    assert_true(begin(f->log, ID, "web1", TERM, NULL));
    assert_false(transaction_log_commit(f->log, ID, TERM + 1, &error));
    assert_error_says(error, VMFERRY_ERROR_REFUSED, "is of term 4, not of 5");
    assert_outcome(f, OUTCOME_PENDING);
    assert_true(transaction_log_commit(f->log, ID, TERM, NULL));
    transaction_log_settle(f->log, ID);
    reopen(f, "boot-2");
    assert_int_equal(ask(f->log, ID, TERM).term, TERM);
}

/* An old copy of a guest that was here with a higher term does not come in. */
static void test_old_terms_are_refused(void **state)
{
    Fixture *f = *state;
    TransactionOffer other = {LATER_ID, "web1", ID, 1};
    GError *error = NULL;

    own(f);
    reopen(f, "boot-1");
    assert_false(begin(f->log, LATER_ID, "web1", TERM - 1, &error));
    assert_error_says(g_steal_pointer(&error), VMFERRY_ERROR_REFUSED,
                      "with term 4 before and is offered with term 3");
    /* Nor by another name. */
    assert_false(begin(f->log, LATER_ID, "web2", TERM, &error));
    assert_error_says(error, VMFERRY_ERROR_REFUSED, "is out of date");
    assert_true(begin(f->log, LATER_ID, "web1", TERM + 1, NULL));
    assert_true(transaction_log_abort(f->log, LATER_ID));
    /* Another guest of that name has terms of its own. */
    other.id = "22222222222222222222222222222222";
    assert_true(transaction_log_begin(f->log, &other, NULL));
}

/* What has not come to own it is no owner; what may have, is. */
static void test_which_terms_count(void **state)
{
    Fixture *f = *state;

    assert_true(begin(f->log, ID, "web1", TERM, NULL));
    assert_true(transaction_log_commit(f->log, ID, TERM, NULL));
    assert_true(transaction_log_withdraw(f->log, ID, NULL));
    assert_true(transaction_log_abort(f->log, ID));
    assert_true(begin(f->log, LATER_ID, "web1", TERM, NULL));
    assert_true(transaction_log_commit(f->log, LATER_ID, TERM, NULL));
    transaction_log_lose(f->log, LATER_ID);
    assert_false(begin(f->log, "22222222222222222222222222222222", "web1", TERM, NULL));
}

/* A source that asks about a move that failed, while the guest has come by a later one: its copy
 * is out of date. */
static void test_answer_is_about_the_owner(void **state)
{
    Fixture *f = *state;
    OutcomeMessage answer;

    assert_int_equal(ask(f->log, LATER_ID, TERM).outcome, OUTCOME_ABORTED);
    assert_true(begin(f->log, ID, "web1", TERM, NULL));
    assert_true(transaction_log_commit(f->log, ID, TERM, NULL));
    assert_int_equal(ask(f->log, LATER_ID, TERM).outcome, OUTCOME_PENDING);
    transaction_log_settle(f->log, ID);
    answer = ask(f->log, LATER_ID, TERM);
    assert_int_equal(answer.outcome, OUTCOME_COMMITTED);
    assert_int_equal(answer.term, TERM);
    /* One that was kept at its source with a higher term since is asked about on its own. */
    assert_int_equal(ask(f->log, LATER_ID, TERM + 1).outcome, OUTCOME_ABORTED);
}

/* Every order of three steps behind begin: whatever was answered to the source
 * never changes between "aborted" and "committed". */
static void apply(TransactionLog *log, guint step)
{
    if (step == 0)
        transaction_log_commit(log, ID, TERM, NULL);
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
                begin(f.log, ID, "web1", TERM, NULL);
            apply(f.log, step);
            outcome = ask(f.log, ID, TERM).outcome;
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

    if (transaction_log_commit(race->log, ID, TERM, NULL))
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
        assert_true(begin(f.log, ID, "web1", TERM, NULL));
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
        WITH_LOG(test_alone_survives_the_host),
        WITH_LOG(test_aborted_cannot_commit),
        WITH_LOG(test_unknown_is_aborted_for_ever),
        WITH_LOG(test_begins_once),
        WITH_LOG(test_pending_after_agent_restart),
        WITH_LOG(test_pending_after_reboot_is_lost),
        WITH_LOG(test_what_may_be_committed),
        WITH_LOG(test_alone_is_on_record),
        WITH_LOG(test_what_is_aborted_is_not_committed),
        WITH_LOG(test_committed_is_looked_at_again),
        WITH_LOG(test_commit_on_full_disk),
        WITH_LOG(test_begin_on_full_disk),
        WITH_LOG(test_hostile_files_are_lost),
        WITH_LOG(test_questions_are_bounded),
        WITH_LOG(test_old_ones_are_forgotten),
        WITH_LOG(test_commit_is_of_its_term),
        WITH_LOG(test_old_terms_are_refused),
        WITH_LOG(test_which_terms_count),
        WITH_LOG(test_answer_is_about_the_owner),
        cmocka_unit_test(test_all_orders),
        cmocka_unit_test(test_race),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
