/* How a guest comes to be protected: the half of the host where it runs. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/stages.h"
#include "migrate/protect.h"
#include "migrate/source_move.h"
#include "migrate/witness_open.h"
#include "policy/lease.h"
#include "vmm/vmm_driver.h"

#define WITNESS_TIMEOUT_MS 3000
#define ACCEPT_TIMEOUT_MS 20000
#define CHECK_TIMEOUT_MS 60000
#define STARTED_TIMEOUT_MS 5000

typedef struct {
    SourceMove move;
    const ProtectJob *job;
    GPtrArray *disks; /* of VmmDisk: whose writes go there */
    char *path, *overlays;
    OutstandingPages *outstanding; /* until *split* has it */
    Userfault *userfault;          /* the same */
    PostcopyDestination *split;
    EpochWrites *writes; /* prepared, until they are held */
} Protect;

/* ---- what must be so ---- */

static gboolean describe(Protect *protect, GError **error)
{
    SourceMove *move = &protect->move;
    Vmm *vmm = move->job->vmm;

    if (!source_describe(move, error) || !postcopy_protection_check(vmm, error) ||
        !fault_service_check(move->memory, error))
        return FALSE;
    protect->disks = epoch_writes_list(vmm, error);
    protect->overlays =
        protect->disks ? protect->job->host.name_overlays(protect->job->host.user, error) : NULL;
    return protect->overlays && epoch_writes_check(protect->disks, error) &&
           epoch_writes_check_room(protect->disks, protect->overlays, error) &&
           source_disks_list(move, error);
}

/* Who is its witness: by its lasting id from now on. */
static gboolean find_witness(Protect *protect, GError **error)
{
    SourceMove *move = &protect->move;
    const char *address = move->job->options.store;

    if (!*address)
        return TRUE;
    move->witness_agent =
        witness_find_id(address, &move->job->channel, WITNESS_TIMEOUT_MS, move->cancellable, error);
    if (!move->witness_agent)
        g_prefix_error(error, "the witness: ");
    return move->witness_agent != NULL;
}

static gboolean check_peers(const Protect *protect, GError **error)
{
    const SourceMove *move = &protect->move;

    if (!peer_has_feature(&move->peer, FEATURE_STANDBY))
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "%s cannot stand by",
                  session_get_peer_name(move->session));
    else if (g_strcmp0(move->peer.agent, move->witness_agent) == 0)
        error_set(error, VMFERRY_ERROR_INVALID,
                  "the witness is %s itself, the standby: take a third host",
                  session_get_peer_name(move->session));
    else if (g_strcmp0(move->job->channel.agent, move->witness_agent) == 0)
        error_set(error, VMFERRY_ERROR_INVALID,
                  "the witness is this host, where the guest runs: take a third one");
    else
        return TRUE;
    return FALSE;
}

static gboolean connect_peer(Protect *protect, GError **error)
{
    return find_witness(protect, error) && source_connect(&protect->move, "protect", error) &&
           check_peers(protect, error);
}

static char *encode_protect(const Protect *protect)
{
    g_autofree WireImage *images = g_new0(WireImage, protect->disks->len + 1);
    const CheckpointPaceLimits *limits = &protect->job->limits;
    ProtectMessage message = {.port = protect->job->port,
                              .images = images,
                              .image_count = protect->disks->len,
                              .sync = checkpoint_sync_name(limits->sync),
                              .overhead_percent = (guint)(limits->most_share * 100 + 0.5),
                              .copies_writes = protect->job->copies_writes};

    for (guint i = 0; i < protect->disks->len; i++) {
        const VmmDiskFile *file = ((VmmDisk *)protect->disks->pdata[i])->files->pdata[0];

        images[i] = (WireImage){file->file, file->format, file->bytes};
    }
    return protect_message_encode(&message);
}

static gboolean offer(Protect *protect, GError **error)
{
    SourceMove *move = &protect->move;
    g_autofree char *guest = source_encode_guest(move);
    g_autofree char *text = encode_protect(protect);
    Frame frame;

    return session_send_bytes(move->session, FRAME_GUEST, guest, strlen(guest), error) &&
           session_send_bytes(move->session, FRAME_PROTECT, text, strlen(text), error) &&
           source_await(move, FRAME_ACCEPTED, ACCEPT_TIMEOUT_MS, &frame, error);
}

/* It is told why; what it has made goes. */
static void withdraw_offer(Protect *protect)
{
    g_autoptr(GError) reason = NULL;
    const char *why = protect->move.report->error;

    error_set(&reason, VMFERRY_ERROR_CANCELLED, "the guest's host gave up: %s",
              why ? why : "cancelled");
    session_send_abort(protect->move.session, reason);
}

/* ---- tracking ---- */

/* On record before anything in the VMM waits for us: see memory/clean.h. */
static gboolean note(Protect *protect, GError **error)
{
    const ProtectHost *host = &protect->job->host;
    SourceMove *move = &protect->move;

    protect->path = host->name_outstanding(host->user, error);
    if (!protect->path)
        return FALSE;
    protect->outstanding =
        outstanding_create(protect->path, move->transaction, move->memory, error);
    if (!protect->outstanding)
        return FALSE;
    protect->userfault =
        userfault_open(vmm_get_pid(move->job->vmm), FAULT_SERVICE_USES | USERFAULT_WP_ASYNC,
                       USERFAULT_STAYS_IN_VMM, error);
    return protect->userfault && postcopy_destination_note_standby(protect->path, error) &&
           host->note(move->transaction, protect->path, move->peer.agent, move->witness_agent,
                      host->user, error) &&
           !fault_point("protect.noted", error);
}

static void forget(Protect *protect)
{
    const ProtectHost *host = &protect->job->host;

    g_clear_pointer(&protect->outstanding, outstanding_free);
    g_clear_pointer(&protect->userfault, userfault_free);
    if (!protect->path)
        return;
    unlink(protect->path);
    postcopy_destination_forget_standby(protect->path);
    host->withdraw(host->user);
}

static gboolean make_split(Protect *protect, GError **error)
{
    PostcopyProtectionOptions options = {
        .interval_ms = protect->move.job->options.checkpoint_ms,
        .directory = protect->overlays,
        .copies_writes = protect->job->copies_writes,
        .limits = protect->job->limits,
        .nothing_there = TRUE,
    };
    GuestMemory *memory = guest_memory_open(protect->move.memory->pid,
                                            outstanding_get_regions(protect->outstanding), error);

    if (!memory)
        return FALSE;
    protect->split = postcopy_destination_new(memory, g_steal_pointer(&protect->userfault),
                                              g_steal_pointer(&protect->outstanding), protect->path,
                                              FALSE, error);
    return protect->split && postcopy_destination_protect(protect->split, &options, error);
}

static gboolean stay(gpointer vmm, GError **error)
{
    return TRUE;
}

/* From here on it runs by them, also when we die. */
static gboolean start_leases(Protect *protect, GError **error)
{
    SourceMove *move = &protect->move;
    const ProtectHost *host = &protect->job->host;
    SplitLeasesOptions options = {
        .witness = move->job->options.store,
        .agent = move->witness_agent,
        .lease_ms = PROTECT_LEASE_MS,
        .shortest_ms = PROTECT_SHORTEST_LEASE_MS,
        .get_channel = host->get_channel,
        .user = host->channel_user,
    };

    return !move->witness_agent ||
           (postcopy_destination_start_leases(protect->split, move->job->vmm, &options, error) &&
            postcopy_destination_run(protect->split, stay, NULL, error));
}

static gboolean track(Protect *protect, GError **error)
{
    return make_split(protect, error) && !fault_point("protect.tracked", error);
}

static void untrack(Protect *protect)
{
    if (!protect->split)
        return;
    postcopy_destination_end_alone(protect->split, protect->move.job->vmm);
    postcopy_destination_detach(protect->split);
    g_clear_pointer(&protect->split, postcopy_destination_unref);
}

/* ---- its disks stand still ---- */

static VmmStorage *open_storage(Protect *protect, const char *directory, GError **error)
{
    const SourceMove *move = &protect->move;
    const VmmDriver *driver = vmm_driver_find(move->description->kind, error);
    VmmStorageLaunch launch = {
        .program = move->command_line[0],
        .working_directory = move->job->working_directory ? move->job->working_directory : "/",
        .directory = directory,
        .process = move->process,
    };

    if (driver && driver->open_storage) {
        // cppcheck-suppress returnDanglingLifetime ; it keeps nothing of it
        return driver->open_storage(&launch, error);
    }
    if (driver)
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "disks of a guest of %s are not written",
                  driver->kind);
    return NULL;
}

static gboolean make_overlays(Protect *protect, VmmStorage *storage, GError **error)
{
    EpochWritesPlace place = {.transaction = protect->move.transaction,
                              .directory = protect->overlays,
                              .limit_bytes = EPOCH_TAP_LIMIT_BYTES};
    g_autofree char *process =
        g_strdup_printf("/proc/%d", (int)vmm_get_pid(protect->move.job->vmm));
    struct stat owner;

    if (stat(process, &owner) < 0) {
        error_set_errno(error, errno, "%s", process);
        return FALSE;
    }
    protect->writes = epoch_writes_prepare(protect->move.job->vmm, &place, storage, owner.st_uid,
                                           owner.st_gid, error);
    return protect->writes != NULL;
}

static gboolean prepare_writes(Protect *protect, GError **error)
{
    const MigrateSourceHost *host = &protect->move.job->host;
    g_autofree char *directory = NULL;
    VmmStorage *storage;
    gboolean made;

    if (protect->disks->len == 0)
        return TRUE;
    directory = host->make_directory(host->user, error);
    if (!directory)
        return FALSE;
    storage = open_storage(protect, directory, error);
    made = storage && make_overlays(protect, storage, error);
    vmm_storage_free(storage);
    host->remove_directory(directory, host->user);
    return made;
}

/* The machine is paused; it is not to stay so if we die. */
static gboolean hold_paused(Protect *protect, Guard *guard, GError **error)
{
    Vmm *vmm = protect->move.job->vmm;
    GuardAction resume;
    gboolean was_running = FALSE, held;
    g_autoptr(GError) problem = NULL;

    if (!vmm_get_resume_action(vmm, &resume, error) ||
        !guard_arm(guard, GUARD_SLOT_GUEST, &resume, error))
        return FALSE;
    held = vmm_pause(vmm, &was_running, error) &&
           postcopy_destination_hold(protect->split, vmm, g_steal_pointer(&protect->writes), error);
    if (was_running && !vmm_resume(vmm, &problem)) {
        log_warning("guest %s: %s", protect->move.job->guest, problem->message);
        return FALSE;
    }
    return guard_disarm(guard, GUARD_SLOT_GUEST, error) && held;
}

static gboolean hold(Protect *protect, GError **error)
{
    g_autoptr(GError) problem = NULL;
    VmmRunState state;
    Guard *guard;
    gboolean held;

    if (!vmm_get_run_state(protect->move.job->vmm, &state, error))
        return FALSE;
    if (state != VMM_RUN_STATE_RUNNING) {
        error_set(error, VMFERRY_ERROR_REFUSED, "it does not run: resume it first");
        return FALSE;
    }
    if (!prepare_writes(protect, error))
        return FALSE;
    guard = guard_start(vmm_get_pid(protect->move.job->vmm), NULL, error);
    held = guard && hold_paused(protect, guard, error);
    guard_free(guard);
    return held && !fault_point("protect.held", error);
}

static void drop_writes(Protect *protect)
{
    g_clear_pointer(&protect->writes, epoch_writes_free);
}

static gboolean send_disks(Protect *protect, GError **error)
{
    protect->move.frozen = TRUE;
    return source_disks_prepare(&protect->move, error) &&
           source_disks_complete(&protect->move, error) &&
           !fault_point("protect.disks-sent", error);
}

static gboolean await_check(Protect *protect, GError **error)
{
    SourceMove *move = &protect->move;
    Frame frame;

    return session_send_bytes(move->session, FRAME_PREPARE, NULL, 0, error) &&
           source_await(move, FRAME_READY, CHECK_TIMEOUT_MS, &frame, error);
}

static gboolean begin(Protect *protect, GError **error)
{
    SourceMove *move = &protect->move;
    uint8_t start[START_MESSAGE_BYTES];

    start_message_encode(&(StartMessage){TRUE, move->job->term + 1}, start);
    /* Not before: as long as the disks are copied only the witness would grant any. */
    return start_leases(protect, error) &&
           postcopy_destination_begin_standby(protect->split, error) &&
           !fault_point("protect.begun", error) &&
           session_send_bytes(move->session, FRAME_START, start, sizeof start, error);
}

/* ---- the sequence ---- */

static const Stage stages[] = {
    STAGE("check", describe, NULL),        STAGE("connect", connect_peer, NULL),
    STAGE("offer", offer, withdraw_offer), STAGE("track", note, forget),
    STAGE("track", track, untrack),        STAGE("hold", hold, drop_writes),
    STAGE("copy disks", send_disks, NULL), STAGE("check there", await_check, NULL),
    STAGE_FINAL("start", begin),
};

static void note_failure(gpointer user, guint stage, GError **error)
{
    Protect *protect = user;

    g_prefix_error(error, "%s: ", stages[stage].name);
    protect->move.report->error = g_strdup((*error)->message);
}

/* Whether it has heard that is found out by its coming. */
static void await_started(Protect *protect)
{
    g_autoptr(GError) problem = NULL;
    Frame frame;

    protect->move.start_sent = TRUE;
    if (!source_await(&protect->move, FRAME_STARTED, STARTED_TIMEOUT_MS, &frame, &problem))
        log_warning("guest %s: its standby does not answer: %s", protect->move.job->guest,
                    problem->message);
}

static void protect_clear(Protect *protect)
{
    source_clear(&protect->move);
    g_free(protect->move.witness_agent);
    migrate_report_free(protect->move.report);
    g_clear_pointer(&protect->disks, g_ptr_array_unref);
    g_free(protect->path);
    g_free(protect->overlays);
}

PostcopyDestination *protect_begin(const ProtectJob *job, GCancellable *cancellable, GError **error)
{
    Protect protect = {
        .job = job,
        .move = {.job = &job->source,
                 .cancellable = cancellable,
                 .started_ns = clock_now_ns(),
                 .lease_ms = PROTECT_LEASE_MS,
                 .report = migrate_report_new()},
    };
    PostcopyDestination *split = NULL;

    source_make_transaction_id(protect.move.transaction);
    source_set_phase(&protect.move, MIGRATE_PHASE_CONNECT);
    if (stages_run(stages, G_N_ELEMENTS(stages), note_failure, &protect, error)) {
        await_started(&protect);
        split = g_steal_pointer(&protect.split);
    }
    protect_clear(&protect);
    return split;
}
