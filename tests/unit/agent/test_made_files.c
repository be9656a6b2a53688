/* What a restarted agent does with files that were made for guests that arrive. */
#include "scratch.h"

#include <string.h>
#include <unistd.h>

#include "agent/made_files.h"
#include "base/error.h"

#define ID "0123456789abcdef0123456789abcdef"
#define OTHER_ID "11111111111111111111111111111111"
#define GUEST_ID "fedcba9876543210fedcba9876543210"
#define TERM 2

typedef struct {
    char *folder, *images;
    AgentContext context; /* what made_files.c uses of it: store and transactions */
} Fixture;

static void open_state(Fixture *f, const char *boot)
{
    g_autofree char *folder = g_build_filename(f->folder, "state", NULL);

    f->context.store = state_store_open(folder, NULL);
    assert_non_null(f->context.store);
    f->context.transactions = transaction_log_open(f->context.store, boot, NULL);
    assert_non_null(f->context.transactions);
}

static void close_state(Fixture *f)
{
    transaction_log_close(f->context.transactions);
    state_store_close(f->context.store);
}

/* As after a crash: nothing but the disk is left. */
static void restart_as(Fixture *f, const char *boot)
{
    close_state(f);
    open_state(f, boot);
    made_files_recover(&f->context);
}

static void restart(Fixture *f)
{
    restart_as(f, "boot-1");
}

static int set_up(void **state)
{
    Fixture *f = g_new0(Fixture, 1);

    f->folder = scratch_new();
    f->images = g_build_filename(f->folder, "images", NULL);
    open_state(f, "boot-1");
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    Fixture *f = *state;

    close_state(f);
    scratch_remove(f->folder);
    g_free(f->images);
    g_free(f);
    return 0;
}

static void begin(Fixture *f, const char *id)
{
    TransactionOffer offer = {id, "web1", GUEST_ID, TERM};

    assert_true(transaction_log_begin(f->context.transactions, &offer, NULL));
}

static json_t *describe(Fixture *f, const char *name, const char *set_aside)
{
    g_autofree char *path = g_build_filename(f->images, name, NULL);
    g_autofree char *aside = set_aside ? g_build_filename(f->images, set_aside, NULL) : NULL;

    return json_pack("{s:s, s:s?}", "path", path, "set_aside", aside);
}

/* Notes one file, made in place of nothing, or of what is called *set_aside* now. */
static void note(Fixture *f, const char *id, const char *name, const char *set_aside)
{
    g_autoptr(json_t) files = json_pack("[o]", describe(f, name, set_aside));

    assert_true(made_files_note(f->context.store, id, files, NULL));
}

static void assert_holds(Fixture *f, const char *name, const char *wanted)
{
    g_autofree char *path = g_build_filename(f->images, name, NULL);
    g_autofree char *text = NULL;

    if (!g_file_get_contents(path, &text, NULL, NULL))
        text = g_strdup("(nothing)");
    assert_string_equal(text, wanted);
}

static void assert_no_records(Fixture *f)
{
    g_autoptr(GPtrArray) keys = state_store_list(f->context.store, STORE_MADE_FILES, NULL);

    assert_non_null(keys);
    assert_int_equal(keys->len, 0);
}

static void test_guest_that_did_not_come(void **state)
{
    Fixture *f = *state;

    begin(f, ID);
    note(f, ID, "web1.raw", NULL);
    scratch_write(f->images, "web1.raw", "made");
    scratch_write(f->images, "other.raw", "other");
    restart(f);
    assert_holds(f, "web1.raw", "(nothing)");
    assert_holds(f, "other.raw", "other");
    assert_no_records(f);
}

/* The record comes before GUEST, and so before the transaction. */
static void test_transaction_that_never_began(void **state)
{
    Fixture *f = *state;

    note(f, ID, "web1.raw", NULL);
    scratch_write(f->images, "web1.raw", "made");
    restart(f);
    assert_holds(f, "web1.raw", "(nothing)");
    assert_no_records(f);
}

static void test_files_that_were_not_made_yet(void **state)
{
    Fixture *f = *state;

    note(f, ID, "web1.raw", NULL);
    note(f, OTHER_ID, "web2.raw", "web2.raw.replaced-11111111");
    scratch_write(f->images, "web2.raw", "old");
    restart(f);
    assert_holds(f, "web1.raw", "(nothing)");
    assert_holds(f, "web2.raw", "old"); /* it was not set aside yet */
    assert_no_records(f);
}

static void test_what_was_set_aside_comes_back(void **state)
{
    Fixture *f = *state;

    note(f, ID, "web1.raw", "web1.raw.replaced-01234567");
    scratch_write(f->images, "web1.raw", "made");
    scratch_write(f->images, "web1.raw.replaced-01234567", "old");
    restart(f);
    assert_holds(f, "web1.raw", "old");
    assert_holds(f, "web1.raw.replaced-01234567", "(nothing)");
    assert_no_records(f);
}

static void test_set_aside_and_nothing_made(void **state)
{
    Fixture *f = *state;

    note(f, ID, "web1.raw", "web1.raw.replaced-01234567");
    scratch_write(f->images, "web1.raw.replaced-01234567", "old");
    restart(f);
    assert_holds(f, "web1.raw", "old");
    assert_no_records(f);
}

static void test_committed_guest_keeps_its_files(void **state)
{
    Fixture *f = *state;

    begin(f, ID);
    note(f, ID, "web1.raw", NULL);
    scratch_write(f->images, "web1.raw", "made");
    assert_true(transaction_log_commit(f->context.transactions, ID, TERM, NULL));
    restart(f);
    assert_holds(f, "web1.raw", "made");
    assert_no_records(f);
}

/* It may have run here. */
static void test_lost_guest_keeps_its_files(void **state)
{
    Fixture *f = *state;

    begin(f, ID);
    note(f, ID, "web1.raw", NULL);
    scratch_write(f->images, "web1.raw", "made");
    assert_true(transaction_log_commit(f->context.transactions, ID, TERM, NULL));
    transaction_log_lose(f->context.transactions, ID);
    restart(f);
    assert_holds(f, "web1.raw", "made");
}

/* Whether it was committed is not known any more: what is here may be all that there is of it. */
static void test_a_lost_host_keeps_all(void **state)
{
    Fixture *f = *state;

    begin(f, ID);
    note(f, ID, "web1.raw", "web1.old");
    scratch_write(f->images, "web1.raw", "made");
    scratch_write(f->images, "web1.old", "old");
    restart_as(f, "boot-2");
    assert_holds(f, "web1.raw", "made");
    assert_holds(f, "web1.old", "old");
    assert_no_records(f);
}

static void test_a_transaction_that_cannot_be_read_keeps_all(void **state)
{
    Fixture *f = *state;

    begin(f, ID);
    note(f, ID, "web1.raw", "web1.old");
    scratch_write(f->images, "web1.raw", "made");
    scratch_write(f->images, "web1.old", "old");
    scratch_write(f->folder, "state/transactions/" ID ".json", "{");
    restart(f);
    assert_holds(f, "web1.raw", "made");
    assert_holds(f, "web1.old", "old");
}

/* It was to be replaced. */
static void test_a_committed_guest_needs_nothing_set_aside(void **state)
{
    Fixture *f = *state;

    begin(f, ID);
    note(f, ID, "web1.raw", "web1.old");
    scratch_write(f->images, "web1.raw", "made");
    scratch_write(f->images, "web1.old", "old");
    assert_true(transaction_log_commit(f->context.transactions, ID, TERM, NULL));
    restart_as(f, "boot-2");
    assert_holds(f, "web1.raw", "made");
    assert_holds(f, "web1.old", "(nothing)");
    assert_no_records(f);
}

static void test_one_decision_for_each_transaction(void **state)
{
    Fixture *f = *state;

    begin(f, ID);
    note(f, ID, "web1.raw", NULL);
    note(f, OTHER_ID, "web2.raw", NULL);
    scratch_write(f->images, "web1.raw", "made");
    scratch_write(f->images, "web2.raw", "made");
    assert_true(transaction_log_commit(f->context.transactions, ID, TERM, NULL));
    restart(f);
    assert_holds(f, "web1.raw", "made");
    assert_holds(f, "web2.raw", "(nothing)");
    assert_no_records(f);
}

static void test_settled_files_are_forgotten(void **state)
{
    Fixture *f = *state;

    note(f, ID, "web1.raw", NULL);
    scratch_write(f->images, "web1.raw", "made");
    assert_true(made_files_note(f->context.store, ID, NULL, NULL));
    assert_no_records(f);
    restart(f);
    assert_holds(f, "web1.raw", "made");
}

static void test_several_files(void **state)
{
    Fixture *f = *state;
    g_autoptr(json_t) files =
        json_pack("[o, o]", describe(f, "base.raw", NULL), describe(f, "web1.raw", "web1.old"));

    assert_true(made_files_note(f->context.store, ID, files, NULL));
    scratch_write(f->images, "base.raw", "made");
    scratch_write(f->images, "web1.raw", "made");
    scratch_write(f->images, "web1.old", "old");
    restart(f);
    assert_holds(f, "base.raw", "(nothing)");
    assert_holds(f, "web1.raw", "old");
}

/* Nothing is removed on the word of a record that was damaged. */
static void test_damaged_records(void **state)
{
    Fixture *f = *state;
    g_autofree char *name = g_strdup_printf("state/made-files/%s.json", ID);
    g_autofree char *other = g_strdup_printf("state/made-files/%s.json", OTHER_ID);

    scratch_write(f->images, "web1.raw", "there");
    assert_int_equal(chdir(f->images), 0);
    scratch_write(f->folder, name, "{\"format\":1,\"files\":[{\"path\":");
    scratch_write(f->folder, other,
                  "{\"format\":1,\"files\":[7,{},{\"path\":\"web1.raw\"},{\"path\":null}]}");
    restart(f);
    assert_int_equal(chdir("/"), 0);
    assert_holds(f, "web1.raw", "there");
    assert_no_records(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_guest_that_did_not_come, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_transaction_that_never_began, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_files_that_were_not_made_yet, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_was_set_aside_comes_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_set_aside_and_nothing_made, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_committed_guest_keeps_its_files, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_lost_guest_keeps_its_files, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_lost_host_keeps_all, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_transaction_that_cannot_be_read_keeps_all, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_committed_guest_needs_nothing_set_aside, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_one_decision_for_each_transaction, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_settled_files_are_forgotten, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_several_files, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_damaged_records, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
