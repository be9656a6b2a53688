#include "agent/restored_disks.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/made_files.h"
#include "agent/recovery_private.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/name.h"
#include "disk/export_reader.h"
#include "vmm/vmm_driver.h"

#define FOLDER_NAME "restored"
#define FLATTEN_NAME "saved"
#define COPY_BYTES ((size_t)8 << 20)

struct RestoredDisks {
    AgentContext *context;
    const ImageRestore *restore;
    char *folder, *saved_folder; /* of the guest's own; of the image */
    uid_t uid;
    gid_t gid;
    RecoveryStorage *storage; /* NULL until it is needed */
    GPtrArray *made;          /* paths */
    char *transaction;        /* that their record is of */
    json_t *noted;            /* that record */
    GPtrArray *texts;         /* that rules borrow */
    GPtrArray *rules;         /* of VmmMapRule: from the saved guest's disks to its own */
};

/* ---- who owns them, and where ---- */

static gboolean find_owner(RestoredDisks *disks, GError **error)
{
    const ProcessIdentity *process = image_restore_get_machine(disks->restore)->process;
    uint32_t uid = process->user.id, gid = process->group.id;

    if ((process->user.name && !identity_find_user(process->user.name, &uid)) ||
        (process->group.name && !identity_find_group(process->group.name, &gid))) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "there is no user %s or no group %s here",
                  process->user.name, process->group.name);
        return FALSE;
    }
    disks->uid = uid;
    disks->gid = gid;
    return TRUE;
}

/* The guest's VMM, whoever runs it, must get through. */
static gboolean make_folder(RestoredDisks *disks, const char *wanted, GError **error)
{
    disks->folder = wanted
                        ? g_strdup(wanted)
                        : g_build_filename(disks->context->settings->state_dir, FOLDER_NAME, NULL);
    if (g_file_test(disks->folder, G_FILE_TEST_IS_DIR))
        return TRUE;
    if (wanted) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "there is no folder %s", wanted);
        return FALSE;
    }
    if (mkdir(disks->folder, 0711) == 0 || errno == EEXIST)
        return TRUE;
    error_set_errno(error, errno, "make %s", disks->folder);
    return FALSE;
}

/* ---- one of its own ---- */

/* A restarted agent removes what belongs to nobody yet. */
static gboolean note_file(RestoredDisks *disks, const char *path, GError **error)
{
    struct stat info;

    if (lstat(path, &info) == 0) {
        error_set(error, VMFERRY_ERROR_EXISTS, "%s exists", path);
        return FALSE;
    }
    json_array_append_new(disks->noted, json_pack("{s:s, s:n}", "path", path, "set_aside"));
    return made_files_note(disks->context->store, disks->transaction, disks->noted, error);
}

static int make_file(RestoredDisks *disks, const char *path, GError **error)
{
    autofd int fd = -1;

    if (!note_file(disks, path, error))
        return -1;
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0) {
        error_set_errno(error, errno, "%s", path);
        return -1;
    }
    g_ptr_array_add(disks->made, g_strdup(path));
    if (fchown(fd, disks->uid, disks->gid) == 0)
        return fd_steal(&fd);
    error_set_errno(error, errno, "%s", path);
    return -1;
}

static gboolean copy_run(int from, int to, off_t at, off_t end)
{
    while (at < end) {
        off_t in = at, out = at;
        ssize_t came = copy_file_range(from, &in, to, &out, MIN((size_t)(end - at), COPY_BYTES), 0);

        if (came < 0 && errno == EINTR)
            continue;
        if (came == 0)
            errno = ENODATA;
        if (came <= 0)
            return FALSE;
        at += came;
    }
    return TRUE;
}

/* Holes stay holes. */
static gboolean copy_data(int from, int to, off_t bytes)
{
    off_t at = 0;

    if (ftruncate(to, bytes) < 0)
        return FALSE;
    for (;;) {
        off_t data = lseek(from, at, SEEK_DATA), end;

        if (data < 0)
            return errno == ENXIO;
        end = lseek(from, data, SEEK_HOLE);
        if (end < 0 || !copy_run(from, to, data, end))
            return FALSE;
        at = end;
    }
}

static gboolean copy_raw(RestoredDisks *disks, const char *saved, const char *path, GError **error)
{
    autofd int from = open(saved, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    autofd int to = from < 0 ? -1 : make_file(disks, path, error);
    struct stat info;

    if (from < 0) {
        error_set_errno(error, errno, "%s", saved);
        return FALSE;
    }
    if (to < 0)
        return FALSE;
    if (ioctl(to, FICLONE, from) == 0 ||
        (fstat(from, &info) == 0 && copy_data(from, to, info.st_size)))
        return TRUE;
    error_set_errno(error, errno, "copy %s to %s", saved, path);
    return FALSE;
}

static VmmStorage *get_storage(RestoredDisks *disks, const GPtrArray *rules, GError **error)
{
    if (!disks->storage)
        disks->storage = recovery_storage_open(
            disks->context, image_restore_get_machine(disks->restore), rules, error);
    return disks->storage ? recovery_storage_get(disks->storage) : NULL;
}

static gboolean write_piece(uint64_t offset, const uint8_t *data, size_t length, gpointer user,
                            GError **error)
{
    const int *fd = user;

    while (length > 0) {
        ssize_t wrote = pwrite(*fd, data, length, (off_t)offset);

        if (wrote < 0 && errno != EINTR) {
            error_set_errno(error, errno, "write");
            return FALSE;
        }
        if (wrote <= 0)
            continue;
        offset += (uint64_t)wrote;
        data += wrote;
        length -= (size_t)wrote;
    }
    return TRUE;
}

/* What a copy above others shows, as one raw file: the storage process reads it. */
static gboolean flatten(RestoredDisks *disks, const SavedDisk *disk, const char *saved,
                        const char *path, const GPtrArray *rules, GError **error)
{
    VmmStorage *storage = get_storage(disks, rules, error);
    autofd int fd = storage ? make_file(disks, path, error) : -1;
    g_autofree char *socket = storage ? vmm_storage_get_socket(storage) : NULL;
    uint64_t bytes;
    gboolean done;

    if (fd < 0 ||
        !vmm_storage_open_image(storage, FLATTEN_NAME, saved, disk->saved_format, FALSE, error))
        return FALSE;
    done = export_read(socket, FLATTEN_NAME, NULL, write_piece, &fd, &bytes, error);
    if (!vmm_storage_close_image(storage, FLATTEN_NAME, done ? error : NULL) || !done)
        return FALSE;
    if (ftruncate(fd, (off_t)bytes) == 0)
        return TRUE;
    error_set_errno(error, errno, "%s", path);
    return FALSE;
}

static gboolean make_overlay(RestoredDisks *disks, const SavedDisk *disk, const char *saved,
                             const char *path, const GPtrArray *rules, GError **error)
{
    VmmStorage *storage = get_storage(disks, rules, error);
    VmmImageRequest request = {
        .path = path,
        .format = disk->format,
        .bytes = disk->bytes,
        .backing = saved,
        .backing_format = disk->saved_format,
    };
    int fd = storage ? make_file(disks, path, error) : -1;

    if (fd < 0)
        return FALSE;
    fd_close(&fd);
    return vmm_storage_create(storage, &request, error);
}

/* ---- rules ---- */

static void add_rule(RestoredDisks *disks, const char *from, const char *to)
{
    VmmMapRule *rule = g_new(VmmMapRule, 1);

    g_ptr_array_add(disks->texts, g_strdup(from));
    g_ptr_array_add(disks->texts, g_strdup(to));
    *rule = (VmmMapRule){disks->texts->pdata[disks->texts->len - 2],
                         disks->texts->pdata[disks->texts->len - 1]};
    g_ptr_array_add(disks->rules, rule);
}

static gboolean make_copied(RestoredDisks *disks, const RestoredDisksRequest *request, guint number,
                            const SavedDisk *disk, const GPtrArray *rules, GError **error)
{
    g_autofree char *name = g_strdup_printf("%s.disk%u.%s", request->name, number, disk->format);
    g_autofree char *path = g_build_filename(disks->folder, name, NULL);
    g_autofree char *saved = g_build_filename(disks->saved_folder, disk->saved, NULL);
    gboolean made;

    if (!saved_disk_check_files(disk, disks->saved_folder, error))
        return FALSE;
    if (strcmp(disk->format, "raw") == 0)
        made = strcmp(disk->saved_format, "raw") == 0
                   ? copy_raw(disks, saved, path, error)
                   : flatten(disks, disk, saved, path, rules, error);
    else if (strcmp(disk->format, "qcow2") == 0)
        made = make_overlay(disks, disk, saved, path, rules, error);
    else {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "no disk above a copy in format %s is made",
                  disk->format);
        made = FALSE;
    }
    if (!made) {
        g_prefix_error(error, "disk %s (%s): ", disk->id, disk->device);
        return FALSE;
    }
    add_rule(disks, saved_disk_get_file(disk), path);
    return TRUE;
}

/* The longest first: a rule replaces its text wherever it is found. */
static gint compare_rules(gconstpointer a, gconstpointer b)
{
    const VmmMapRule *one = *(const VmmMapRule *const *)a, *other = *(const VmmMapRule *const *)b;
    size_t length = strlen(one->from), other_length = strlen(other->from);

    return length > other_length ? -1 : length < other_length;
}

/* Of a disk by reference. */
static char *map_text(const char *text, gpointer rules)
{
    return vmm_map_text(text, rules);
}

static gboolean make_all(RestoredDisks *disks, const RestoredDisksRequest *request,
                         const GPtrArray *rules, GError **error)
{
    const GArray *saved = image_restore_get_disks(disks->restore);

    for (guint i = 0; i < saved->len; i++) {
        const SavedDisk *disk = &g_array_index(saved, SavedDisk, i);

        if (disk->saved ? !make_copied(disks, request, i, disk, rules, error)
                        : !request->trusts &&
                              !saved_disk_check_unchanged(disk, map_text, (gpointer)rules, error))
            return FALSE;
    }
    g_ptr_array_sort(disks->rules, compare_rules);
    return TRUE;
}

RestoredDisks *restored_disks_make(AgentContext *context, const ImageRestore *restore,
                                   const RestoredDisksRequest *request, const GPtrArray *rules,
                                   GError **error)
{
    g_autoptr(RestoredDisks) disks = g_new0(RestoredDisks, 1);

    disks->context = context;
    disks->restore = restore;
    disks->saved_folder =
        g_path_get_dirname(saved_image_get_path(image_restore_get_image(restore)));
    disks->made = g_ptr_array_new_with_free_func(g_free);
    disks->texts = g_ptr_array_new_with_free_func(g_free);
    disks->rules = g_ptr_array_new_with_free_func(g_free);
    disks->noted = json_array();
    disks->transaction = random_id_new();
    if (!find_owner(disks, error) || !make_folder(disks, request->folder, error) ||
        !make_all(disks, request, rules, error))
        return NULL;
    g_clear_pointer(&disks->storage, recovery_storage_free);
    return g_steal_pointer(&disks);
}

char **restored_disks_apply(const RestoredDisks *disks, char *const *command_line)
{
    guint count = g_strv_length((char **)command_line);
    char **line = g_new0(char *, count + 1);

    for (guint i = 0; i < count; i++)
        line[i] = vmm_map_text(command_line[i], disks->rules);
    return line;
}

static void forget_record(RestoredDisks *disks)
{
    if (json_array_size(disks->noted) > 0)
        made_files_note(disks->context->store, disks->transaction, NULL, NULL);
    json_array_clear(disks->noted);
}

void restored_disks_keep(RestoredDisks *disks)
{
    forget_record(disks);
    g_ptr_array_set_size(disks->made, 0);
}

void restored_disks_free(RestoredDisks *disks)
{
    if (!disks)
        return;
    recovery_storage_free(disks->storage);
    for (guint i = 0; i < disks->made->len; i++)
        if (unlink(disks->made->pdata[i]) < 0)
            log_warning("%s could not be removed: %s", (char *)disks->made->pdata[i],
                        g_strerror(errno));
    forget_record(disks);
    json_decref(disks->noted);
    g_ptr_array_unref(disks->made);
    g_ptr_array_unref(disks->rules);
    g_ptr_array_unref(disks->texts);
    g_free(disks->folder);
    g_free(disks->saved_folder);
    g_free(disks->transaction);
    g_free(disks);
}
