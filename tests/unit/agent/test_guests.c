/* A guest's life with an agent, without QEMU (fakes.h): run, adopt, stop, move,
 * and guests in doubt (what a restarted agent does: test_restart.c). */
#include "scratch.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/transactions.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "fakes.h"
#include "host.h"

#define ID "0123456789abcdef0123456789abcdef"

static int set_up(void **state)
{
    fakes_reset();
    *state = host_new();
    return 0;
}

static int set_up_running(void **state)
{
    set_up(state);
    assert_true(host_start(*state));
    return 0;
}

static int tear_down(void **state)
{
    host_free(*state);
    fakes_reset();
    return 0;
}

static json_t *run_request(const char *name)
{
    return json_pack("{s:s, s:[s, s, s]}", "name", name, "command_line", "qemu-system-x86_64", "-m",
                     "1G");
}

/* Runs a guest and returns its pid. */
static pid_t run_guest(Host *host, const char *name)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) guest = host_call(host, "POST", "/v1/guests", run_request(name), &error);

    if (!guest)
        fail_msg("%s", error->message);
    return (pid_t)json_count_or(guest, "pid", 0);
}

static json_t *migrate(Host *host, const char *options)
{
    g_autofree char *text =
        g_strdup_printf("{\"destination\":\"hostb\",\"detach\":true%s}", options);
    g_autoptr(GError) error = NULL;
    json_t *answer =
        host_call(host, "POST", "/v1/guests/web1/migrate", json_loads(text, 0, NULL), &error);

    if (!answer)
        fail_msg("%s", error->message);
    return answer;
}

/* ---- run, adopt, stop ---- */

static void test_run_and_stop(void **state)
{
    Host *host = *state;
    pid_t pid = run_guest(host, "web1");
    g_autofree char *record = host_read_record(host);
    g_autoptr(json_t) view = host_call(host, "GET", "/v1/guests/web1", NULL, NULL);
    g_autoptr(json_t) answer = NULL;

    assert_true(fake_qemu_is_alive(pid));
    assert_non_null(strstr(record, "\"ours\""));
    assert_string_equal(json_text_or(view, "state", ""), "running");
    assert_string_equal(json_text_or(view, "machine", ""), "pc-i440fx-7.2");
    assert_int_equal(json_count_or(view, "memory_bytes", 0), 1 << 30);
    answer = host_call(host, "DELETE", "/v1/guests/web1", NULL, NULL);
    assert_non_null(answer);
    assert_false(fake_qemu_is_alive(pid));
    assert_false(scratch_exists(host->settings->state_dir, "guests/web1.json"));
    host_await_state(host, "web1", "");
    host_assert_event(host, "stopped");
}

static void test_names_are_taken(void **state)
{
    Host *host = *state;
    GError *error = NULL;

    run_guest(host, "web1");
    assert_null(host_call(host, "POST", "/v1/guests", run_request("web1"), &error));
    assert_error_says(error, VMFERRY_ERROR_EXISTS, "there is a guest \"web1\" on host ");
    assert_int_equal(fakes.launches, 1);
}

static void test_failed_launch_leaves_nothing(void **state)
{
    Host *host = *state;
    GError *error = NULL;

    fakes.launch_fails = TRUE;
    assert_null(host_call(host, "POST", "/v1/guests", run_request("web1"), &error));
    assert_error_says(error, VMFERRY_ERROR_FAILED, "QEMU did not start: no such machine");
    assert_false(scratch_exists(host->settings->state_dir, "guests/web1.json"));
    fakes.launch_fails = FALSE;
    run_guest(host, "web1");
}

static void fill_disk(Host *host)
{
    g_autofree char *path =
        g_build_filename(host->settings->state_dir, "guests/web1.json.new", NULL);

    assert_int_equal(symlink("/dev/full", path), 0);
}

static void test_run_on_full_disk(void **state)
{
    Host *host = *state;
    GError *error = NULL;

    fill_disk(host);
    assert_null(host_call(host, "POST", "/v1/guests", run_request("web1"), &error));
    assert_error_says(error, VMFERRY_ERROR_NO_SPACE, "is full; free space there and try again");
    assert_int_equal(fakes.launches, 0);
}

/* The process is this test's child, which might start it again. */
static json_t *adoption(const char *name, pid_t pid, gboolean allow_supervisor)
{
    return json_pack("{s:s, s:i, s:b}", "name", name, "pid", (int)pid, "allow_supervisor",
                     allow_supervisor);
}

static void test_adopt(void **state)
{
    Host *host = *state;
    pid_t pid = fake_qemu_start("/run/x.qmp", VMM_RUN_STATE_RUNNING);
    GError *error = NULL;
    g_autoptr(json_t) guest = NULL;
    g_autofree char *record = NULL;

    assert_null(host_call(host, "POST", "/v1/guests", adoption("web1", pid, FALSE), &error));
    assert_error_says(g_steal_pointer(&error), VMFERRY_ERROR_REFUSED, "--allow-supervisor");
    host_await_state(host, "web1", "");
    assert_int_equal(fake_qemu_get_state(pid), VMM_RUN_STATE_RUNNING);

    guest = host_call(host, "POST", "/v1/guests", adoption("web1", pid, TRUE), NULL);
    assert_non_null(guest);
    assert_string_equal(json_text_or(guest, "origin", ""), "adopt");
    assert_non_null(strstr(json_text_or(guest, "supervisor", ""), "may start it again"));
    assert_true(json_is_object(json_object_get(guest, "process")));
    record = host_read_record(host);
    assert_non_null(strstr(record, "may start it again"));
    assert_null(host_call(host, "POST", "/v1/guests", adoption("web2", pid, TRUE), &error));
    assert_error_says(error, VMFERRY_ERROR_EXISTS, "is managed already, as guest \"web1\"");
    host_await_state(host, "web2", "");
}

static void test_adopt_on_full_disk_leaves_guest(void **state)
{
    Host *host = *state;
    pid_t pid = fake_qemu_start("/run/x.qmp", VMM_RUN_STATE_RUNNING);
    GError *error = NULL;

    fill_disk(host);
    assert_null(host_call(host, "POST", "/v1/guests", adoption("web1", pid, TRUE), &error));
    assert_error_says(error, VMFERRY_ERROR_NO_SPACE, "is full");
    assert_int_equal(fake_qemu_get_state(pid), VMM_RUN_STATE_RUNNING);
}

static void test_guest_that_ends(void **state)
{
    Host *host = *state;
    pid_t pid = run_guest(host, "web1");

    kill(pid, SIGKILL);
    host_await_state(host, "web1", "");
    assert_false(scratch_exists(host->settings->state_dir, "guests/web1.json"));
    host_assert_event(host, "ended");
}

static void test_guest_that_cannot_move(void **state)
{
    Host *host = *state;
    g_autoptr(json_t) run = NULL, adopted = NULL, now = NULL;
    pid_t pid = fake_qemu_start("/run/x.qmp", VMM_RUN_STATE_RUNNING);

    fakes.obstacle = "it has a wheel clamp";
    run = host_call(host, "POST", "/v1/guests", run_request("web1"), NULL);
    assert_string_equal(json_text_or(run, "not_movable", ""), "it has a wheel clamp");
    assert_string_equal(json_text_or(run, "machine", ""), "pc-i440fx-7.2");
    adopted = host_call(host, "POST", "/v1/guests", adoption("web2", pid, TRUE), NULL);
    assert_string_equal(json_text_or(adopted, "not_movable", ""), "it has a wheel clamp");
    /* Asked anew each time. */
    fakes.obstacle = NULL;
    now = host_call(host, "GET", "/v1/guests/web1", NULL, NULL);
    assert_true(json_is_null(json_object_get(now, "not_movable")));
}

static void test_disks(void **state)
{
    Host *host = *state;
    g_autoptr(json_t) free = NULL, bound = NULL;
    json_t *disk, *file;

    run_guest(host, "web1");
    free = host_call(host, "GET", "/v1/guests/web1/disks", NULL, NULL);
    assert_string_equal(json_text_or(free, "guest", ""), "web1");
    assert_int_equal(json_array_size(json_object_get(free, "disks")), 1);
    disk = json_array_get(json_object_get(free, "disks"), 0);
    assert_string_equal(json_text_or(disk, "id", ""), "system");
    assert_string_equal(json_text_or(disk, "device", ""), "virtio-disk0");
    assert_true(json_is_false(json_object_get(disk, "read_only")));
    assert_true(json_is_false(json_object_get(disk, "firmware")));
    assert_true(json_is_null(json_object_get(disk, "obstacle")));
    file = json_array_get(json_object_get(disk, "files"), 0);
    assert_string_equal(json_text_or(file, "file", ""), "/srv/web1.raw");
    assert_string_equal(json_text_or(file, "format", ""), "raw");
    assert_int_equal(json_count_or(file, "size_bytes", 0), 1 << 20);
    assert_int_equal(json_count_or(file, "file_bytes", 0), 1 << 20);
    assert_int_equal(json_count_or(file, "allocated_bytes", 0), 4096);
    fakes.obstacle = "it is glued on";
    bound = host_call(host, "GET", "/v1/guests/web1/disks", NULL, NULL);
    disk = json_array_get(json_object_get(bound, "disks"), 0);
    assert_string_equal(json_text_or(disk, "obstacle", ""), "it is glued on");
}

/* ---- moves ---- */

static void test_completed_move(void **state)
{
    Host *host = *state;
    pid_t pid = run_guest(host, "web1");
    g_autoptr(json_t) answer = NULL;
    GError *error = NULL;

    fakes.status = MIGRATE_COMPLETED;
    answer = migrate(host, "");
    host_await_state(host, "web1", "");
    assert_false(fake_qemu_is_alive(pid));
    host_assert_event(host, "moved");
    assert_false(scratch_exists(host->settings->state_dir, "guests/web1.json"));
    host_assert_departed(host, TRUE);
    host_stop(host);
    assert_true(host_start(host));
    host_assert_departed(host, TRUE);
    assert_null(host_call(host, "DELETE", "/v1/guests/web1", NULL, &error));
    assert_error_says(error, VMFERRY_ERROR_NOT_FOUND, "web1 moved to hostb ");
}

/* A guest that does not come to be changes nothing; one that does takes the name. */
static void test_name_of_a_guest_that_left(void **state)
{
    Host *host = *state;
    g_autoptr(json_t) answer = NULL;

    run_guest(host, "web1");
    fakes.status = MIGRATE_COMPLETED;
    answer = migrate(host, "");
    host_await_state(host, "web1", "");
    fakes.launch_fails = TRUE;
    assert_null(host_call(host, "POST", "/v1/guests", run_request("web1"), NULL));
    host_assert_departed(host, TRUE);
    fakes.launch_fails = FALSE;
    run_guest(host, "web1");
    host_assert_departed(host, FALSE);
}

static void test_failed_move(void **state)
{
    Host *host = *state;
    pid_t pid = run_guest(host, "web1");
    g_autoptr(json_t) answer = NULL;
    g_autofree char *record = NULL;

    fakes.status = MIGRATE_FAILED;
    answer = migrate(host, "");
    host_assert_event(host, "move-failed");
    host_await_state(host, "web1", "running");
    host_assert_departed(host, FALSE);
    assert_int_equal(fake_qemu_get_state(pid), VMM_RUN_STATE_RUNNING);
    record = host_read_record(host);
    assert_non_null(strstr(record, "\"ours\""));
    assert_null(strstr(record, ID));
}

static void test_move_on_full_disk(void **state)
{
    Host *host = *state;
    pid_t pid = run_guest(host, "web1");
    g_autoptr(json_t) answer = NULL;

    fill_disk(host);
    fakes.status = MIGRATE_COMPLETED;
    answer = migrate(host, "");
    host_assert_event(host, "move-failed");
    host_await_state(host, "web1", "running");
    assert_int_equal(fake_qemu_get_state(pid), VMM_RUN_STATE_RUNNING);
}

static void test_one_thing_at_a_time(void **state)
{
    Host *host = *state;
    g_autoptr(json_t) answer = NULL, report = NULL;
    g_autofree char *record = NULL;
    GError *error = NULL;

    run_guest(host, "web1");
    g_atomic_int_set(&fakes.hold, 1);
    answer = migrate(host, "");
    host_await_state(host, "web1", "migrating");
    assert_null(host_call(host, "DELETE", "/v1/guests/web1", NULL, &error));
    assert_error_says(error, VMFERRY_ERROR_BUSY, "guest web1 is migrating; wait for that to end");
    error = NULL;
    assert_null(host_call(host, "GET", "/v1/guests/web1/disks", NULL, &error));
    assert_error_says(error, VMFERRY_ERROR_BUSY, "guest web1 is migrating");
    error = NULL;
    assert_null(host_call(host, "POST", "/v1/guests/web1/migrate",
                          json_pack("{s:s}", "destination", "hostc"), &error));
    assert_error_says(error, VMFERRY_ERROR_BUSY, "`vmferry cancel` it");
    error = NULL;
    assert_null(host_call(host, "POST", "/v1/guests/web1/resolve",
                          json_pack("{s:s}", "keep", "here"), &error));
    assert_error_says(error, VMFERRY_ERROR_REFUSED, "is not in doubt");
    report = host_call(host, "POST", "/v1/guests/web1/cancel", NULL, NULL);
    assert_string_equal(json_text_or(report, "status", ""), "cancelled");
    assert_string_equal(json_text_or(report, "guest", ""), "web1");
    host_await_state(host, "web1", "running");
    error = NULL;
    assert_null(host_call(host, "POST", "/v1/guests/web1/cancel", NULL, &error));
    assert_error_says(error, VMFERRY_ERROR_REFUSED,
                      "nothing goes on with guest web1 that could be cancelled");
}

/* What is shown of a guest: what it is here, and what goes on with it. */
static void test_role_and_activity(void **state)
{
    Host *host = *state;
    g_autoptr(json_t) idle = NULL, answer = NULL, moving = NULL, report = NULL;
    json_t *activity;

    run_guest(host, "web1");
    idle = host_call(host, "GET", "/v1/guests/web1", NULL, NULL);
    assert_string_equal(json_text_or(idle, "role", ""), "ours");
    assert_int_equal(json_count_or(idle, "term", 0), 1);
    assert_int_equal(strlen(json_text_or(idle, "id", "")), 32);
    assert_true(json_is_null(json_object_get(idle, "activity")));
    g_atomic_int_set(&fakes.hold, 1);
    answer = migrate(host, "");
    host_await_state(host, "web1", "migrating");
    await_count(&fakes.progressed, 1);
    moving = host_call(host, "GET", "/v1/guests/web1", NULL, NULL);
    activity = json_object_get(moving, "activity");
    assert_string_equal(json_text_or(moving, "role", ""), "ours");
    assert_string_equal(json_text_or(activity, "kind", ""), "migrate");
    assert_string_equal(json_text_or(activity, "id", ""), json_text_or(answer, "activity", "?"));
    assert_string_equal(json_text_or(activity, "destination", ""), "hostb");
    assert_string_equal(json_text_or(json_object_get(activity, "progress"), "phase", ""),
                        "precopy");
    report = host_call(host, "POST", "/v1/guests/web1/cancel", NULL, NULL);
    assert_string_equal(json_text_or(report, "activity", ""),
                        json_text_or(answer, "activity", "?"));
}

static void test_stopping_agent_cancels_and_leaves(void **state)
{
    Host *host = *state;
    pid_t pid = run_guest(host, "web1");
    g_autoptr(json_t) answer = NULL;
    g_autofree char *record = NULL;

    g_atomic_int_set(&fakes.hold, 1);
    answer = migrate(host, "");
    host_await_state(host, "web1", "migrating");
    host_stop(host);
    assert_int_equal(fake_qemu_get_state(pid), VMM_RUN_STATE_RUNNING);
    record = host_read_record(host);
    assert_non_null(strstr(record, "\"ours\""));
    assert_false(scratch_exists(host->folder, "agent.sock"));
}

typedef struct {
    guint progress;
    char *status;
} Stream;

static gboolean on_stream_line(json_t *object, gpointer user)
{
    Stream *stream = user;

    if (!json_object_get(object, "status")) {
        if (++stream->progress == 3)
            g_atomic_int_set(&fakes.hold, 0);
        return TRUE;
    }
    stream->status = g_strdup(json_text_or(object, "status", "?"));
    return TRUE;
}

static void test_streamed_move(void **state)
{
    Host *host = *state;
    Stream stream = {0};
    GError *error = NULL;

    run_guest(host, "web1");
    fakes.status = MIGRATE_COMPLETED;
    g_atomic_int_set(&fakes.hold, 1);
    assert_true(client_stream(host->client, "POST", "/v1/guests/web1/migrate",
                              json_pack("{s:s}", "destination", "hostb"), on_stream_line, &stream,
                              &error));
    assert_true(stream.progress >= 3);
    assert_string_equal(stream.status, "completed");
    /* The report comes last: the guest is gone when it is read. */
    host_await_state(host, "web1", "");
    g_free(stream.status);
}

/* All of a trace, in order, and before the report. */
static gboolean on_traced_line(json_t *object, gpointer user)
{
    Stream *stream = user;
    g_autofree char *wanted = g_strdup_printf("{\"ms\":%u}", stream->progress);

    if (json_object_get(object, "status")) {
        stream->status = g_strdup(json_text_or(object, "status", "?"));
    } else if (strcmp(json_text_or(object, "type", ""), "trace") == 0) {
        assert_null(stream->status);
        assert_string_equal(json_text_or(object, "line", ""), wanted);
        stream->progress++;
    }
    return TRUE;
}

static void test_traced_move(void **state)
{
    Host *host = *state;
    Stream stream = {0};

    run_guest(host, "web1");
    fakes.status = MIGRATE_FAILED;
    fakes.trace_lines = 20000;
    assert_true(client_stream(host->client, "POST", "/v1/guests/web1/migrate",
                              json_pack("{s:s, s:b}", "destination", "hostb", "record", TRUE),
                              on_traced_line, &stream, NULL));
    assert_int_equal(stream.progress, 20000);
    assert_string_equal(stream.status, "failed");
    g_clear_pointer(&stream.status, g_free);
    stream.progress = 0;
    assert_true(client_stream(host->client, "POST", "/v1/guests/web1/migrate",
                              json_pack("{s:s}", "destination", "hostb"), on_traced_line, &stream,
                              NULL));
    assert_int_equal(stream.progress, 0);
    g_free(stream.status);
}

static void refuse(Host *host, const char *method, const char *path, json_t *body, int code,
                   const char *words)
{
    GError *error = NULL;

    assert_null(host_call(host, method, path, body, &error));
    assert_error_says(error, code, words);
}

/* The rate limit of a move changes while it runs, and of no other. */
static void test_rate_of_a_move(void **state)
{
    static const char path[] = "/v1/guests/web1/migrate";
    Host *host = *state;
    g_autoptr(json_t) begun = NULL;
    g_autoptr(json_t) answer = NULL;
    g_autoptr(json_t) view = NULL;
    json_t *progress;

    run_guest(host, "web1");
    refuse(host, "PATCH", path, json_pack("{s:i}", "bandwidth", 5), VMFERRY_ERROR_REFUSED,
           "web1 is not being moved from here");
    fakes.status = MIGRATE_FAILED;
    g_atomic_int_set(&fakes.hold, 1);
    begun = host_call(
        host, "POST", path,
        json_pack("{s:s, s:b, s:i}", "destination", "hostb", "detach", TRUE, "bandwidth", 7), NULL);
    assert_non_null(begun);
    refuse(host, "PATCH", path, json_object(), VMFERRY_ERROR_INVALID, "\"bandwidth\" is missing");
    refuse(host, "PATCH", path, json_pack("{s:i}", "bandwidth", -1), VMFERRY_ERROR_INVALID,
           "bandwidth");
    refuse(host, "POST", "/v1/guests/web1/estimate", NULL, VMFERRY_ERROR_BUSY,
           "wait for that to end");
    answer = host_call(host, "PATCH", path, json_pack("{s:i}", "bandwidth", 5000000), NULL);
    assert_int_equal(json_count_or(answer, "bandwidth", 0), 5000000);
    assert_int_equal(json_count_or(answer, "before", 0), 7);
    view = host_call(host, "GET", "/v1/guests/web1", NULL, NULL);
    progress = json_object_get(json_object_get(view, "activity"), "progress");
    if (json_is_object(progress))
        assert_int_equal(json_count_or(progress, "bandwidth", 0), 5000000);
    host_assert_event(host, "bandwidth");
    g_atomic_int_set(&fakes.hold, 0);
    host_await_state(host, "web1", "running");
    assert_int_equal(fakes.rate, 5000000);
    refuse(host, "PATCH", path, json_pack("{s:i}", "bandwidth", 5), VMFERRY_ERROR_REFUSED,
           "is not being moved");
}

/* What the settings say holds where the request says nothing. */
static void test_options_of_a_move(void **state)
{
    Host *host = *state;
    json_t *answer;

    host->settings->moves.downtime_cap_ms = 1000;
    host->settings->moves.throttle = THROTTLE_DUTY;
    assert_true(host_start(host));
    run_guest(host, "web1");
    fakes.status = MIGRATE_FAILED;
    answer = migrate(host, "");
    json_decref(answer);
    host_await_state(host, "web1", "running");
    assert_int_equal(fakes.options.max_downtime_ms, 300);
    assert_int_equal(fakes.options.downtime_cap_ms, 1000);
    assert_int_equal(fakes.options.throttle, THROTTLE_DUTY);
    assert_int_equal(fakes.options.deadline_ms, 0);
    assert_int_equal(fakes.options.segments, SENT_STORE_AUTO);
    assert_false(fakes.options.reclaim_free);
    assert_int_equal(fakes.options.disks, DISK_MODE_AUTO);
    assert_string_equal(fakes.disk_mode, "");
    answer = migrate(host, ",\"max_downtime_ms\":1500,\"deadline_ms\":60000,\"streams\":16,"
                           "\"memory_budget_bytes\":1048576,\"throttle\":\"off\","
                           "\"segments\":\"shadow\",\"compress\":\"zstd\",\"reclaim_free\":true,"
                           "\"disks\":\"shared\",\"disk_modes\":{\"system\":\"copy\"},"
                           "\"overwrite\":true,\"delete_source\":true");
    json_decref(answer);
    host_await_state(host, "web1", "running");
    assert_int_equal(fakes.options.max_downtime_ms, 1500);
    assert_int_equal(fakes.options.downtime_cap_ms, 1500);
    assert_int_equal(fakes.options.deadline_ms, 60000);
    assert_int_equal(fakes.options.streams, 16);
    assert_int_equal(fakes.options.memory_budget_bytes, 1 << 20);
    assert_int_equal(fakes.options.throttle, THROTTLE_OFF);
    assert_int_equal(fakes.options.segments, SENT_STORE_SHADOW);
    assert_int_equal(fakes.options.compress, PACKING_ZSTD);
    assert_true(fakes.options.reclaim_free);
    assert_int_equal(fakes.options.disks, DISK_MODE_SHARED);
    assert_string_equal(fakes.disk_mode, "copy");
    assert_true(fakes.options.overwrite);
    assert_true(fakes.options.delete_source);
    assert_false(fakes.options.keep_source);
    answer = migrate(host, ",\"downtime_cap_ms\":100");
    json_decref(answer);
    host_await_state(host, "web1", "running");
    assert_int_equal(fakes.options.max_downtime_ms, 100);
    assert_int_equal(fakes.options.downtime_cap_ms, 100);
}

static gboolean leave_at_once(json_t *object, gpointer user)
{
    return FALSE;
}

static void test_reader_that_leaves(void **state)
{
    Host *host = *state;
    pid_t pid = run_guest(host, "web1");
    Client *other = client_new(host->socket);

    fakes.status = MIGRATE_COMPLETED;
    g_atomic_int_set(&fakes.hold, 1);
    assert_true(client_stream(other, "POST", "/v1/guests/web1/migrate",
                              json_pack("{s:s}", "destination", "hostb"), leave_at_once, NULL,
                              NULL));
    client_free(other);
    host_await_state(host, "web1", "migrating");
    g_atomic_int_set(&fakes.hold, 0);
    host_await_state(host, "web1", "");
    assert_false(fake_qemu_is_alive(pid));
}

/* ---- in doubt ---- */

static pid_t put_in_doubt(Host *host, gint outcome)
{
    pid_t pid = run_guest(host, "web1");
    json_t *answer;

    fakes.status = MIGRATE_IN_DOUBT;
    g_atomic_int_set(&fakes.outcome, outcome);
    answer = migrate(host, "");
    json_decref(answer);
    host_assert_event(host, "in-doubt");
    return pid;
}

static void test_doubt_then_committed(void **state)
{
    Host *host = *state;
    pid_t pid = put_in_doubt(host, -1);
    GError *error = NULL;

    host_await_state(host, "web1", "in-doubt");
    assert_null(host_call(host, "DELETE", "/v1/guests/web1", NULL, &error));
    assert_error_says(error, VMFERRY_ERROR_IN_DOUBT, "guest web1 is in doubt: hostb may have it");
    await_count(&fakes.questions, 2);
    assert_int_equal(fake_qemu_get_state(pid), VMM_RUN_STATE_PAUSED);
    g_atomic_int_set(&fakes.outcome, OUTCOME_COMMITTED);
    host_await_state(host, "web1", "");
    assert_false(fake_qemu_is_alive(pid));
    host_assert_departed(host, TRUE);
}

static void test_doubt_then_aborted(void **state)
{
    Host *host = *state;
    pid_t pid = put_in_doubt(host, OUTCOME_PENDING);

    host_await_state(host, "web1", "in-doubt");
    g_atomic_int_set(&fakes.outcome, OUTCOME_ABORTED);
    host_await_state(host, "web1", "running");
    assert_int_equal(fake_qemu_get_state(pid), VMM_RUN_STATE_RUNNING);
}

static json_t *resolve(Host *host, const char *keep, GError **error)
{
    return host_call(host, "POST", "/v1/guests/web1/resolve", json_pack("{s:s}", "keep", keep),
                     error);
}

static void test_operator_keeps_here(void **state)
{
    Host *host = *state;
    pid_t pid = put_in_doubt(host, OUTCOME_LOST);
    g_autoptr(json_t) answer = NULL;

    host_await_state(host, "web1", "in-doubt");
    answer = resolve(host, "here", NULL);
    assert_string_equal(json_text_or(answer, "kept", ""), "here");
    host_await_state(host, "web1", "running");
    assert_int_equal(fake_qemu_get_state(pid), VMM_RUN_STATE_RUNNING);
}

static void test_operator_keeps_there(void **state)
{
    Host *host = *state;
    pid_t pid = put_in_doubt(host, -1);
    g_autoptr(json_t) answer = NULL;

    host_await_state(host, "web1", "in-doubt");
    answer = resolve(host, "there", NULL);
    assert_string_equal(json_text_or(answer, "kept", ""), "there");
    host_await_state(host, "web1", "");
    assert_false(fake_qemu_is_alive(pid));
    host_assert_departed(host, TRUE);
}

/* Weeks later the guest is in doubt again: nobody has decided that. */
static void test_decision_counts_once(void **state)
{
    Host *host = *state;
    pid_t pid = put_in_doubt(host, OUTCOME_LOST);

    host_await_state(host, "web1", "in-doubt");
    json_decref(resolve(host, "here", NULL));
    host_await_state(host, "web1", "running");
    g_atomic_int_set(&fakes.questions, 0);
    json_decref(migrate(host, ""));
    await_count(&fakes.questions, 3);
    host_await_state(host, "web1", "in-doubt");
    assert_int_equal(fake_qemu_get_state(pid), VMM_RUN_STATE_PAUSED);
    json_decref(resolve(host, "there", NULL));
    host_await_state(host, "web1", "");
}

static void test_answer_wins_over_operator(void **state)
{
    Host *host = *state;
    pid_t pid = put_in_doubt(host, -1);
    g_autoptr(json_t) answer = NULL;

    host_await_state(host, "web1", "in-doubt");
    g_atomic_int_set(&fakes.outcome, OUTCOME_COMMITTED);
    answer = resolve(host, "here", NULL);
    /* The agent's own next question may have come first: then nothing is in doubt any more. */
    if (answer)
        assert_string_equal(json_text_or(answer, "kept", ""), "there");
    host_await_state(host, "web1", "");
    assert_false(fake_qemu_is_alive(pid));
    host_assert_departed(host, TRUE);
}

static void test_doubt_survives_a_restart(void **state)
{
    Host *host = *state;
    pid_t pid = put_in_doubt(host, -1);

    host_await_state(host, "web1", "in-doubt");
    host_stop(host);
    assert_int_equal(fake_qemu_get_state(pid), VMM_RUN_STATE_PAUSED);
    assert_true(host_start(host));
    host_await_state(host, "web1", "in-doubt");
    g_atomic_int_set(&fakes.outcome, OUTCOME_ABORTED);
    host_await_state(host, "web1", "running");
    assert_int_equal(fake_qemu_get_state(pid), VMM_RUN_STATE_RUNNING);
}

/* ---- agents ---- */

static void test_two_agents(void **state)
{
    Host *host = *state;
    Host *other = host_new();

    g_free(other->settings->state_dir);
    other->settings->state_dir = g_strdup(host->settings->state_dir);
    assert_false(host_start(other));
    assert_error_says(g_steal_pointer(&other->error), VMFERRY_ERROR_BUSY,
                      "another agent uses the state directory");
    g_free(other->settings->state_dir);
    other->settings->state_dir = g_build_filename(other->folder, "state", NULL);
    g_free(other->settings->socket);
    other->settings->socket = g_strdup(host->settings->socket);
    assert_false(host_start(other));
    assert_error_says(g_steal_pointer(&other->error), VMFERRY_ERROR_BUSY, "an agent answers on");
    host_free(other);
}

static void test_no_pki(void **state)
{
    Host *host = *state;

    g_free(host->settings->pki_dir);
    host->settings->pki_dir = g_build_filename(host->folder, "pki", NULL);
    g_free(host->settings->listen);
    host->settings->listen = g_strdup("127.0.0.1:0");
    host->settings->insecure = FALSE;
    assert_false(host_start(host));
    assert_error_says(g_steal_pointer(&host->error), VMFERRY_ERROR_NOT_FOUND, "`vmferry pki init`");
}

static void test_local_only(void **state)
{
    Host *host = *state;
    GError *error = NULL;

    g_free(host->settings->pki_dir);
    host->settings->pki_dir = g_build_filename(host->folder, "pki", NULL);
    host->settings->insecure = FALSE;
    assert_true(host_start(host));
    run_guest(host, "web1");
    assert_null(host_call(host, "POST", "/v1/guests/web1/migrate",
                          json_pack("{s:s}", "destination", "hostb"), &error));
    assert_error_says(error, VMFERRY_ERROR_REFUSED, "this agent runs without a PKI");
}

int main(void)
{
#define RUNNING(test) cmocka_unit_test_setup_teardown(test, set_up_running, tear_down)
#define STOPPED(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        RUNNING(test_run_and_stop),
        RUNNING(test_names_are_taken),
        RUNNING(test_failed_launch_leaves_nothing),
        RUNNING(test_run_on_full_disk),
        RUNNING(test_adopt),
        RUNNING(test_adopt_on_full_disk_leaves_guest),
        RUNNING(test_guest_that_ends),
        RUNNING(test_guest_that_cannot_move),
        RUNNING(test_disks),
        RUNNING(test_completed_move),
        RUNNING(test_name_of_a_guest_that_left),
        RUNNING(test_failed_move),
        RUNNING(test_move_on_full_disk),
        RUNNING(test_one_thing_at_a_time),
        RUNNING(test_role_and_activity),
        RUNNING(test_stopping_agent_cancels_and_leaves),
        RUNNING(test_streamed_move),
        RUNNING(test_traced_move),
        RUNNING(test_rate_of_a_move),
        STOPPED(test_options_of_a_move),
        RUNNING(test_reader_that_leaves),
        RUNNING(test_doubt_then_committed),
        RUNNING(test_doubt_then_aborted),
        RUNNING(test_operator_keeps_here),
        RUNNING(test_operator_keeps_there),
        RUNNING(test_decision_counts_once),
        RUNNING(test_answer_wins_over_operator),
        RUNNING(test_doubt_survives_a_restart),
        RUNNING(test_two_agents),
        STOPPED(test_no_pki),
        STOPPED(test_local_only),
    };

    log_set_level(g_getenv("VERBOSE") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
