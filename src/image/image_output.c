#include "image/image_output.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/name.h"

#define BUFFER_BYTES ((size_t)1 << 20)
/* So much is written before the kernel is told to begin. */
#define WRITE_BACK_BYTES ((uint64_t)16 << 20)

struct ImageOutput {
    int fd, folder;    /* folder: -1 for what has no name */
    char *shown;       /* for messages */
    char *name;        /* in the folder; NULL for a pipe */
    char *temporary;   /* in the folder, or NULL: it has none */
    gboolean borrowed; /* fd is not ours */
    gboolean punches;  /* holes can be made */
    uint64_t written;  /* to fd */
    uint64_t begun;    /* of those, the kernel was told to bring to the disk */
    size_t buffered;
    uint8_t buffer[BUFFER_BYTES];
};

/* ---- making ---- */

static ImageOutput *make(int fd, int folder)
{
    ImageOutput *output = g_malloc(sizeof *output);

    memset(output, 0, offsetof(ImageOutput, buffer));
    output->fd = fd;
    output->folder = folder;
    return output;
}

static char *temporary_name(void)
{
    g_autofree char *id = random_id_new();

    return g_strdup_printf(".vmferry-image.%s", id);
}

/* A file without a name; where the file system has none, with a temporary one. */
static int open_new(int folder, char **ret_temporary)
{
    int fd = openat(folder, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);

    *ret_temporary = NULL;
    /* EISDIR: the kernel's answer where the file system does not know the flag. */
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
        return fd;
    *ret_temporary = temporary_name();
    fd = openat(folder, *ret_temporary, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0)
        g_clear_pointer(ret_temporary, g_free);
    return fd;
}

ImageOutput *image_output_create(const char *path, GError **error)
{
    g_autofree char *folder_name = g_path_get_dirname(path);
    g_autofree char *name = g_path_get_basename(path);
    g_autofree char *temporary = NULL;
    autofd int folder = open(folder_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    autofd int fd = -1;
    ImageOutput *output;

    if (!*path || g_str_has_suffix(path, "/")) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not the name of a file", path);
        return NULL;
    }
    if (folder >= 0)
        fd = open_new(folder, &temporary);
    if (fd < 0) {
        error_set_errno(error, errno, "a file in %s", folder_name);
        return NULL;
    }
    output = make(fd_steal(&fd), fd_steal(&folder));
    output->shown = g_strdup(path);
    output->name = g_steal_pointer(&name);
    output->temporary = g_steal_pointer(&temporary);
    output->punches = TRUE;
    return output;
}

ImageOutput *image_output_on_fd(int fd)
{
    ImageOutput *output = make(fd, -1);

    output->shown = g_strdup("the image's stream");
    output->borrowed = TRUE;
    return output;
}

void image_output_free(ImageOutput *output)
{
    if (!output)
        return;
    if (output->temporary)
        (void)unlinkat(output->folder, output->temporary, 0);
    if (!output->borrowed)
        fd_close(&output->fd);
    fd_close(&output->folder);
    g_free(output->shown);
    g_free(output->name);
    g_free(output->temporary);
    g_free(output);
}

/* ---- writing ---- */

uint64_t image_output_get_place(const ImageOutput *output)
{
    return output->written + output->buffered;
}

/* Drops the first *done* bytes of both pieces. */
static void advance(struct iovec pieces[2], size_t done)
{
    for (guint i = 0; i < 2; i++) {
        size_t part = MIN(done, pieces[i].iov_len);

        pieces[i].iov_base = (uint8_t *)pieces[i].iov_base + part;
        pieces[i].iov_len -= part;
        done -= part;
    }
}

static ssize_t write_some(int fd, const struct iovec pieces[2])
{
    struct pollfd wait = {.fd = fd, .events = POLLOUT};
    ssize_t done = writev(fd, pieces, 2);

    if (done < 0 && errno == EINTR)
        return 0;
    if (done >= 0 || errno != EAGAIN)
        return done;
    return poll(&wait, 1, -1) < 0 && errno != EINTR ? -1 : 0;
}

/* The buffer, and *bytes* behind it. */
static gboolean flush(ImageOutput *output, const void *bytes, size_t length, GError **error)
{
    struct iovec pieces[2] = {{output->buffer, output->buffered}, {(void *)bytes, length}};

    while (pieces[0].iov_len + pieces[1].iov_len > 0) {
        ssize_t done = write_some(output->fd, pieces);

        if (done < 0) {
            error_set_errno(error, errno, "%s: write at %" PRIu64, output->shown, output->written);
            return FALSE;
        }
        output->written += (uint64_t)done;
        advance(pieces, (size_t)done);
    }
    output->buffered = 0;
    return TRUE;
}

/* A hint: that it fails does not matter. */
static void begin_write_back(ImageOutput *output)
{
    if (output->borrowed || output->written - output->begun < WRITE_BACK_BYTES)
        return;
    (void)sync_file_range(output->fd, (off_t)output->begun,
                          (off_t)(output->written - output->begun), SYNC_FILE_RANGE_WRITE);
    output->begun = output->written;
}

gboolean image_output_write(ImageOutput *output, const void *bytes, size_t length, GError **error)
{
    if (length > BUFFER_BYTES - output->buffered) {
        if (!flush(output, bytes, length, error))
            return FALSE;
        begin_write_back(output);
        return TRUE;
    }
    if (length > 0)
        memcpy(output->buffer + output->buffered, bytes, length);
    output->buffered += length;
    return TRUE;
}

gboolean image_output_pad(ImageOutput *output, uint32_t alignment, GError **error)
{
    static const uint8_t zeroes[4096];
    size_t left = (size_t)(-image_output_get_place(output) % alignment);

    g_assert(left <= sizeof zeroes);
    return image_output_write(output, zeroes, left, error);
}

uint64_t image_output_free_range(ImageOutput *output, uint64_t from, uint64_t end)
{
    /* What is in the buffer still would fill the hole again. */
    if (!output->punches || end > output->written)
        return 0;
    if (fallocate(output->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from,
                  (off_t)(end - from)) == 0)
        return end - from;
    output->punches = FALSE;
    return 0;
}

/* ---- the end ---- */

/* A file that has no name gets one: *name*. */
static int link_as(const ImageOutput *output, const char *name)
{
    g_autofree char *unnamed = g_strdup_printf("/proc/self/fd/%d", output->fd);

    return linkat(AT_FDCWD, unnamed, output->folder, name, AT_SYMLINK_FOLLOW);
}

static int publish_new(ImageOutput *output)
{
    if (!output->temporary)
        return link_as(output, output->name);
    if (renameat2(output->folder, output->temporary, output->folder, output->name,
                  RENAME_NOREPLACE) == 0) {
        g_clear_pointer(&output->temporary, g_free);
        return 0;
    }
    /* The flag is not known to every file system; the other name is removed with the output. */
    if (errno != EINVAL && errno != ENOSYS)
        return -1;
    return linkat(output->folder, output->temporary, output->folder, output->name, 0);
}

static int publish_over(ImageOutput *output)
{
    if (!output->temporary) {
        g_autofree char *temporary = temporary_name();

        if (link_as(output, temporary) < 0)
            return -1;
        output->temporary = g_steal_pointer(&temporary);
    }
    if (renameat(output->folder, output->temporary, output->folder, output->name) < 0)
        return -1;
    g_clear_pointer(&output->temporary, g_free);
    return 0;
}

gboolean image_output_publish(ImageOutput *output, gboolean replace, GError **error)
{
    if (!flush(output, NULL, 0, error))
        return FALSE;
    if (!output->name)
        return TRUE;
    if (fdatasync(output->fd) < 0) {
        error_set_errno(error, errno, "%s: write to the disk", output->shown);
        return FALSE;
    }
    if ((replace ? publish_over(output) : publish_new(output)) < 0) {
        error_set_errno(error, errno, "%s", output->shown);
        return FALSE;
    }
    if (fsync(output->folder) < 0) {
        error_set_errno(error, errno, "%s: write its name to the disk", output->shown);
        return FALSE;
    }
    return TRUE;
}
