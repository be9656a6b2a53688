/* FIFOs that take an image: with a reader, without one, with one that comes late. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "migrate/image_pipe.h"

#define LONG_MS 60000

typedef struct {
    char *folder, *path;
    guint waits;     /* so far */
    guint gives_up;  /* at that one; 0: never */
    guint opens;     /* reads from it at that one; 0: never */
    gboolean sleeps; /* a millisecond each */
    int reader;
} Scratch;

static int set_up(void **state)
{
    Scratch *scratch = g_new0(Scratch, 1);

    scratch->folder = g_dir_make_tmp("image-pipe-XXXXXX", NULL);
    scratch->path = g_build_filename(scratch->folder, "image", NULL);
    scratch->reader = -1;
    assert_int_equal(mkfifo(scratch->path, 0600), 0);
    *state = scratch;
    return 0;
}

static int tear_down(void **state)
{
    Scratch *scratch = *state;

    fd_close(&scratch->reader);
    g_unlink(scratch->path);
    g_rmdir(scratch->folder);
    g_free(scratch->path);
    g_free(scratch->folder);
    g_free(scratch);
    return 0;
}

static gboolean on_wait(gpointer user, GError **error)
{
    Scratch *scratch = user;

    scratch->waits++;
    if (scratch->sleeps)
        clock_sleep_ns(1000000);
    if (scratch->waits == scratch->opens)
        scratch->reader = open(scratch->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (scratch->waits != scratch->gives_up)
        return TRUE;
    error_set(error, VMFERRY_ERROR_CANCELLED, "cancelled");
    return FALSE;
}

static void test_a_reader_that_comes_late(void **state)
{
    Scratch *scratch = *state;
    autofd int fd = -1;
    char text[5] = "";

    scratch->opens = 3;
    fd = image_pipe_open(scratch->path, LONG_MS, on_wait, scratch, NULL);
    assert_true(fd >= 0);
    assert_int_equal(scratch->waits, 3);
    assert_int_equal(fcntl(fd, F_GETFL) & (O_NONBLOCK | O_ACCMODE), O_WRONLY);
    assert_int_equal(write(fd, "image", 5), 5);
    assert_int_equal(read(scratch->reader, text, 5), 5);
    assert_memory_equal(text, "image", 5);
}

static void test_nobody_reads(void **state)
{
    Scratch *scratch = *state;
    g_autoptr(GError) error = NULL;

    scratch->sleeps = TRUE;
    assert_int_equal(image_pipe_open(scratch->path, 20, on_wait, scratch, &error), -1);
    assert_true(error_is(error, VMFERRY_ERROR_TIMEOUT));
    assert_non_null(strstr(error->message, "nobody reads"));
    assert_true(scratch->waits > 0);
}

static void test_is_given_up(void **state)
{
    Scratch *scratch = *state;
    g_autoptr(GError) error = NULL;

    scratch->gives_up = 2;
    assert_int_equal(image_pipe_open(scratch->path, LONG_MS, on_wait, scratch, &error), -1);
    assert_true(error_is(error, VMFERRY_ERROR_CANCELLED));
    assert_int_equal(scratch->waits, 2);
}

/* What took its place meanwhile is not written to. */
static void test_is_no_fifo(void **state)
{
    Scratch *scratch = *state;
    g_autoptr(GError) error = NULL;

    assert_int_equal(g_unlink(scratch->path), 0);
    assert_true(g_file_set_contents(scratch->path, "mine", -1, NULL));
    assert_int_equal(image_pipe_open(scratch->path, LONG_MS, on_wait, scratch, &error), -1);
    assert_true(error_is(error, VMFERRY_ERROR_EXISTS));
    assert_int_equal(scratch->waits, 0);
}

static void test_is_gone(void **state)
{
    Scratch *scratch = *state;
    g_autoptr(GError) error = NULL;

    assert_int_equal(g_unlink(scratch->path), 0);
    assert_int_equal(image_pipe_open(scratch->path, LONG_MS, on_wait, scratch, &error), -1);
    assert_non_null(strstr(error->message, scratch->path));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_reader_that_comes_late, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_nobody_reads, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_is_given_up, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_is_no_fifo, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_is_gone, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
