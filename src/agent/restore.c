#include "agent/restore.h"

#include <signal.h>
#include <string.h>

#include "agent/directory.h"
#include "agent/incoming_private.h"
#include "agent/launch.h"
#include "agent/recovery_private.h"
#include "agent/restored_disks.h"
#include "agent/shared_images.h"
#include "agent/watch.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/lock_guard.h"
#include "base/log.h"
#include "base/name.h"
#include "base/process.h"
#include "vmm/vmm_driver.h"

#define AWAIT_SLICE_MS 100
#define RESUME_ATTEMPTS 20
#define RESUME_PAUSE_NS 100000000ULL
#define KILL_TIMEOUT_MS 10000
#define STOP_GENTLY_MS 3000
#define STOP_TIMEOUT_MS 10000

typedef struct {
    AgentContext *context;
    const RestoreRequest *request;
    ImageRestore *image;
    RestoredDisks *disks;
    SharedImage *shared; /* until the guest has it */
    GPtrArray *rules;    /* of VmmMapRule: all */
    Guest *guest;        /* with its claim */
    Vmm *vmm;            /* until the guest has it */
    json_t *renewal;     /* for its record, or NULL */
    uint64_t begun_ns;
    double launch_ms, load_ms, run_ms; /* until then, since the begin */
} Restore;

/* ---- before there is a process ---- */

static gboolean open_image(Restore *restore, GError **error)
{
    if (!g_path_is_absolute(restore->request->file)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not an absolute path",
                  restore->request->file);
        return FALSE;
    }
    restore->image = image_restore_open(restore->request->file, error);
    return restore->image != NULL;
}

/* The same guest must not be twice: under its own name it would meet itself here; under another it is another one, with
 * disks of its own. */
static gboolean check_twin(Restore *restore, const char *name, GError **error)
{
    const GuestMessage *machine = image_restore_get_machine(restore->image);
    const GArray *disks = image_restore_get_disks(restore->image);
    g_autoptr(GPtrArray) guests = registry_list(restore->context->registry);
    const char *twin = NULL;

    for (guint i = 0; i < guests->len && !twin; i++) {
        g_autoptr(GuestRecord) record = registry_get_record(guests->pdata[i]);

        if (strcmp(record->id, machine->guest_id) == 0)
            twin = ((Guest *)guests->pdata[i])->name;
    }
    if (!twin)
        return TRUE;
    if (strcmp(name, twin) == 0) {
        error_set(
            error, VMFERRY_ERROR_EXISTS,
            "guest %s, which was saved in %s, is here: stop it first, or restore it as another "
            "one (--name)",
            twin, restore->request->file);
        return FALSE;
    }
    for (guint i = 0; i < disks->len; i++) {
        const SavedDisk *disk = &g_array_index(disks, SavedDisk, i);

        if (disk->saved || disk->read_only)
            continue;
        error_set(
            error, VMFERRY_ERROR_REFUSED,
            "guest %s, which was saved in %s, is here, and disk %s (%s) would be of both: stop "
            "it first, or save it with --disks copy",
            twin, restore->request->file, disk->id, disk->device);
        return FALSE;
    }
    return TRUE;
}

static const char *get_name(const Restore *restore)
{
    const GuestMessage *machine = image_restore_get_machine(restore->image);

    return restore->request->name ? restore->request->name : machine->guest;
}

static GPtrArray *make_rules(Restore *restore)
{
    g_autoptr(GPtrArray) of_host = incoming_make_rules(restore->context->settings);
    GPtrArray *rules = g_ptr_array_new_with_free_func(g_free);

    for (guint i = 0; i < restore->request->rules->len; i++)
        g_ptr_array_add(rules, g_memdup2(restore->request->rules->pdata[i], sizeof(VmmMapRule)));
    for (guint i = 0; i < of_host->len; i++)
        g_ptr_array_add(rules, g_memdup2(of_host->pdata[i], sizeof(VmmMapRule)));
    return rules;
}

static gboolean make_disks(Restore *restore, GError **error)
{
    RestoredDisksRequest request = {.name = restore->guest->name,
                                    .folder = restore->request->disks_in,
                                    .trusts = restore->request->trusts_disks};

    const GuestMessage *machine = image_restore_get_machine(restore->image);
    const VmmDriver *driver = vmm_driver_find(machine->vmm_kind, error);
    g_auto(GStrv) line = NULL;
    GuestRecord *record;

    if (!driver)
        return FALSE;
    restore->rules = make_rules(restore);
    restore->disks =
        restored_disks_make(restore->context, restore->image, &request, restore->rules, error);
    if (!restore->disks)
        return FALSE;
    record = registry_get_record(restore->guest);
    g_strfreev(record->command_line);
    line = restored_disks_apply(restore->disks, machine->command_line);
    record->command_line =
        driver->renew_generation ? driver->renew_generation(line) : g_strdupv(line);
    return registry_journal_record(restore->guest, record, error);
}

static gboolean take_name(Restore *restore, GError **error)
{
    const GuestMessage *machine = image_restore_get_machine(restore->image);
    const char *name = get_name(restore);
    const char *folder = machine->working_directory ? machine->working_directory : "/";
    GuestRecord *record;

    if (!guest_name_check(name, error) || !check_twin(restore, name, error))
        return FALSE;
    record = launch_make_record(name, GUEST_RESTORING, GUEST_ORIGIN_IMAGE, machine->command_line,
                                folder);
    record->resume =
        !json_is_true(json_object_get(image_restore_get_note(restore->image), "paused"));
    record->deltas = guest_directory_create(restore->context->settings->runtime_dir, error);
    if (!record->deltas) {
        guest_record_free(record);
        return FALSE;
    }
    restore->guest = registry_add(restore->context->registry, record, "restore", error);
    return restore->guest && launch_give_directory(restore->context, restore->guest, error);
}

/* ---- its VMM ---- */

static gboolean launch_vmm(Restore *restore, GError **error)
{
    const GuestMessage *machine = image_restore_get_machine(restore->image);
    const VmmDriver *driver = vmm_driver_find(machine->vmm_kind, error);
    g_autoptr(GuestRecord) record = registry_get_record(restore->guest);
    VmmLaunch launch = {
        .name = restore->guest->name,
        .command_line = record->command_line,
        .directory = record->directory,
        .working_directory = record->working_directory,
        .incoming = TRUE,
        .restored = TRUE,
        .rules = restore->rules,
        .process = machine->process,
        .allow_unconfined = restore->context->settings->allow_unconfined,
        .begun = launch_note_process,
        .user = restore->guest,
    };

    restore->vmm = driver ? driver->launch(&launch, error) : NULL;
    restore->launch_ms = clock_ns_to_ms(clock_now_ns() - restore->begun_ns);
    return restore->vmm && !fault_point("restore.launched", error) &&
           vmm_match_machine(restore->vmm, machine->machine, machine->live, error) &&
           restored_guest_plan(restore->vmm, &restore->request->wishes, &restore->renewal, error);
}

static gboolean share(Restore *restore, GError **error)
{
    const SavedImage *image = image_restore_get_image(restore->image);

    if (!restore->request->shares)
        return TRUE;
    restore->shared = shared_images_join(restore->context->shared, saved_image_get_id(image),
                                         saved_image_get_regions(image), error);
    if (restore->shared)
        image_restore_share(restore->image, shared_image_get_pages(restore->shared));
    return restore->shared != NULL;
}

static gboolean load(Restore *restore, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(restore->guest);

    if (!share(restore, error) ||
        !image_restore_load(restore->image, restore->vmm, record->deltas, error) ||
        fault_point("restore.loaded", error))
        return FALSE;
    restore->load_ms = clock_ns_to_ms(clock_now_ns() - restore->begun_ns);
    return TRUE;
}

/* From here on it may run, and a restarted agent goes on with it.  Its disks first: as long as they are on record as to
 * be removed that would remove them under it. */
static gboolean become(Restore *restore, GError **error)
{
    GuestRecord *record = registry_get_record(restore->guest);
    const ProcessIdentity *process = image_restore_get_machine(restore->image)->process;

    restored_disks_keep(restore->disks);
    launch_fill_record(record, restore->vmm);
    record->process = process ? process_identity_copy(process) : NULL;
    record->image = g_strdup(restore->request->file);
    record->renewal = g_steal_pointer(&restore->renewal);
    if (!registry_journal_record(restore->guest, record, error))
        return FALSE;
    registry_set_vmm(restore->guest, g_steal_pointer(&restore->vmm));
    registry_set_shared(restore->guest, g_steal_pointer(&restore->shared));
    fault_point("restore.on-record", NULL);
    return TRUE;
}

/* Somebody may have an image of it open for a moment. */
static gboolean run(Restore *restore, GError **error)
{
    Recovery recovery = {.context = restore->context, .guest = restore->guest};
    Vmm *vmm = registry_get_vmm(restore->guest, error);
    VmmRunState state = VMM_RUN_STATE_PAUSED;
    gboolean runs = FALSE;

    for (guint i = 0; vmm && !runs && i < RESUME_ATTEMPTS; i++) {
        g_clear_error(error);
        if (i > 0)
            clock_sleep_ns(RESUME_PAUSE_NS);
        runs = vmm_get_run_state(vmm, &state, error) &&
               recovery_end_pause(&recovery, vmm, &state, error);
    }
    if (!runs)
        return FALSE;
    restore->run_ms = clock_ns_to_ms(clock_now_ns() - restore->begun_ns);
    registry_set_run_state(restore->guest, state);
    return TRUE;
}

/* ---- its memory ---- */

typedef struct {
    AgentContext *context;
    Activity *activity; /* owns this */
    Guest *guest;
    GMutex lock;
    ImageRestore *image; /* protected by *lock*; NULL once it is not needed here */
    char *file;
    uint64_t begun_ns, pages; /* outstanding at the begin */
    double launch_ms, load_ms, run_ms;
    RestoredGuest restored;
} Feeding;

static json_t *get_feeding_progress(gpointer user)
{
    Feeding *feeding = user;
    lock_guard(&feeding->lock);
    FaultServiceCounts counts;

    if (!feeding->image)
        return NULL;
    image_restore_get_counts(feeding->image, &counts);
    return json_pack("{s:s, s:I, s:I, s:I}", "phase", "restoring", "pages",
                     (json_int_t)feeding->pages, "pages_left",
                     (json_int_t)image_restore_count_outstanding(feeding->image), "faults",
                     (json_int_t)counts.faults);
}

/* Before another one goes on with it. */
static void drop_image(Feeding *feeding)
{
    lock_guard(&feeding->lock);

    g_clear_pointer(&feeding->image, image_restore_free);
}

static void describe_feeding(gpointer user, json_t *view)
{
    json_object_set_new(view, "image", json_string(((Feeding *)user)->file));
}

static void feeding_free(gpointer user)
{
    Feeding *feeding = user;

    image_restore_free(feeding->image);
    restored_guest_clear(&feeding->restored);
    g_mutex_clear(&feeding->lock);
    guest_unref(feeding->guest);
    g_free(feeding->file);
    g_free(feeding);
}

static const ActivityKind restore_kind = {
    .kind = "restore",
    .state = "restoring",
    .describe = describe_feeding,
    .get_progress = get_feeding_progress,
    .free = feeding_free,
};

static gboolean is_gone(Guest *guest)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);

    return !process_is_same(record->pid, record->start_time);
}

static json_t *make_report(Feeding *feeding, const char *status)
{
    FaultServiceCounts counts;

    image_restore_get_counts(feeding->image, &counts);
    return json_pack("{s:s, s:f, s:f, s:f, s:f, s:I, s:I, s:f, s:f}", "status", status, "launch_ms",
                     feeding->launch_ms, "load_ms", feeding->load_ms, "run_ms", feeding->run_ms,
                     "total_ms", clock_ns_to_ms(clock_now_ns() - feeding->begun_ns), "pages",
                     (json_int_t)feeding->pages, "faults", (json_int_t)counts.faults,
                     "fault_p50_ms", counts.p50_ms, "fault_p99_ms", counts.p99_ms);
}

/* For the next one; a folder that cannot be written to has none. */
static void record_order(Feeding *feeding)
{
    g_autoptr(GError) problem = NULL;

    if (!image_restore_record(feeding->image, &problem))
        log_debug("guest %s: what it has used first is not recorded: %s", feeding->guest->name,
                  problem->message);
}

/* It is all there. */
static void settle(Feeding *feeding)
{
    g_autoptr(GError) problem = NULL;
    json_t *report = make_report(feeding, "completed");

    registry_journal_settled(feeding->guest, 0, &problem);
    if (problem)
        log_warning("guest %s: %s", feeding->guest->name, problem->message);
    registry_set_problem(feeding->guest,
                         feeding->restored.failed ? feeding->restored.failed->str : NULL);
    record_order(feeding);
    event_log_add(feeding->context->events, feeding->guest->name, "restored",
                  json_deep_copy(report), "has all of its memory from %s", feeding->file);
    watch_release_from_activity(feeding->context, feeding->guest);
    activity_finish(feeding->activity, report);
}

/* The agent stops, or the image fails: recovery goes on, now or after a restart. */
static void leave(Feeding *feeding, const GError *error)
{
    json_t *report = make_report(feeding, "failed");

    if (error) {
        json_object_set_new(report, "error", json_string(error->message));
        registry_set_problem(feeding->guest, error->message);
        event_log_add(feeding->context->events, feeding->guest->name, "restore-broken", NULL,
                      "waits for memory that cannot be read: %s", error->message);
    }
    drop_image(feeding);
    registry_set_activity(feeding->guest, NULL);
    activity_finish(feeding->activity, report);
    recovery_start(feeding->context, feeding->guest);
}

/* Where the memory is there and something else is not, the wait is for that. */
static LocalFeederState await_memory(Feeding *feeding, gboolean renewed, GError **error)
{
    LocalFeederState state = image_restore_await(feeding->image, AWAIT_SLICE_MS, error);

    if (state == LOCAL_FEEDER_WHOLE && !renewed)
        clock_sleep_ns(AWAIT_SLICE_MS * 1000000ULL);
    return state;
}

static gpointer feeding_thread(gpointer data)
{
    Feeding *feeding = data;
    g_autoptr(Activity) activity = feeding->activity; /* the thread's reference */
    g_autoptr(GError) error = NULL;
    LocalFeederState state;
    gboolean renewed;

    do {
        renewed = restored_guest_go_on(&feeding->restored);
        state = await_memory(feeding, renewed, &error);
        activity_note_progress(activity);
    } while ((state == LOCAL_FEEDER_FEEDING || (state == LOCAL_FEEDER_WHOLE && !renewed)) &&
             !agent_context_is_stopping(feeding->context) && !is_gone(feeding->guest));
    if (state == LOCAL_FEEDER_WHOLE && renewed) {
        settle(feeding);
    } else if (is_gone(feeding->guest)) {
        activity_finish(activity, make_report(feeding, "failed"));
        watch_release_from_activity(feeding->context, feeding->guest);
    } else {
        leave(feeding, error);
    }
    return NULL;
}

/* Takes the image. */
static void begin_feeding(Restore *restore)
{
    Feeding *feeding = g_new0(Feeding, 1);
    Guest *guest = restore->guest;

    *feeding = (Feeding){.context = restore->context,
                         .guest = guest_ref(guest),
                         .image = g_steal_pointer(&restore->image),
                         .restored = {.context = restore->context, .guest = guest},
                         .file = g_strdup(restore->request->file),
                         .begun_ns = restore->begun_ns,
                         .launch_ms = restore->launch_ms,
                         .load_ms = restore->load_ms,
                         .run_ms = restore->run_ms};
    g_mutex_init(&feeding->lock);
    feeding->pages = image_restore_count_outstanding(feeding->image);
    feeding->activity = activity_new(&restore_kind, guest->name, feeding);
    registry_set_activity(guest, feeding->activity);
    agent_context_spawn_surely(restore->context, "restore", feeding_thread, feeding);
}

/* ---- the whole ---- */

/* It has not run. */
static void kill_vmm(Vmm *vmm)
{
    g_autoptr(VmmIdentity) identity = vmm_get_identity(vmm);

    process_kill(identity->pid, identity->start_time, SIGKILL, NULL);
    process_wait_gone(identity->pid, identity->start_time, KILL_TIMEOUT_MS);
    vmm_free(vmm);
}

static void restore_clear(Restore *restore)
{
    g_clear_pointer(&restore->image, image_restore_free);
    if (restore->vmm)
        kill_vmm(g_steal_pointer(&restore->vmm));
    shared_image_release(restore->shared);
    g_clear_pointer(&restore->rules, g_ptr_array_unref);
    json_decref(restore->renewal);
    restored_disks_free(restore->disks);
    guest_unref(restore->guest);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Restore, restore_clear)

static gboolean begin(Restore *restore, GError **error)
{
    return open_image(restore, error) &&
           restored_guest_check(restore->image, &restore->request->wishes, error) &&
           take_name(restore, error) && make_disks(restore, error) && launch_vmm(restore, error) &&
           load(restore, error) && become(restore, error);
}

static void say_begun(const Restore *restore)
{
    event_log_add(restore->context->events, restore->guest->name, "restoring",
                  json_pack("{s:f, s:f, s:f}", "launch_ms", restore->launch_ms, "load_ms",
                            restore->load_ms, "run_ms", restore->run_ms),
                  "goes on from %s after %.0f ms; the rest of its memory follows",
                  restore->request->file, restore->run_ms);
}

Guest *restore_start(AgentContext *context, const RestoreRequest *request, GError **error)
{
    g_auto(Restore) restore = {.context = context, .request = request, .begun_ns = clock_now_ns()};

    if (!begin(&restore, error)) {
        g_clear_pointer(&restore.image, image_restore_free);
        if (restore.vmm)
            kill_vmm(g_steal_pointer(&restore.vmm));
        if (restore.guest)
            registry_remove(restore.guest);
        return NULL;
    }
    departure_log_forget(context->departures, restore.guest->name);
    watch_guest(context, restore.guest);
    if (run(&restore, error) && image_restore_fill(restore.image, error)) {
        say_begun(&restore);
        begin_feeding(&restore);
        return guest_ref(restore.guest);
    }
    /* It is on record, and may run: recovery goes on trying. */
    registry_set_problem(restore.guest, (*error)->message);
    g_clear_pointer(&restore.image, image_restore_free);
    recovery_start(context, restore.guest);
    return NULL;
}

gboolean restore_has(Guest *guest)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);

    return record->role == GUEST_RESTORING;
}

static gboolean is_removed(gpointer user)
{
    return ((const Guest *)user)->removed;
}

/* A VMM one of whose threads waits for a page that cannot be read ends by SIGKILL only. */
static gboolean end_process(const GuestRecord *record, GError **error)
{
    return process_kill(record->pid, record->start_time, SIGTERM, error) &&
           (process_wait_gone(record->pid, record->start_time, STOP_GENTLY_MS) ||
            process_kill(record->pid, record->start_time, SIGKILL, error));
}

/* Whoever brings its memory sees its end, and removes it. */
gboolean restore_stop(AgentContext *context, Guest *guest, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);
    gint64 until;

    if (!end_process(record, error))
        return FALSE;
    until = g_get_monotonic_time() + STOP_TIMEOUT_MS * G_TIME_SPAN_MILLISECOND;
    if (!registry_await(context->registry, until, is_removed, guest)) {
        error_set(error, VMFERRY_ERROR_TIMEOUT, "guest %s does not end", guest->name);
        return FALSE;
    }
    event_log_add(context->events, guest->name, "stopped", NULL, "stopped by request");
    return TRUE;
}

/* ---- after a restart ---- */

/* *image* NULL: all of its memory is there. */
static LocalFeederState await_again(ImageRestore *image, GError **error)
{
    if (image)
        return image_restore_await(image, AWAIT_SLICE_MS, error);
    clock_sleep_ns(AWAIT_SLICE_MS * 1000000ULL);
    return LOCAL_FEEDER_WHOLE;
}

static gboolean feed_again(Recovery *recovery, ImageRestore *image, RestoredGuest *restored,
                           GError **error)
{
    gboolean renewed = FALSE;

    while (!agent_context_is_stopping(recovery->context) && !is_gone(recovery->guest)) {
        LocalFeederState state;

        renewed = renewed || restored_guest_go_on(restored);
        state = await_again(image, error);
        if (state == LOCAL_FEEDER_FAILED)
            return FALSE;
        if (state == LOCAL_FEEDER_WHOLE && renewed)
            return TRUE;
        if (state == LOCAL_FEEDER_WHOLE)
            image = NULL;
    }
    return FALSE;
}

static gboolean run_again(Recovery *recovery, GError **error)
{
    VmmRunState state;
    Vmm *vmm;

    if (!recovery_reach(recovery, error))
        return FALSE;
    vmm = registry_get_vmm(recovery->guest, NULL);
    if (!vmm_get_run_state(vmm, &state, error) || !recovery_end_pause(recovery, vmm, &state, error))
        return FALSE;
    registry_set_run_state(recovery->guest, state);
    return TRUE;
}

RecoveryVerdict recovery_keep_restored(Recovery *recovery, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(recovery->guest);
    g_auto(RestoredGuest) restored = {.context = recovery->context, .guest = recovery->guest};
    g_autoptr(ImageRestore) image = NULL;
    RecoveryVerdict verdict;
    gboolean whole;

    if (!record->image)
        return recovery_release(recovery, "not-restored",
                                "was not restored: the agent had ended meanwhile", error);
    watch_guest(recovery->context, recovery->guest);
    image = image_restore_open(record->image, error);
    if (!image || !image_restore_reopen(image, record->pid, record->deltas, &whole, error) ||
        !run_again(recovery, error) ||
        !feed_again(recovery, whole ? NULL : image, &restored, error))
        return RECOVERY_AGAIN;
    verdict = recovery_keep(recovery, "has all of its memory from its image", error);
    if (verdict == RECOVERY_DONE && restored.failed)
        registry_set_problem(recovery->guest, restored.failed->str);
    return verdict;
}
