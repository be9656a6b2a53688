/* What a move's source hears of its peer while the connection breaks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "migrate/source_move.h"
#include "session_ends.h"
#include "wire/channel_private.h"

#define PATIENCE_MS 20000
#define BREAK_NS 700000000ULL

typedef struct {
    Ends ends;
    MigrateSourceJob job;
    SourceMove move;
    int blocker; /* a connection that keeps the accepting side busy, so that no other comes through */
    GThread *thread;
    guint disconnected; /* so often it was reported */
    FrameType answer;
} Scene;

static void on_progress(const MigrateProgress *progress, gpointer user)
{
    Scene *scene = user;

    scene->disconnected += progress->disconnected ? 1 : 0;
}

static void open_scene(Scene *scene, Fixture *fixture)
{
    *scene = (Scene){.blocker = -1};
    ends_open(&scene->ends, fixture, 0);
    session_allow_reconnect(scene->ends.accepted, NULL, PATIENCE_MS);
    session_allow_reconnect(scene->ends.client, &scene->ends.options, PATIENCE_MS);
    scene->job.host.progress = on_progress;
    scene->job.host.user = scene;
    scene->move.job = &scene->job;
    scene->move.session = scene->ends.client;
    scene->move.started_ns = clock_now_ns();
}

/* The answer is sent when both know of the break, and comes when it is over. */
static gpointer break_main(gpointer data)
{
    Scene *scene = data;

    while (!session_is_broken(scene->ends.accepted))
        clock_sleep_ns(1000000);
    assert_true(session_send_bytes(scene->ends.accepted, scene->answer, "{}",
                                   scene->answer == FRAME_READY ? 2 : 0, NULL));
    clock_sleep_ns(BREAK_NS);
    close(scene->blocker);
    return NULL;
}

static void begin_break(Scene *scene, FrameType answer)
{
    Channel *channel = session_get_channel(scene->ends.client, TRAFFIC_CONTROL);

    scene->answer = answer;
    scene->blocker = raw_connect(&scene->ends.server.listener);
    g_mutex_lock(&channel->state_lock);
    shutdown(stream_get_fd(channel->stream), SHUT_RDWR);
    g_mutex_unlock(&channel->state_lock);
    while (!session_is_broken(scene->ends.client))
        clock_sleep_ns(1000000);
    scene->thread = g_thread_new("break", break_main, scene);
}

static void close_scene(Scene *scene)
{
    g_thread_join(scene->thread);
    ends_close(&scene->ends);
}

static void test_what_is_awaited(void **state)
{
    uint64_t begun = clock_now_ns();
    GError *error = NULL;
    Scene scene;
    Frame frame;

    open_scene(&scene, *state);
    begin_break(&scene, FRAME_READY);
    /* Less than the break takes. */
    if (!source_await(&scene.move, FRAME_READY, 300, &frame, &error))
        fail_msg("%s", error->message);
    assert_int_equal(frame.type, FRAME_READY);
    assert_true(clock_now_ns() - begun >= BREAK_NS);
    assert_true(scene.disconnected > 0);
    assert_false(scene.move.progress.disconnected);
    close_scene(&scene);
}

static void test_what_comes_besides(void **state)
{
    GError *error = NULL;
    Scene scene;

    open_scene(&scene, *state);
    begin_break(&scene, FRAME_ACCEPTED);
    if (!source_await_connection(&scene.move, &error))
        fail_msg("%s", error->message);
    assert_true(scene.disconnected > 0);
    assert_false(session_is_broken(scene.ends.client));
    for (guint i = 0; i < 100 && !scene.move.accepted; i++) {
        if (!source_hear_peer(&scene.move, &error))
            fail_msg("%s", error->message);
        clock_sleep_ns(20000000);
    }
    assert_true(scene.move.accepted);
    close_scene(&scene);
}

/* In the pause nobody waits for longer because of a break. */
static void test_in_the_pause(void **state)
{
    uint64_t begun = clock_now_ns();
    GError *error = NULL;
    Scene scene;
    Frame frame;

    open_scene(&scene, *state);
    scene.move.paused = TRUE;
    begin_break(&scene, FRAME_READY);
    assert_false(source_await(&scene.move, FRAME_READY, 300, &frame, &error));
    expect_error(error, VMFERRY_ERROR_TIMEOUT, "did not send READY");
    assert_true(clock_now_ns() - begun < BREAK_NS);
    close_scene(&scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_is_awaited, ends_set_up, ends_tear_down),
        cmocka_unit_test_setup_teardown(test_what_comes_besides, ends_set_up, ends_tear_down),
        cmocka_unit_test_setup_teardown(test_in_the_pause, ends_set_up, ends_tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
