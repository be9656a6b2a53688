/*
 * Epochs of a process that writes known pages, from a CheckpointSender to a CheckpointReceiver
 *
 * The VMM is the test's own: it stands when the child has carried out its order.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/page.h"
#include "memory/probe.h"
#include "protect/checkpoint_receiver.h"
#include "protect/checkpoint_sender.h"
#include "session_pair.h"
#include "transfer/guest_pages.h"

#define PAGES 10240u
#define WAIT_MS 10000
#define TRANSACTION "0123456789abcdef0123456789abcdef"

/* ---- the child ---- */

typedef struct {
    _Atomic int order, answer;
    unsigned page;
    uint64_t value;
} Desk;

typedef struct {
    pid_t pid;
    Desk *desk;
    uint8_t *address;
} Child;

/* Half of its memory has content. */
static void child_main(Child *child)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (uint64_t i = 0; i < PAGES / 2; i++)
        memcpy(child->address + i * PAGE_BYTES, &i, sizeof i);
    atomic_store(&child->desk->answer, 1);
    for (;;) {
        if (atomic_exchange(&child->desk->order, 0)) {
            memcpy(child->address + child->desk->page * PAGE_BYTES, &child->desk->value, 8);
            atomic_fetch_add(&child->desk->answer, 1);
        }
        poll(NULL, 0, 1);
    }
}

static void child_write(Child *child, unsigned page, uint64_t value)
{
    int before = atomic_load(&child->desk->answer);

    child->desk->page = page;
    child->desk->value = value;
    atomic_store(&child->desk->order, 1);
    while (atomic_load(&child->desk->answer) == before)
        poll(NULL, 0, 1);
}

static void child_start(Child *child)
{
    child->address =
        mmap(NULL, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    child->desk =
        mmap(NULL, sizeof(Desk), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    child->pid = fork();
    if (child->pid == 0)
        child_main(child);
    while (atomic_load(&child->desk->answer) == 0)
        poll(NULL, 0, 1);
}

static void child_end(Child *child)
{
    kill(child->pid, SIGKILL);
    waitpid(child->pid, NULL, 0);
    munmap(child->desk, sizeof(Desk));
    munmap(child->address, PAGES * PAGE_BYTES);
}

/* ---- the VMM ---- */

static _Atomic int stops;
static _Atomic gboolean breaks;
static CheckpointSender *_Atomic talks_to; /* the guest sends something as soon as it runs */

static gboolean fake_stop(VmmCheckpoint *checkpoint, GError **error)
{
    if (breaks) {
        error_set(error, VMFERRY_ERROR_DISCONNECTED, "the VMM has ended");
        return FALSE;
    }
    atomic_fetch_add(&stops, 1);
    return TRUE;
}

static GBytes *fake_resume(VmmCheckpoint *checkpoint, GError **error)
{
    g_autofree char *text = g_strdup_printf("state %d", atomic_load(&stops));

    if (talks_to)
        checkpoint_sender_hurry(talks_to);
    return g_bytes_new(text, strlen(text));
}

static void fake_free(VmmCheckpoint *checkpoint)
{
    g_free(checkpoint);
}

static uint64_t clock_now_of(VmmCheckpoint *checkpoint)
{
    return clock_now_ns();
}

static VmmCheckpoint *fake_open(Vmm *vmm, GError **error)
{
    static const VmmCheckpointOps ops = {fake_free, fake_stop, fake_resume, clock_now_of};
    VmmCheckpoint *checkpoint = g_new0(VmmCheckpoint, 1);

    checkpoint->ops = &ops;
    return checkpoint;
}

static const VmmOps vmm_ops = {.kind = "fake", .open_checkpoint = fake_open};
static Vmm vmm = {.ops = &vmm_ops};

/* ---- an output ---- */

static _Atomic int cuts, releases;

static gboolean note_cut(gpointer user, GError **error)
{
    atomic_fetch_add(&cuts, 1);
    return TRUE;
}

static void note_release(gpointer user)
{
    atomic_fetch_add(&releases, 1);
}

static const CheckpointOutput output = {.cut = note_cut, .release = note_release};

/* ---- a part ---- */

static _Atomic gboolean is_full;
static _Atomic int seals;

static gboolean take_nothing_of(FrameType type)
{
    return FALSE;
}

static gboolean seal_part(uint64_t epoch, gpointer user, GError **error)
{
    atomic_fetch_add(&seals, 1);
    if (is_full)
        error_set(error, VMFERRY_ERROR_NO_SPACE, "the journal is full");
    return !is_full;
}

static void commit_part(uint64_t epoch, gpointer user)
{
}

static void forget_part(gpointer user)
{
}

static const CheckpointPart part = {
    .takes = take_nothing_of, .seal = seal_part, .committed = commit_part, .forget = forget_part};

/* ---- the scene ---- */

typedef struct {
    Child child;
    GuestMemory *memory;
    Userfault *userfault;
    char *directory, *paths[3];
    EpochPageFiles files;
    CheckpointSender *sender;
    DeltaStore *deltas;
    SessionPair pair;
    CheckpointReceiver *receiver;
    GThread *pump;
    _Atomic gboolean deaf; /* confirmations are not taken */
    _Atomic int pushed;    /* PUSHED frames that came */
} Scene;

static GuestMemory *open_memory(Child *child)
{
    g_autoptr(GPtrArray) regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    GuestMemory *memory;

    g_ptr_array_add(regions,
                    ram_region_new("ram", (uint64_t)(uintptr_t)child->address, PAGES * PAGE_BYTES));
    memory = guest_memory_open(child->pid, regions, NULL);
    assert_non_null(memory);
    return memory;
}

static void make_store(Scene *scene)
{
    static uint64_t pages[] = {PAGES};
    static char *names[] = {"ram", NULL};
    PageRegions regions = {1, pages, names};
    g_autoptr(GBytes) state = g_bytes_new_static("at first", 8);
    g_autofree char *path = g_build_filename(scene->directory, "deltas", NULL);

    scene->deltas = delta_store_create(path, TRANSACTION, &regions, NULL);
    assert_non_null(scene->deltas);
    assert_true(delta_stage_begin(scene->deltas, 0, NULL));
    assert_true(delta_stage_commit(scene->deltas, state, NULL, NULL));
}

static const char *const file_names[] = {"lacking", "discarded", "under-way"};

static OutstandingPages **file_of(Scene *scene, guint i)
{
    OutstandingPages **files[] = {&scene->files.lacking, &scene->files.discarded,
                                  &scene->files.under_way};

    return files[i];
}

static void scene_open(Scene *scene)
{
    GError *error = NULL;

    *scene = (Scene){0};
    cuts = releases = stops = 0;
    breaks = is_full = FALSE;
    talks_to = NULL;
    seals = 0;
    scene->directory = g_dir_make_tmp("checkpoints-XXXXXX", NULL);
    for (guint i = 0; i < 3; i++)
        scene->paths[i] = g_build_filename(scene->directory, file_names[i], NULL);
    child_start(&scene->child);
    scene->memory = open_memory(&scene->child);
    scene->userfault =
        userfault_open(scene->child.pid, USERFAULT_WP_ASYNC, USERFAULT_CLOSES_WITH_US, &error);
    if (!scene->userfault)
        fail_msg("%s", error->message);
    assert_true(userfault_register(scene->userfault, (uint64_t)(uintptr_t)scene->child.address,
                                   PAGES * PAGE_BYTES, USERFAULT_MODE_WP, NULL));
    make_store(scene);
    for (guint i = 0; i < 3; i++)
        *file_of(scene, i) = outstanding_create(scene->paths[i], TRANSACTION, scene->memory, NULL);
    scene->sender = checkpoint_sender_new(scene->memory, scene->userfault, &scene->files, NULL);
    assert_non_null(scene->sender);
}

static void start(Scene *scene)
{
    assert_true(checkpoint_sender_start(scene->sender, &vmm, 20, &output, 1, NULL));
}

static gpointer pump_main(gpointer data)
{
    Scene *scene = data;
    Frame frame;

    while (session_receive(scene->pair.server, TRAFFIC_CONTROL, -1, &frame, NULL))
        if (frame.type == FRAME_PUSHED)
            atomic_fetch_add(&scene->pushed, 1);
        else if (frame.type == FRAME_EPOCH_APPLIED && !scene->deaf)
            assert_true(checkpoint_sender_take_applied(scene->sender, &frame, NULL));
    return NULL;
}

static void connect_both(Scene *scene)
{
    session_pair_open(&scene->pair, TRAFFIC_CHECKPOINT);
    scene->receiver =
        checkpoint_receiver_start(scene->pair.client, scene->deltas, &part, 1, TRUE, NULL);
    assert_non_null(scene->receiver);
    scene->pump = g_thread_new("pump", pump_main, scene);
    checkpoint_sender_begin_session(scene->sender, scene->pair.server);
}

static void disconnect(Scene *scene)
{
    session_shutdown(scene->pair.server);
    session_shutdown(scene->pair.client);
    g_thread_join(scene->pump);
    checkpoint_sender_end_session(scene->sender);
    g_clear_pointer(&scene->receiver, checkpoint_receiver_free);
    session_pair_close(&scene->pair);
}

static void remove_files(Scene *scene)
{
    g_autofree char *deltas = g_build_filename(scene->directory, "deltas", NULL);

    delta_store_remove(deltas);
    for (guint i = 0; i < 3; i++)
        unlink(scene->paths[i]);
    rmdir(scene->directory);
}

static void scene_close(Scene *scene)
{
    checkpoint_sender_free(scene->sender);
    for (guint i = 0; i < 3; i++)
        outstanding_free(*file_of(scene, i));
    delta_store_free(scene->deltas);
    userfault_free(scene->userfault);
    guest_memory_free(scene->memory);
    child_end(&scene->child);
    remove_files(scene);
    for (guint i = 0; i < 3; i++)
        g_free(scene->paths[i]);
    g_free(scene->directory);
}

static CheckpointCounts get_counts(Scene *scene)
{
    CheckpointCounts counts;

    checkpoint_sender_get_counts(scene->sender, &counts);
    return counts;
}

static uint64_t count_epochs(Scene *scene)
{
    return get_counts(scene).epochs;
}

/* One that begins after this call, so it has what was written before. */
static void await_epoch(Scene *scene)
{
    uint64_t end = clock_now_ns() + (uint64_t)WAIT_MS * 1000000, before = count_epochs(scene);

    while (count_epochs(scene) < before + 2) {
        assert_true(clock_now_ns() < end);
        poll(NULL, 0, 1);
    }
}

static uint64_t read_kept(Scene *scene, unsigned page)
{
    uint8_t content[PAGE_BYTES];
    uint64_t value;

    assert_true(page_source_read(delta_store_get_source(scene->deltas), 0, &(PageSpan){page, 1}, 1,
                                 content, NULL));
    memcpy(&value, content, sizeof value);
    return value;
}

static gboolean has_kept(Scene *scene, unsigned page)
{
    g_autoptr(GPtrArray) pages = delta_store_list_pages(scene->deltas);

    return page_set_has(pages->pdata[0], page);
}

/* ---- the tests ---- */

static void test_epochs_follow(void **state)
{
    Scene scene;

    scene_open(&scene);
    start(&scene);
    connect_both(&scene);
    child_write(&scene.child, 3, 33);
    child_write(&scene.child, PAGES - 1, 44);
    await_epoch(&scene);
    child_write(&scene.child, 3, 55);
    await_epoch(&scene);
    disconnect(&scene);
    assert_int_equal(read_kept(&scene, 3), 55);
    assert_int_equal(read_kept(&scene, PAGES - 1), 44);
    /* What was there at the beginning the peer had. */
    assert_false(has_kept(&scene, 4));
    assert_true(releases > 1 && releases <= cuts);
    scene_close(&scene);
}

/* The first packet behind a cut is told once, and may be sent before the VMM's answer is here. */
static void test_output_at_once(void **state)
{
    const CheckpointPaceLimits limits = {.most_share = 1, .sync = CHECKPOINT_SYNC_OUTPUT};
    Scene scene;

    scene_open(&scene);
    checkpoint_sender_set_limits(scene.sender, &limits);
    assert_true(checkpoint_sender_start(scene.sender, &vmm, 86400e3, &output, 1, NULL));
    connect_both(&scene);
    talks_to = scene.sender;
    checkpoint_sender_hurry(scene.sender);
    for (guint i = 0; i < WAIT_MS && stops < 4; i++)
        poll(NULL, 0, 1);
    assert_true(stops >= 4);
    disconnect(&scene);
    scene_close(&scene);
}

/* Of a page that the peer has got before, what has changed; a new session knows of none. */
static void test_only_changes_are_sent(void **state)
{
    CheckpointCounts counts;
    Scene scene;

    scene_open(&scene);
    start(&scene);
    connect_both(&scene);
    for (uint64_t value = 1; value <= 3; value++) {
        child_write(&scene.child, 3, value);
        await_epoch(&scene);
        assert_int_equal(read_kept(&scene, 3), value);
    }
    counts = get_counts(&scene);
    assert_int_equal(counts.segments, 2);
    assert_true(counts.bytes < 2 * PAGE_BYTES);
    disconnect(&scene);
    child_write(&scene.child, 3, 4);
    connect_both(&scene);
    await_epoch(&scene);
    assert_int_equal(read_kept(&scene, 3), 4);
    disconnect(&scene);
    assert_int_equal(get_counts(&scene).segments, 2);
    scene_close(&scene);
}

/* The peer commits, and its word is lost: nothing is released, and the next session has it all. */
static void test_unconfirmed_is_cut_anew(void **state)
{
    uint64_t end = clock_now_ns() + (uint64_t)WAIT_MS * 1000000;
    Scene scene;

    scene_open(&scene);
    start(&scene);
    scene.deaf = TRUE;
    child_write(&scene.child, 7, 77);
    connect_both(&scene);
    while (cuts < 1 && clock_now_ns() < end)
        poll(NULL, 0, 1);
    disconnect(&scene);
    assert_int_equal(releases, 0);
    child_write(&scene.child, 8, 88);
    scene.deaf = FALSE;
    connect_both(&scene);
    await_epoch(&scene);
    disconnect(&scene);
    assert_int_equal(read_kept(&scene, 7), 77);
    assert_int_equal(read_kept(&scene, 8), 88);
    assert_true(releases > 0);
    scene_close(&scene);
}

/* Begins anew with what an agent that died has on record. */
static void reopen(Scene *scene)
{
    checkpoint_sender_free(scene->sender);
    for (guint i = 0; i < 3; i++)
        outstanding_free(*file_of(scene, i));
    for (guint i = 0; i < 3; i++) {
        *file_of(scene, i) = outstanding_open(scene->paths[i], NULL);
        assert_non_null(*file_of(scene, i));
    }
    scene->sender = checkpoint_sender_reopen(scene->memory, scene->userfault, &scene->files, NULL);
    assert_non_null(scene->sender);
    start(scene);
}

static void test_agent_that_dies_among_pages(void **state)
{
    Scene scene;

    scene_open(&scene);
    child_write(&scene.child, 9, 99);
    outstanding_set_uncertain(scene.files.lacking, TRUE);
    reopen(&scene);
    connect_both(&scene);
    await_epoch(&scene);
    disconnect(&scene);
    assert_int_equal(read_kept(&scene, 9), 99);
    assert_int_equal(read_kept(&scene, 4), 4);
    scene_close(&scene);
}

static void test_lacking_pages_survive(void **state)
{
    Scene scene;

    scene_open(&scene);
    assert_true(outstanding_add(scene.files.under_way, 0, (PageSpan){5, 1}, NULL));
    assert_true(outstanding_add(scene.files.lacking, 0, (PageSpan){6, 1}, NULL));
    /* Discarded: there is nothing. */
    assert_true(outstanding_add(scene.files.lacking, 0, (PageSpan){PAGES - 3, 1}, NULL));
    reopen(&scene);
    connect_both(&scene);
    await_epoch(&scene);
    disconnect(&scene);
    assert_true(has_kept(&scene, 5) && has_kept(&scene, 6) && has_kept(&scene, PAGES - 3));
    assert_int_equal(read_kept(&scene, PAGES - 3), 0);
    assert_false(has_kept(&scene, 4));
    assert_int_equal(outstanding_count(scene.files.lacking), 0);
    assert_int_equal(outstanding_count(scene.files.under_way), 0);
    scene_close(&scene);
}

/* A new agent knows of nothing that the peer has: half of all pages, which are too many for one pause. */
static void test_many_pages_go_ahead(void **state)
{
    CheckpointCounts counts;
    Scene scene;

    scene_open(&scene);
    outstanding_set_uncertain(scene.files.lacking, TRUE);
    reopen(&scene);
    connect_both(&scene);
    for (uint64_t i = 1; i <= 20; i++)
        child_write(&scene.child, 3, i);
    await_epoch(&scene);
    counts = get_counts(&scene);
    disconnect(&scene);
    assert_true(counts.ahead >= PAGES / 2);
    assert_int_equal(read_kept(&scene, 3), 20);
    assert_int_equal(read_kept(&scene, PAGES / 2 - 1), PAGES / 2 - 1);
    assert_false(has_kept(&scene, PAGES / 2));
    assert_int_equal(outstanding_count(scene.files.lacking), 0);
    assert_int_equal(outstanding_count(scene.files.under_way), 0);
    scene_close(&scene);
}

static void expect_pass(EpochPages *epoch, gboolean cut, uint64_t first, uint64_t second)
{
    g_autoptr(GPtrArray) send = NULL, present = NULL;
    uint64_t count = 0;
    PageSet *set;

    assert_true(epoch_pages_collect(epoch, &count, NULL));
    assert_true(epoch_pages_begin_pass(epoch, cut, &send, &present, NULL));
    set = send->pdata[0];
    assert_int_equal(page_set_count(set), first == second ? 1 : 2);
    assert_true(page_set_has(set, first) && page_set_has(set, second));
    if (!cut) {
        assert_int_equal(count, page_set_count(set));
        epoch_pages_note_ahead(epoch, send);
    }
}

/* What was sent ahead is not sent again, unless it was written or discarded since; we hear of a discard
 * before it happens, so only the guest's standing still says that it has. */
static void test_passes(void **state)
{
    Scene scene;
    g_autoptr(PageSource) pages = NULL;
    g_autoptr(EpochPages) epoch = NULL;

    scene_open(&scene);
    g_clear_pointer(&scene.sender, checkpoint_sender_free);
    pages = guest_source_new(scene.memory);
    epoch = epoch_pages_new(scene.memory, pages, scene.userfault, &scene.files, NULL);
    assert_non_null(epoch);
    child_write(&scene.child, 1, 1);
    child_write(&scene.child, 2, 2);
    expect_pass(epoch, FALSE, 1, 2);
    child_write(&scene.child, 2, 3);
    assert_true(outstanding_add(scene.files.discarded, 0, (PageSpan){1, 1}, NULL));
    expect_pass(epoch, FALSE, 2, 2);
    child_write(&scene.child, 7, 7);
    expect_pass(epoch, TRUE, 1, 7);
    epoch_pages_confirm(epoch);
    for (guint i = 0; i < 3; i++)
        assert_int_equal(outstanding_count(*file_of(&scene, i)), 0);
    /* A session that broke: what was sent ahead in it is sent again. */
    child_write(&scene.child, 4, 4);
    expect_pass(epoch, FALSE, 4, 4);
    epoch_pages_forget_ahead(epoch);
    child_write(&scene.child, 5, 5);
    expect_pass(epoch, TRUE, 4, 5);
    scene_close(&scene);
}

static void test_vmm_that_ends(void **state)
{
    uint64_t end = clock_now_ns() + (uint64_t)WAIT_MS * 1000000;
    CheckpointCounts counts = {0};
    Scene scene;

    scene_open(&scene);
    start(&scene);
    connect_both(&scene);
    await_epoch(&scene);
    breaks = TRUE;
    while (!counts.failed && clock_now_ns() < end) {
        checkpoint_sender_get_counts(scene.sender, &counts);
        poll(NULL, 0, 1);
    }
    assert_true(counts.failed);
    assert_non_null(strstr(checkpoint_sender_get_error(scene.sender)->message, "ended"));
    disconnect(&scene);
    scene_close(&scene);
}

/* Nothing of it may hang. */
/* Pages go on to come by the session; nothing is released. */
static void test_no_room_at_the_receiver(void **state)
{
    Scene scene;

    scene_open(&scene);
    is_full = TRUE;
    start(&scene);
    connect_both(&scene);
    for (guint i = 0; i < WAIT_MS && seals == 0; i++)
        poll(NULL, 0, 1);
    assert_int_equal(seals, 1);
    assert_true(session_send_bytes(scene.pair.client, FRAME_PUSHED, NULL, 0, NULL));
    for (guint i = 0; i < WAIT_MS && scene.pushed == 0; i++)
        poll(NULL, 0, 1);
    assert_int_equal(scene.pushed, 1);
    assert_int_equal(releases, 0);
    disconnect(&scene);
    is_full = FALSE;
    connect_both(&scene);
    await_epoch(&scene);
    disconnect(&scene);
    scene_close(&scene);
}

static void test_end_without_a_session(void **state)
{
    Scene scene;

    scene_open(&scene);
    start(&scene);
    child_write(&scene.child, 3, 33);
    scene_close(&scene);
}

static int find_tracking(void **state)
{
    MemoryProbe probe;
    gboolean works;

    memory_probe(&probe);
    works = probe.track_scan.ok;
    memory_probe_clear(&probe);
    if (works)
        return 0;
    fprintf(stderr, "skipped: no asynchronous write protection on this kernel\n");
    exit(77);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_epochs_follow),
        cmocka_unit_test(test_output_at_once),
        cmocka_unit_test(test_only_changes_are_sent),
        cmocka_unit_test(test_unconfirmed_is_cut_anew),
        cmocka_unit_test(test_agent_that_dies_among_pages),
        cmocka_unit_test(test_lacking_pages_survive),
        cmocka_unit_test(test_many_pages_go_ahead),
        cmocka_unit_test(test_passes),
        cmocka_unit_test(test_vmm_that_ends),
        cmocka_unit_test(test_no_room_at_the_receiver),
        cmocka_unit_test(test_end_without_a_session),
    };

    return cmocka_run_group_tests(tests, find_tracking, NULL);
}
