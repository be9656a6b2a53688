/*
 * What the block tap adds to a synchronous write
 *
 *   ninja -C build bench/tap && build/bench/tap [FOLDER [QEMU [OPTION…]]]
 *
 * A QEMU with an idle guest and a raw disk in FOLDER (/var/tmp; no tmpfs, which knows no O_DIRECT)
 * writes 4 KiB at random places through the disk's back end, each write with FUA, as a guest's O_DSYNC
 * writes arrive there.  In turns without and with a tap, whose events are read all the time; cache
 * modes none and writeback.  Printed are the medians of the turns' medians, that of what the tap adds
 * (the goal is 0.3 ms), and the ratio.  Each time has the way of a monitor command in it, with the tap and without.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "disk/tap_sink.h"
#include "vmm/qemu/qemu.h"
#include "vmm/qemu/qmp.h"

#define DISK_BYTES (256u << 20)
#define TURNS 15
#define WRITES 200 /* in a turn */
#define WAIT_MS 30000
#define GOAL_MS 0.3

typedef struct {
    char *folder;
    Vmm *vmm;
    Qmp *qmp; /* another connection than the driver's */
    TapSink *sink;
    GThread *reader;
    uint64_t bytes; /* read from the sink */
} Bench;

static void die(const char *what, const GError *error)
{
    fprintf(stderr, "%s: %s\n", what, error ? error->message : "failed");
    exit(1);
}

/* ---- the guest ---- */

static void make_disk(const char *path)
{
    FILE *file = fopen(path, "w");

    if (!file || ftruncate(fileno(file), DISK_BYTES) < 0)
        die(path, NULL);
    fclose(file);
}

static void start_guest(Bench *bench, char **qemu, const char *cache)
{
    g_autofree char *disk = g_build_filename(bench->folder, "disk", NULL);
    g_autofree char *socket_path = g_build_filename(bench->folder, "own.sock", NULL);
    g_autofree char *rest = g_strdup_printf("-nodefaults -display none -M pc -m 32 -drive "
                                            "file=%s,format=raw,if=virtio,cache=%s -qmp "
                                            "unix:%s,server=on,wait=off",
                                            disk, cache, socket_path);
    g_auto(GStrv) more = g_strsplit(rest, " ", -1);
    g_autoptr(GStrvBuilder) builder = g_strv_builder_new();
    g_auto(GStrv) line = NULL;
    g_autoptr(GError) error = NULL;

    g_strv_builder_addv(builder, (const char **)qemu);
    g_strv_builder_addv(builder, (const char **)more);
    line = g_strv_builder_end(builder);
    make_disk(disk);
    bench->vmm = qemu_launch(
        &(VmmLaunch){.name = "bench", .command_line = line, .directory = bench->folder}, &error);
    if (bench->vmm)
        bench->qmp = qmp_connect(socket_path, WAIT_MS, &error);
    if (!bench->qmp)
        die("start QEMU", error);
}

static void end_guest(Bench *bench)
{
    g_clear_pointer(&bench->qmp, qmp_free);
    vmm_quit(bench->vmm, NULL);
    g_clear_pointer(&bench->vmm, vmm_free);
}

/* In milliseconds. */
static double write_once(Bench *bench)
{
    guint at = (guint)g_random_int_range(0, DISK_BYTES / 4096) * 4096;
    g_autofree char *line =
        g_strdup_printf("qemu-io virtio0 \"write -f -P %d %u 4k\"", g_random_int_range(0, 256), at);
    g_autoptr(GError) error = NULL;
    gint64 began = g_get_monotonic_time();
    g_autofree char *answer = qmp_execute_human(bench->qmp, line, WAIT_MS, &error);

    if (!answer || strstr(answer, "failed"))
        die("write", error);
    return (double)(g_get_monotonic_time() - began) / 1000;
}

/* ---- the tap ---- */

static gpointer reader_main(gpointer data)
{
    Bench *bench = data;
    TapEvent event;

    while (tap_sink_read(bench->sink, -1, &event, NULL) == 1 && event.kind != TAP_EVENT_END)
        bench->bytes += event.length;
    return NULL;
}

static void start_tap(Bench *bench)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) disks = vmm_list_disks(bench->vmm, &error);
    const VmmDisk *disk = disks ? disks->pdata[0] : NULL;
    TapDisk wanted = {.bytes = DISK_BYTES};
    VmmTap tap = {.name = "vmferry-tap-bench",
                  .bytes = DISK_BYTES,
                  .export_name = TAP_EXPORT_NAME,
                  .node = disk ? disk->node : NULL};

    if (disk)
        bench->sink = tap_sink_start(&(TapSinkOptions){.client = vmm_get_pid(bench->vmm),
                                                       .buffer_bytes = TAP_BUFFER_BYTES,
                                                       .stall_ms = TAP_STALL_MS,
                                                       .wait_ms = TAP_WAIT_MS,
                                                       .disks = &wanted,
                                                       .count = 1},
                                     &error);
    if (!bench->sink)
        die("start the sink", error);
    tap.address = tap_sink_get_address(bench->sink, 0);
    if (!vmm_pause(bench->vmm, NULL, &error) || !vmm_start_tap(bench->vmm, &tap, &error) ||
        !vmm_resume(bench->vmm, &error))
        die("start the tap", error);
    bench->bytes = 0;
    bench->reader = g_thread_new("reader", reader_main, bench);
}

/* The reader has all events then. */
static void stop_tap(Bench *bench)
{
    g_autoptr(GError) error = NULL;

    if (!vmm_stop_tap(bench->vmm, "vmferry-tap-bench", &error))
        die("stop the tap", error);
    g_thread_join(bench->reader);
    g_clear_pointer(&bench->sink, tap_sink_free);
    if (bench->bytes != WRITES * 4096u)
        die("the tap did not see all writes", NULL);
}

/* ---- turns ---- */

static int compare(gconstpointer one, gconstpointer other)
{
    double a = *(const double *)one, b = *(const double *)other;

    return (a > b) - (a < b);
}

static double median(GArray *times)
{
    g_array_sort(times, compare);
    return g_array_index(times, double, times->len / 2);
}

/* The median of one turn. */
static double run_turn(Bench *bench)
{
    g_autoptr(GArray) times = g_array_new(FALSE, FALSE, sizeof(double));

    for (guint i = 0; i < WRITES; i++) {
        double took = write_once(bench);

        g_array_append_val(times, took);
    }
    return median(times);
}

static void run(Bench *bench, char **qemu, const char *cache)
{
    g_autoptr(GArray) without = g_array_new(FALSE, FALSE, sizeof(double));
    g_autoptr(GArray) with = g_array_new(FALSE, FALSE, sizeof(double));
    g_autoptr(GArray) added = g_array_new(FALSE, FALSE, sizeof(double));

    start_guest(bench, qemu, cache);
    for (guint turn = 0; turn < TURNS; turn++) {
        double plain = run_turn(bench), tapped, more;

        start_tap(bench);
        tapped = run_turn(bench);
        stop_tap(bench);
        more = tapped - plain;
        g_array_append_val(without, plain);
        g_array_append_val(with, tapped);
        g_array_append_val(added, more);
    }
    end_guest(bench);
    printf("cache=%-10s without %.3f ms, with the tap %.3f ms: %+.3f ms (goal %.1f), ratio %.2f\n",
           cache, median(without), median(with), median(added), GOAL_MS,
           median(with) / median(without));
}

int main(int argc, char **argv)
{
    static char *const plain_qemu[] = {(char *)"qemu-system-x86_64", NULL};
    g_autofree char *pattern =
        g_build_filename(argc > 1 ? argv[1] : "/var/tmp", "vmferry-bench-XXXXXX", NULL);
    Bench bench = {.folder = g_mkdtemp(pattern)};
    g_autofree char *remove = g_strdup_printf("rm -rf '%s'", pattern);
    char **qemu = argc > 2 ? argv + 2 : (char **)plain_qemu;

    if (!bench.folder)
        die(pattern, NULL);
    run(&bench, qemu, "none");
    run(&bench, qemu, "writeback");
    return system(remove);
}
