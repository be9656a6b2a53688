/* Files that were made for guests that arrive, after a crash of their agent or host. */
#include "scratch.h"

#include <string.h>
#include <unistd.h>

#include "agent/made_files.h"
#include "base/error.h"

#define ID "0123456789abcdef0123456789abcdef"
#define OTHER_ID "11111111111111111111111111111111"
#define GUEST_ID "fedcba9876543210fedcba9876543210"
#define TERM 4

typedef struct {
    char *folder;
    AgentContext context; /* store and transactions only */
} Fixture;

static void open_state(Fixture *f, const char *boot)
{
    g_autofree char *state = g_build_filename(f->folder, "state", NULL);

    f->context.store = state_store_open(state, NULL);
    assert_non_null(f->context.store);
    f->context.transactions = transaction_log_open(f->context.store, boot, NULL);
    assert_non_null(f->context.transactions);
}

static void close_state(Fixture *f)
{
    transaction_log_close(f->context.transactions);
    state_store_close(f->context.store);
}

static int set_up(void **state)
{
    Fixture *f = g_new0(Fixture, 1);

    f->folder = scratch_new();
    open_state(f, "boot-1");
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    Fixture *f = *state;

    close_state(f);
    scratch_remove(f->folder);
    g_free(f);
    return 0;
}

/* As after a crash: nothing but the disk is left. */
static void restart(Fixture *f, const char *boot)
{
    close_state(f);
    open_state(f, boot);
    made_files_recover(&f->context);
}

static void begin(Fixture *f, gboolean commit)
{
    TransactionOffer offer = {ID, "web1", GUEST_ID, TERM};

    assert_true(transaction_log_begin(f->context.transactions, &offer, NULL));
    assert_true(!commit || transaction_log_commit(f->context.transactions, ID, TERM, NULL));
}

/* *name*, in the folder, in place of *set_aside* (NULL: of nothing). */
static void add(Fixture *f, json_t *files, const char *name, const char *set_aside)
{
    g_autofree char *path = g_build_filename(f->folder, name, NULL);
    g_autofree char *aside = set_aside ? g_build_filename(f->folder, set_aside, NULL) : NULL;

    json_array_append_new(files, json_pack("{s:s, s:s?}", "path", path, "set_aside", aside));
}

/* "new" is made, and "there" in place of what is "aside" now; "kept" has not been set aside yet. */
static void make_files(Fixture *f)
{
    g_autoptr(json_t) files = json_array();

    add(f, files, "new", NULL);
    add(f, files, "there", "aside");
    add(f, files, "kept", "kept-aside");
    add(f, files, "unmade", NULL);
    assert_true(made_files_note(f->context.store, ID, files, NULL));
    scratch_write(f->folder, "new", "ours");
    scratch_write(f->folder, "there", "ours");
    scratch_write(f->folder, "aside", "theirs");
    scratch_write(f->folder, "kept", "theirs");
}

static void assert_content(Fixture *f, const char *name, const char *expected)
{
    g_autofree char *path = g_build_filename(f->folder, name, NULL);
    g_autofree char *text = NULL;

    if (!expected) {
        assert_false(scratch_exists(f->folder, name));
        return;
    }
    assert_true(g_file_get_contents(path, &text, NULL, NULL));
    assert_string_equal(text, expected);
}

static guint count_records(Fixture *f)
{
    g_autoptr(GPtrArray) keys = state_store_list(f->context.store, STORE_MADE_FILES, NULL);

    return keys->len;
}

/* As if nothing had come. */
static void assert_undone(Fixture *f)
{
    assert_content(f, "new", NULL);
    assert_content(f, "there", "theirs");
    assert_content(f, "aside", NULL);
    assert_content(f, "kept", "theirs");
    assert_content(f, "unmade", NULL);
    assert_int_equal(count_records(f), 0);
}

static void test_before_the_guest_was_offered(void **state)
{
    Fixture *f = *state;

    make_files(f);
    restart(f, "boot-1");
    assert_undone(f);
    restart(f, "boot-1");
    assert_undone(f);
}

static void test_of_a_guest_that_did_not_arrive(void **state)
{
    Fixture *f = *state;

    begin(f, FALSE);
    make_files(f);
    restart(f, "boot-1");
    assert_undone(f);
}

/* What they are in place of was to be replaced. */
static void test_of_a_guest_that_has_arrived(void **state)
{
    Fixture *f = *state;

    begin(f, TRUE);
    make_files(f);
    restart(f, "boot-1");
    assert_content(f, "new", "ours");
    assert_content(f, "there", "ours");
    assert_content(f, "aside", NULL);
    assert_content(f, "kept", "theirs");
    assert_int_equal(count_records(f), 0);
}

static void assert_all_kept(Fixture *f)
{
    assert_content(f, "new", "ours");
    assert_content(f, "there", "ours");
    assert_content(f, "aside", "theirs");
    assert_int_equal(count_records(f), 0);
}

/* Whether it was committed is not known any more: what is here may be all that there is of it. */
static void test_after_the_host_was_lost(void **state)
{
    Fixture *f = *state;

    begin(f, FALSE);
    make_files(f);
    restart(f, "boot-2");
    assert_all_kept(f);
}

static void test_of_a_transaction_that_cannot_be_read(void **state)
{
    Fixture *f = *state;

    begin(f, TRUE);
    make_files(f);
    scratch_write(f->folder, "state/transactions/" ID ".json", "{");
    restart(f, "boot-1");
    assert_all_kept(f);
}

static void test_forgotten(void **state)
{
    Fixture *f = *state;

    make_files(f);
    assert_true(made_files_note(f->context.store, ID, NULL, NULL));
    restart(f, "boot-1");
    assert_all_kept(f);
}

/* Nothing of these is touched. */
static void test_hostile_records(void **state)
{
    static const char *const texts[] = {
        "",
        "[]",
        "{}",
        "{\"files\":5}",
        "{\"files\":[5,null,[],{}]}",
        "{\"files\":[{\"path\":\"\"},{\"path\":5},{\"path\":\"new\"},{\"set_aside\":\"new\"}]}",
    };
    Fixture *f = *state;

    scratch_write(f->folder, "new", "ours");
    assert_int_equal(chdir(f->folder), 0);
    for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
        scratch_write(f->folder, "state/made-files/" OTHER_ID ".json", texts[i]);
        restart(f, "boot-1");
        assert_content(f, "new", "ours");
        assert_int_equal(count_records(f), 0);
    }
    assert_int_equal(chdir("/"), 0);
}

#define WITH_STATE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_STATE(test_before_the_guest_was_offered),
        WITH_STATE(test_of_a_guest_that_did_not_arrive),
        WITH_STATE(test_of_a_guest_that_has_arrived),
        WITH_STATE(test_after_the_host_was_lost),
        WITH_STATE(test_of_a_transaction_that_cannot_be_read),
        WITH_STATE(test_forgotten),
        WITH_STATE(test_hostile_records),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
