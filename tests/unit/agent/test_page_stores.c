/* Whose pages an agent keeps: who is let in, what a restart finds, when they go. */
#include "scratch.h"

#include <string.h>

#include "agent/page_stores.h"
#include "base/error.h"
#include "session_pair.h"

#define TRANSACTION "0123456789abcdef0123456789abcdef"
#define OTHER "11111111111111111111111111111111"
#define GUEST_ID "fedcba9876543210fedcba9876543210"
#define US "cccccccccccccccccccccccccccccccc"
#define DESTINATION "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define STRANGER "dddddddddddddddddddddddddddddddd"
#define MIB ((uint64_t)1 << 20)
#define TIMEOUT_MS 10000

typedef struct {
    char *folder;
    AgentContext *context; /* what page_stores.c uses of it */
    SessionPair pair;
    GThread *thread;
    const char *agent;
    gboolean done;
    GError *error;
} Fixture;

static void open_stores(Fixture *f, const char *boot)
{
    f->context->boot_id = (char *)boot;
    f->context->stores = page_stores_open(f->context);
}

static int set_up(void **state)
{
    Fixture *f = g_new0(Fixture, 1);

    f->folder = scratch_new();
    f->context = g_new0(AgentContext, 1);
    f->context->settings = agent_settings_new();
    g_free(f->context->settings->runtime_dir);
    f->context->settings->runtime_dir = g_strdup(f->folder);
    f->context->settings->store_memory = 64 * MIB;
    f->context->events = event_log_open(NULL);
    f->context->agent_id = (char *)US;
    f->context->host_name = (char *)"hostc";
    open_stores(f, "boot-1");
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    Fixture *f = *state;

    page_stores_close(f->context->stores);
    event_log_close(f->context->events);
    agent_settings_free(f->context->settings);
    g_free(f->context);
    g_clear_error(&f->error);
    scratch_remove(f->folder);
    g_free(f);
    return 0;
}

static void restart_as(Fixture *f, const char *boot)
{
    page_stores_close(f->context->stores);
    open_stores(f, boot);
}

/* ---- sessions ---- */

static gpointer fill_main(gpointer data)
{
    Fixture *f = data;

    f->done = page_stores_fill(f->context, f->pair.server, "source", &f->error);
    return NULL;
}

static gpointer serve_main(gpointer data)
{
    Fixture *f = data;

    f->done = page_stores_serve(f->context, f->pair.server, f->agent, &f->error);
    return NULL;
}

static void begin(Fixture *f, GThreadFunc function)
{
    g_clear_error(&f->error);
    session_pair_open(&f->pair, TRAFFIC_CONTROL);
    f->thread = g_thread_new("store", function, f);
}

static void end(Fixture *f)
{
    session_shutdown(f->pair.client);
    g_thread_join(f->thread);
    session_pair_close(&f->pair);
}

static void send_store(Fixture *f, const char *transaction, const char *destination, uint64_t bytes)
{
    WireRegion region = {(char *)"pc.ram", bytes};
    StoreMessage message = {
        .transaction = (char *)transaction,
        .guest = (char *)"web1",
        .guest_id = (char *)GUEST_ID,
        .term = 2,
        .destination_agent = (char *)destination,
        .bytes = bytes,
        .regions = &region,
        .region_count = 1,
    };
    g_autofree char *text = store_message_encode(&message);

    assert_true(session_send_bytes(f->pair.client, FRAME_STORE, text, strlen(text), NULL));
}

static gboolean is_accepted(Fixture *f, GError **error)
{
    Frame frame;

    return session_expect(f->pair.client, FRAME_ACCEPTED, TIMEOUT_MS, &frame, error);
}

/* TRUE where it is let in; the session goes on then. */
static gboolean offer(Fixture *f, const char *transaction, const char *destination, uint64_t bytes,
                      GError **error)
{
    begin(f, fill_main);
    send_store(f, transaction, destination, bytes);
    if (is_accepted(f, error))
        return TRUE;
    end(f);
    return FALSE;
}

static void seal(Fixture *f)
{
    Frame frame;

    assert_true(session_send_bytes(f->pair.client, FRAME_STORE_SEAL, NULL, 0, NULL));
    assert_true(session_expect(f->pair.client, FRAME_STORED, TIMEOUT_MS, &frame, NULL));
}

/* A source that is lost behind the seal. */
static void leave_sealed(Fixture *f)
{
    assert_true(offer(f, TRANSACTION, DESTINATION, 16 * MIB, NULL));
    seal(f);
    end(f);
    assert_false(f->done);
    g_clear_error(&f->error);
}

static gboolean ask(Fixture *f, const char *agent, const char *transaction, uint64_t term,
                    GError **error)
{
    ResolveMessage question = {(char *)transaction, (char *)GUEST_ID, term};
    g_autofree char *text = resolve_message_encode(&question);

    f->agent = agent;
    begin(f, serve_main);
    assert_true(session_send_bytes(f->pair.client, FRAME_RESUME, text, strlen(text), NULL));
    if (is_accepted(f, error))
        return TRUE;
    end(f);
    return FALSE;
}

static size_t count(Fixture *f)
{
    g_autoptr(json_t) list = page_stores_to_json(f->context->stores);

    return json_array_size(list);
}

/* ---- tests ---- */

static void test_who_is_let_in(void **state)
{
    Fixture *f = *state;
    GError *error = NULL;

    assert_false(offer(f, TRANSACTION, US, MIB, &error));
    assert_error_says(error, VMFERRY_ERROR_REFUSED, "destination itself");
    error = NULL;
    assert_false(offer(f, TRANSACTION, DESTINATION, 65 * MIB, &error));
    assert_error_says(error, VMFERRY_ERROR_NO_SPACE, "store-memory");
    assert_int_equal(count(f), 0);
    assert_false(scratch_exists(f->folder, "store/" TRANSACTION));
    assert_true(offer(f, TRANSACTION, DESTINATION, 64 * MIB, NULL));
    assert_int_equal(count(f), 1);
    end(f);
    /* Nobody can ask for what was not sealed. */
    assert_int_equal(count(f), 0);
    assert_false(scratch_exists(f->folder, "store"));
    g_clear_error(&f->error);
}

/* What is promised counts, whether it has come or not. */
static void test_promises_count(void **state)
{
    Fixture *f = *state;
    GError *error = NULL;

    leave_sealed(f);
    assert_false(offer(f, OTHER, DESTINATION, 49 * MIB, &error));
    assert_error_says(error, VMFERRY_ERROR_NO_SPACE, "48.0");
    error = NULL;
    assert_false(offer(f, TRANSACTION, DESTINATION, MIB, &error));
    assert_error_says(error, VMFERRY_ERROR_REFUSED, "already");
    assert_true(offer(f, OTHER, DESTINATION, 48 * MIB, NULL));
    assert_true(session_send_bytes(f->pair.client, FRAME_COMPLETE, NULL, 0, NULL));
    end(f);
    assert_true(f->done);
    assert_int_equal(count(f), 1);
}

static void test_none_is_kept(void **state)
{
    Fixture *f = *state;
    GError *error = NULL;

    f->context->settings->store_memory = 0;
    restart_as(f, "boot-1");
    assert_false(offer(f, TRANSACTION, DESTINATION, 4096, &error));
    assert_error_says(error, VMFERRY_ERROR_NO_SPACE, "store-memory");
}

static void test_who_may_fetch(void **state)
{
    Fixture *f = *state;
    GError *error = NULL;

    assert_true(offer(f, TRANSACTION, DESTINATION, 16 * MIB, NULL));
    seal(f);
    end(f);
    g_clear_error(&f->error);
    assert_false(ask(f, STRANGER, TRANSACTION, 2, &error));
    assert_error_says(error, VMFERRY_ERROR_NOT_FOUND, "no pages");
    error = NULL;
    assert_false(ask(f, DESTINATION, OTHER, 2, &error));
    assert_error_says(error, VMFERRY_ERROR_NOT_FOUND, "no pages");
    error = NULL;
    assert_false(ask(f, DESTINATION, TRANSACTION, 3, &error));
    assert_error_says(error, VMFERRY_ERROR_NOT_FOUND, "no pages");
    assert_true(ask(f, DESTINATION, TRANSACTION, 2, NULL));
    assert_true(session_send_bytes(f->pair.client, FRAME_COMPLETE, NULL, 0, NULL));
    g_thread_join(f->thread);
    assert_true(f->done);
    session_pair_close(&f->pair);
    assert_int_equal(count(f), 0);
}

static void test_not_before_it_is_sealed(void **state)
{
    Fixture *f = *state;
    Fixture second = *f;
    GError *error = NULL;

    assert_true(offer(f, TRANSACTION, DESTINATION, 16 * MIB, NULL));
    assert_false(ask(&second, DESTINATION, TRANSACTION, 2, &error));
    assert_error_says(error, VMFERRY_ERROR_NOT_FOUND, "no pages");
    g_clear_error(&second.error);
    end(f);
    g_clear_error(&f->error);
}

static void test_restart(void **state)
{
    Fixture *f = *state;

    leave_sealed(f);
    restart_as(f, "boot-1");
    assert_int_equal(count(f), 1);
    assert_true(ask(f, DESTINATION, TRANSACTION, 2, NULL));
    end(f);
    g_clear_error(&f->error);
    /* What another boot has written may not have reached the disk. */
    restart_as(f, "boot-2");
    assert_int_equal(count(f), 0);
    assert_false(scratch_exists(f->folder, "store/" TRANSACTION));
}

static void test_what_a_crash_leaves(void **state)
{
    Fixture *f = *state;

    scratch_write(f->folder, "store/" TRANSACTION "/store", "{}");
    scratch_write(f->folder, "store/" TRANSACTION "/sealed", "boot-1");
    scratch_write(f->folder, "store/" OTHER "/pages", "");
    scratch_write(f->folder, "store/something/else", "");
    restart_as(f, "boot-1");
    assert_int_equal(count(f), 0);
    assert_false(scratch_exists(f->folder, "store/" TRANSACTION));
    assert_false(scratch_exists(f->folder, "store/" OTHER));
    assert_true(scratch_exists(f->folder, "store/something/else"));
}

static void test_orphans_go(void **state)
{
    Fixture *f = *state;

    leave_sealed(f);
    assert_int_equal(page_stores_expire(f->context->stores, 3600), 0);
    assert_true(ask(f, DESTINATION, TRANSACTION, 2, NULL));
    assert_int_equal(page_stores_expire(f->context->stores, 0), 0); /* in use */
    end(f);
    g_clear_error(&f->error);
    g_usleep(1000);
    assert_int_equal(page_stores_expire(f->context->stores, 0), 1);
    assert_int_equal(count(f), 0);
    assert_false(scratch_exists(f->folder, "store"));
}

#define STORE_TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_TEST(test_who_is_let_in),
        STORE_TEST(test_promises_count),
        STORE_TEST(test_none_is_kept),
        STORE_TEST(test_who_may_fetch),
        STORE_TEST(test_not_before_it_is_sealed),
        STORE_TEST(test_restart),
        STORE_TEST(test_what_a_crash_leaves),
        STORE_TEST(test_orphans_go),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
