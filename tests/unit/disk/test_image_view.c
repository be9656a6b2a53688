/* Two views of one file, and of two files that look alike. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "disk/image_view.h"

#define IMAGE_BYTES (1u << 20)

static char *make_file(const char *path)
{
    g_autofree char *content = g_malloc0(IMAGE_BYTES);

    memset(content + IMAGE_BYTES / 2, 'x', 4096);
    assert_true(g_file_set_contents(path, content, IMAGE_BYTES, NULL));
    return g_strdup(path);
}

static int set_up(void **state)
{
    char folder[] = "/tmp/vmferry-image-XXXXXX";

    assert_non_null(mkdtemp(folder));
    *state = g_strdup(folder);
    return 0;
}

static int tear_down(void **state)
{
    g_autofree char *folder = *state;
    GDir *dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);

        unlink(path);
    }
    g_dir_close(dir);
    rmdir(folder);
    return 0;
}

static char *in_folder(void **state, const char *name)
{
    g_autofree char *path = g_build_filename(*state, name, NULL);

    return make_file(path);
}

static void test_lock_shows_on_the_same_file(void **state)
{
    g_autofree char *path = in_folder(state, "a"), *other = in_folder(state, "b");
    g_autoptr(ImageView) here = image_view_open(path, NULL);
    g_autoptr(ImageView) there = image_view_open(path, NULL);
    g_autoptr(ImageView) copy = image_view_open(other, NULL);
    uint64_t offset = image_lock_offset();

    assert_true(offset > 1ULL << 49);
    assert_false(image_view_sees_lock(there, offset));
    assert_true(image_view_lock(here, offset, NULL));
    assert_true(image_view_sees_lock(there, offset));
    assert_false(image_view_sees_lock(there, offset + 1));
    assert_false(image_view_sees_lock(copy, offset));
    g_clear_pointer(&here, image_view_free);
    assert_false(image_view_sees_lock(there, offset));
}

/* A lock on more than the byte (by another program, on the whole file) is none. */
static void test_a_wide_lock_proves_nothing(void **state)
{
    g_autofree char *path = in_folder(state, "a");
    g_autoptr(ImageView) view = image_view_open(path, NULL);
    int fd = open(path, O_RDWR);
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

    assert_int_equal(fcntl(fd, F_OFD_SETLK, &whole), 0);
    assert_false(image_view_sees_lock(view, image_lock_offset()));
    close(fd);
}

static void test_token_shows_and_goes(void **state)
{
    g_autofree char *path = in_folder(state, "a");
    g_autoptr(ImageView) here = image_view_open(path, NULL);
    g_autoptr(ImageView) there = image_view_open(path, NULL);
    g_auto(ImageFacts) seen = {0};
    struct stat before, after;
    int64_t seconds;
    uint32_t milliseconds;
    char byte;

    assert_int_equal(stat(path, &before), 0);
    assert_true(image_view_set_token(here, &seconds, &milliseconds));
    assert_true(seconds > time(NULL) + 86400 && milliseconds < 1000);
    /* What reads the image meanwhile does not change it. */
    int fd = open(path, O_RDONLY);

    assert_int_equal(read(fd, &byte, 1), 1);
    close(fd);
    assert_true(image_view_get_facts(there, &seen, NULL));
    assert_int_equal(seen.token_s, seconds);
    assert_int_equal(seen.token_ms, milliseconds);
    g_clear_pointer(&here, image_view_free);
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(after.st_atim.tv_sec, before.st_atim.tv_sec);
    assert_int_equal(after.st_atim.tv_nsec, before.st_atim.tv_nsec);
    assert_int_equal(after.st_mtim.tv_nsec, before.st_mtim.tv_nsec);
}

static void test_facts(void **state)
{
    g_autofree char *path = in_folder(state, "a");
    g_autoptr(ImageView) view = image_view_open(path, NULL);
    g_auto(ImageFacts) facts = {0};

    assert_true(image_view_get_facts(view, &facts, NULL));
    assert_int_equal(facts.kind, IMAGE_KIND_FILE);
    assert_int_equal(facts.bytes, IMAGE_BYTES);
    assert_string_equal(facts.device_id, "");
}

static char *digest_of(const char *path, const uint64_t *offsets, guint count)
{
    g_autoptr(ImageView) view = image_view_open(path, NULL);
    char *digest = image_view_digest(view, offsets, count, NULL);

    assert_non_null(digest);
    assert_int_equal(strlen(digest), IMAGE_DIGEST_DIGITS);
    return digest;
}

static void write_at(const char *path, off_t offset)
{
    int fd = open(path, O_WRONLY);

    assert_int_equal(pwrite(fd, "changed", 7, offset), 7);
    close(fd);
}

static void test_samples(void **state)
{
    g_autofree char *path = in_folder(state, "a"), *copy = in_folder(state, "b");
    g_autoptr(ImageView) view = image_view_open(path, NULL);
    uint64_t offsets[IMAGE_SAMPLES_LIMIT];
    guint count = image_view_pick_samples(view, offsets);
    g_autofree char *here = digest_of(path, offsets, count);
    g_autofree char *same = digest_of(copy, offsets, count);
    g_autofree char *start = NULL, *end = NULL;

    assert_true(count > 32 && count <= IMAGE_SAMPLES_LIMIT);
    for (guint i = 0; i < count; i++)
        assert_true(offsets[i] % IMAGE_SAMPLE_BYTES == 0 && offsets[i] <= IMAGE_BYTES);
    assert_string_equal(here, same);
    write_at(copy, 100);
    start = digest_of(copy, offsets, count);
    assert_string_not_equal(start, same);
    write_at(copy, IMAGE_BYTES - 10);
    end = digest_of(copy, offsets, count);
    assert_string_not_equal(end, start);
}

/* Not a whole number of blocks, and places behind the end. */
static void test_odd_length(void **state)
{
    g_autofree char *path = in_folder(state, "a");
    uint64_t offsets[] = {0, 1ULL << 40, IMAGE_BYTES - 4096, 8};
    g_autofree char *first = NULL, *second = NULL;

    assert_int_equal(truncate(path, IMAGE_BYTES - 1000), 0);
    first = digest_of(path, offsets, 3);
    write_at(path, IMAGE_BYTES - 1100);
    second = digest_of(path, offsets, 3);
    assert_string_not_equal(first, second);
}

static void test_what_is_no_image(void **state)
{
    g_autoptr(GError) folder = NULL, missing = NULL;

    assert_null(image_view_open(*state, &folder));
    assert_non_null(strstr(folder->message, "neither a file nor a block device"));
    assert_null(image_view_open("/no/such/image", &missing));
    assert_true(error_is(missing, VMFERRY_ERROR_NOT_FOUND));
    image_view_free(NULL);
}

int main(void)
{
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        IN_FOLDER(test_lock_shows_on_the_same_file),
        IN_FOLDER(test_a_wide_lock_proves_nothing),
        IN_FOLDER(test_token_shows_and_goes),
        IN_FOLDER(test_facts),
        IN_FOLDER(test_samples),
        IN_FOLDER(test_odd_length),
        IN_FOLDER(test_what_is_no_image),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
