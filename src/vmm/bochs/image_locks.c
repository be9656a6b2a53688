#include "vmm/bochs/image_locks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "inject/inject.h"

#define DOES 100    /* byte of the first thing that an owner does */
#define FORBIDS 200 /* … that it lets nobody else do */

enum { READ = 1 << 0, WRITE = 1 << 1, RESIZE = 1 << 3 };
#define THINGS 4u

#define WE_DO (READ | WRITE)
#define WE_FORBID (WRITE | RESIZE)

/* ---- its descriptors ---- */

/* One by which it writes to that file; -1: there is none. */
static int find_number(const BochsProcess *process, const struct stat *wanted)
{
    g_autofree char *folder = g_strdup_printf("/proc/%d/fd", (int)process->pid);
    g_autoptr(GDir) entries = g_dir_open(folder, 0, NULL);
    const char *name;

    while (entries && (name = g_dir_read_name(entries))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);
        struct stat link, file;

        if (stat(path, &file) == 0 && file.st_dev == wanted->st_dev &&
            file.st_ino == wanted->st_ino && lstat(path, &link) == 0 && link.st_mode & S_IWUSR)
            return atoi(name);
    }
    return -1;
}

static int open_image(const BochsProcess *process, const char *path, GError **error)
{
    struct stat file;
    int number;

    if (stat(path, &file) < 0) {
        error_set_errno(error, errno, "%s", path);
        return -1;
    }
    number = find_number(process, &file);
    if (number < 0) {
        error_set(error, VMFERRY_ERROR_FAILED, "Bochs (pid %d) does not have %s open",
                  (int)process->pid, path);
        return -1;
    }
    return inject_take_fd(process->pid, number, error);
}

/* ---- locks ---- */

/* TRUE also on a file system that has no locks, where nobody has. */
static gboolean set_lock(int fd, short type, off_t byte)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    return fcntl(fd, F_OFD_SETLK, &lock) == 0 || errno == ENOLCK || errno == EOPNOTSUPP;
}

static gboolean is_locked_by_others(int fd, off_t byte)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

static void unlock(int fd)
{
    for (guint i = 0; i < THINGS; i++) {
        (void)set_lock(fd, F_UNLCK, DOES + i);
        (void)set_lock(fd, F_UNLCK, FORBIDS + i);
    }
}

/* Ours first, then a look at the others': of two that come at once none goes on without the other's seeing it. */
static gboolean lock(int fd, const char *path, GError **error)
{
    gboolean done = TRUE;

    for (guint i = 0; i < THINGS; i++) {
        done = done && (!(WE_DO & 1 << i) || set_lock(fd, F_RDLCK, DOES + i));
        done = done && (!(WE_FORBID & 1 << i) || set_lock(fd, F_RDLCK, FORBIDS + i));
    }
    if (!done) {
        error_set_errno(error, errno, "lock %s", path);
        return FALSE;
    }
    for (guint i = 0; i < THINGS; i++)
        done = done && !(WE_DO & 1 << i && is_locked_by_others(fd, FORBIDS + i)) &&
               !(WE_FORBID & 1 << i && is_locked_by_others(fd, DOES + i));
    if (!done)
        error_set(error, VMFERRY_ERROR_BUSY, "another process has a lock on %s", path);
    return done;
}

static gboolean is_written(const BochsDisk *disk)
{
    return disk->path && !disk->cdrom && !disk->journal;
}

/* Calls it with each image; FALSE at the first that fails. */
static gboolean for_each_image(const BochsProcess *process, const BochsMachine *machine,
                               gboolean (*act)(int fd, const char *path, GError **error),
                               GError **error)
{
    for (guint i = 0; i < machine->disk_count; i++) {
        const BochsDisk *disk = &machine->disks[i];
        autofd int fd = -1;

        if (!is_written(disk))
            continue;
        fd = open_image(process, disk->path, error);
        if (fd < 0 || !act(fd, disk->path, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean flush(int fd, const char *path, GError **error)
{
    if (fdatasync(fd) == 0)
        return TRUE;
    error_set_errno(error, errno, "write %s to the disk", path);
    return FALSE;
}

static gboolean unlock_image(int fd, const char *path, GError **error)
{
    unlock(fd);
    return TRUE;
}

/* What is in the cache may be older than what another host has written. */
static gboolean take_image(int fd, const char *path, GError **error)
{
    if (!lock(fd, path, error))
        return FALSE;
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    return TRUE;
}

gboolean bochs_images_flush(const BochsProcess *process, const BochsMachine *machine,
                            GError **error)
{
    return for_each_image(process, machine, flush, error);
}

gboolean bochs_image_locks_release(const BochsProcess *process, const BochsMachine *machine,
                                   GError **error)
{
    return bochs_images_flush(process, machine, error) &&
           for_each_image(process, machine, unlock_image, error);
}

gboolean bochs_image_locks_take(const BochsProcess *process, const BochsMachine *machine,
                                GError **error)
{
    if (for_each_image(process, machine, take_image, error))
        return TRUE;
    (void)for_each_image(process, machine, unlock_image, NULL);
    return FALSE;
}
