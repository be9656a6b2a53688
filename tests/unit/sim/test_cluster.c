/* The control engine's policy over traces: what operators of other engines complain about. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/error.h"
#include "sim/cluster_policy.h"
#include "sim/cluster_recording.h"

static ClusterWorldResult play(ClusterTraceKind kind, ClusterPolicyKind policy, double hours)
{
    const ClusterWorldOptions options = {
        .kind = kind, .hosts = 24, .guests = 240, .hours = hours, .seed = 3};

    return cluster_play(&options, policy, NULL);
}

static void test_single_spikes_move_nothing(void **state)
{
    assert_int_equal(play(CLUSTER_TRACE_SPIKES, CLUSTER_POLICY_ENGINE, 3).moves, 0);
}

static void test_an_idle_cluster_moves_nothing(void **state)
{
    assert_int_equal(play(CLUSTER_TRACE_IDLE, CLUSTER_POLICY_ENGINE, 2).moves, 0);
}

static void test_a_hot_guest_is_relieved(void **state)
{
    ClusterWorldResult none = play(CLUSTER_TRACE_HOT_GUEST, CLUSTER_POLICY_NONE, 2);
    ClusterWorldResult ours = play(CLUSTER_TRACE_HOT_GUEST, CLUSTER_POLICY_ENGINE, 2);

    assert_true(none.violation_s > 0);
    assert_true(ours.violation_s < none.violation_s / 10);
    assert_true(ours.moves > 0);
    assert_int_equal(ours.failed, 0);
}

/* The step of a day that nobody has seen yet is no reason to leave guests where they are. */
static void test_a_step_of_the_day(void **state)
{
    ClusterWorldResult ours = play(CLUSTER_TRACE_OSCILLATION, CLUSTER_POLICY_ENGINE, 13);
    ClusterWorldResult other = play(CLUSTER_TRACE_OSCILLATION, CLUSTER_POLICY_SANDPIPER, 13);

    assert_true(ours.violation_s < other.violation_s);
    assert_true(ours.moves < other.moves);
}

/* No ping-pong: once a cool-down at most, and far fewer moves than rules without one. */
static void test_oscillation(void **state)
{
    ClusterWorldResult ours = play(CLUSTER_TRACE_OSCILLATION, CLUSTER_POLICY_ENGINE, 26);
    ClusterWorldResult other = play(CLUSTER_TRACE_OSCILLATION, CLUSTER_POLICY_THRESHOLD, 26);

    assert_true(ours.most_per_guest <= 1);
    assert_true(ours.moves < other.moves / 4);
    assert_true(ours.violation_s < other.violation_s / 2);
}

static void test_flapping(void **state)
{
    ClusterWorldResult ours = play(CLUSTER_TRACE_FLAPPING, CLUSTER_POLICY_ENGINE, 3);
    ClusterWorldResult other = play(CLUSTER_TRACE_FLAPPING, CLUSTER_POLICY_SANDPIPER, 3);

    assert_true(ours.most_per_guest <= 1);
    assert_true(ours.moves < other.moves / 10);
}

static void test_the_same_twice(void **state)
{
    ClusterWorldResult a = play(CLUSTER_TRACE_LOSS, CLUSTER_POLICY_ENGINE, 2);
    ClusterWorldResult b = play(CLUSTER_TRACE_LOSS, CLUSTER_POLICY_ENGINE, 2);

    assert_true(a.violation_s == b.violation_s);
    assert_int_equal(a.moves, b.moves);
    assert_true(a.moves > 0);
}

/* ---- recordings ---- */

static char *record(void)
{
    const ClusterWorldOptions options = {
        .kind = CLUSTER_TRACE_HOT_GUEST, .hosts = 6, .guests = 60, .hours = 1, .seed = 1};
    g_autoptr(ClusterWorld) world = cluster_world_new(&options);
    g_autofree char *header = cluster_world_record_header(world);
    GString *text = g_string_new(header);

    while (cluster_world_step(world)) {
        g_autofree char *line = cluster_world_record_step(world);

        g_string_append_printf(text, "\n%s", line);
    }
    return g_string_free(text, FALSE);
}

/* What is played again does what was recorded; rounding to four digits apart. */
static void test_a_recording_is_played_again(void **state)
{
    g_autofree char *text = record();
    g_autoptr(GError) error = NULL;
    g_autoptr(ClusterRecording) recording = cluster_recording_parse(text, strlen(text), &error);
    ClusterWorldOptions options = {
        .kind = CLUSTER_TRACE_HOT_GUEST, .hosts = 6, .guests = 60, .hours = 1, .seed = 1};
    ClusterWorldResult first = cluster_play(&options, CLUSTER_POLICY_NONE, NULL), again;

    assert_null(error);
    assert_non_null(recording);
    assert_int_equal(recording->steps, 720);
    assert_int_equal(recording->repeat, 1);
    options.kind = CLUSTER_TRACE_RECORDED;
    options.recording = recording;
    again = cluster_play(&options, CLUSTER_POLICY_NONE, NULL);
    assert_true(first.violation_s > 0);
    assert_true(again.violation_s > first.violation_s * 0.98 &&
                again.violation_s < first.violation_s * 1.02);
}

/* Version 1 had steps of 10 s. */
static void test_an_older_recording(void **state)
{
    static const char text[] =
        "{\"cluster_trace\":1,\"hosts\":[[4,1e9,1e8]],\"guests\":[[0,1,1e8,0,0]]}\n"
        "{\"cpu\":[1],\"network\":[2],\"memory\":[3]}\n"
        "{\"cpu\":[0],\"network\":[2],\"memory\":[3]}\n";
    g_autoptr(ClusterRecording) recording = cluster_recording_parse(text, strlen(text), NULL);
    const ClusterWorldOptions options = {.kind = CLUSTER_TRACE_RECORDED, .recording = recording};
    g_autoptr(ClusterWorld) world = cluster_world_new(&options);
    guint steps = 0, busy = 0;

    while (cluster_world_step(world)) {
        steps++;
        busy += cluster_series_last(&cluster_world_view(world)->guests[0].cpu) > 0.5 ? 1 : 0;
    }
    assert_int_equal(steps, 4);
    assert_int_equal(busy, 2);
}

/* A reading of two steps is their mean. */
static void test_readings_of_several_steps(void **state)
{
    static const char text[] =
        "{\"cluster_trace\":2,\"hosts\":[[4,1e9,1e8]],\"guests\":[[0,1,1e8,0,0]]}\n"
        "{\"cpu\":[1],\"network\":[2],\"memory\":[3]}\n"
        "{\"cpu\":[0.5],\"network\":[4],\"memory\":[3]}\n";
    g_autoptr(ClusterRecording) recording = cluster_recording_parse(text, strlen(text), NULL);
    const ClusterWorldOptions options = {
        .kind = CLUSTER_TRACE_RECORDED, .recording = recording, .reading_steps = 2};
    g_autoptr(ClusterWorld) world = cluster_world_new(&options);
    const ClusterGuest *guest = &cluster_world_view(world)->guests[0];

    assert_true(cluster_world_step(world));
    assert_false(cluster_world_has_reading(world));
    assert_int_equal(guest->cpu.length, 0);
    assert_true(cluster_world_step(world));
    assert_true(cluster_world_has_reading(world));
    assert_int_equal(guest->cpu.length, 1);
    assert_true(cluster_series_last(&guest->cpu) == 0.75);
    assert_true(cluster_series_last(&guest->network) == 3);
}

static void test_bad_recordings(void **state)
{
    static const struct {
        const char *text, *words;
    } rows[] = {
        {"", "no step"},
        {"{}", "line 1: not a cluster trace"},
        {"{\"cluster_trace\":1,\"hosts\":[],\"guests\":[]}", "no hosts"},
        {"{\"cluster_trace\":1,\"hosts\":[[4,1e9,1e8]],\"guests\":[[1,1,1e8,0,0]]}", "number 1"},
        {"{\"cluster_trace\":1,\"hosts\":[[-4,1e9,1e8]],\"guests\":[[0,1,1e8,0,0]]}", "number 1"},
        {"{\"cluster_trace\":1,\"hosts\":[[4,1e9,1e8]],\"guests\":[[0,1,1e8,0,0]]}\n{\"cpu\":[1]}",
         "line 2"},
        {"{\"cluster_trace\":1,\"hosts\":[[4,1e9,1e8]],\"guests\":[[0,1,1e8,0,0]]}\n"
         "{\"cpu\":[],\"network\":[1],\"memory\":[1]}",
         "line 2: number 1"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;

        assert_null(cluster_recording_parse(rows[i].text, strlen(rows[i].text), &error));
        assert_non_null(error);
        assert_non_null(strstr(error->message, rows[i].words));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_single_spikes_move_nothing),
        cmocka_unit_test(test_an_idle_cluster_moves_nothing),
        cmocka_unit_test(test_a_hot_guest_is_relieved),
        cmocka_unit_test(test_a_step_of_the_day),
        cmocka_unit_test(test_oscillation),
        cmocka_unit_test(test_flapping),
        cmocka_unit_test(test_the_same_twice),
        cmocka_unit_test(test_a_recording_is_played_again),
        cmocka_unit_test(test_an_older_recording),
        cmocka_unit_test(test_readings_of_several_steps),
        cmocka_unit_test(test_bad_recordings),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
