/*
 * The source goes on from the last epoch of a guest that its destination has lost
 *
 * From *taking_over* on record it goes forward only (docs/postcopy-transactions.md).  Up to TAKEOVER on
 * record a restarted agent begins anew: nothing of the guest has run in a fresh process.  From there on
 * the guest is that process: where that ends, the guest has ended.
 */
#include <inttypes.h>

#include "agent/directory.h"
#include "agent/incoming_private.h"
#include "agent/launch.h"
#include "agent/recovery_private.h"
#include "agent/takeover_notice.h"
#include "agent/watch.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/process.h"
#include "migrate/epoch_writes.h"
#include "migrate/kept_writes.h"
#include "migrate/source.h"
#include "migrate/takeover.h"
#include "migrate/takeover_disks.h"
#include "migrate/takeover_images.h"
#include "wire/messages.h"

#define MACHINE_MAX_BYTES ((size_t)8 << 20)
#define AWAIT_SLICE_MS 100
#define STORAGE_ANSWER_MS 500
#define RESUME_ATTEMPTS 50
#define RESUME_PAUSE_NS 100000000ULL

typedef struct {
    Recovery *recovery;
    GuestMessage *machine;
    DeltaStore *store;
    char *directory; /* of the takeover's own files */
    Vmm *fresh;      /* NULL once it is the guest's */
    Takeover *takeover;
    GPtrArray *rules;   /* of VmmMapRule, where the machine is another host's; NULL: it is ours */
    char **old_cgroups; /* of the old process, to be removed after it; NULL: none */
    gboolean launched_ahead;
    RecoveryStorage *storage; /* NULL: none was needed */
    uint64_t begun_ns;
    double disks_ms; /* that the rest of the journal took */
} Taking;

static void taking_clear(Taking *taking)
{
    g_clear_pointer(&taking->takeover, takeover_free);
    if (taking->fresh)
        launch_undo(g_steal_pointer(&taking->fresh));
    recovery_storage_free(taking->storage);
    delta_store_free(taking->store);
    guest_message_free(taking->machine);
    g_clear_pointer(&taking->rules, g_ptr_array_unref);
    g_strfreev(taking->old_cgroups);
    g_free(taking->directory);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Taking, taking_clear)

GuestMessage *recovery_read_machine(const char *deltas, GError **error)
{
    g_autofree char *path = g_build_filename(deltas, SOURCE_MACHINE, NULL);
    g_autofree char *text = NULL;
    g_autoptr(GuestMessage) machine = NULL;
    size_t length;

    text = file_read(path, MACHINE_MAX_BYTES, &length, error);
    machine = text ? guest_message_decode(text, length, error) : NULL;
    return machine && guest_message_check_own_form(machine, error) ? g_steal_pointer(&machine)
                                                                   : NULL;
}

static gboolean open_all(Taking *taking, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(taking->recovery->guest);
    g_autofree char *path = g_build_filename(record->deltas, SOURCE_DELTAS, NULL);

    taking->directory = g_strdup(record->deltas);
    if (record->standby)
        taking->rules = incoming_make_rules(taking->recovery->context->settings);
    taking->machine = recovery_read_machine(record->deltas, error);
    taking->store = taking->machine ? delta_store_open(path, error) : NULL;
    return taking->store != NULL;
}

/* --- the images of the old one's disks --------------------------------------------------- */

/* As the fresh one will open it: what the old one has open is not seen once it has left its place. */
static char *name_image(const Taking *taking, const VmmDiskFile *file)
{
    return g_path_is_absolute(file->file)
               ? g_strdup(file->file)
               : g_build_filename(
                     taking->machine->working_directory ? taking->machine->working_directory : "/",
                     file->file, NULL);
}

static gboolean write_images(const Taking *taking, Vmm *old, GError **error)
{
    g_autoptr(GPtrArray) disks = epoch_writes_list(old, error);
    g_autoptr(GPtrArray) paths = g_ptr_array_new_with_free_func(g_free);
    g_autofree TakeoverImage *images = NULL;

    if (!disks || !epoch_writes_check(disks, error))
        return FALSE;
    images = g_new0(TakeoverImage, disks->len + 1);
    for (guint i = 0; i < disks->len; i++) {
        const VmmDiskFile *file = ((VmmDisk *)disks->pdata[i])->files->pdata[0];

        g_ptr_array_add(paths, name_image(taking, file));
        images[i] = (TakeoverImage){paths->pdata[i], file->format, file->bytes};
    }
    return takeover_images_write(taking->directory, images, disks->len, error);
}

/* Before the old one has given up anything; what is there already is right. */
static gboolean note_images(const Taking *taking, Vmm *old, GError **error)
{
    return takeover_images_exist(taking->directory) || write_images(taking, old, error);
}

/* --- up to the fresh process ------------------------------------------------------------- */

/* Where there is none, or it does not answer, one is launched; what was for a takeover that was broken off
 * goes first. */
static gboolean begin(Taking *taking, GError **error)
{
    Guest *guest = taking->recovery->guest;
    GuestRecord *record;

    taking->takeover =
        standby_ahead_take(g_steal_pointer(&taking->recovery->ahead), &taking->fresh);
    taking->launched_ahead = taking->takeover != NULL;
    if (!taking->launched_ahead && !recovery_end_fresh(guest, error))
        return FALSE;
    record = registry_get_record(guest);
    record->taking_over = TRUE;
    return registry_journal_record(guest, record, error);
}

/* Once: one that was adopted has no control socket any more after that. */
static gboolean leave_place(Taking *taking, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(taking->recovery->guest);
    Vmm *old;

    /* A standby has none. */
    if (record->standby || takeover_was_place_left(taking->directory))
        return TRUE;
    if (!recovery_reach(taking->recovery, error))
        return FALSE;
    old = registry_get_vmm(taking->recovery->guest, NULL);
    return note_images(taking, old, error) && takeover_leave_place(old, taking->directory, error) &&
           !fault_point("takeover.place-left", error);
}

/* --- the disks --------------------------------------------------------------------------- */

/* The one that the standby has left, or another one.  It is ended once the guest runs: that takes time. */
static VmmStorage *get_storage(Taking *taking, GError **error)
{
    Recovery *recovery = taking->recovery;
    g_autoptr(GError) problem = NULL;

    taking->storage = g_steal_pointer(&recovery->storage);
    if (taking->storage &&
        !vmm_storage_answers(recovery_storage_get(taking->storage), STORAGE_ANSWER_MS, &problem)) {
        log_warning("guest %s: the storage process here: %s", recovery->guest->name,
                    problem->message);
        vmm_storage_kill(recovery_storage_get(taking->storage));
        g_clear_pointer(&taking->storage, recovery_storage_free);
    }
    if (!taking->storage)
        taking->storage =
            recovery_storage_open(recovery->context, taking->machine, taking->rules, error);
    return taking->storage ? recovery_storage_get(taking->storage) : NULL;
}

static gboolean apply(Taking *taking, const WriteJournal *journal, const GArray *images,
                      GError **error)
{
    uint64_t begun_ns = clock_now_ns();
    VmmStorage *storage = get_storage(taking, error);
    gboolean applied =
        storage && takeover_disks_apply(journal, storage, (const TakeoverImage *)images->data,
                                        images->len, error);

    taking->disks_ms = clock_ns_to_ms(clock_now_ns() - begun_ns);
    return applied;
}

static gboolean has_writes(const WriteJournal *journal, gboolean *ret, GError **error)
{
    *ret = FALSE;
    for (guint i = 0; !*ret && i < write_journal_get_count(journal); i++)
        if (!write_journal_has_writes(journal, i, ret, error))
            return FALSE;
    return TRUE;
}

/* What the guest had written there by its last epoch.  Nobody else writes to these images: the copy
 * there is dead. */
static gboolean apply_writes(Taking *taking, GError **error)
{
    g_autofree char *path = g_build_filename(taking->directory, SOURCE_WRITES, NULL);
    g_autoptr(KeptWrites) kept = NULL;
    g_autoptr(json_t) object = NULL;
    g_autoptr(GArray) images = NULL;
    const WriteJournal *journal;
    uint64_t epoch = 0;
    gboolean any;

    delta_store_get_epoch(taking->store, &epoch);
    kept = kept_writes_open(path, taking->machine->transaction, epoch, error);
    if (!kept)
        return FALSE;
    journal = kept_writes_get_journal(kept);
    if (!journal)
        return TRUE;
    images = takeover_images_read(taking->directory, &object, error);
    if (!images || !has_writes(journal, &any, error))
        return FALSE;
    return !any ||
           (apply(taking, journal, images, error) && !fault_point("takeover.disks-written", error));
}

/* --- the fresh process ------------------------------------------------------------------- */

static gboolean launch_fresh(Taking *taking, GError **error)
{
    FreshLaunch launch = {
        .context = taking->recovery->context,
        .guest = taking->recovery->guest,
        .machine = taking->machine,
        .rules = taking->rules,
    };

    if (!taking->fresh)
        taking->fresh = recovery_launch_fresh(&launch, error);
    if (!taking->fresh || fault_point("takeover.launched", error))
        return FALSE;
    if (!taking->takeover)
        taking->takeover = takeover_prepare(taking->fresh, taking->directory, error);
    return taking->takeover != NULL;
}

static gboolean load(Taking *taking, GError **error)
{
    GBytes *state = delta_store_get_state(taking->store);

    if (!state) {
        error_set(error, VMFERRY_ERROR_INVALID, "no epoch of the guest is complete");
        return FALSE;
    }
    return takeover_load(taking->takeover, takeover_pages_of(taking->store), state, error) &&
           !fault_point("takeover.loaded", error);
}

/* The copy there, if there is one still, has no lease, and is to end. */
static void note_stale(GuestRecord *record)
{
    g_free(record->stale_destination);
    g_free(record->stale_agent);
    g_free(record->stale_transaction);
    record->stale_destination = g_strdup(record->destination);
    record->stale_agent = g_strdup(record->destination_agent);
    record->stale_transaction = g_strdup(record->transaction);
}

/* From here on the guest is the fresh process; its term is above what the destination had. */
static gboolean become(Taking *taking, GError **error)
{
    GuestRecord *record = registry_get_record(taking->recovery->guest);
    char *directory = g_steal_pointer(&record->other_directory);
    pid_t old_pid = record->pid;
    uint64_t old_start = record->start_time;

    taking->old_cgroups = g_steal_pointer(&record->cgroups);
    launch_fill_record(record, taking->fresh);
    /* The live machine's: it is what was launched. */
    g_strfreev(record->command_line);
    record->command_line = g_strdupv(taking->machine->command_line);
    record->other_directory = g_steal_pointer(&record->directory);
    record->directory = directory;
    record->other_pid = old_pid;
    record->other_start = old_start;
    record->term += 2;
    if (record->lease_ms > 0)
        note_stale(record);
    record->taking_over = FALSE;
    record->role = GUEST_TAKEOVER;
    if (!registry_replace_vmm(taking->recovery->guest, record, taking->fresh, error))
        return FALSE;
    taking->fresh = NULL;
    return TRUE;
}

/* --- the guest runs in it ---------------------------------------------------------------- */

/* Somebody may have an image open for a moment. */
static gboolean run_fresh(Taking *taking, GError **error)
{
    Recovery *recovery = taking->recovery;
    Vmm *vmm = registry_get_vmm(recovery->guest, error);
    VmmRunState state = VMM_RUN_STATE_PAUSED;
    gboolean runs = FALSE;

    for (guint i = 0; vmm && !runs && i < RESUME_ATTEMPTS; i++) {
        g_clear_error(error);
        if (i > 0)
            clock_sleep_ns(RESUME_PAUSE_NS);
        runs = vmm_get_run_state(vmm, &state, error) &&
               recovery_end_pause(recovery, vmm, &state, error);
    }
    if (runs)
        registry_set_run_state(recovery->guest, state);
    return runs;
}

static void say_taken_over(Taking *taking)
{
    Recovery *recovery = taking->recovery;
    uint64_t epoch = 0;
    double ms = clock_ns_to_ms(clock_now_ns() - taking->begun_ns);

    delta_store_get_epoch(taking->store, &epoch);
    registry_set_problem(recovery->guest, NULL);
    event_log_add(
        recovery->context->events, recovery->guest->name, "taken-over",
        json_pack("{s:I, s:f, s:f, s:b}", "epoch", (json_int_t)epoch, "ms", ms, "disks_ms",
                  taking->disks_ms, "launched_ahead", (int)taking->launched_ahead),
        "runs here again, as it was at epoch %" PRIu64 " of its destination; that took %.0f ms",
        epoch, ms);
    watch_guest(recovery->context, recovery->guest);
}

static gboolean is_gone(Taking *taking)
{
    g_autoptr(GuestRecord) record = registry_get_record(taking->recovery->guest);

    return !process_is_same(record->pid, record->start_time);
}

/* FALSE with *error*, or where the agent stops. */
static gboolean feed(Taking *taking, GError **error)
{
    for (;;) {
        switch (takeover_await(taking->takeover, AWAIT_SLICE_MS, error)) {
        case LOCAL_FEEDER_WHOLE:
            return TRUE;
        case LOCAL_FEEDER_FAILED:
            return FALSE;
        case LOCAL_FEEDER_FEEDING:
            break;
        }
        if (agent_context_is_stopping(taking->recovery->context) || is_gone(taking))
            return FALSE;
    }
}

static gboolean end_old(Taking *taking, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(taking->recovery->guest);

    return record->other_pid == 0 ||
           migrate_source_end_old(record->other_pid, record->other_start, record->name,
                                  "another process on this host", error);
}

static void forget_witness(Recovery *recovery)
{
    g_autoptr(GuestRecord) record = registry_get_record(recovery->guest);

    recovery_forget_witness(recovery, record);
}

static RecoveryVerdict settle(Taking *taking, GError **error)
{
    g_autofree char *why = NULL;

    if (!end_old(taking, error))
        return RECOVERY_AGAIN;
    guest_cgroups_remove(taking->old_cgroups);
    forget_witness(taking->recovery);
    why = g_strdup("has all of its memory here again");
    return recovery_keep(taking->recovery, why, error);
}

static RecoveryVerdict go_on(Taking *taking, GError **error)
{
    return feed(taking, error) ? settle(taking, error) : RECOVERY_AGAIN;
}

RecoveryVerdict recovery_take_over(Recovery *recovery, GError **error)
{
    g_auto(Taking) taking = {.recovery = recovery, .begun_ns = clock_now_ns()};

    if (!begin(&taking, error) || fault_point("takeover.begun", error) ||
        !open_all(&taking, error) || !leave_place(&taking, error) ||
        !apply_writes(&taking, error) || !launch_fresh(&taking, error) || !load(&taking, error) ||
        !become(&taking, error)) {
        g_prefix_error(error, "taking the guest over from its last epoch: ");
        return RECOVERY_AGAIN;
    }
    fault_point("takeover.become", NULL);
    takeover_notice_start(recovery->context, recovery->guest);
    if (!run_fresh(&taking, error) || !takeover_fill(taking.takeover, error))
        return RECOVERY_AGAIN;
    takeover_give_back(taking.takeover);
    say_taken_over(&taking);
    return go_on(&taking, error);
}

RecoveryVerdict recovery_keep_taken_over(Recovery *recovery, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(recovery->guest);
    g_auto(Taking) taking = {.recovery = recovery, .begun_ns = clock_now_ns()};
    g_autoptr(GError) problem = NULL;

    if (!open_all(&taking, error))
        return RECOVERY_AGAIN;
    taking.takeover =
        takeover_reopen(record->pid, record->deltas, takeover_pages_of(taking.store), &problem);
    if (problem) {
        g_propagate_error(error, g_steal_pointer(&problem));
        return RECOVERY_AGAIN;
    }
    if (!recovery_reach(recovery, error) || !run_fresh(&taking, error))
        return RECOVERY_AGAIN;
    if (taking.takeover)
        takeover_give_back(taking.takeover);
    watch_guest(recovery->context, recovery->guest);
    return taking.takeover ? go_on(&taking, error) : settle(&taking, error);
}

RecoveryVerdict recovery_takeover_gone(Recovery *recovery)
{
    g_autoptr(GError) problem = NULL;

    if (!recovery_end_fresh(recovery->guest, &problem))
        log_warning("guest %s: %s", recovery->guest->name, problem->message);
    return recovery_forget(recovery, "ended", "its process has ended");
}
