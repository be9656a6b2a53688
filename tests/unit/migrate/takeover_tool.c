/*
 * Takeovers by hand, on a real QEMU (used by tests/system/test_takeover.py)
 *
 *     takeover_tool run FOLDER PID QMP-SOCKET DELTA-PAGES DIES-AT
 *     takeover_tool recover FOLDER PID
 *
 * DELTA-PAGES "all": the store has all of the guest, and the old one is killed before the fresh one is
 * launched, as where its host has died.
 *
 * "run" pauses the QEMU of that pid and lets a fresh one take its place.  Of the old one's memory
 * so many pages go into a delta store, and are spoilt in the old one.  It prints how long each step
 * took.  Where DIES-AT is positive the tool kills itself when so many pages are left; where it is
 * negative, so many microseconds after it began to load.  "recover" goes on with the fresh one of
 * that pid, or with one that it launches anew.  Both end the old one at the end.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/page.h"
#include "base/process.h"
#include "migrate/takeover.h"
#include "migrate/takeover_old.h"
#include "transfer/guest_pages.h"
#include "vmm/vmm_driver.h"

#define EPOCH 7u
#define BATCH_PAGES 64u
#define AWAIT_MS 120000

typedef struct {
    const char *folder;
    char *launch_folder, *store_folder;
    uint64_t delta_pages;
    int64_t dies_at;
    gboolean alone; /* the store has all of it, and the old one dies */
    Vmm *old, *fresh;
    json_t *machine;
    char *machine_type;
    char **line;
    GBytes *state;
    DeltaStore *store;
    Takeover *takeover;
} Scene;

static G_NORETURN void die(const char *what, const GError *error)
{
    fprintf(stderr, "%s: %s\n", what, error ? error->message : "?");
    exit(1);
}

#define must(what, call)                                                                           \
    do {                                                                                           \
        GError *error = NULL;                                                                      \
                                                                                                   \
        if (!(call))                                                                               \
            die(what, error);                                                                      \
    } while (0)

/* The same, and how long it took. */
#define timed(what, call)                                                                          \
    do {                                                                                           \
        uint64_t begin = clock_now_ns();                                                           \
                                                                                                   \
        must(what, call);                                                                          \
        printf("%s_ms %.2f\n", what, clock_ns_to_ms(clock_now_ns() - begin));                      \
    } while (0)

static void scene_init(Scene *scene, const char *folder)
{
    scene->folder = folder;
    scene->launch_folder = g_build_filename(folder, "fresh", NULL);
    scene->store_folder = g_build_filename(folder, "delta", NULL);
    mkdir(scene->launch_folder, 0700);
}

/* --- the old one ------------------------------------------------------------------------ */

static void take_old(Scene *scene, pid_t pid, const char *qmp)
{
    const VmmDriver *driver = vmm_driver_find("qemu", NULL);
    g_auto(GStrv) original = process_get_command_line(pid, NULL);
    g_autoptr(VmmDescription) description = NULL;

    must("adopt", (scene->old = driver->adopt(pid, qmp, &error)));
    must("machine",
         (scene->machine = vmm_read_machine(scene->old, original, &scene->line, &error)));
    must("describe", (description = vmm_describe(scene->old, &error)));
    scene->machine_type = g_strdup(description->machine);
}

/* The host of the old one dies. */
static void kill_old(Scene *scene)
{
    g_autoptr(VmmDescription) description = vmm_describe(scene->old, NULL);
    g_autoptr(VmmIdentity) identity = vmm_get_identity(scene->old);

    must("note", takeover_note_machine(description->machine, description->ram_regions,
                                       scene->folder, &error));
    must("kill", process_kill(identity->pid, identity->start_time, SIGKILL, &error) &&
                     process_wait_gone(identity->pid, identity->start_time, AWAIT_MS));
}

static void pause_old(Scene *scene)
{
    timed("pause", vmm_pause(scene->old, NULL, &error));
    timed("save", (scene->state = vmm_save_device_state(scene->old, VMM_SAVE_SWITCHOVER, &error)));
    if (scene->alone)
        return;
    timed("leave", takeover_leave_place(scene->old, scene->folder, &error));
    if (!takeover_was_place_left(scene->folder))
        die("the place was not left", NULL);
    must("leave again", takeover_leave_place(scene->old, scene->folder, &error));
    if (vmm_resume(scene->old, NULL))
        die("the old one runs again", NULL);
}

/* --- the delta store --------------------------------------------------------------------- */

/* Pages of a region go into the store, and what the old one has of them is spoilt. */
static uint64_t move_region(Scene *scene, GuestMemory *memory, guint region, uint64_t most)
{
    g_autofree uint8_t *buffer = g_malloc(BATCH_PAGES * PAGE_BYTES);
    g_autoptr(PageSet) set = page_set_new(guest_memory_get_region(memory, region)->pages);
    uint64_t done = 0;
    PageSpan span = {0, 0};

    must("populated", guest_memory_add_populated(memory, region, set, &error));
    while (done < most &&
           page_set_next_run(set, span.first + span.count, MIN(BATCH_PAGES, most - done),
                             &span.first, &span.count)) {
        must("read", guest_memory_read(memory, region, &span, 1, buffer, &error));
        must("stage",
             page_sink_write(delta_stage_get_sink(scene->store), region, &span, 1, buffer, &error));
        memset(buffer, 0xaa, span.count * PAGE_BYTES);
        if (!scene->alone)
            must("spoil", guest_memory_write(memory, region, &span, 1, buffer, &error));
        done += span.count;
    }
    return done;
}

static void make_store(Scene *scene)
{
    g_autoptr(VmmDescription) description = vmm_describe(scene->old, NULL);
    g_autoptr(GuestMemory) memory =
        guest_memory_open(vmm_get_pid(scene->old), description->ram_regions, NULL);
    g_autoptr(PageSource) source = guest_source_new(memory);
    uint64_t left = scene->delta_pages;

    must("store", (scene->store =
                       delta_store_create(scene->store_folder, "move-1", source->regions, &error)));
    must("epoch", delta_stage_begin(scene->store, EPOCH, &error));
    for (guint i = 0; i < source->regions->count && left > 0; i++)
        left -= move_region(scene, memory, i, left);
    timed("commit", delta_stage_commit(scene->store, scene->state, NULL, &error));
    printf("delta_pages %u\n", (guint)(scene->delta_pages - left));
}

/* --- the fresh one ------------------------------------------------------------------------- */

static void launch_fresh(Scene *scene)
{
    const VmmDriver *driver = vmm_driver_find("qemu", NULL);
    VmmLaunch launch = {
        .name = "fresh",
        .command_line = scene->line,
        .directory = scene->launch_folder,
        .incoming = TRUE,
        .in_place = TRUE,
    };

    timed("launch", (scene->fresh = driver->launch(&launch, &error)));
    printf("pid %d\n", (int)vmm_get_pid(scene->fresh));
    if (scene->machine)
        timed("match",
              vmm_match_machine(scene->fresh, scene->machine_type, scene->machine, &error));
    timed("prepare", (scene->takeover = takeover_prepare(scene->fresh, scene->folder, &error)));
}

/* Resident memory of the old one, in MiB. */
static guint old_mib(const Scene *scene)
{
    g_autofree char *note = g_build_filename(scene->folder, "old", NULL);
    g_autoptr(TakeoverOld) old = takeover_old_read(note, NULL);
    g_autofree char *path = g_strdup_printf("/proc/%d/statm", (int)old->pid);
    g_autofree char *text = file_read(path, 4096, NULL, NULL);
    gulong all = 0, resident = 0;

    if (old->pid == 0)
        return 0;
    if (!text || sscanf(text, "%lu %lu", &all, &resident) != 2)
        die("statm", NULL);
    return (guint)(resident * PAGE_BYTES >> 20);
}

static void await_whole(Scene *scene)
{
    GError *error = NULL;
    uint64_t begin = clock_now_ns();
    FaultServiceCounts counts;

    while (scene->dies_at > 0)
        if (takeover_count_outstanding(scene->takeover) <= (uint64_t)scene->dies_at)
            kill(getpid(), SIGKILL);
    printf("old_mib_before %u\n", old_mib(scene));
    if (takeover_await(scene->takeover, AWAIT_MS, &error) != LOCAL_FEEDER_WHOLE)
        die("await", error);
    printf("old_mib_after %u\n", old_mib(scene));
    takeover_get_counts(scene->takeover, &counts);
    printf("fill_ms %.1f\nfaults %u\nplaced %u\nfault_p50_ms %.3f\nfault_p99_ms %.3f\n",
           clock_ns_to_ms(clock_now_ns() - begin), (guint)counts.faults, (guint)counts.placed,
           counts.p50_ms, counts.p99_ms);
}

static gpointer die_later(gpointer data)
{
    clock_sleep_ns(*(const uint64_t *)data);
    kill(getpid(), SIGKILL);
    return NULL;
}

static void run(Scene *scene)
{
    uint64_t dies_after_ns = (uint64_t)-scene->dies_at * 1000;

    fflush(stdout);
    if (scene->dies_at < 0)
        g_thread_unref(g_thread_new("die", die_later, &dies_after_ns));
    timed("run",
          takeover_load(scene->takeover, takeover_pages_of(scene->store), scene->state, &error) &&
              vmm_resume(scene->fresh, &error));
    takeover_give_back(scene->takeover);
    must("fill", takeover_fill(scene->takeover, &error));
    printf("outstanding %u\n", (guint)takeover_count_outstanding(scene->takeover));
    fflush(stdout);
    must("announce", vmm_announce(scene->fresh, &error));
    await_whole(scene);
}

/* --- going on, as a restarted agent ---------------------------------------------------------- */

static void open_store(Scene *scene)
{
    uint64_t epoch;

    if (!g_file_test(scene->store_folder, G_FILE_TEST_IS_DIR))
        return;
    timed("store", (scene->store = delta_store_open(scene->store_folder, &error)));
    if (!delta_store_get_epoch(scene->store, &epoch) || epoch != EPOCH)
        die("the epoch", NULL);
    scene->state = g_bytes_ref(delta_store_get_state(scene->store));
}

/* It has what it needs of memory from now on, so it answers. */
static void attach_fresh(Scene *scene, pid_t pid, uint64_t start_time)
{
    g_autofree char *path = g_build_filename(scene->launch_folder, "sockets", "fresh.qmp", NULL);
    VmmIdentity identity = {
        .kind = (char *)"qemu", .pid = pid, .start_time = start_time, .control_path = path};

    timed("attach", (scene->fresh = vmm_driver_find("qemu", NULL)->reattach(&identity, &error)));
}

/* FALSE where it has ended, since its state did not come to an end. */
static gboolean make_it_run(Scene *scene)
{
    VmmRunState state = VMM_RUN_STATE_INCOMING;

    for (guint i = 0; state == VMM_RUN_STATE_INCOMING && i < 1000; i++) {
        clock_sleep_ns(5000000);
        must("state", vmm_get_run_state(scene->fresh, &state, &error));
    }
    printf("was_%s 1\n", vmm_run_state_name(state));
    if (state == VMM_RUN_STATE_PAUSED)
        must("resume", vmm_resume(scene->fresh, &error));
    return state != VMM_RUN_STATE_GONE;
}

static gboolean try_reopen(Scene *scene, pid_t pid)
{
    uint64_t start_time;

    /* Its stream was closed by our death: it has seen that by now. */
    clock_sleep_ns(300000000);
    if (!process_get_start_time(pid, &start_time, NULL) || !process_is_same(pid, start_time))
        return FALSE;
    timed("reopen", (scene->takeover = takeover_reopen(pid, scene->folder,
                                                       takeover_pages_of(scene->store), &error)));
    printf("outstanding %u\n", (guint)takeover_count_outstanding(scene->takeover));
    attach_fresh(scene, pid, start_time);
    if (make_it_run(scene))
        return TRUE;
    g_clear_pointer(&scene->takeover, takeover_free);
    g_clear_pointer(&scene->fresh, vmm_free);
    return FALSE;
}

static void recover(Scene *scene, pid_t pid)
{
    g_autofree char *path = g_build_filename(scene->folder, "old", NULL);
    g_autoptr(TakeoverOld) old = takeover_old_read(path, NULL);

    open_store(scene);
    if (try_reopen(scene, pid)) {
        takeover_give_back(scene->takeover);
        await_whole(scene);
        g_clear_pointer(&scene->takeover, takeover_free);
        if (takeover_reopen(pid, scene->folder, takeover_pages_of(scene->store), NULL))
            die("it is whole, and was reopened", NULL);
    } else {
        printf("anew 1\n");
        scene->line = process_get_command_line(old->pid, NULL);
        launch_fresh(scene);
        run(scene);
    }
    if (old->pid == 0)
        return;
    must("end the old one", process_kill(old->pid, old->start_time, SIGKILL, &error) &&
                                process_wait_gone(old->pid, old->start_time, AWAIT_MS));
}

static void scene_clear(Scene *scene)
{
    takeover_free(scene->takeover);
    delta_store_free(scene->store);
    vmm_free(scene->old);
    vmm_free(scene->fresh);
    json_decref(scene->machine);
    g_strfreev(scene->line);
    g_clear_pointer(&scene->state, g_bytes_unref);
    g_free(scene->machine_type);
    g_free(scene->launch_folder);
    g_free(scene->store_folder);
}

int main(int argc, char **argv)
{
    Scene scene = {0};

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 4 && strcmp(argv[1], "recover") == 0) {
        scene_init(&scene, argv[2]);
        recover(&scene, (pid_t)atoi(argv[3]));
    } else if (argc == 7 && strcmp(argv[1], "run") == 0) {
        scene_init(&scene, argv[2]);
        scene.delta_pages = strtoull(argv[5], NULL, 10);
        scene.dies_at = strtoll(argv[6], NULL, 10);
        scene.alone = strcmp(argv[5], "all") == 0;
        if (scene.alone)
            scene.delta_pages = UINT64_MAX;
        take_old(&scene, (pid_t)atoi(argv[3]), argv[4]);
        pause_old(&scene);
        if (scene.delta_pages > 0)
            make_store(&scene);
        if (scene.alone)
            kill_old(&scene);
        launch_fresh(&scene);
        run(&scene);
        if (!scene.alone)
            must("end the old one", vmm_quit(scene.old, &error));
    } else {
        return 2;
    }
    scene_clear(&scene);
    printf("done 1\n");
    return 0;
}
