/*
 * What the trackers do not see: data that arrives in pages that were pinned
 * before
 *
 * The process reads, past the page cache, a file of a file system of its own
 * (FUSE), which holds the data back until the test has collected.  So the pages
 * are pinned, truly, for as long as it takes.  Needs root, or user namespaces.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/error.h"
#include "memory/pagemap.h"
#include "memory/tracker.h"
#include "memory/userfault.h"

#define PAGE 4096u
#define PAGES 256u
#define BYTES ((size_t)PAGES * PAGE)
#define OLD 0x11
#define NEW 0x22
#define FILE_NODE 2u
#define DEADLINE_MS 20000

/* --- a file whose data comes when it is let go --------------------------- */

typedef struct {
    int fd;
    GThread *thread;
    GMutex lock;
    GCond changed;
    uint64_t asked; /* bytes, of READ requests that have come */
    gboolean let_go;
    char *folder;
} SlowFile;

static void reply(SlowFile *file, uint64_t unique, int code, const void *body, size_t bytes)
{
    struct fuse_out_header head = {
        .len = (uint32_t)(sizeof head + bytes), .error = -code, .unique = unique};
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)body, bytes}};

    (void)!writev(file->fd, parts, code ? 1 : 2);
}

static struct fuse_attr describe(uint64_t node)
{
    return (struct fuse_attr){.ino = node,
                              .size = node == FILE_NODE ? BYTES : 0,
                              .mode = node == FILE_NODE ? S_IFREG | 0644 : S_IFDIR | 0755,
                              .nlink = 1,
                              .blksize = PAGE};
}

static void answer_init(SlowFile *file, uint64_t unique)
{
    struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION,
                                .minor = FUSE_KERNEL_MINOR_VERSION,
                                .flags = FUSE_MAX_PAGES,
                                .max_write = BYTES,
                                .max_pages = PAGES};

    reply(file, unique, 0, &out, sizeof out);
}

/* One request for the whole read (max_pages): nothing of it comes before it is let go. */
static void answer_read(SlowFile *file, uint64_t unique, const struct fuse_read_in *in)
{
    g_autofree uint8_t *data = g_malloc(in->size);

    g_mutex_lock(&file->lock);
    file->asked += in->size;
    g_cond_broadcast(&file->changed);
    while (!file->let_go)
        g_cond_wait(&file->changed, &file->lock);
    g_mutex_unlock(&file->lock);
    memset(data, NEW, in->size);
    reply(file, unique, 0, data, in->size);
}

static void serve(SlowFile *file, const struct fuse_in_header *in)
{
    switch (in->opcode) {
    case FUSE_INIT:
        answer_init(file, in->unique);
        return;
    case FUSE_LOOKUP: {
        struct fuse_entry_out out = {.nodeid = FILE_NODE, .attr = describe(FILE_NODE)};

        reply(file, in->unique, 0, &out, sizeof out);
        return;
    }
    case FUSE_GETATTR: {
        struct fuse_attr_out out = {.attr = describe(in->nodeid)};

        reply(file, in->unique, 0, &out, sizeof out);
        return;
    }
    case FUSE_OPEN: {
        struct fuse_open_out out = {.fh = 1};

        reply(file, in->unique, 0, &out, sizeof out);
        return;
    }
    case FUSE_READ:
        answer_read(file, in->unique, (const struct fuse_read_in *)(in + 1));
        return;
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT:
        return;
    case FUSE_FLUSH:
    case FUSE_RELEASE:
        reply(file, in->unique, 0, NULL, 0);
        return;
    default:
        reply(file, in->unique, ENOSYS, NULL, 0);
    }
}

static gpointer serve_thread(gpointer data)
{
    SlowFile *file = data;
    static uint8_t request[FUSE_MIN_READ_BUFFER + BYTES] __attribute__((aligned(8)));

    for (;;) {
        ssize_t got = read(file->fd, request, sizeof request);

        if (got < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT))
            continue;
        if (got < (ssize_t)sizeof(struct fuse_in_header))
            return NULL; /* unmounted */
        serve(file, (const struct fuse_in_header *)request);
    }
}

/* NULL with the reason where the kernel or our rights do not allow it. */
static SlowFile *slow_file_new(const char **why)
{
    SlowFile *file;
    g_autofree char *options = NULL;
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        *why = "this kernel lacks FUSE, or /dev/fuse may not be opened";
        return NULL;
    }
    if (unshare(CLONE_NEWNS) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0) {
        close(fd);
        *why = "neither root nor user namespaces: nothing can be mounted";
        return NULL;
    }
    (void)mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL);
    file = g_new0(SlowFile, 1);
    file->fd = fd;
    file->folder = g_dir_make_tmp("vmferry-slow-XXXXXX", NULL);
    options =
        g_strdup_printf("fd=%d,rootmode=40000,user_id=%u,group_id=%u", fd, getuid(), getgid());
    if (mount("slow", file->folder, "fuse", MS_NOSUID | MS_NODEV, options) < 0) {
        *why = "FUSE cannot be mounted here";
        rmdir(file->folder);
        g_free(file->folder);
        g_free(file);
        close(fd);
        return NULL;
    }
    file->thread = g_thread_new("slow-file", serve_thread, file);
    return file;
}

static void slow_file_free(SlowFile *file)
{
    umount2(file->folder, MNT_DETACH);
    close(file->fd);
    g_thread_join(file->thread);
    rmdir(file->folder);
    g_free(file->folder);
    g_free(file);
}

static void await_requests(SlowFile *file)
{
    gint64 end = g_get_monotonic_time() + DEADLINE_MS * 1000;

    g_mutex_lock(&file->lock);
    while (file->asked < BYTES)
        if (!g_cond_wait_until(&file->changed, &file->lock, end))
            fail_msg("only %u of %u bytes were asked for", (guint)file->asked, (guint)BYTES);
    g_mutex_unlock(&file->lock);
}

static void let_go(SlowFile *file)
{
    g_mutex_lock(&file->lock);
    file->let_go = TRUE;
    g_cond_broadcast(&file->changed);
    g_mutex_unlock(&file->lock);
}

/* --- the reader ------------------------------------------------------------ */

typedef struct {
    int fd;
    uint8_t *memory;
} Reader;

static gpointer read_thread(gpointer data)
{
    Reader *reader = data;

    return GSIZE_TO_POINTER((gsize)pread(reader->fd, reader->memory, BYTES, 0));
}

/* --- the trackers ----------------------------------------------------------- */

static Userfault *open_own(UserfaultUses uses)
{
    struct uffdio_api api = {.api = UFFD_API, .features = userfault_features(uses)};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) < 0) {
        close(fd);
        return NULL;
    }
    return fd >= 0 ? userfault_take(fd, uses) : NULL;
}

/* As tracker_start(), for the process itself. */
static Tracker *start_own(GuestMemory *memory, const TrackerOps *ops)
{
    Tracker *tracker = g_new0(Tracker, 1);
    const GuestRegion *region = guest_memory_get_region(memory, 0);

    tracker->ops = ops;
    tracker->memory = memory;
    tracker->stop_event = -1;
    tracker->userfault = open_own(ops->uses);
    tracker->owns_userfault = TRUE;
    if (tracker->userfault &&
        userfault_register(tracker->userfault, region->host_address, BYTES, USERFAULT_MODE_WP,
                           NULL) &&
        ops->start(tracker, NULL))
        return tracker;
    tracker_free(tracker);
    return NULL;
}

static uint64_t collect(Tracker *tracker)
{
    g_autoptr(GPtrArray) sets = guest_memory_new_sets(tracker->memory);

    assert_true(tracker_collect(tracker, sets, NULL));
    return page_set_count(g_ptr_array_index(sets, 0));
}

static guint count_differing(GuestMemory *memory, const uint8_t *sent, const PageSet *set)
{
    g_autofree uint8_t *now = g_malloc(BYTES);
    guint count = 0;

    assert_true(guest_memory_read(memory, 0, &(PageSpan){0, PAGES}, 1, now, NULL));
    for (guint i = 0; i < PAGES; i++)
        count += (!set || page_set_has(set, i)) &&
                 memcmp(now + (size_t)i * PAGE, sent + (size_t)i * PAGE, PAGE) != 0;
    return count;
}

/* An O_DIRECT read is submitted, its pages are collected and "sent", its data comes: no mark tells
 * of it.  What a collect had watched again tells of all of it. */
static void check_late_data(SlowFile *file, const TrackerOps *ops)
{
    g_autoptr(GPtrArray) regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    g_autofree char *path = g_build_filename(file->folder, "slow", NULL);
    g_autofree uint8_t *sent = g_malloc(BYTES);
    g_autoptr(GuestMemory) memory = NULL;
    g_autoptr(GPtrArray) noted = NULL;
    g_autoptr(Tracker) tracker = NULL;
    Reader reader = {.fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC)};
    GThread *thread;

    assert_true(reader.fd >= 0);
    reader.memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(reader.memory, OLD, BYTES);
    g_ptr_array_add(regions, ram_region_new("ram", (uint64_t)(uintptr_t)reader.memory, BYTES));
    memory = guest_memory_open(getpid(), regions, NULL);
    assert_non_null(memory);
    tracker = start_own(memory, ops);
    if (!tracker) {
        print_message("tracker %s does not work here\n", tracker_kind_name(ops->kind));
        close(reader.fd);
        munmap(reader.memory, BYTES);
        skip();
    }
    noted = guest_memory_new_sets(memory);
    tracker_note_protected(tracker, noted);
    thread = g_thread_new("reader", read_thread, &reader);
    await_requests(file);
    assert_int_equal(collect(tracker), PAGES); /* marked at submission */
    assert_true(guest_memory_read(memory, 0, &(PageSpan){0, PAGES}, 1, sent, NULL));
    let_go(file);
    assert_int_equal(GPOINTER_TO_SIZE(g_thread_join(thread)), BYTES);
    assert_int_equal(count_differing(memory, sent, NULL), PAGES);
    assert_int_equal(collect(tracker), 0); /* and nobody tells */
    assert_int_equal(count_differing(memory, sent, g_ptr_array_index(noted, 0)), PAGES);
    g_clear_pointer(&tracker, tracker_free);
    close(reader.fd);
    munmap(reader.memory, BYTES);
}

static void run(const TrackerOps *ops)
{
    const char *why = NULL;
    SlowFile *file = slow_file_new(&why);

    if (!file) {
        print_message("%s\n", why);
        skip();
    }
    check_late_data(file, ops);
    slow_file_free(file);
}

static void test_pagemap_scan(void **state)
{
    run(&tracker_pagemap_scan_ops);
}

static void test_uffd_sync(void **state)
{
    run(&tracker_uffd_sync_ops);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pagemap_scan),
        cmocka_unit_test(test_uffd_sync),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
