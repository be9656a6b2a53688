/* What a restarted agent makes of the records that a killed one left, without
 * QEMU (fakes.h). */
#include "scratch.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/process.h"
#include "fakes.h"
#include "host.h"

#define ID "0123456789abcdef0123456789abcdef"
#define GUEST_ID "fedcba9876543210fedcba9876543210"
#define TERM 4

static int set_up(void **state)
{
    fakes_reset();
    *state = host_new();
    return 0;
}

static int tear_down(void **state)
{
    host_free(*state);
    fakes_reset();
    return 0;
}

/* Writes a record as an agent would have before it was killed; *resume*: the
 * guest was paused by a move.  *role*: as the record has it, or "moving". */
static void write_record_with(Host *host, const char *role, pid_t pid, const char *boot_id,
                              gboolean resume)
{
    gboolean moving = strcmp(role, "moving") == 0; /* ours, and a move reads it */
    g_autofree char *boot = boot_id ? g_strdup(boot_id) : process_get_boot_id();
    g_autofree char *directory = g_build_filename(host->settings->runtime_dir, "guest-abc", NULL);
    g_autoptr(json_t) record =
        json_pack("{s:i, s:s, s:s, s:i, s:s, s:s, s:s, s:s, s:i, s:I, s:[s], s:b, s:i}", "format",
                  1, "name", "web1", "id", GUEST_ID, "term", TERM, "role", moving ? "ours" : role,
                  "origin", "run", "boot_id", boot, "directory", directory, "pid", (int)pid,
                  "start_time", (json_int_t)fake_qemu_get_start_time(pid), "command_line",
                  "qemu-system-x86_64", "resume", resume, "since", 1);
    g_autofree char *text = NULL;

    if (pid > 0) {
        json_object_set_new(record, "vmm_kind", json_string("qemu"));
        json_object_set_new(record, "qmp_path", json_string("/run/x.qmp"));
    }
    if (strcmp(role, "ours") != 0 && strcmp(role, "starting") != 0) {
        json_object_set_new(record, "transaction", json_string(ID));
        json_object_set_new(record, "destination", json_string("hostb"));
    }
    text = json_dumps(record, 0);
    scratch_write(host->settings->state_dir, "guests/web1.json", text);
    scratch_write(host->settings->runtime_dir, "guest-abc/web1.log", "");
}

static void write_record(Host *host, const char *role, pid_t pid, const char *boot_id)
{
    write_record_with(host, role, pid, boot_id, TRUE);
}

static void write_transaction(Host *host, const char *outcome)
{
    g_autofree char *boot = process_get_boot_id();
    g_autofree char *text = g_strdup_printf("{\"format\":1,\"transaction\":\"" ID
                                            "\",\"guest\":\"web1\",\"guest_id\":\"" GUEST_ID
                                            "\",\"term\":4,\"outcome\":\"%s\","
                                            "\"boot_id\":\"%s\",\"updated\":%" G_GINT64_FORMAT "}",
                                            outcome, boot, g_get_real_time() / G_USEC_PER_SEC);

    scratch_write(host->settings->state_dir, "transactions/" ID ".json", text);
}

static void assert_transaction(Host *host, const char *outcome)
{
    g_autofree char *path =
        g_build_filename(host->settings->state_dir, "transactions/" ID ".json", NULL);
    g_autofree char *text = NULL;

    assert_true(g_file_get_contents(path, &text, NULL, NULL));
    if (!strstr(text, outcome))
        fail_msg("not %s: %s", outcome, text);
}

static void test_restart_finds_guests(void **state)
{
    Host *host = *state;
    pid_t pid = fake_qemu_start("/run/x.qmp", VMM_RUN_STATE_PAUSED);

    /* Paused by its user: it stays paused. */
    write_record(host, "ours", pid, NULL);
    assert_true(host_start(host));
    host_await_state(host, "web1", "paused");
    assert_int_equal(fake_qemu_get_state(pid), VMM_RUN_STATE_PAUSED);
}

static void test_restart_waits_for_qmp(void **state)
{
    Host *host = *state;
    pid_t pid = fake_qemu_start("/run/x.qmp", VMM_RUN_STATE_RUNNING);

    fakes.reattach_fails = TRUE;
    write_record(host, "ours", pid, NULL);
    assert_true(host_start(host));
    host_await_state(host, "web1", "unreachable");
    fakes.reattach_fails = FALSE;
    host_await_state(host, "web1", "running");
}

static void test_restart_resumes_moving(void **state)
{
    Host *host = *state;
    pid_t pid = fake_qemu_start("/run/x.qmp", VMM_RUN_STATE_PAUSED);

    write_record(host, "moving", pid, NULL);
    assert_true(host_start(host));
    host_await_state(host, "web1", "running");
    assert_int_equal(fake_qemu_get_state(pid), VMM_RUN_STATE_RUNNING);
}

/* Its user paused it before the move, or during it: not the move. */
static void test_restart_leaves_paused(void **state)
{
    static const char *const roles[] = {"moving", "switching-over", "in-doubt"};

    g_atomic_int_set(&fakes.outcome, OUTCOME_ABORTED);
    for (guint i = 0; i < G_N_ELEMENTS(roles); i++) {
        Host *host = *state;
        pid_t pid = fake_qemu_start("/run/x.qmp", VMM_RUN_STATE_PAUSED);
        guint taken = fakes.images_taken;

        write_record_with(host, roles[i], pid, NULL, FALSE);
        assert_true(host_start(host));
        host_await_state(host, "web1", "paused");
        assert_int_equal(fake_qemu_get_state(pid), VMM_RUN_STATE_PAUSED);
        assert_int_equal(fakes.images_taken, taken + 1);
        host_stop(host);
    }
}

static void test_restart_keeps_committed_paused(void **state)
{
    Host *host = *state;
    pid_t pid = fake_qemu_start("/run/x.qmp", VMM_RUN_STATE_PAUSED);

    write_record_with(host, "incoming", pid, NULL, FALSE);
    write_transaction(host, "committed");
    assert_true(host_start(host));
    host_await_state(host, "web1", "paused");
    assert_int_equal(fake_qemu_get_state(pid), VMM_RUN_STATE_PAUSED);
    assert_int_equal(fakes.images_taken, 1);
}

static void test_restart_keeps_what_runs(void **state)
{
    Host *host = *state;
    pid_t pid = fake_qemu_start("/run/x.qmp", VMM_RUN_STATE_RUNNING);

    g_atomic_int_set(&fakes.outcome, -1);
    write_record(host, "switching-over", pid, NULL);
    assert_true(host_start(host));
    host_await_state(host, "web1", "running");
    assert_int_equal(g_atomic_int_get(&fakes.questions), 0);
}

static void test_restart_asks_for_handed_over(void **state)
{
    Host *host = *state;
    pid_t pid = fake_qemu_start("/run/x.qmp", VMM_RUN_STATE_PAUSED);

    g_atomic_int_set(&fakes.outcome, OUTCOME_COMMITTED);
    write_record(host, "switching-over", pid, NULL);
    assert_true(host_start(host));
    host_await_state(host, "web1", "");
    assert_false(fake_qemu_is_alive(pid));
    assert_false(scratch_exists(host->settings->runtime_dir, "guest-abc"));
    host_assert_departed(host, TRUE);
}

/* The next term is the destination's only if it says so. */
static void test_restart_compares_terms(void **state)
{
    Host *host = *state;
    pid_t pid = fake_qemu_start("/run/x.qmp", VMM_RUN_STATE_PAUSED);

    g_atomic_int_set(&fakes.outcome, OUTCOME_COMMITTED);
    g_atomic_int_set(&fakes.old_term, 1);
    write_record(host, "switching-over", pid, NULL);
    assert_true(host_start(host));
    host_await_state(host, "web1", "in-doubt");
    await_count(&fakes.questions, 2);
    assert_int_equal(fake_qemu_get_state(pid), VMM_RUN_STATE_PAUSED);
    g_atomic_int_set(&fakes.old_term, 0);
    host_await_state(host, "web1", "");
    assert_false(fake_qemu_is_alive(pid));
    host_assert_departed(host, TRUE);
}

static void assert_term(Host *host, uint64_t term)
{
    g_autofree char *text = host_read_record(host);
    g_autoptr(json_t) record = json_loads(text, 0, NULL);

    assert_string_equal(json_text_or(record, "role", ""), "ours");
    assert_int_equal(json_count_or(record, "term", 0), term);
}

/* A guest that is kept where its destination may have taken the next term gets the
 * one above; where the destination says that it has not, the term stays. */
static void test_restart_keeps_above(void **state)
{
    Host *host = *state;

    g_atomic_int_set(&fakes.outcome, OUTCOME_ABORTED);
    write_record(host, "in-doubt", fake_qemu_start("/run/x.qmp", VMM_RUN_STATE_PAUSED), NULL);
    assert_true(host_start(host));
    host_await_state(host, "web1", "running");
    host_stop(host);
    assert_term(host, TERM);
    write_record(host, "in-doubt", fake_qemu_start("/run/x.qmp", VMM_RUN_STATE_RUNNING), NULL);
    assert_true(host_start(host));
    host_await_state(host, "web1", "running");
    host_stop(host);
    assert_term(host, TERM + 2);
    g_atomic_int_set(&fakes.outcome, OUTCOME_LOST);
    write_record(host, "in-doubt", fake_qemu_start("/run/x.qmp", VMM_RUN_STATE_PAUSED), NULL);
    assert_true(host_start(host));
    host_await_state(host, "web1", "in-doubt");
    await_count(&fakes.questions, 2);
    json_decref(host_call(host, "POST", "/v1/guests/web1/resolve",
                          json_pack("{s:s}", "keep", "here"), NULL));
    host_await_state(host, "web1", "running");
    host_stop(host);
    assert_term(host, TERM + 2);
}

static void test_restart_ends_what_left(void **state)
{
    Host *host = *state;
    pid_t pid = fake_qemu_start("/run/x.qmp", VMM_RUN_STATE_PAUSED);

    write_record(host, "leaving", pid, NULL);
    assert_true(host_start(host));
    host_await_state(host, "web1", "");
    assert_false(fake_qemu_is_alive(pid));
    host_assert_departed(host, TRUE);
}

static void test_restart_ends_uncommitted(void **state)
{
    Host *host = *state;
    pid_t pid = fake_qemu_start("/run/x.qmp", VMM_RUN_STATE_PAUSED);

    write_record(host, "incoming", pid, NULL);
    write_transaction(host, "pending");
    assert_true(host_start(host));
    host_await_state(host, "web1", "");
    assert_false(fake_qemu_is_alive(pid));
    assert_transaction(host, "aborted");
}

static void test_restart_keeps_committed(void **state)
{
    Host *host = *state;
    pid_t pid = fake_qemu_start("/run/x.qmp", VMM_RUN_STATE_PAUSED);

    fakes.resume_fails = TRUE;
    write_record(host, "incoming", pid, NULL);
    write_transaction(host, "committed");
    assert_true(host_start(host));
    host_await_state(host, "web1", "incoming");
    fakes.resume_fails = FALSE;
    host_await_state(host, "web1", "running");
    assert_int_equal(fake_qemu_get_state(pid), VMM_RUN_STATE_RUNNING);
    assert_transaction(host, "committed");
}

/* A record of an agent that died with the guest's balloon inflated. */
static void write_record_with_balloon(Host *host, const char *role, pid_t pid)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) halves = NULL;
    g_autofree char *more = NULL;

    write_record(host, role, pid, NULL);
    text = host_read_record(host);
    halves = g_strsplit(text, "{", 2);
    more = g_strdup_printf("{\"balloon_bytes\":123456789,%s", halves[1]);
    scratch_write(host->settings->state_dir, "guests/web1.json", more);
}

static void test_restart_releases_balloon(void **state)
{
    static const char *const roles[] = {"ours", "moving", "switching-over", "incoming"};
    Host *host = *state;

    write_transaction(host, "committed");
    for (guint i = 0; i < G_N_ELEMENTS(roles); i++) {
        pid_t pid = fake_qemu_start("/run/x.qmp", VMM_RUN_STATE_RUNNING);
        g_autofree char *record = NULL;

        fakes.balloon_bytes = 0;
        write_record_with_balloon(host, roles[i], pid);
        assert_true(host_start(host));
        host_await_state(host, "web1", "running");
        host_stop(host);
        assert_int_equal(fakes.balloon_bytes, 123456789);
        record = host_read_record(host);
        assert_null(strstr(record, "balloon"));
    }
}

static void test_restart_cannot_release_balloon(void **state)
{
    Host *host = *state;
    g_autofree char *record = NULL;

    fakes.balloon_fails = TRUE;
    write_record_with_balloon(host, "moving", fake_qemu_start("/run/x.qmp", VMM_RUN_STATE_PAUSED));
    assert_true(host_start(host));
    host_await_state(host, "web1", "running");
    host_assert_event(host, "balloon-not-released");
    record = host_read_record(host);
    assert_non_null(strstr(record, "123456789"));
}

static pid_t dead_pid(void)
{
    pid_t pid = fake_qemu_start("/run/x.qmp", VMM_RUN_STATE_PAUSED);

    fakes_reset();
    return pid;
}

static void test_restart_after_leaving(void **state)
{
    Host *host = *state;

    write_record(host, "leaving", dead_pid(), NULL);
    assert_true(host_start(host));
    host_await_state(host, "web1", "");
    host_assert_departed(host, TRUE);
}

static void write_departure(Host *host)
{
    scratch_write(host->settings->state_dir, "departed/web1.json",
                  "{\"format\":1,\"name\":\"web1\",\"destination\":\"hostb\","
                  "\"transaction\":\"" ID "\",\"moved_at\":1}");
}

/* It had gone and was on its way back when the agent died. */
static void test_restart_of_one_that_came_back(void **state)
{
    Host *host = *state;
    pid_t pid = fake_qemu_start("/run/x.qmp", VMM_RUN_STATE_PAUSED);

    write_departure(host);
    write_record(host, "incoming", pid, NULL);
    write_transaction(host, "committed");
    assert_true(host_start(host));
    host_await_state(host, "web1", "running");
    host_assert_departed(host, FALSE);
}

static void test_restart_of_one_that_did_not_come_back(void **state)
{
    Host *host = *state;
    pid_t pid = fake_qemu_start("/run/x.qmp", VMM_RUN_STATE_PAUSED);

    write_departure(host);
    write_record(host, "incoming", pid, NULL);
    write_transaction(host, "pending");
    assert_true(host_start(host));
    host_await_state(host, "web1", "");
    host_assert_departed(host, TRUE);
}

static void test_restart_cannot_know(void **state)
{
    Host *host = *state;

    write_record(host, "incoming", dead_pid(), NULL);
    write_transaction(host, "committed");
    assert_true(host_start(host));
    host_await_state(host, "web1", "");
    assert_transaction(host, "lost");
}

static void test_restart_forgets_the_dead(void **state)
{
    Host *host = *state;

    write_record(host, "ours", dead_pid(), NULL);
    assert_true(host_start(host));
    host_await_state(host, "web1", "");
    host_assert_event(host, "ended");
}

static void test_restart_after_reboot(void **state)
{
    Host *host = *state;
    pid_t pid = fake_qemu_start("/run/x.qmp", VMM_RUN_STATE_PAUSED);

    /* The same pid and start time, but of another boot: not our process. */
    write_record(host, "moving", pid, "another-boot");
    assert_true(host_start(host));
    host_await_state(host, "web1", "");
    assert_int_equal(fake_qemu_get_state(pid), VMM_RUN_STATE_PAUSED);
}

static void test_restart_during_launch(void **state)
{
    Host *host = *state;
    pid_t pid = fake_qemu_start("/run/x.qmp", VMM_RUN_STATE_RUNNING);

    write_record(host, "starting", pid, NULL);
    assert_true(host_start(host));
    host_await_state(host, "web1", "running");
    assert_true(fake_qemu_is_alive(pid));
}

/* Anybody's process may mention a guest's folder (a pager that shows its log): it
 * is neither taken for its QEMU nor ended. */
static void test_restart_leaves_bystanders(void **state)
{
    static const char *const roles[] = {"starting", "incoming"};
    Host *host = *state;
    g_autofree char *log =
        g_build_filename(host->settings->runtime_dir, "guest-abc", "web1.log", NULL);
    pid_t pid = fake_qemu_start(log, VMM_RUN_STATE_RUNNING);

    for (guint i = 0; i < G_N_ELEMENTS(roles); i++) {
        write_record(host, roles[i], 0, NULL);
        assert_true(host_start(host));
        host_await_state(host, "web1", "");
        assert_true(fake_qemu_is_alive(pid));
        host_stop(host);
    }
}

static void test_restart_before_launch(void **state)
{
    Host *host = *state;

    write_record(host, "starting", 0, NULL);
    assert_true(host_start(host));
    host_await_state(host, "web1", "");
}

static void test_bad_record_is_moved_aside(void **state)
{
    Host *host = *state;

    scratch_write(host->settings->state_dir, "guests/web1.json", "{\"name\":\"web2\"");
    assert_true(host_start(host));
    host_await_state(host, "web1", "");
    assert_true(scratch_exists(host->settings->state_dir, "guests/web1.json.bad"));
    host_assert_event(host, "bad-record");
}

int main(void)
{
#define RESTART(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        RESTART(test_restart_finds_guests),
        RESTART(test_restart_waits_for_qmp),
        RESTART(test_restart_resumes_moving),
        RESTART(test_restart_keeps_what_runs),
        RESTART(test_restart_asks_for_handed_over),
        RESTART(test_restart_compares_terms),
        RESTART(test_restart_keeps_above),
        RESTART(test_restart_ends_what_left),
        RESTART(test_restart_ends_uncommitted),
        RESTART(test_restart_keeps_committed),
        RESTART(test_restart_releases_balloon),
        RESTART(test_restart_cannot_release_balloon),
        RESTART(test_restart_cannot_know),
        RESTART(test_restart_forgets_the_dead),
        RESTART(test_restart_after_reboot),
        RESTART(test_restart_during_launch),
        RESTART(test_restart_leaves_bystanders),
        RESTART(test_restart_before_launch),
        RESTART(test_bad_record_is_moved_aside),
        RESTART(test_restart_leaves_paused),
        RESTART(test_restart_keeps_committed_paused),
        RESTART(test_restart_after_leaving),
        RESTART(test_restart_of_one_that_came_back),
        RESTART(test_restart_of_one_that_did_not_come_back),
    };

    log_set_level(g_getenv("VERBOSE") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
