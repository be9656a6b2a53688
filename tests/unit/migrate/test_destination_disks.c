/* Disks at their destination: what is made, replaced, completed and undone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "loopback.h"
#include "migrate/destination_move.h"
#include "session_pair.h"
#include "wire/disk_frame.h"

#define TRANSACTION "0123456789abcdef0123456789abcdef"
#define TIMEOUT_MS 10000
#define FILE_BYTES 8192

/* A storage process that has no images; each one that is made is of "image" as content. */
typedef struct {
    VmmStorage base;
    GHashTable *open;
    pid_t pid;
} FakeStorage;

typedef struct {
    char *folder;
    SessionPair pair;
    FakeStorage storage;
    MigrateDestinationHost host;
    DestinationMove move;
    Frame frame; /* DISKS, as it came */
    guint notes, forgotten;
    GThread *thread;
    GError *error; /* of taking the disks */
} Place;

/* ---- the storage ---- */

static gboolean create_image(VmmStorage *base, const VmmImageRequest *request, GError **error)
{
    return g_file_set_contents(request->path, "image", -1, error);
}

static gboolean open_image(VmmStorage *base, const char *name, const char *path, const char *format,
                           gboolean writable, GError **error)
{
    g_hash_table_add(((FakeStorage *)base)->open, g_strdup(name));
    return TRUE;
}

static gboolean close_image(VmmStorage *base, const char *name, GError **error)
{
    if (g_hash_table_remove(((FakeStorage *)base)->open, name))
        return TRUE;
    error_set(error, VMFERRY_ERROR_NOT_FOUND, "there is no export of this name");
    return FALSE;
}

static pid_t get_pid(VmmStorage *base)
{
    return ((FakeStorage *)base)->pid;
}

static char *get_socket(VmmStorage *base)
{
    return g_strdup("/nowhere");
}

static void kill_storage(VmmStorage *base)
{
    kill(((FakeStorage *)base)->pid, SIGKILL);
}

static void free_storage(VmmStorage *base)
{
    FakeStorage *storage = (FakeStorage *)base;

    kill(storage->pid, SIGKILL);
    waitpid(storage->pid, NULL, 0);
    g_hash_table_unref(storage->open);
}

static const VmmStorageOps storage_ops = {
    .free = free_storage,
    .get_pid = get_pid,
    .kill = kill_storage,
    .create = create_image,
    .open = open_image,
    .get_socket = get_socket,
    .close = close_image,
};

/* ---- the host ---- */

/* "m/" is another name of "d/". */
static char *on_map(const char *text, gpointer user)
{
    return strncmp(text, "m/", 2) == 0 ? g_strconcat("d/", text + 2, NULL) : g_strdup(text);
}

static VmmStorage *on_open_storage(const DisksMessage *disks, gpointer user, GError **error)
{
    Place *place = user;
    pid_t pid = fork();

    if (pid == 0) {
        execlp("sleep", "sleep", "100", NULL);
        _exit(1);
    }
    place->storage.base.ops = &storage_ops;
    place->storage.pid = pid;
    place->storage.open = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    return &place->storage.base;
}

static void on_close_storage(VmmStorage *storage, gpointer user)
{
    vmm_storage_free(storage);
}

static gboolean on_note_files(const char *transaction, json_t *files, gpointer user, GError **error)
{
    Place *place = user;

    assert_string_equal(transaction, TRANSACTION);
    if (files)
        place->notes++;
    else
        place->forgotten++;
    return TRUE;
}

static gboolean on_begin(const char *guest, gpointer user, GError **error)
{
    return TRUE;
}

/* ---- the place ---- */

static int set_up(void **state)
{
    Place *place = g_new0(Place, 1);
    g_autofree char *sub = NULL;

    place->folder = folder_new();
    sub = g_build_filename(place->folder, "d", NULL);
    assert_int_equal(mkdir(sub, 0700), 0);
    session_pair_open(&place->pair, TRAFFIC_DISK);
    place->host = (MigrateDestinationHost){
        .begin = on_begin,
        .map = on_map,
        .open_storage = on_open_storage,
        .close_storage = on_close_storage,
        .note_files = on_note_files,
        .user = place,
    };
    place->move = (DestinationMove){.session = place->pair.server, .host = &place->host};
    *state = place;
    return 0;
}

static int tear_down(void **state)
{
    Place *place = *state;

    destination_disks_free(place->move.disks);
    session_pair_close(&place->pair);
    g_clear_error(&place->error);
    folder_remove(place->folder);
    g_free(place);
    return 0;
}

static void write_here(Place *place, const char *name, const char *text)
{
    g_autofree char *path = g_build_filename(place->folder, name, NULL);

    assert_true(g_file_set_contents(path, text, -1, NULL));
}

static void assert_here(Place *place, const char *name, const char *expected)
{
    g_autofree char *path = g_build_filename(place->folder, name, NULL);
    g_autofree char *text = NULL;

    if (!expected) {
        assert_int_equal(access(path, F_OK), -1);
        return;
    }
    assert_true(g_file_get_contents(path, &text, NULL, NULL));
    assert_string_equal(text, expected);
}

/* Nothing but these is there. */
static void assert_files(Place *place, guint count)
{
    g_autofree char *sub = g_build_filename(place->folder, "d", NULL);
    GDir *folder = g_dir_open(sub, 0, NULL);
    guint found = 0;

    while (g_dir_read_name(folder))
        found++;
    g_dir_close(folder);
    assert_int_equal(found, count);
}

/* ---- taking them ---- */

typedef struct {
    const char *path;
    DiskMake make;
} Wanted;

static char *encode_disks(Place *place, const Wanted *wanted, guint count, gboolean overwrite)
{
    g_autoptr(ProcessIdentity) process = process_identity_read(getpid(), NULL, NULL);
    g_autofree WireDiskFile *files = g_new0(WireDiskFile, count);
    DisksMessage message = {
        .transaction = (char *)TRANSACTION,
        .guest = (char *)"web1",
        .vmm_kind = (char *)"qemu",
        .program = (char *)"qemu",
        .working_directory = place->folder,
        .process = process,
        .overwrite = overwrite,
        .files = files,
        .file_count = count,
    };

    for (guint i = 0; i < count; i++)
        files[i] = (WireDiskFile){.path = (char *)wanted[i].path,
                                  .format = (char *)"raw",
                                  .bytes = FILE_BYTES,
                                  .file_bytes = FILE_BYTES,
                                  .mode = 0640};
    return disks_message_encode(&message);
}

static gpointer take(gpointer data)
{
    Place *place = data;

    if (!destination_take_disks(&place->move, &place->frame, &place->error))
        session_send_error(place->pair.server, place->error);
    return NULL;
}

/* TRUE where they were made. */
static gboolean offer(Place *place, const Wanted *wanted, guint count, gboolean overwrite)
{
    g_autofree char *disks = encode_disks(place, wanted, count, overwrite);
    g_autofree DiskMake *makes = g_new0(DiskMake, count);
    g_autofree char *text = NULL;
    gboolean made;
    Frame frame;

    for (guint i = 0; i < count; i++)
        makes[i] = wanted[i].make;
    text = disks_make_message_encode(makes, count);
    place->frame = (Frame){FRAME_DISKS, (uint32_t)strlen(disks), (uint8_t *)disks};
    place->thread = g_thread_new("take", take, place);
    made = session_expect(place->pair.client, FRAME_DISKS_SEEN, TIMEOUT_MS, &frame, NULL) &&
           session_send_bytes(place->pair.client, FRAME_DISKS_MAKE, text, strlen(text), NULL) &&
           session_expect(place->pair.client, FRAME_DISKS_MADE, TIMEOUT_MS, &frame, NULL);
    g_thread_join(place->thread);
    assert_int_equal(made, place->error == NULL);
    return made;
}

static void send_content(Place *place, guint number, const char *text)
{
    uint8_t head[FRAME_DISK_WRITE_HEAD_BYTES];
    DiskWrite write = {number, DISK_PACKING_NONE, (uint32_t)strlen(text), 0, NULL, 0};
    struct iovec payload[] = {{head, sizeof head}, {(void *)text, strlen(text)}};

    disk_write_encode_head(&write, head);
    assert_true(session_send(place->pair.client, FRAME_DISK_WRITE, payload, 2, NULL));
}

static void send_last_flush(Place *place)
{
    uint8_t payload[FRAME_DISK_FLUSH_BYTES];

    disk_flush_encode(&(DiskFlush){1, TRUE}, payload);
    assert_true(
        session_send_bytes(place->pair.client, FRAME_DISK_FLUSH, payload, sizeof payload, NULL));
}

static void complete(Place *place)
{
    g_autoptr(GError) error = NULL;

    send_last_flush(place);
    if (!destination_complete_disks(&place->move, &error))
        fail_msg("%s", error->message);
}

/* ---- tests ---- */

static void test_made_and_kept(void **state)
{
    static const Wanted wanted[] = {{"d/base", DISK_MAKE_FILE}, {"d/other", DISK_MAKE_NOTHING}};
    Place *place = *state;

    assert_true(offer(place, wanted, 2, FALSE));
    send_content(place, 0, "content");
    complete(place);
    destination_keep_disks(&place->move);
    assert_files(place, 1);
    assert_here(place, "d/base", "content"); /* as a text ends at a NUL */
    assert_true(place->notes == 1 && place->forgotten == 1);
}

/* Nothing at all was written to it. */
static void test_an_empty_image_is_complete(void **state)
{
    static const Wanted wanted[] = {{"d/blank", DISK_MAKE_IMAGE}};
    Place *place = *state;

    assert_true(offer(place, wanted, 1, FALSE));
    complete(place);
    destination_keep_disks(&place->move);
    assert_here(place, "d/blank", "image");
}

static void test_incomplete(void **state)
{
    static const Wanted wanted[] = {{"d/base", DISK_MAKE_FILE}};
    Place *place = *state;
    g_autoptr(GError) error = NULL;

    assert_true(offer(place, wanted, 1, FALSE));
    send_content(place, 0, "content");
    assert_false(destination_complete_disks(&place->move, &error));
    assert_non_null(strstr(error->message, "not complete"));
    destination_undo_disks(&place->move);
    assert_files(place, 0);
    assert_int_equal(place->forgotten, 1);
}

static void test_what_is_there_is_left_alone(void **state)
{
    static const Wanted wanted[] = {{"d/new", DISK_MAKE_FILE}, {"d/there", DISK_MAKE_FILE}};
    Place *place = *state;

    write_here(place, "d/there", "theirs");
    assert_false(offer(place, wanted, 2, FALSE));
    assert_true(error_is(place->error, VMFERRY_ERROR_EXISTS));
    destination_undo_disks(&place->move);
    assert_files(place, 1);
    assert_here(place, "d/there", "theirs");
    assert_int_equal(place->notes, 0);
}

static void test_what_is_replaced_comes_back(void **state)
{
    static const Wanted wanted[] = {{"d/new", DISK_MAKE_FILE}, {"d/there", DISK_MAKE_FILE}};
    Place *place = *state;

    write_here(place, "d/there", "theirs");
    assert_true(offer(place, wanted, 2, TRUE));
    assert_here(place, "d/there.replaced-01234567", "theirs");
    send_content(place, 1, "ours");
    destination_undo_disks(&place->move);
    assert_files(place, 1);
    assert_here(place, "d/there", "theirs");
}

static void test_what_is_replaced_goes(void **state)
{
    static const Wanted wanted[] = {{"d/there", DISK_MAKE_FILE}};
    Place *place = *state;

    write_here(place, "d/there", "theirs");
    assert_true(offer(place, wanted, 1, TRUE));
    send_content(place, 0, "ours");
    complete(place);
    destination_keep_disks(&place->move);
    assert_files(place, 1);
    assert_here(place, "d/there", "ours");
}

/* Names of one file, by our rules or by themselves: what is there must not be lost. */
static void test_one_place_twice(void **state)
{
    static const Wanted wanted[][2] = {
        {{"d/there", DISK_MAKE_FILE}, {"m/there", DISK_MAKE_FILE}},
        {{"d/there", DISK_MAKE_FILE}, {"d/./there", DISK_MAKE_IMAGE}},
    };
    Place *place = *state;

    for (guint overwrite = 0; overwrite < 2; overwrite++) {
        for (guint i = 0; i < G_N_ELEMENTS(wanted); i++) {
            if (overwrite)
                write_here(place, "d/there", "theirs");
            assert_false(offer(place, wanted[i], 2, overwrite == 1));
            destination_undo_disks(&place->move);
            assert_files(place, overwrite);
            assert_here(place, "d/there", overwrite ? "theirs" : NULL);
            g_clear_error(&place->error);
            g_clear_pointer(&place->move.disks, destination_disks_free);
        }
    }
}

static void test_not_in_place_of_a_folder(void **state)
{
    static const Wanted wanted[] = {{"d", DISK_MAKE_FILE}};
    Place *place = *state;

    assert_false(offer(place, wanted, 1, TRUE));
    assert_true(error_is(place->error, VMFERRY_ERROR_UNSUPPORTED));
    destination_undo_disks(&place->move);
    assert_files(place, 0);
}

static void test_content_of_what_was_not_made(void **state)
{
    static const Wanted wanted[] = {{"d/base", DISK_MAKE_FILE}, {"d/other", DISK_MAKE_NOTHING}};
    Place *place = *state;
    g_autoptr(GError) error = NULL;

    assert_true(offer(place, wanted, 2, FALSE));
    send_content(place, 1, "content");
    send_last_flush(place);
    assert_false(destination_complete_disks(&place->move, &error));
    assert_non_null(strstr(error->message, "was not to be made"));
    assert_false(destination_check_disks(&place->move, NULL));
    destination_undo_disks(&place->move);
    assert_files(place, 0);
}

#define AT_PLACE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        AT_PLACE(test_made_and_kept),
        AT_PLACE(test_an_empty_image_is_complete),
        AT_PLACE(test_incomplete),
        AT_PLACE(test_what_is_there_is_left_alone),
        AT_PLACE(test_what_is_replaced_comes_back),
        AT_PLACE(test_what_is_replaced_goes),
        AT_PLACE(test_one_place_twice),
        AT_PLACE(test_not_in_place_of_a_folder),
        AT_PLACE(test_content_of_what_was_not_made),
    };

    alarm(TEST_DEADLINE_S);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
