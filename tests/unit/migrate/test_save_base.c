/* What may be the base of a new image, and what it tells of disks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <glib/gstdio.h>
#include <string.h>

#include "base/error.h"
#include "image/image_writer.h"
#include "migrate/replaced_copies.h"
#include "migrate/save_base.h"
#include "migrate/saved_disks.h"

#define GUEST_ID "0123456789abcdef0123456789abcdef"
#define DISK                                                                                       \
    "{\"id\":\"disk0\",\"device\":\"virtio-blk\",\"read_only\":false,\"format\":\"qcow2\","        \
    "\"bytes\":1048576,\"files\":[{\"file\":\"/srv/d\",\"format\":\"qcow2\",\"file_bytes\":1,"     \
    "\"mtime_ns\":0}],"
#define NOTE(disks)                                                                                \
    "{\"guest\":\"web1\",\"guest_id\":\"" GUEST_ID "\",\"host\":\"hostA\",\"disks\":[" disks "]}"

static uint64_t pages[] = {100, 8};
static char *names[] = {(char *)"pc.ram", (char *)"vga.vram", NULL};
static const PageRegions regions = {2, pages, names};

/* ---- images ---- */

static int setup(void **state)
{
    *state = g_dir_make_tmp("vmferry-base-XXXXXX", NULL);
    return *state == NULL;
}

static int teardown(void **state)
{
    g_autofree char *folder = *state;
    g_autoptr(GDir) entries = g_dir_open(folder, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(entries))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);

        if (g_unlink(path) < 0)
            g_rmdir(path);
    }
    g_rmdir(folder);
    return 0;
}

/* Free with g_free(). */
static char *make(const char *folder, const char *name, const ImageId *base, const char *base_name,
                  const char *note)
{
    char *path = g_build_filename(folder, name, NULL);
    g_autoptr(GBytes) device_state = g_bytes_new("s", 1);
    ImageHead head = {.base_name = base_name, .regions = &regions};
    const ImageTail tail = {"{}", note, device_state};
    g_autoptr(ImageWriter) writer = NULL;

    assert_true(image_id_make(&head.id, NULL));
    if (base)
        head.base = *base;
    writer = image_writer_create(path, &head, NULL);
    assert_true(image_writer_commit(writer, &tail, FALSE, NULL));
    return path;
}

static SavedImage *open_base(const char *base, const char *image)
{
    g_autoptr(GError) error = NULL;
    SavedImage *opened = save_base_open(base, image, &error);

    if (!opened)
        fail_msg("%s", error->message);
    return opened;
}

static void expect(GError *error, VmferryErrorCode code, const char *words)
{
    if (!error_is(error, code) || !strstr(error->message, words))
        fail_msg("error %d: \"%s\"; wanted %d, \"%s\"", error->code, error->message, code, words);
    g_error_free(error);
}

/* ---- opening ---- */

static void test_place(void **state)
{
    const char *folder = *state;
    g_autofree char *base = make(folder, "a", NULL, NULL, NOTE(""));
    g_autofree char *below = g_build_filename(folder, "below", NULL);
    g_autofree char *elsewhere = g_build_filename(below, "new", NULL);
    g_autofree char *nowhere = g_build_filename(folder, "no", "new", NULL);
    g_autofree char *new = g_build_filename(folder, "new", NULL);
    g_autoptr(SavedImage) opened = open_base(base, new);
    GError *error = NULL;

    assert_int_equal(g_mkdir(below, 0700), 0);
    assert_null(save_base_open(base, elsewhere, &error));
    expect(error, VMFERRY_ERROR_REFUSED, "is not in the folder of the image");
    error = NULL;
    assert_null(save_base_open(base, nowhere, &error));
    expect(error, VMFERRY_ERROR_NOT_FOUND, "/no");
    error = NULL;
    assert_null(save_base_open(new, base, &error));
    expect(error, VMFERRY_ERROR_NOT_FOUND, "base: ");
}

/* No file of the chain goes for the new image. */
static void test_would_replace_its_base(void **state)
{
    const char *folder = *state;
    g_autofree char *a = make(folder, "a", NULL, NULL, NOTE(""));
    g_autoptr(SavedImage) opened = saved_image_open(a, NULL, NULL);
    g_autofree char *b = make(folder, "b", saved_image_get_id(opened), "a", NOTE(""));
    GError *error = NULL;

    assert_null(save_base_open(b, b, &error));
    expect(error, VMFERRY_ERROR_REFUSED, "cannot be replaced");
    error = NULL;
    assert_null(save_base_open(b, a, &error));
    expect(error, VMFERRY_ERROR_REFUSED, "cannot be replaced");
}

static void test_long_chain(void **state)
{
    const char *folder = *state;
    g_autofree char *below = NULL, *new = g_build_filename(folder, "new", NULL);
    g_autofree char *below_name = NULL;
    ImageId id = {0};
    GError *error = NULL;

    for (guint i = 0; i < SAVED_IMAGE_MAX_CHAIN; i++) {
        g_autofree char *name = g_strdup_printf("%u", i);
        char *path = make(folder, name, i > 0 ? &id : NULL, below_name, NOTE(""));
        const SavedImageOptions alone = {.alone = TRUE};
        g_autoptr(SavedImage) opened = saved_image_open(path, &alone, NULL);

        id = *saved_image_get_id(opened);
        g_free(below_name);
        below_name = g_steal_pointer(&name);
        g_free(below);
        below = path;
        if (i == SAVED_IMAGE_MAX_CHAIN - 2) {
            g_autoptr(SavedImage) last = open_base(path, new);

            assert_non_null(last);
        }
    }
    assert_null(save_base_open(below, new, &error));
    expect(error, VMFERRY_ERROR_REFUSED, "the 64th of a chain");
}

/* ---- whose it is ---- */

static void test_guest(void **state)
{
    const char *folder = *state, *other = "ffffffffffffffffffffffffffffffff";
    g_autofree char *path = make(folder, "a", NULL, NULL, NOTE(""));
    g_autofree char *new = g_build_filename(folder, "new", NULL);
    g_autoptr(SavedImage) base = open_base(path, new);
    uint64_t more[] = {101, 8};
    const PageRegions larger = {2, more, names};
    GError *error = NULL;

    assert_true(save_base_check_guest(base, GUEST_ID, "web1", &regions, NULL));
    assert_true(save_base_check_guest(base, GUEST_ID, "renamed", &regions, NULL));
    assert_true(save_base_check_guest(base, other, "web1", &regions, NULL));
    assert_false(save_base_check_guest(base, other, "web2", &regions, &error));
    expect(error, VMFERRY_ERROR_REFUSED, "is of another guest (web1 on hostA)");
    error = NULL;
    assert_false(save_base_check_guest(base, GUEST_ID, "web1", &larger, &error));
    expect(error, VMFERRY_ERROR_REFUSED, "other memory: ");
}

static void test_no_note(void **state)
{
    const char *folder = *state;
    g_autofree char *path = make(folder, "a", NULL, NULL, NULL);
    g_autofree char *new = g_build_filename(folder, "new", NULL);
    g_autoptr(SavedImage) base = open_base(path, new);
    g_auto(SaveBaseMessage) message = {0};
    GError *error = NULL;

    assert_false(save_base_check_guest(base, GUEST_ID, "web1", &regions, &error));
    expect(error, VMFERRY_ERROR_REFUSED, "does not say of which guest");
    error = NULL;
    assert_false(save_base_describe(base, &message, &error));
    expect(error, VMFERRY_ERROR_REFUSED, "does not say of which guest");
}

/* ---- disks ---- */

static void touch(const char *folder, const char *name)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);

    assert_true(g_file_set_contents(path, "", 0, NULL));
}

static void test_disks(void **state)
{
    const char *folder = *state;
    g_autofree char *path = make(
        folder, "b", NULL, NULL,
        NOTE(DISK
             "\"saved\":\"b.disk0\",\"backing\":[\"a.disk0\"],\"bitmap\":\"vmferry-saved-1\"}"));
    g_autofree char *new = g_build_filename(folder, "new", NULL);
    g_autoptr(SavedImage) base = open_base(path, new);
    g_auto(SaveBaseMessage) message = {0}, none = {0};

    touch(folder, "b.disk0");
    assert_true(save_base_describe(base, &none, NULL));
    assert_int_equal(none.disk_count, 0); /* a file below its copy is not there */
    touch(folder, "a.disk0");
    assert_true(save_base_describe(base, &message, NULL));
    assert_int_equal(message.disk_count, 1);
    assert_string_equal(message.disks[0].saved, "b.disk0");
    assert_string_equal(message.disks[0].backing[0], "a.disk0");
    assert_string_equal(message.disks[0].bitmap, "vmferry-saved-1");
    assert_int_equal(message.disks[0].bytes, 1048576);
}

static void assert_there(const char *folder, const char *name, gboolean there)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);

    assert_int_equal(g_file_test(path, G_FILE_TEST_EXISTS), there);
}

/* When an image is replaced its copies go; not those that another image needs, nor anything else that it names. */
static void test_replaced(void **state)
{
    const char *folder = *state;
    g_autofree char *image =
        make(folder, "r", NULL, NULL,
             NOTE(DISK "\"saved\":\"r.0123abcd.disk0\"}," DISK
                       "\"saved\":\"r.0123abcd.disk1\",\"backing\":[\"r.ffffffff.disk1\"]}," DISK
                       "\"saved\":\"precious\"}," DISK "\"saved\":\"r.0123abcd.disk1x\"}"));
    g_autofree char *other =
        make(folder, "other", NULL, NULL,
             NOTE(DISK "\"saved\":\"other.01234567.disk1\",\"backing\":[\"r.0123abcd.disk1\"]}"));
    g_autoptr(GPtrArray) copies = replaced_copies_find(image);
    static const char *const files[] = {"r.0123abcd.disk0", "r.0123abcd.disk1", "r.ffffffff.disk1",
                                        "precious", "r.0123abcd.disk1x"};

    assert_int_equal(copies->len, 3);
    for (guint i = 0; i < G_N_ELEMENTS(files); i++)
        touch(folder, files[i]);
    /* As long as it is there itself nothing goes. */
    replaced_copies_remove(image, copies);
    for (guint i = 0; i < G_N_ELEMENTS(files); i++)
        assert_there(folder, files[i], TRUE);
    unlink(image);
    replaced_copies_remove(image, copies);
    assert_there(folder, files[0], FALSE);
    assert_there(folder, files[1], TRUE);
    assert_there(folder, files[2], FALSE);
    assert_there(folder, files[3], TRUE);
    assert_there(folder, files[4], TRUE);
    unlink(other);
}

/* An image that cannot be read may need any of them. */
static void test_replaced_beside_damage(void **state)
{
    const char *folder = *state;
    g_autofree char *image =
        make(folder, "d", NULL, NULL, NOTE(DISK "\"saved\":\"d.0123abcd.disk0\"}"));
    g_autofree char *damaged = g_build_filename(folder, "damaged", NULL);
    g_autoptr(GPtrArray) copies = replaced_copies_find(image);

    assert_int_equal(copies->len, 1);
    unlink(image);
    touch(folder, "d.0123abcd.disk0");
    assert_true(g_file_set_contents(damaged, IMAGE_MAGIC "and no more", -1, NULL));
    replaced_copies_remove(image, copies);
    assert_there(folder, "d.0123abcd.disk0", TRUE);
    unlink(damaged);
    replaced_copies_remove(image, copies);
    assert_there(folder, "d.0123abcd.disk0", FALSE);
}

static void check_bad_disk(const char *rest, const char *words)
{
    g_autofree char *text = g_strconcat("{\"disks\":[" DISK, rest, "}]}", NULL);
    g_autoptr(json_t) note = json_loads(text, 0, NULL);
    GError *error = NULL;

    assert_non_null(note);
    assert_null(saved_disks_read(note, &error));
    expect(error, VMFERRY_ERROR_INVALID, words);
}

static void test_bad_notes(void **state)
{
    g_autoptr(GString) many = g_string_new("\"saved\":\"a\",\"backing\":[\"b\"");

    for (guint i = 0; i < SAVED_DISK_MAX_BACKING; i++)
        g_string_append(many, ",\"b\"");
    g_string_append(many, "]");
    check_bad_disk("\"saved\":\"../a\"", "disk 0: \"saved\" is not a valid name");
    check_bad_disk("\"saved\":\"a\",\"backing\":[\"/etc/passwd\"]",
                   "\"backing\" is not a valid name");
    check_bad_disk("\"saved\":\"a\",\"backing\":[\"..\"]", "\"backing\" is not a valid name");
    check_bad_disk("\"saved\":\"a\",\"backing\":[1]", "\"backing\" is not a valid name");
    check_bad_disk("\"saved\":\"a\",\"backing\":\"b\"", "backing");
    check_bad_disk("\"saved\":\"a\",\"bitmap\":7", "bitmap");
    check_bad_disk("\"saved\":\"a\",\"saved_format\":\"vmdk\"", "neither raw nor qcow2");
    check_bad_disk(many->str, "backing");
}

int main(void)
{
#define scene(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
    const struct CMUnitTest tests[] = {
        scene(test_place),
        scene(test_would_replace_its_base),
        scene(test_long_chain),
        scene(test_guest),
        scene(test_no_note),
        scene(test_disks),
        scene(test_replaced),
        scene(test_replaced_beside_damage),
        cmocka_unit_test(test_bad_notes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
