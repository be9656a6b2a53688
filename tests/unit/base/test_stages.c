/* Stages: what runs, what is undone and in which order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "base/error.h"
#include "base/stages.h"

typedef struct {
    GString *story;
    const char *failing; /* this stage's letter; NULL: none */
} Scene;

static gboolean act(Scene *scene, const char *letter, GError **error)
{
    g_string_append(scene->story, letter);
    if (g_strcmp0(scene->failing, letter) != 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_BUSY, "%s fails", letter);
    return FALSE;
}

static gboolean run_a(Scene *scene, GError **error)
{
    return act(scene, "a", error);
}

static gboolean run_b(Scene *scene, GError **error)
{
    return act(scene, "b", error);
}

static gboolean run_c(Scene *scene, GError **error)
{
    return act(scene, "c", error);
}

static gboolean run_d(Scene *scene, GError **error)
{
    return act(scene, "d", error);
}

static void undo_a(Scene *scene)
{
    g_string_append(scene->story, "A");
}

static void undo_c(Scene *scene)
{
    g_string_append(scene->story, "C");
}

static void undo_d(Scene *scene)
{
    g_string_append(scene->story, "D");
}

static void note_failure(gpointer user, guint stage, GError **error)
{
    Scene *scene = user;

    assert_true(error_is(*error, VMFERRY_ERROR_BUSY));
    g_string_append_printf(scene->story, "!%u", stage);
    g_clear_error(error);
    error_set(error, VMFERRY_ERROR_TIMEOUT, "replaced");
}

/* Nothing remains of b; c is final where *final* says so. */
static void expect(const char *failing, gboolean final, const char *story)
{
    const Stage stages[] = {
        STAGE("first", run_a, undo_a),
        STAGE("second", run_b, NULL),
        {"third", (StageRun)run_c, (StageUndo)undo_c, final},
        STAGE("fourth", run_d, undo_d),
    };
    Scene scene = {g_string_new(NULL), failing};
    g_autoptr(GError) error = NULL;

    assert_int_equal(stages_run(stages, G_N_ELEMENTS(stages), note_failure, &scene, &error),
                     failing == NULL);
    assert_string_equal(scene.story->str, story);
    assert_int_equal(error_is(error, VMFERRY_ERROR_TIMEOUT), failing != NULL);
    g_string_free(scene.story, TRUE);
}

static void test_all_run(void **state)
{
    expect(NULL, FALSE, "abcd");
    expect(NULL, TRUE, "abcd");
}

/* The failed one too, the last first, after the failure was told. */
static void test_undone_backwards(void **state)
{
    expect("a", FALSE, "a!0A");
    expect("b", FALSE, "ab!1A");
    expect("c", FALSE, "abc!2CA");
    expect("d", FALSE, "abcd!3DCA");
}

static void test_point_of_no_return(void **state)
{
    expect("b", TRUE, "ab!1A");
    expect("c", TRUE, "abc!2CA"); /* it did not succeed */
    expect("d", TRUE, "abcd!3");
}

static void test_no_listener(void **state)
{
    const Stage stages[] = {STAGE("only", run_a, undo_a)};
    Scene scene = {g_string_new(NULL), "a"};
    g_autoptr(GError) error = NULL;

    assert_false(stages_run(stages, 1, NULL, &scene, &error));
    assert_true(error_is(error, VMFERRY_ERROR_BUSY));
    assert_false(stages_run(stages, 1, NULL, &scene, NULL));
    assert_string_equal(scene.story->str, "aAaA");
    g_string_free(scene.story, TRUE);
}

/* The first time that d fails, the sequence goes on from b. */
static gboolean once_from_b(gpointer user, guint stage, const GError *problem, guint *ret_first)
{
    Scene *scene = user;

    assert_true(error_is(problem, VMFERRY_ERROR_BUSY));
    if (!strchr(scene->story->str, 'd') || strchr(scene->story->str, '<'))
        return FALSE;
    g_string_append_printf(scene->story, "<%u", stage);
    *ret_first = 1;
    return TRUE;
}

static void expect_again(const char *failing, gboolean final, const char *story)
{
    const Stage stages[] = {
        STAGE("first", run_a, undo_a),
        STAGE("second", run_b, NULL),
        {"third", (StageRun)run_c, (StageUndo)undo_c, final},
        STAGE("fourth", run_d, undo_d),
    };
    Scene scene = {g_string_new(NULL), failing};

    assert_int_equal(
        stages_run_again(stages, G_N_ELEMENTS(stages), once_from_b, note_failure, &scene, NULL),
        failing == NULL);
    assert_string_equal(scene.story->str, story);
    g_string_free(scene.story, TRUE);
}

static void test_again(void **state)
{
    expect_again(NULL, FALSE, "abcd");
    expect_again("d", FALSE, "abcd<3DCbcd!3DCA");
    expect_again("c", FALSE, "abc!2CA");
    expect_again("d", TRUE, "abcd!3");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_run),
        cmocka_unit_test(test_undone_backwards),
        cmocka_unit_test(test_point_of_no_return),
        cmocka_unit_test(test_no_listener),
        cmocka_unit_test(test_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
