/* The debugger's console against a thread that plays Bochs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/fd.h"
#include "vmm/bochs/console.h"
#include "vmm/bochs/parameters.h"

#define BANNER                                                                                     \
    "Bochs x86 Emulator 2.7\nNext at t=0\n(0) [0x0000fffffff0] f000:fff0: jmpf\n<bochs:1> "

typedef struct {
    int commands[2], answers[2]; /* pipes */
    BochsConsole *console;
} Scene;

static void open_scene(Scene *scene)
{
    assert_int_equal(pipe(scene->commands), 0);
    assert_int_equal(pipe(scene->answers), 0);
    scene->console = bochs_console_new(scene->commands[1], scene->answers[0]);
}

static void close_scene(Scene *scene)
{
    fd_close(&scene->commands[0]);
    fd_close(&scene->answers[1]);
    bochs_console_free(scene->console);
}

static void say(Scene *scene, const char *text)
{
    assert_true(fd_write_all(scene->answers[1], text, strlen(text), NULL));
}

static void expect_command(Scene *scene, const char *wanted)
{
    g_autofree char *got = g_malloc0(strlen(wanted) + 1);

    assert_true(fd_read_all(scene->commands[0], got, strlen(wanted), NULL));
    assert_string_equal(got, wanted);
}

static void test_start(void **unused)
{
    g_autoptr(GError) error = NULL;
    Scene scene;

    open_scene(&scene);
    assert_true(bochs_console_is_running(scene.console));
    assert_false(bochs_console_await_prompt(scene.console, 1, NULL, &error));
    assert_true(error_is(error, VMFERRY_ERROR_TIMEOUT));
    g_clear_error(&error);
    assert_false(bochs_console_send(scene.console, "r", &error));
    assert_true(error_is(error, VMFERRY_ERROR_BUSY));
    say(&scene, BANNER);
    assert_true(bochs_console_await_prompt(scene.console, 1000, NULL, NULL));
    assert_false(bochs_console_is_running(scene.console));
    assert_true(bochs_console_await_prompt(scene.console, 0, NULL, NULL));
    close_scene(&scene);
}

static void open_started(Scene *scene)
{
    open_scene(scene);
    say(scene, BANNER);
    assert_true(bochs_console_await_prompt(scene->console, 1000, NULL, NULL));
}

static void test_commands(void **unused)
{
    g_autofree char *answer = NULL;
    g_autoptr(BochsNode) node = NULL;
    Scene scene;

    open_started(&scene);
    say(&scene, "r\nrax: 0\n<bochs:2> ");
    answer = bochs_console_run(scene.console, "r", 1000, NULL);
    assert_string_equal(answer, "rax: 0\n");
    expect_command(&scene, "r\n");
    say(&scene, "show \"cpu0.RIP\"\nshow param name: <cpu0.RIP>\nRIP = 0xfff0\n<bochs:3> ");
    node = bochs_show(scene.console, "cpu0.RIP", NULL);
    assert_int_equal(node->number, 0xfff0);
    expect_command(&scene, "show \"cpu0.RIP\"\n");
    close_scene(&scene);
}

#define TOLD_PIT "show param name: <pit>\npit = {\n  x = 7\n}\n"
#define TOLD_NO_CARD "show param name: <e1000>\ncan't find param <e1000> in global\n"
#define TOLD_RIP "show param name: <cpu0.RIP>\nRIP = 0xfff0\n"

/* One command makes Bochs read them from a file. */
static void test_several_at_once(void **unused)
{
    static const char *const paths[] = {"pit", "e1000", "cpu0.RIP", NULL};
    static const char *const wrong[] = {"pit", "a\" q", NULL};
    g_autofree char *folder = g_dir_make_tmp("bochs-XXXXXX", NULL);
    g_autofree char *base = g_path_get_basename(folder);
    g_autofree char *file = g_build_filename(folder, "show", NULL);
    g_autofree char *command = g_strdup_printf("source %s/show\n", base);
    g_autofree char *answer =
        g_strconcat(command, TOLD_PIT TOLD_NO_CARD TOLD_RIP, "<bochs:2> ", NULL);
    g_autofree char *text = NULL;
    g_autoptr(GPtrArray) nodes = NULL;
    g_autoptr(GError) error = NULL;
    Scene scene;

    open_started(&scene);
    say(&scene, answer);
    nodes = bochs_show_all(scene.console, folder, paths, NULL);
    assert_int_equal(nodes->len, 3);
    assert_int_equal(((BochsNode *)((BochsNode *)nodes->pdata[0])->children->pdata[0])->number, 7);
    assert_null(nodes->pdata[1]);
    assert_int_equal(((BochsNode *)nodes->pdata[2])->number, 0xfff0);
    expect_command(&scene, command);
    text = file_read(file, 1000, NULL, NULL);
    assert_string_equal(text, "show \"pit\"\nshow \"e1000\"\nshow \"cpu0.RIP\"\n");
    assert_int_equal(bochs_console_get_prompt(scene.console), 2);
    /* One that is missing, and a file that cannot be read. */
    say(&scene, TOLD_PIT TOLD_RIP "<bochs:3> ");
    assert_null(bochs_show_all(scene.console, folder, paths, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    say(&scene, "(null): can not open file 'x' for reading.\n<bochs:4> ");
    assert_null(bochs_show_all(scene.console, folder, paths, NULL));
    assert_null(bochs_show_all(scene.console, folder, wrong, NULL));
    assert_false(bochs_console_is_running(scene.console));
    unlink(file);
    rmdir(folder);
    close_scene(&scene);
}

/* A prompt is one only with its number, at the end and at the start of a line. */
static void test_false_prompts(void **unused)
{
    g_autofree char *answer = NULL;
    Scene scene;

    open_started(&scene);
    say(&scene, "r\n<bochs:1> \n<bochs:2> x\n<bochs:3> ");
    assert_null(bochs_console_run(scene.console, "r", 20, NULL));
    say(&scene, "\ny<bochs:2> ");
    assert_false(bochs_console_await_prompt(scene.console, 20, NULL, NULL));
    say(&scene, "\n<bochs:2> ");
    assert_true(bochs_console_await_prompt(scene.console, 1000, &answer, NULL));
    assert_string_equal(answer, "r\n<bochs:1> \n<bochs:2> x\n<bochs:3> \ny<bochs:2> \n");
    close_scene(&scene);
}

static void test_prompt_in_pieces(void **unused)
{
    static const char text[] = "r\nrax\n<bochs:2> ";
    g_autofree char *answer = NULL;
    Scene scene;

    open_started(&scene);
    assert_true(bochs_console_send(scene.console, "r", NULL));
    for (guint i = 0; i + 1 < sizeof text; i++) {
        char piece[2] = {text[i]};

        assert_false(bochs_console_await_prompt(scene.console, 0, NULL, NULL));
        say(&scene, piece);
    }
    assert_true(bochs_console_await_prompt(scene.console, 1000, &answer, NULL));
    assert_string_equal(answer, "r\nrax\n");
    close_scene(&scene);
}

/* The machine runs until something stops it. */
static void test_running(void **unused)
{
    g_autofree char *answer = NULL;
    Scene scene;

    open_started(&scene);
    assert_true(bochs_console_send(scene.console, "c", NULL));
    assert_true(bochs_console_is_running(scene.console));
    assert_false(bochs_console_await_echo(scene.console, 20, NULL));
    say(&scene, "c");
    assert_false(bochs_console_await_echo(scene.console, 20, NULL));
    say(&scene, "\n");
    assert_true(bochs_console_await_echo(scene.console, 1000, NULL));
    assert_false(bochs_console_await_prompt(scene.console, 20, NULL, NULL));
    say(&scene, "Next at t=5\n<bochs:2> ");
    assert_true(bochs_console_await_prompt(scene.console, 1000, &answer, NULL));
    assert_string_equal(answer, "c\nNext at t=5\n");
    close_scene(&scene);
}

static gpointer write_much(gpointer data)
{
    Scene *scene = data;
    g_autofree char *block = g_strnfill(65535, 'x');

    for (guint i = 0; i <= BOCHS_ANSWER_MAX / 65536; i++)
        say(scene, block);
    say(scene, "\n<bochs:2> ");
    return NULL;
}

static void test_too_long(void **unused)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *answer = NULL;
    GThread *thread;
    Scene scene;

    open_started(&scene);
    thread = g_thread_new("bochs", write_much, &scene);
    assert_null(bochs_console_run(scene.console, "r", 10000, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    assert_string_equal(error->message, "r: Bochs's answer is too long");
    g_thread_join(thread);
    say(&scene, "r\n<bochs:3> ");
    answer = bochs_console_run(scene.console, "r", 1000, NULL);
    assert_string_equal(answer, "");
    close_scene(&scene);
}

static void test_end(void **unused)
{
    g_autoptr(GError) error = NULL;
    Scene scene;

    open_started(&scene);
    fd_close(&scene.answers[1]);
    assert_null(bochs_console_run(scene.console, "r", 1000, &error));
    assert_true(error_is(error, VMFERRY_ERROR_DISCONNECTED));
    close_scene(&scene);
}

static void expect_not_sent(Scene *scene, const char *command)
{
    g_autoptr(GError) error = NULL;

    assert_false(bochs_console_send(scene->console, command, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
}

static void test_commands_are_checked(void **unused)
{
    g_autofree char *long_command = g_strnfill(201, 'x');
    g_autoptr(GError) error = NULL;
    Scene scene;

    open_started(&scene);
    expect_not_sent(&scene, "");
    expect_not_sent(&scene, "r\nq");
    expect_not_sent(&scene, "\x04");
    expect_not_sent(&scene, long_command);
    assert_null(bochs_show(scene.console, "", &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    assert_null(bochs_show(scene.console, "a\" q", NULL));
    assert_false(bochs_restore_text(scene.console, "/tmp/a b", "pit", "", NULL));
    assert_false(bochs_restore_text(scene.console, "/tmp", "../pit", "", NULL));
    assert_false(bochs_console_is_running(scene.console));
    close_scene(&scene);
}

static void test_restore(void **unused)
{
    g_autofree char *folder = g_dir_make_tmp("bochs-XXXXXX", NULL);
    g_autofree char *file = g_build_filename(folder, "pit", NULL);
    g_autofree char *text = NULL;
    g_autoptr(BochsNode) wanted = bochs_tree_new("pit");
    g_autoptr(GError) error = NULL;
    Scene scene;

    bochs_tree_set(wanted, "counter.0.count", BOCHS_NODE_DECIMAL, 7);
    open_started(&scene);
    say(&scene, "restoring param (pit) state from file (x)\n(0).[0] jmpf\n<bochs:2> ");
    assert_true(bochs_restore(scene.console, folder, wanted, NULL));
    text = file_read(file, 1000, NULL, NULL);
    assert_string_equal(text,
                        "pit = {\n  counter = {\n    0 = {\n      count = 7\n    }\n  }\n}\n");
    say(&scene, "restoring param (pit) state from file (x)\nError: error occurred during restore\n"
                "<bochs:3> ");
    assert_false(bochs_restore(scene.console, folder, wanted, &error));
    assert_string_equal(error->message, "Bochs did not take the state of pit");
    unlink(file);
    rmdir(folder);
    close_scene(&scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start),         cmocka_unit_test(test_commands),
        cmocka_unit_test(test_false_prompts), cmocka_unit_test(test_prompt_in_pieces),
        cmocka_unit_test(test_running),       cmocka_unit_test(test_too_long),
        cmocka_unit_test(test_end),           cmocka_unit_test(test_commands_are_checked),
        cmocka_unit_test(test_restore),       cmocka_unit_test(test_several_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
