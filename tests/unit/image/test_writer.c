/* Saved images: written, read again, refused; what a full disk, a death and a taken name leave. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/page.h"
#include "model.h"

/* ---- a file system that can do less ---- */

static gboolean no_nameless_files, no_careful_rename;

int __real_openat64(int folder, const char *name, int flags, ...);
int __wrap_openat64(int folder, const char *name, int flags, ...);
int __real_renameat2(int from, const char *name, int to, const char *new_name, unsigned flags);
int __wrap_renameat2(int from, const char *name, int to, const char *new_name, unsigned flags);

int __wrap_openat64(int folder, const char *name, int flags, ...)
{
    if (no_nameless_files && (flags & O_TMPFILE) == O_TMPFILE) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return __real_openat64(folder, name, flags, 0600);
}

int __wrap_renameat2(int from, const char *name, int to, const char *new_name, unsigned flags)
{
    if (no_careful_rename) {
        errno = EINVAL;
        return -1;
    }
    return __real_renameat2(from, name, to, new_name, flags);
}

/* ---- what is written can be read ---- */

static void assert_same_id(const ImageId *id, const ImageId *other)
{
    assert_memory_equal(id->bytes, other->bytes, IMAGE_ID_BYTES);
}

static void test_full(void **state)
{
    Model *model = *state;
    g_autofree char *path = model_path(model, "a");
    ImageHead head = model_head(model);
    g_autoptr(ImageWriter) writer = image_writer_create(path, &head, NULL);
    g_autoptr(SavedImage) image = NULL;
    ImageWriterTotals written;
    SavedImageTotals totals;
    struct stat file;

    model_write(model, writer, 60);
    image_writer_get_totals(writer, &written);
    model_commit(writer);
    image = model_open(model, "a");
    model_assert_content(model, image);
    assert_same_id(saved_image_get_id(image), &head.id);
    assert_true(image_id_is_none(saved_image_get_base(image)));
    assert_null(saved_image_get_base_name(image));
    assert_string_equal(saved_image_get_machine(image), MODEL_MACHINE);
    assert_string_equal(saved_image_get_note(image), MODEL_NOTE);
    assert_int_equal(g_bytes_get_size(saved_image_get_state(image)), strlen(MODEL_STATE));
    assert_int_equal(saved_image_get_order(image)->len, 2);
    assert_int_equal(g_array_index(saved_image_get_order(image), ImageRun, 0).span.first, 5);
    assert_true(page_regions_are_equal(saved_image_get_regions(image), &model->regions, NULL));
    saved_image_get_totals(image, &totals);
    assert_int_equal(totals.total_pages, 3070);
    assert_int_equal(totals.extents, written.extents);
    assert_int_equal(totals.pages, written.pages);
    assert_int_equal(stat(path, &file), 0);
    assert_int_equal(file.st_mode & 07777, 0600);
    assert_int_equal(totals.file_bytes, file.st_size);
}

static void test_nothing_but_a_machine(void **state)
{
    Model *model = *state;
    g_autoptr(SavedImage) image = NULL;

    model_save(model, "a", NULL, NULL, 0);
    image = model_open(model, "a");
    model_assert_content(model, image);
}

/* Room of extents that are not needed any more is given back while more is written. */
static void test_superseded(void **state)
{
    Model *model = *state;
    g_autofree char *path = model_path(model, "a");
    g_autoptr(ImageWriter) writer = model_create(model, "a", NULL, NULL, NULL);
    g_autoptr(SavedImage) image = NULL;
    ImageWriterTotals totals;
    struct stat file;

    memset(model_page(model, 0, 0), 'a', 1024 * PAGE_BYTES);
    for (guint round = 0; round < 8; round++)
        for (guint i = 0; i < 4; i++) {
            model_page(model, 0, i * 256)[5] = (uint8_t)round;
            model_write_span(model, writer, 0, (PageSpan){i * 256, 256}, PACK_NONE);
        }
    image_writer_get_totals(writer, &totals);
    assert_int_equal(totals.pages, 1024);
    assert_int_equal(totals.extents, 4);
    assert_true(totals.freed_bytes >= 6 * 1024 * PAGE_BYTES);
    model_commit(writer);
    assert_int_equal(stat(path, &file), 0);
    assert_true(file.st_size > (off_t)(8 * 1024 * PAGE_BYTES));
    assert_true(file.st_blocks * 512 < (off_t)(3 * 1024 * PAGE_BYTES));
    image = model_open(model, "a");
    model_assert_content(model, image);
}

typedef struct {
    int from, to;
} Copy;

static gpointer copy_all(gpointer data)
{
    const Copy *copy = data;
    uint8_t bytes[4096];
    ssize_t got;

    while ((got = read(copy->from, bytes, sizeof bytes)) > 0)
        if (!fd_write_all(copy->to, bytes, (size_t)got, NULL))
            break;
    return NULL;
}

static void test_pipe(void **state)
{
    Model *model = *state;
    g_autofree char *path = model_path(model, "a");
    ImageHead head = model_head(model);
    autofd int file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    g_autoptr(ImageWriter) writer = NULL;
    g_autoptr(SavedImage) image = NULL;
    GThread *reader;
    int ends[2];
    Copy copy;

    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    /* A writer that does not block waits, too. */
    assert_int_equal(fcntl(ends[1], F_SETFL, O_NONBLOCK), 0);
    copy = (Copy){ends[0], file};
    reader = g_thread_new("copy", copy_all, &copy);
    writer = image_writer_on_fd(ends[1], &head, NULL);
    model_write(model, writer, 40);
    model_commit(writer);
    close(ends[1]);
    g_thread_join(reader);
    close(ends[0]);
    image = model_open(model, "a");
    model_assert_content(model, image);
}

static void test_broken_pipe(void **state)
{
    Model *model = *state;
    ImageHead head = model_head(model);
    g_autoptr(ImageWriter) writer = NULL;
    g_autoptr(GBytes) nothing = g_bytes_new(NULL, 0);
    const ImageTail tail = {MODEL_MACHINE, NULL, nothing};
    g_autoptr(GError) error = NULL;
    int ends[2];

    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    close(ends[0]);
    writer = image_writer_on_fd(ends[1], &head, NULL);
    assert_false(image_writer_commit(writer, &tail, FALSE, &error));
    assert_non_null(strstr(error->message, "the image's stream"));
    close(ends[1]);
}

/* ---- names ---- */

static gboolean commit(ImageWriter *writer, gboolean replace, GError **error)
{
    g_autoptr(GBytes) nothing = g_bytes_new(NULL, 0);
    const ImageTail tail = {MODEL_MACHINE, NULL, nothing};

    return image_writer_commit(writer, &tail, replace, error);
}

static void check_names(Model *model)
{
    g_autoptr(ImageWriter) first = model_create(model, "a", NULL, NULL, NULL);
    g_autoptr(ImageWriter) second = model_create(model, "a", NULL, NULL, NULL);
    g_autoptr(ImageWriter) third = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(SavedImage) image = NULL;
    ImageHead head = model_head(model);
    g_autofree char *path = model_path(model, "a");

    assert_true(commit(first, FALSE, NULL));
    assert_false(commit(second, FALSE, &error));
    assert_true(error_is(error, VMFERRY_ERROR_EXISTS));
    assert_non_null(strstr(error->message, path));
    g_clear_pointer(&first, image_writer_free);
    g_clear_pointer(&second, image_writer_free);
    assert_int_equal(model_count_files(model), 1);
    third = image_writer_create(path, &head, NULL);
    assert_true(commit(third, TRUE, NULL));
    g_clear_pointer(&third, image_writer_free);
    assert_int_equal(model_count_files(model), 1);
    image = model_open(model, "a");
    assert_same_id(saved_image_get_id(image), &head.id);
    g_unlink(path);
}

static void test_names(void **state)
{
    Model *model = *state;

    check_names(model);
    no_nameless_files = TRUE;
    check_names(model);
    no_careful_rename = TRUE;
    check_names(model);
    no_nameless_files = no_careful_rename = FALSE;
}

static void test_no_name_before(void **state)
{
    Model *model = *state;

    for (guint i = 0; i < 2; i++) {
        g_autoptr(ImageWriter) writer = NULL;

        no_nameless_files = i == 1;
        writer = model_create(model, "a", NULL, NULL, NULL);
        model_write(model, writer, 10);
        assert_int_equal(model_count_files(model), i);
        g_clear_pointer(&writer, image_writer_free);
        assert_int_equal(model_count_files(model), 0);
    }
    no_nameless_files = FALSE;
}

static void test_no_folder(void **state)
{
    Model *model = *state;
    g_autofree char *path = model_path(model, "none/a");
    ImageHead head = model_head(model);
    g_autoptr(GError) error = NULL;

    assert_null(image_writer_create(path, &head, &error));
    assert_true(error_is(error, VMFERRY_ERROR_NOT_FOUND));
    assert_non_null(strstr(error->message, model->folder));
    g_clear_error(&error);
    assert_null(image_writer_create("/tmp/", &head, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
}

/* ---- what goes wrong ---- */

static void test_no_space(void **state)
{
    Model *model = *state;
    g_autoptr(ImageWriter) writer = model_create(model, "a", NULL, NULL, NULL);
    g_autofree char *path = model_path(model, "a");
    g_autoptr(GError) error = NULL;
    struct rlimit old, less;

    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    less = (struct rlimit){150 * PAGE_BYTES, old.rlim_max};
    memset(model_page(model, 0, 0), 'a', 256 * PAGE_BYTES);
    model_write_span(model, writer, 0, (PageSpan){0, 200}, PACK_NONE);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &less), 0);
    assert_false(commit(writer, FALSE, &error));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_non_null(strstr(error->message, path));
    assert_non_null(strstr(error->message, "File too large"));
    g_clear_pointer(&writer, image_writer_free);
    assert_int_equal(model_count_files(model), 0);
}

/* A process that is killed at any time before the end leaves nothing. */
static void test_killed(void **state)
{
    Model *model = *state;
    int ends[2];
    char byte;
    pid_t child;
    int status;

    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    child = fork();
    if (child == 0) {
        ImageWriter *writer = model_create(model, "a", NULL, NULL, NULL);

        model_write(model, writer, 20);
        if (write(ends[1], "w", 1) == 1)
            pause();
        _exit(1);
    }
    assert_int_equal(read(ends[0], &byte, 1), 1);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(model_count_files(model), 0);
    close(ends[0]);
    close(ends[1]);
}

/* ---- what is not taken ---- */

static void refuse_frame(ImageWriter *writer, FrameType type, const void *bytes, size_t length,
                         const char *words)
{
    const Frame frame = {type, (uint32_t)length, bytes};
    g_autoptr(GError) error = NULL;

    assert_false(image_writer_add_frame(writer, &frame, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    if (!strstr(error->message, words))
        fail_msg("%s", error->message);
}

static void refuse_pages(ImageWriter *writer, guint region, const PageSpan *runs, guint count,
                         PackMethod method, size_t length)
{
    g_autofree uint8_t *bytes = g_malloc0(2 * IMAGE_MAX_EXTENT_BYTES);
    g_autoptr(GError) error = NULL;

    assert_false(
        image_writer_add_pages(writer, region, runs, count, method, bytes, length, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
}

static void test_refused_pages(void **state)
{
    Model *model = *state;
    g_autoptr(ImageWriter) writer = model_create(model, "a", NULL, NULL, NULL);
    const PageSpan beyond = {2999, 2}, many = {0, 257}, twice[] = {{5, 2}, {6, 1}};
    const PageSpan one = {7, 1}, none = {7, 0};
    const ImageRun bad_order[] = {{0, {3000, 1}}, {2, {0, 1}}, {0, {1, 0}}};
    uint8_t frame[8] = {9};

    refuse_frame(writer, FRAME_SEGMENTS, frame, sizeof frame, "takes no SEGMENTS");
    refuse_frame(writer, FRAME_PAGES, frame, sizeof frame, "cut short");
    refuse_pages(writer, 0, &beyond, 1, PACK_NONE, 2 * PAGE_BYTES);
    refuse_pages(writer, 2, &one, 1, PACK_NONE, PAGE_BYTES);
    refuse_pages(writer, 0, &many, 1, PACK_NONE, 257 * PAGE_BYTES);
    refuse_pages(writer, 0, twice, 2, PACK_NONE, 3 * PAGE_BYTES);
    refuse_pages(writer, 0, &none, 1, PACK_NONE, 0);
    refuse_pages(writer, 0, NULL, 0, PACK_NONE, 0);
    refuse_pages(writer, 0, &one, 1, PACK_NONE, PAGE_BYTES - 1);
    refuse_pages(writer, 0, &one, 1, PACK_ZSTD, PAGE_BYTES + 1);
    refuse_pages(writer, 0, &one, 1, PACK_LZ4, 0);
    assert_false(image_writer_add_zero(writer, 0, beyond, NULL));
    for (guint i = 0; i < G_N_ELEMENTS(bad_order); i++)
        assert_false(image_writer_set_order(writer, &bad_order[i], 1, NULL));
}

static void test_refused_heads(void **state)
{
    Model *model = *state;
    g_autofree char *path = model_path(model, "a");
    g_autoptr(GBytes) short_key = g_bytes_new("0123456789abcde", 15);
    uint64_t empty_pages[] = {10, 0}, huge_pages[] = {IMAGE_MAX_PAGES, 1};
    char *names[] = {(char *)"pc.ram", (char *)"a\nb"};
    const PageRegions regions[] = {
        {2, empty_pages, model->regions.names},
        {2, huge_pages, model->regions.names},
        {2, model->regions.pages, names},
        {0, NULL, NULL},
    };
    ImageHead head = model_head(model);

    for (guint i = 0; i < G_N_ELEMENTS(regions); i++) {
        head.regions = &regions[i];
        assert_null(image_writer_create(path, &head, NULL));
    }
    head.regions = &model->regions;
    head.key = short_key;
    assert_null(image_writer_create(path, &head, NULL));
    head.key = NULL;
    head.base_name = "b"; /* without an id */
    assert_null(image_writer_create(path, &head, NULL));
    assert_true(image_id_make(&head.base, NULL));
    head.base_name = "folder/b";
    assert_null(image_writer_create(path, &head, NULL));
    head = (ImageHead){.regions = &model->regions};
    assert_null(image_writer_create(path, &head, NULL));
    assert_int_equal(model_count_files(model), 0);
}

static void test_refused_tails(void **state)
{
    Model *model = *state;
    g_autoptr(ImageWriter) writer = model_create(model, "a", NULL, NULL, NULL);
    g_autofree uint8_t *bytes = g_malloc0(IMAGE_MAX_STATE_BYTES + 1);
    g_autoptr(GBytes) nothing = g_bytes_new(NULL, 0);
    g_autoptr(GBytes) much = g_bytes_new(bytes, IMAGE_MAX_STATE_BYTES + 1);
    const ImageTail tails[] = {
        {"no object", NULL, nothing}, {MODEL_MACHINE, "[1]", nothing}, {MODEL_MACHINE, NULL, much}};

    for (guint i = 0; i < G_N_ELEMENTS(tails); i++) {
        g_autoptr(GError) error = NULL;

        assert_false(image_writer_commit(writer, &tails[i], FALSE, &error));
        assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    }
    assert_int_equal(model_count_files(model), 0);
}

int main(void)
{
#define scene(function) cmocka_unit_test_setup_teardown(function, model_setup, model_teardown)
    const struct CMUnitTest tests[] = {
        scene(test_full),           scene(test_nothing_but_a_machine),
        scene(test_superseded),     scene(test_pipe),
        scene(test_broken_pipe),    scene(test_names),
        scene(test_no_name_before), scene(test_no_folder),
        scene(test_no_space),       scene(test_killed),
        scene(test_refused_pages),  scene(test_refused_heads),
        scene(test_refused_tails),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
