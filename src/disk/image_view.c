#include "disk/image_view.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "disk/content_digest.h"
#include "disk/image_device.h"

/* Far behind images and the bytes that QEMU locks (100 to 210), within what
 * fcntl(2) takes. */
#define LOCK_FROM ((uint64_t)1 << 50)
#define LOCK_TO ((uint64_t)1 << 62)

/* QEMU's lock byte for "nobody else may write". */
#define QEMU_UNSHARED_WRITE ((uint64_t)201)

/* Moments for tokens: from a month ahead, so that relatime leaves them alone, to
 * what 32-bit inodes can hold. */
#define TOKEN_AHEAD_S (30 * 86400)
#define TOKEN_LAST_S ((int64_t)2145000000)

#define RANDOM_SAMPLES 256u
#define EDGE_SAMPLES 16u

#define PIECE_BYTES (1u << 20)
/* Beyond IMAGE_FAST_BYTES: leaves room for guests on the same disks. */
#define GENTLE_BYTES_PER_MS (200000u)
#define IO_IDLE (3 << 13) /* see ioprio_set(2) */

struct ImageView {
    int fd;
    char *path;
    gboolean device;
    gboolean has_token;
    struct timespec atime; /* to be put back */
};

void image_facts_clear(ImageFacts *facts)
{
    g_clear_pointer(&facts->device_id, g_free);
}

ImageView *image_view_open(const char *path, GError **error)
{
    autofd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat info;
    ImageView *view;

    if (fd < 0 || fstat(fd, &info) < 0) {
        error_set_errno(error, errno, "open %s", path);
        return NULL;
    }
    if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s is neither a file nor a block device", path);
        return NULL;
    }
    view = g_new0(ImageView, 1);
    view->fd = fd_steal(&fd);
    view->path = g_strdup(path);
    view->device = S_ISBLK(info.st_mode);
    return view;
}

void image_view_free(ImageView *view)
{
    struct timespec times[2] = {{0}, {.tv_nsec = UTIME_OMIT}};

    if (!view)
        return;
    times[0] = view->atime;
    if (view->has_token)
        (void)futimens(view->fd, times);
    fd_close(&view->fd);
    g_free(view->path);
    g_free(view);
}

/* ---- facts ---- */

gboolean image_view_get_facts(ImageView *view, ImageFacts *ret, GError **error)
{
    struct stat info;
    uint64_t bytes;

    if (fstat(view->fd, &info) < 0 || (view->device && ioctl(view->fd, BLKGETSIZE64, &bytes) < 0)) {
        error_set_errno(error, errno, "%s", view->path);
        return FALSE;
    }
    *ret = (ImageFacts){
        .kind = view->device ? IMAGE_KIND_DEVICE : IMAGE_KIND_FILE,
        .bytes = view->device ? bytes : (uint64_t)info.st_size,
        .token_s = info.st_atim.tv_sec,
        .token_ms = (uint32_t)(info.st_atim.tv_nsec / 1000000),
        .device_id = view->device ? image_device_find_id(info.st_rdev) : g_strdup(""),
    };
    return TRUE;
}

/* ---- lock and token ---- */

static uint64_t random_below(uint64_t limit)
{
    uint64_t number;

    if (getrandom(&number, sizeof number, 0) != sizeof number)
        number = (uint64_t)g_random_int() << 32 | g_random_int();
    return number % limit;
}

uint64_t image_lock_offset(void)
{
    return LOCK_FROM + random_below(LOCK_TO - LOCK_FROM);
}

gboolean image_view_lock(ImageView *view, uint64_t offset, GError **error)
{
    struct flock lock = {
        .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = (off_t)offset, .l_len = 1};

    if (fcntl(view->fd, F_OFD_SETLK, &lock) == 0)
        return TRUE;
    error_set_errno(error, errno, "lock %s", view->path);
    return FALSE;
}

gboolean image_view_sees_lock(ImageView *view, uint64_t offset)
{
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)offset, .l_len = 1};

    return fcntl(view->fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK &&
           (uint64_t)lock.l_start == offset && lock.l_len == 1;
}

gboolean image_view_is_write_locked(ImageView *view)
{
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = QEMU_UNSHARED_WRITE, .l_len = 1};

    return fcntl(view->fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

gboolean image_view_set_token(ImageView *view, int64_t *ret_s, uint32_t *ret_ms)
{
    int64_t from = (int64_t)time(NULL) + TOKEN_AHEAD_S;
    struct timespec times[2] = {{0}, {.tv_nsec = UTIME_OMIT}};
    struct stat info;

    if (view->device || from >= TOKEN_LAST_S || fstat(view->fd, &info) < 0)
        return FALSE;
    *ret_s = from + (int64_t)random_below((uint64_t)(TOKEN_LAST_S - from));
    *ret_ms = (uint32_t)random_below(1000);
    times[0] = (struct timespec){*ret_s, (long)*ret_ms * 1000000};
    if (!view->has_token)
        view->atime = info.st_atim;
    if (futimens(view->fd, times) < 0)
        return FALSE;
    view->has_token = TRUE;
    /* Some file systems keep less of it. */
    return fstat(view->fd, &info) == 0 && info.st_atim.tv_sec == *ret_s &&
           info.st_atim.tv_nsec / 1000000 == (long)*ret_ms;
}

/* ---- samples ---- */

/* A place in a thin image is most likely a hole: the data after it, if any. */
static uint64_t find_data(const ImageView *view, uint64_t offset)
{
    off_t data = view->device ? -1 : lseek(view->fd, (off_t)offset, SEEK_DATA);

    return data < 0 ? offset : (uint64_t)data;
}

guint image_view_pick_samples(ImageView *view, uint64_t offsets[IMAGE_SAMPLES_LIMIT])
{
    g_auto(ImageFacts) facts = {0};
    uint64_t blocks;
    guint count = 0;

    if (!image_view_get_facts(view, &facts, NULL))
        return 0;
    blocks = facts.bytes / IMAGE_SAMPLE_BYTES;
    for (uint64_t i = 0; i < MIN(blocks + 1, EDGE_SAMPLES); i++) {
        offsets[count++] = i * IMAGE_SAMPLE_BYTES;
        offsets[count++] = (blocks - i) * IMAGE_SAMPLE_BYTES;
    }
    for (guint i = 0; i < RANDOM_SAMPLES && blocks > 0; i++)
        offsets[count++] = find_data(view, random_below(blocks) * IMAGE_SAMPLE_BYTES) /
                           IMAGE_SAMPLE_BYTES * IMAGE_SAMPLE_BYTES;
    return count;
}

/* Another descriptor, since not every file system has O_DIRECT. */
static int open_direct(const ImageView *view)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", view->fd);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);

    return fd >= 0 ? fd : open(path, O_RDONLY | O_CLOEXEC);
}

/* Reads one block; what is behind the end is zero. */
static gboolean read_block(int fd, uint64_t offset, uint8_t *block)
{
    size_t done = 0;

    memset(block, 0, IMAGE_SAMPLE_BYTES);
    while (done < IMAGE_SAMPLE_BYTES) {
        ssize_t got = pread(fd, block + done, IMAGE_SAMPLE_BYTES - done, (off_t)(offset + done));

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return FALSE;
        if (got == 0)
            break;
        done += (size_t)got;
        /* What follows a short read cannot be asked for with O_DIRECT. */
        if (done % 512)
            break;
    }
    return TRUE;
}

char *image_view_digest(ImageView *view, const uint64_t *offsets, guint count, GError **error)
{
    autofd int fd = open_direct(view);
    g_autoptr(ContentDigest) digest = content_digest_new();
    uint8_t *block = NULL;
    gboolean read = fd >= 0 && posix_memalign((void **)&block, 4096, IMAGE_SAMPLE_BYTES) == 0;

    if (!read) {
        error_set_errno(error, errno, "read %s", view->path);
        return NULL;
    }
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    for (guint i = 0; i < count && read; i++) {
        read = read_block(fd, offsets[i], block);
        content_digest_add_plain(digest, block, IMAGE_SAMPLE_BYTES);
    }
    if (!read)
        error_set_errno(error, errno, "read %s", view->path);
    free(block);
    return read ? content_digest_finish(digest) : NULL;
}

/* ---- content ---- */

/* Reads all of *count* bytes. */
static gboolean read_piece(const ImageView *view, int fd, uint64_t offset, uint8_t *piece,
                           size_t count, GError **error)
{
    size_t done = 0;

    while (done < count) {
        /* With O_DIRECT the last block is asked for as a whole, too. */
        size_t wanted = (count - done + 4095) / 4096 * 4096;
        ssize_t got = pread(fd, piece + done, wanted, (off_t)(offset + done));

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            error_set_errno(error, errno, "read %s", view->path);
            return FALSE;
        }
        done += (size_t)got;
        if (done < count && (got == 0 || done % 4096)) {
            error_set(error, VMFERRY_ERROR_FAILED, "%s has become shorter", view->path);
            return FALSE;
        }
    }
    return TRUE;
}

/* The start of the piece that holds the next data. */
static uint64_t skip_hole(const ImageView *view, uint64_t offset, uint64_t bytes)
{
    off_t data = view->device ? (off_t)offset : lseek(view->fd, (off_t)offset, SEEK_DATA);

    if (data < 0)
        return errno == ENXIO ? bytes : offset;
    return (uint64_t)data / PIECE_BYTES * PIECE_BYTES;
}

/* Behind the first bytes others go first. */
static void be_gentle(uint64_t read_bytes, uint64_t start_ns)
{
    uint64_t due_ns = start_ns, now_ns = clock_now_ns();

    if (read_bytes <= IMAGE_FAST_BYTES)
        return;
    (void)syscall(SYS_ioprio_set, 1, 0, IO_IDLE);
    due_ns += (read_bytes - IMAGE_FAST_BYTES) / GENTLE_BYTES_PER_MS * 1000000;
    if (due_ns > now_ns)
        clock_sleep_ns(due_ns - now_ns);
}

static gboolean digest_all(ImageView *view, int fd, uint64_t bytes, uint8_t *piece,
                           const gint *cancelled, ContentDigest *digest, GError **error)
{
    uint64_t start_ns = clock_now_ns(), read_bytes = 0;

    for (uint64_t at = skip_hole(view, 0, bytes); at < bytes;
         at = skip_hole(view, at + PIECE_BYTES, bytes)) {
        size_t count = (size_t)MIN(PIECE_BYTES, bytes - at);

        if (cancelled && g_atomic_int_get(cancelled)) {
            error_set(error, VMFERRY_ERROR_CANCELLED, "cancelled");
            return FALSE;
        }
        if (!read_piece(view, fd, at, piece, count, error))
            return FALSE;
        content_digest_add(digest, at, piece, count);
        read_bytes += count;
        be_gentle(read_bytes, start_ns);
    }
    return TRUE;
}

static gboolean has_size(ImageView *view, uint64_t bytes, GError **error)
{
    g_auto(ImageFacts) facts = {0};

    if (!image_view_get_facts(view, &facts, error))
        return FALSE;
    if (facts.bytes == bytes)
        return TRUE;
    error_set(error, VMFERRY_ERROR_FAILED, "%s is of another size", view->path);
    return FALSE;
}

char *image_view_digest_content(ImageView *view, uint64_t bytes, const gint *cancelled,
                                GError **error)
{
    autofd int fd = has_size(view, bytes, error) ? open_direct(view) : -1;
    g_autoptr(ContentDigest) digest = content_digest_new();
    uint8_t *piece = NULL;
    gboolean read;

    if (fd < 0 || posix_memalign((void **)&piece, 4096, PIECE_BYTES) != 0) {
        if (error && !*error)
            error_set_errno(error, errno, "read %s", view->path);
        return NULL;
    }
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    read = digest_all(view, fd, bytes, piece, cancelled, digest, error);
    free(piece);
    return read ? content_digest_finish(digest) : NULL;
}
