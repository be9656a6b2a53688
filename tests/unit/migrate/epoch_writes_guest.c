/*
 * A real guest is split, loses its destination, and its disk is what it was at the last committed
 * epoch (tests/system/test_epoch_writes.py)
 *
 *     epoch_writes_guest FOLDER FORMAT takeover|end|often EPOCHS -- QEMU-COMMAND-LINE
 *
 * The command line runs a guest that writes to the image FOLDER/disk and says "lab: ready" in the
 * file FOLDER/console.  It is started, moved by hand to a second QEMU on this host, and its disk is
 * tapped there; every 50 ms an epoch is cut.  "takeover": that QEMU is killed, and the journal applied
 * to the image, while the first QEMU is still there, paused.  "end": the overlays are committed.
 * "often": that as many times as there were epochs, in one QEMU, as the guest writes.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/error.h"
#include "base/process.h"
#include "disk/write_journal.h"
#include "migrate/epoch_writes.h"
#include "migrate/takeover_disks.h"
#include "vmm/qemu/qemu.h"
#include "vmm/vmm_driver.h"

#define TRANSACTION "lab:1"
#define EPOCH_US 50000
#define LOOK_AT 20u /* each so manieth epoch is compared */
#define READY_S 90
#define WAIT_S 20

typedef struct {
    const char *folder, *format;
    char *overlays, *image;
    char **command_line;
    Vmm *source, *vmm;
    EpochWrites *writes;
    WriteJournal *journal;
    uint64_t bytes, epoch, written;
    gint64 cut_us;    /* all cuts together */
    uint8_t *replica; /* of the disk, by the batches */
} Split;

static void G_GNUC_NORETURN fail(const char *what, const GError *error)
{
    fprintf(stderr, "FAILED %s: %s\n", what, error ? error->message : "?");
    exit(1);
}

static void check(gboolean ok, GError **error, const char *what)
{
    if (!ok)
        fail(what, *error);
}

static char *path_of(const Split *split, const char *name)
{
    return g_build_filename(split->folder, name, NULL);
}

/* ---- the guest, and its move ---- */

static Vmm *launch(const Split *split, const char *name, gboolean incoming)
{
    VmmLaunch launch = {.name = name,
                        .directory = split->folder,
                        .command_line = split->command_line,
                        .incoming = incoming};
    GError *error = NULL;
    Vmm *vmm = qemu_launch(&launch, &error);

    check(vmm != NULL, &error, "launch");
    return vmm;
}

static gboolean console_says(const Split *split, const char *text)
{
    g_autofree char *path = path_of(split, "console"), *said = NULL;

    return g_file_get_contents(path, &said, NULL, NULL) && strstr(said, text);
}

static void await_guest(const Split *split)
{
    gint64 deadline = g_get_monotonic_time() + READY_S * G_USEC_PER_SEC;

    while (!console_says(split, "lab: ready") && g_get_monotonic_time() < deadline)
        g_usleep(20000);
    if (!console_says(split, "lab: ready"))
        fail("the guest does not get ready", NULL);
}

static void transfer(pid_t pid, uint64_t address, char *buffer, size_t length, gboolean put)
{
    while (length > 0) {
        struct iovec local = {buffer, length}, remote = {(void *)(uintptr_t)address, length};
        ssize_t n = put ? process_vm_writev(pid, &local, 1, &remote, 1, 0)
                        : process_vm_readv(pid, &local, 1, &remote, 1, 0);

        if (n <= 0)
            fail(g_strerror(errno), NULL);
        buffer += n;
        address += (uint64_t)n;
        length -= (size_t)n;
    }
}

static const RamRegion *find_region(const VmmDescription *description, const char *name)
{
    for (guint i = 0; i < description->ram_regions->len; i++) {
        const RamRegion *region = description->ram_regions->pdata[i];

        if (strcmp(region->name, name) == 0)
            return region;
    }
    fail(name, NULL);
}

static void copy_ram(const Split *split, const VmmDescription *source)
{
    GError *error = NULL;
    g_autoptr(VmmDescription) destination = vmm_describe(split->vmm, &error);

    check(destination != NULL, &error, "describe");
    for (guint i = 0; i < source->ram_regions->len; i++) {
        const RamRegion *region = source->ram_regions->pdata[i];
        const RamRegion *other = find_region(destination, region->name);
        g_autofree char *buffer = g_malloc(region->bytes);

        transfer(vmm_get_pid(split->source), region->host_address, buffer, region->bytes, FALSE);
        transfer(vmm_get_pid(split->vmm), other->host_address, buffer, region->bytes, TRUE);
    }
}

/* As far as the destination has its images. */
static void move_guest(Split *split)
{
    GError *error = NULL;
    g_autoptr(VmmDescription) source = vmm_describe(split->source, &error);
    g_autoptr(GBytes) state = NULL;

    check(source != NULL, &error, "describe");
    check(vmm_open_incoming(split->vmm, source->machine, source->ram_regions, &error), &error,
          "open");
    check(vmm_pause(split->source, NULL, &error), &error, "pause");
    state = vmm_save_device_state(split->source, VMM_SAVE_SWITCHOVER, &error);
    check(state != NULL, &error, "save");
    copy_ram(split, source);
    check(vmm_load_device_state(split->vmm, state, &error), &error, "load");
    check(vmm_take_images(split->vmm, &error), &error, "take the images");
}

/* ---- the disk ---- */

static VmmStorage *start_storage(const Split *split)
{
    g_autofree char *directory = path_of(split, "storage");
    VmmStorageLaunch launch = {.program = split->command_line[0], .directory = directory};
    GError *error = NULL;
    VmmStorage *storage;

    (void)mkdir(directory, 0700);
    storage = vmm_driver_find("qemu", NULL)->open_storage(&launch, &error);
    check(storage != NULL, &error, "storage");
    return storage;
}

static EpochWritesPlace place_of(const Split *split)
{
    return (EpochWritesPlace){.transaction = TRANSACTION,
                              .directory = split->overlays,
                              .limit_bytes = EPOCH_TAP_LIMIT_BYTES};
}

/* The incoming machine's, before it is loaded. */
static void prepare(Split *split)
{
    g_autoptr(VmmStorage) storage = start_storage(split);
    EpochWritesPlace place = place_of(split);
    GError *error = NULL;
    g_autoptr(GPtrArray) disks = epoch_writes_list(split->vmm, &error);
    g_autofree char *journal = path_of(split, "journal");

    check(disks != NULL, &error, "list");
    if (disks->len != 1)
        fail("one disk is wanted", NULL);
    split->writes = epoch_writes_prepare(split->vmm, &place, storage, geteuid(), getegid(), &error);
    check(split->writes != NULL, &error, "prepare");
    split->bytes = ((VmmDiskFile *)((VmmDisk *)disks->pdata[0])->files->pdata[0])->bytes;
    split->journal =
        write_journal_create(journal, TRANSACTION, &split->bytes, 1, 1ull << 30, &error);
    check(split->journal != NULL, &error, "journal");
}

static uint8_t *read_disk(const Split *split, const char *source)
{
    g_autofree char *now = path_of(split, "now");
    g_autofree char *line = g_strdup_printf("qemu-img convert -U -O raw %s %s", source, now);
    char *content;
    gsize length;

    if (system(line) != 0 || !g_file_get_contents(now, &content, &length, NULL) ||
        length != split->bytes)
        fail(line, NULL);
    return (uint8_t *)content;
}

static uint8_t *read_image(const Split *split)
{
    g_autofree char *source = g_strdup_printf("-f %s %s", split->format, split->image);

    return read_disk(split, source);
}

/* Of a paused guest. */
static uint8_t *read_with_overlay(const Split *split)
{
    GDir *dir = g_dir_open(split->overlays, 0, NULL);
    g_autofree char *source =
        g_strdup_printf("'json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":"
                        "\"%s/%s\"},\"backing\":{\"driver\":\"%s\",\"file\":{\"driver\":\"file\","
                        "\"filename\":\"%s\"}}}'",
                        split->overlays, g_dir_read_name(dir), split->format, split->image);

    g_dir_close(dir);
    return read_disk(split, source);
}

static void compare(const Split *split, uint8_t *got, const char *what)
{
    for (uint64_t i = 0; i < split->bytes; i++)
        if (got[i] != split->replica[i]) {
            fprintf(stderr, "FAILED %s: differs from byte %" G_GUINT64_FORMAT " on\n", what, i);
            exit(1);
        }
    g_free(got);
}

/* ---- epochs ---- */

static void take_piece(Split *split, const GByteArray *piece, gboolean commit)
{
    ByteReader reader = byte_reader_make(piece->data, piece->len);
    GError *error = NULL;
    WriteRecord record;

    check(write_journal_stage(split->journal, split->epoch + 1, piece->data, piece->len, &error),
          &error, "stage");
    while (commit && write_record_read(&reader, &split->bytes, 1, &record, &error) == 1) {
        if (record.data)
            memcpy(split->replica + record.offset, record.data, record.length);
        else
            memset(split->replica + record.offset, 0, record.length);
        split->written += record.length;
    }
}

static void send_batch(Split *split, const WriteBatch *batch, gboolean commit)
{
    g_autoptr(GByteArray) piece = g_byte_array_new();
    WriteBatchWalk walk = write_batch_walk(batch);
    GError *error = NULL;

    for (; write_batch_encode(&walk, 65536, piece); g_byte_array_set_size(piece, 0))
        take_piece(split, piece, commit);
    check(write_journal_seal(split->journal, split->epoch + 1, &error), &error, "seal");
    if (commit)
        check(write_journal_commit(split->journal, ++split->epoch, &error), &error, "commit");
}

static void run_epoch(Split *split, gboolean commit)
{
    g_autoptr(WriteBatch) batch = NULL;
    uint8_t *state = NULL;
    GError *error = NULL;

    g_usleep(EPOCH_US);
    check(vmm_pause(split->vmm, NULL, &error), &error, "pause");
    split->cut_us -= g_get_monotonic_time();
    batch = epoch_writes_cut(split->writes, WAIT_S * 1000, &error);
    split->cut_us += g_get_monotonic_time();
    check(batch != NULL, &error, "cut");
    if (commit && split->epoch % LOOK_AT == 0)
        state = read_with_overlay(split);
    check(vmm_resume(split->vmm, &error), &error, "resume");
    check(epoch_writes_check_taps(split->writes, &error), &error, "taps");
    send_batch(split, batch, commit);
    if (state)
        compare(split, state, "epoch");
}

static void start_writes(Split *split)
{
    gint64 began = g_get_monotonic_time();
    GError *error = NULL;

    check(epoch_writes_start(split->writes, &error), &error, "start");
    printf("started in %.1f ms\n", (double)(g_get_monotonic_time() - began) / 1000);
    split->replica = read_with_overlay(split);
    check(vmm_resume(split->vmm, &error), &error, "resume");
}

/* ---- ends ---- */

static void kill_vmm(Vmm *vmm)
{
    g_autoptr(VmmIdentity) identity = vmm_get_identity(vmm);
    GError *error = NULL;

    check(process_kill(identity->pid, identity->start_time, SIGKILL, &error), &error, "kill");
    if (!process_wait_gone(identity->pid, identity->start_time, WAIT_S * 1000))
        fail("it does not end", NULL);
}

static void take_over(Split *split)
{
    EpochWritesPlace place = place_of(split);
    TakeoverImage image = {split->image, split->format, split->bytes};
    GError *error = NULL;
    VmmStorage *storage;
    gint64 began;

    run_epoch(split, FALSE);
    g_usleep(EPOCH_US);
    kill_vmm(split->vmm);
    g_clear_pointer(&split->writes, epoch_writes_free);
    epoch_writes_remove(&place);
    began = g_get_monotonic_time();
    storage = start_storage(split);
    check(takeover_disks_apply(split->journal, storage, &image, 1, &error), &error, "apply");
    vmm_storage_free(storage);
    printf("applied in %.1f ms\n", (double)(g_get_monotonic_time() - began) / 1000);
    compare(split, read_image(split), "image after takeover");
}

static void commit_overlay(Split *split)
{
    gint64 deadline = g_get_monotonic_time() + WAIT_S * G_USEC_PER_SEC;
    GError *error = NULL;
    gboolean done = FALSE;

    while (!done && g_get_monotonic_time() < deadline) {
        check(epoch_writes_end(split->writes, &done, &error), &error, "end");
        if (!done)
            g_usleep(2000);
    }
    if (!done)
        fail("QEMU does not commit the overlay", NULL);
}

/* The guest goes on writing, and checks what it reads. */
static void end_in_order(Split *split)
{
    commit_overlay(split);
    g_usleep(G_USEC_PER_SEC);
    kill_vmm(split->vmm);
    g_clear_pointer(&split->writes, epoch_writes_free);
}

static void end_writes(Split *split)
{
    g_autofree char *journal = path_of(split, "journal");
    g_autofree char *line = g_strdup_printf("rm -r %s", journal);

    commit_overlay(split);
    g_clear_pointer(&split->writes, epoch_writes_free);
    g_clear_pointer(&split->journal, write_journal_free);
    if (system(line) != 0)
        fail(line, NULL);
}

/* Taps that end while the guest writes, again and again, half of them with a server that was killed:
 * QEMU must bear it. */
static void end_often(Split *split, guint rounds)
{
    GError *error = NULL;

    for (guint i = 0; i < rounds; i++) {
        g_usleep((gulong)g_random_int_range(1000, 30000));
        if (i % 2 == 1)
            kill(epoch_tap_get_pid(epoch_writes_get_tap(split->writes)), SIGKILL);
        end_writes(split);
        check(vmm_pause(split->vmm, NULL, &error), &error, "pause");
        prepare(split);
        check(epoch_writes_start(split->writes, &error), &error, "start");
        check(vmm_resume(split->vmm, &error), &error, "resume");
    }
    end_writes(split);
    check(vmm_pause(split->vmm, NULL, &error), &error, "pause");
    prepare(split);
    start_writes(split);
    split->epoch = 0;
}

static void run(Split *split, const char *end, guint epochs)
{
    split->source = launch(split, "source", FALSE);
    await_guest(split);
    split->vmm = launch(split, "destination", TRUE);
    prepare(split);
    move_guest(split);
    start_writes(split);
    for (guint i = 0; i < epochs; i++)
        run_epoch(split, TRUE);
    printf("%" G_GUINT64_FORMAT " epochs, %" G_GUINT64_FORMAT " bytes, a cut takes %.2f ms\n",
           split->epoch, split->written, (double)split->cut_us / 1000 / (double)split->epoch);
    if (split->written == 0)
        fail("the guest has written nothing", NULL);
    if (strcmp(end, "often") == 0)
        end_often(split, epochs);
    if (strcmp(end, "takeover") == 0)
        take_over(split);
    else
        end_in_order(split);
    kill_vmm(split->source);
    if (console_says(split, "BAD"))
        fail("the guest has found errors on its disk", NULL);
    if (rmdir(split->overlays) != 0)
        fail("overlays are left", NULL);
}

int main(int argc, char **argv)
{
    Split split = {0};

    if (argc < 7 || strcmp(argv[5], "--") != 0)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    split.folder = argv[1];
    split.format = argv[2];
    split.command_line = argv + 6;
    split.overlays = path_of(&split, "overlays");
    split.image = path_of(&split, "disk");
    if (mkdir(split.overlays, 0700) != 0)
        fail(split.overlays, NULL);
    run(&split, argv[3], (guint)atoi(argv[4]));
    write_journal_free(split.journal);
    vmm_free(split.vmm);
    vmm_free(split.source);
    g_free(split.replica);
    g_free(split.overlays);
    g_free(split.image);
    return 0;
}
