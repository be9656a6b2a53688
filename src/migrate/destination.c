/*
 * The destination's half of a move
 *
 * A table of stages (at the end) from GUEST to the running guest.  Until START came and
 * was committed all of it is undone where a stage fails: the VMM ends, the record says
 * "aborted", then the source is told.
 *
 * The images are opened for writing, and locked, only when the guest is started.
 * Where that fails the machine has certainly not run: then the commit is taken back,
 * the VMM ends and the guest goes on at its source.  In this order, so that no death of
 * ours leaves two owners or none:
 *
 *     guard: leave it     from here on nobody but a restarted agent runs it, and
 *                         that goes by the journal
 *     journal: aborted    (not told yet) a restarted agent ends it
 *     guard: kill it
 *     end it, then tell
 */
#include "migrate/destination.h"

#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/stages.h"
#include "migrate/destination_move.h"
#include "transfer/guest_pages.h"
#include "wire/messages.h"

#define GUEST_TIMEOUT_MS 15000
#define START_TIMEOUT_MS 30000
#define START_SLICE_MS 500
#define DRAIN_MS 2000
/* Frames received ahead; packed ones are small (and FRAME_QUEUE_MOST_BYTES a
 * limit besides). */
#define RECEIVE_AHEAD_FRAMES 128
/* Somebody who reads an image has it locked for a moment; the guest is paused. */
#define START_ATTEMPTS 6
#define START_PAUSE_NS 200000000ULL

/* --- until the VMM waits for pages ------------------------------------- */

static const RamRegion *find_region(const VmmDescription *description, const WireRegion *wanted)
{
    for (guint i = 0; i < description->ram_regions->len; i++) {
        const RamRegion *region = g_ptr_array_index(description->ram_regions, i);

        if (strcmp(region->name, wanted->name) == 0 && region->bytes == wanted->bytes)
            return region;
    }
    return NULL;
}

GPtrArray *destination_order_regions(const GuestMessage *guest, const VmmDescription *description,
                                     GError **error)
{
    g_autoptr(GPtrArray) ordered = g_ptr_array_new();

    for (guint i = 0; i < guest->region_count; i++) {
        const RamRegion *ours = find_region(description, &guest->regions[i]);

        if (!ours) {
            error_set(error, VMFERRY_ERROR_FAILED, "RAM block %s did not become %" PRIu64 " bytes",
                      guest->regions[i].name, guest->regions[i].bytes);
            return NULL;
        }
        g_ptr_array_add(ordered, (gpointer)ours);
    }
    return g_steal_pointer(&ordered);
}

static gboolean check_guest_frame(DestinationMove *move, const Frame *frame, GError **error)
{
    if (frame->type == FRAME_GUEST)
        return TRUE;
    if (frame->type == FRAME_ERROR || frame->type == FRAME_ABORT)
        session_error_from_frame(move->session, frame, error);
    else
        error_set(error, VMFERRY_ERROR_INVALID, "%s frame where GUEST was expected",
                  frame_type_name(frame->type));
    return FALSE;
}

gboolean destination_take_guest(DestinationMove *move, const Frame *frame, GError **error)
{
    if (!check_guest_frame(move, frame, error))
        return FALSE;
    move->guest = guest_message_decode((const char *)frame->payload, frame->length, error);
    if (!move->guest || (!move->takes_neutral && !guest_message_check_own_form(move->guest, error)))
        return FALSE;
    session_set_transaction(move->session, move->guest->transaction);
    if (move->guest->retry_for_ms > 0)
        session_allow_reconnect(move->session, NULL, move->guest->retry_for_ms);
    destination_seed_send_list(move);
    return move->disks ? destination_are_disks_of(move, move->guest, error)
                       : move->host->begin(move->guest->guest, move->host->user, error);
}

/* Perhaps with a seed and disks before it. */
static gboolean receive_guest(DestinationMove *move, GError **error)
{
    Frame frame;

    if (!session_receive(move->session, TRAFFIC_CONTROL, GUEST_TIMEOUT_MS, &frame, error))
        return FALSE;
    if (frame.type == FRAME_SEED &&
        (!destination_take_seed(move, &frame, error) ||
         !session_receive(move->session, TRAFFIC_CONTROL, GUEST_TIMEOUT_MS, &frame, error)))
        return FALSE;
    if (frame.type == FRAME_DISKS &&
        (!destination_take_disks(move, &frame, error) ||
         !destination_await_after_disks(move, FRAME_GUEST, &frame, error)))
        return FALSE;
    return destination_take_guest(move, &frame, error);
}

/* Makes the VMM's RAM that of the source, by name and length. */
static gboolean open_incoming(DestinationMove *move, GError **error)
{
    const GuestMessage *guest = move->guest;
    g_autoptr(GPtrArray) regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);

    for (guint i = 0; i < guest->region_count; i++)
        g_ptr_array_add(regions,
                        ram_region_new(guest->regions[i].name, 0, guest->regions[i].bytes));
    return vmm_open_incoming(move->vmm, guest->machine, regions, error);
}

/* Opens it, all zero: opening has left something in each region. */
static gboolean open_memory(DestinationMove *move, GError **error)
{
    g_autoptr(GPtrArray) regions = NULL;

    move->description = vmm_describe(move->vmm, error);
    regions =
        move->description ? destination_order_regions(move->guest, move->description, error) : NULL;
    if (!regions)
        return FALSE;
    move->memory = guest_memory_open(vmm_get_pid(move->vmm), regions, error);
    return move->memory && vmm_check_process(move->vmm, error) &&
           guest_memory_check_room(move->memory, error) &&
           guest_memory_make_zero(move->memory, error);
}

static gboolean receive_ahead(DestinationMove *move, GError **error)
{
    move->queue = frame_queue_start(session_get_channel(move->session, TRAFFIC_CONTROL),
                                    RECEIVE_AHEAD_FRAMES, error);
    if (move->queue)
        frame_queue_take_further(move->queue, move->session);
    return move->queue != NULL;
}

static gboolean launch(DestinationMove *move, GError **error)
{
    move->vmm = move->host->launch(move->guest, move->host->user, error);
    return move->vmm != NULL;
}

/* If we die, the guard ends the VMM; later it resumes the guest instead, and lets
 * its balloon go, which is armed before there is no way back any more. */
static gboolean arm_guard(DestinationMove *move, GError **error)
{
    uint64_t balloon_bytes = move->guest->balloon_bytes;
    GuardAction balloon_action;

    guard_action_begin(&move->kill_action, 1);
    guard_action_add_kill(&move->kill_action);
    move->guard = guard_start(vmm_get_pid(move->vmm), &move->kill_action, error);
    return move->guard && vmm_check_process(move->vmm, error) &&
           vmm_get_resume_action(move->vmm, &move->resume_action, error) &&
           (balloon_bytes == 0 ||
            (vmm_get_set_balloon_action(move->vmm, balloon_bytes, &balloon_action, error) &&
             guard_arm(move->guard, GUARD_SLOT_BALLOON, &balloon_action, error))) &&
           !fault_point("destination.launched", error);
}

static gboolean make_machine(DestinationMove *move, GError **error)
{
    /* A machine of another VMM's is what was planned of its description. */
    return (move->guest->neutral ||
            vmm_match_machine(move->vmm, move->guest->machine, move->guest->live, error)) &&
           open_incoming(move, error) && !fault_point("destination.opened", error) &&
           open_memory(move, error);
}

static void release_slot(gpointer owner, gpointer user)
{
    frame_queue_release(user, owner);
}

static gboolean accept_pages(DestinationMove *move, GError **error)
{
    move->sink = guest_sink_new(move->memory);
    move->applier = page_applier_new(move->sink, release_slot, move->queue);
    page_applier_take_windows(move->applier);
    page_applier_set_seed(move->applier, destination_seed_get_reader(move));
    move->epochs = epoch_receiver_new(move->sink, move->applier);
    move->received = guest_source_new(move->memory);
    move->check = digest_check_new(move->received);
    if (!destination_prepare_split(move, error))
        return FALSE;
    return session_send_bytes(move->session, FRAME_ACCEPTED, NULL, 0, error);
}

/* No thread of ours writes to a VMM that is being ended. */
static void stop_threads(DestinationMove *move)
{
    g_clear_pointer(&move->applier, page_applier_free);
    g_clear_pointer(&move->answer, destination_images_free);
    destination_undo_split(move);
}

/* --- until the machine is loaded --------------------------------------- */

static gboolean end_epoch(DestinationMove *move, const Frame *frame, GError **error)
{
    return epoch_receiver_seal(move->epochs, frame, error) && destination_seed_end(move, error) &&
           destination_drop_outstanding(move, error) &&
           !fault_point("destination.round-applied", error) &&
           epoch_receiver_confirm(move->epochs, session_get_channel(move->session, TRAFFIC_CONTROL),
                                  error);
}

/* Loads the device state, with all memory in place. */
static gboolean prepare(DestinationMove *move, GError **error)
{
    ReadyMessage ready = {0};
    g_autoptr(GBytes) state = NULL;
    g_autofree char *text = NULL;
    uint64_t start;

    state = epoch_receiver_get_state(move->epochs, error);
    if (!state) {
        g_prefix_error(error, "PREPARE: ");
        return FALSE;
    }
    if (!destination_seed_check(move, error))
        return FALSE;
    if (move->guest->verify && !digest_check_finish(move->check, error))
        return FALSE;
    ready.verified = move->guest->verify;
    if (!destination_complete_disks(move, error) || fault_point("destination.before-load", error) ||
        !destination_try_images(move, error) || !destination_begin_split(move, error))
        return FALSE;
    start = clock_now_ns();
    if (!vmm_load_device_state(move->vmm, state, error))
        return FALSE;
    ready.load_ms = clock_ns_to_ms(clock_now_ns() - start);
    if (!destination_hold_output(move, error) || fault_point("destination.before-ready", error))
        return FALSE;
    text = ready_message_encode(&ready);
    move->ready_ns = clock_boot_ns();
    return session_send_bytes(move->session, FRAME_READY, text, strlen(text), error);
}

/* The guest goes on at its source: what its last epoch has besides pages does not count, and rounds
 * follow. */
static gboolean retract(DestinationMove *move, const Frame *frame, GError **error)
{
    uint8_t payload[FRAME_RETRACT_BYTES] = {1};

    /* Was a PREPARE. */
    if (frame->length == 0)
        return TRUE;
    epoch_receiver_drop_state(move->epochs);
    digest_check_free(move->check);
    move->check = digest_check_new(move->received);
    return session_send_bytes(move->session, FRAME_RETRACT, payload, sizeof payload, error);
}

/* Everything but page frames is done here, with all pages before it in place. */
static gboolean handle_frame(DestinationMove *move, const Frame *frame, GError **error)
{
    if (!page_applier_drain(move->applier, error))
        return FALSE;
    switch (frame->type) {
    case FRAME_EPOCH_SEAL:
        return end_epoch(move, frame, error);
    case FRAME_OUTSTANDING:
        destination_seed_note_outstanding(move, frame);
        return destination_take_outstanding(move, frame, error);
    case FRAME_DEVICE_STATE:
        return epoch_receiver_take_state(move->epochs, frame, error);
    case FRAME_DIGESTS:
        return digest_check_frame(move->check, frame->payload, frame->length, error);
    case FRAME_IMAGES:
        return destination_show_images(move, frame, error);
    case FRAME_DISKS_VERIFY:
        return destination_verify_disks(move, error);
    case FRAME_RETRACT:
        return retract(move, frame, error);
    case FRAME_PREPARE:
        /* With pages outstanding the source does not wait either; else it may go back to its rounds. */
        if (move->outstanding)
            session_set_patience(move->session, 0);
        return prepare(move, error);
    case FRAME_ERROR:
    case FRAME_ABORT:
        session_error_from_frame(move->session, frame, error);
        return FALSE;
    default:
        error_set(error, VMFERRY_ERROR_INVALID, "unexpected %s frame",
                  frame_type_name(frame->type));
        return FALSE;
    }
}

/* Everything up to READY; frames in the order of docs/protocol.md. */
static gboolean receive_machine(DestinationMove *move, GError **error)
{
    gboolean ready = FALSE;

    while (!ready) {
        FrameSlot *slot = frame_queue_pop(move->queue, -1, error);
        gboolean done;

        if (!slot)
            return FALSE;
        if (page_applier_takes(slot->frame.type)) {
            if (!epoch_receiver_take_pages(move->epochs, &slot->frame, slot, error))
                return FALSE;
            continue;
        }
        ready = slot->frame.type == FRAME_PREPARE;
        done = handle_frame(move, &slot->frame, error);
        frame_queue_release(move->queue, slot);
        if (!done)
            return FALSE;
    }
    return TRUE;
}

/* --- until the guest runs ---------------------------------------------- */

/* START names the same owner as GUEST did. */
static gboolean take_start(DestinationMove *move, const Frame *frame, GError **error)
{
    if (!start_message_decode(frame->payload, frame->length, &move->start, error))
        return FALSE;
    session_set_patience(move->session, 0);
    if (move->start.term == move->guest->term) {
        if (destination_runs_by_leases(move))
            split_leases_grant(postcopy_destination_get_leases(move->split), move->ready_ns,
                               move->guest->lease_ms);
        return TRUE;
    }
    error_set(error, VMFERRY_ERROR_INVALID, "START is of term %" PRIu64 ", GUEST of %" PRIu64,
              move->start.term, move->guest->term);
    return FALSE;
}

/* A source that cannot be reached may have the guest running again, and comes back to say so. */
static FrameSlot *pop_start(DestinationMove *move, GError **error)
{
    uint64_t end = clock_now_ns() + START_TIMEOUT_MS * 1000000ULL;

    for (;;) {
        g_autoptr(GError) quiet = NULL;
        FrameSlot *slot = frame_queue_pop(move->queue, START_SLICE_MS, &quiet);

        if (slot)
            return slot;
        if (session_is_broken(move->session))
            end = clock_now_ns() + START_TIMEOUT_MS * 1000000ULL;
        if (error_is(quiet, VMFERRY_ERROR_TIMEOUT) && clock_now_ns() < end)
            continue;
        g_propagate_error(error, g_steal_pointer(&quiet));
        return NULL;
    }
}

/* What the VMM has written to memory meanwhile is not known, and the source would build on what it has sent. */
static void set_loaded(GError **error)
{
    error_set(error, VMFERRY_ERROR_FAILED,
              "the machine was loaded by then, and cannot take what is sent next");
}

static gboolean await_start(DestinationMove *move, GError **error)
{
    FrameSlot *slot = pop_start(move, error);
    gboolean given = FALSE;

    if (!slot) {
        g_prefix_error(error, "waiting for START: ");
        return FALSE;
    }
    if (slot->frame.type == FRAME_START)
        given = take_start(move, &slot->frame, error);
    else if (slot->frame.type == FRAME_ERROR || slot->frame.type == FRAME_ABORT)
        session_error_from_frame(move->session, &slot->frame, error);
    else if (slot->frame.type == FRAME_RETRACT)
        set_loaded(error);
    else
        error_set(error, VMFERRY_ERROR_INVALID, "%s frame where START was expected",
                  frame_type_name(slot->frame.type));
    frame_queue_release(move->queue, slot);
    return given;
}

/* Not a guest that runs by leases: the guard may not know of the last one's end. */
static void arm_resume(DestinationMove *move)
{
    if (!destination_runs_by_leases(move))
        guard_arm(move->guard, GUARD_SLOT_GUEST, &move->resume_action, NULL);
}

/* The journal first, then the guest runs, if it did before.  While the journal is written
 * the guard leaves the guest alone: what becomes of it if we die then is known from
 * the journal only. */
static gboolean commit(DestinationMove *move, GError **error)
{
    const MigrateDestinationHost *host = move->host;

    if (fault_point("destination.before-commit", error) ||
        !guard_disarm(move->guard, GUARD_SLOT_GUEST, error) ||
        fault_point("destination.before-journal", error) ||
        (move->split && !host->note_split(move->outstanding_path, host->user, error)) ||
        !host->commit(move->guest->transaction, &move->start, host->user, error))
        return FALSE;
    fault_point("destination.committed", NULL);
    if (move->split)
        host->publish(move->split, host->user);
    if (move->start.run)
        arm_resume(move);
    fault_point("destination.after-commit", NULL);
    return TRUE;
}

/* A guest that arrives paused has its images as a paused guest does; where
 * that fails it takes them when it runs. */
static void settle_paused(DestinationMove *move)
{
    g_autoptr(GError) problem = NULL;

    if (!vmm_take_images(move->vmm, &problem))
        log_debug("guest %s: images are not locked: %s", move->guest->guest, problem->message);
}

static gboolean run_vmm(gpointer vmm, GError **error)
{
    return vmm_resume(vmm, error);
}

static VmmStart try_start(DestinationMove *move, GError **error)
{
    /* Fails as where QEMU refuses. */
    if (!fault_point("destination.cont", error) &&
        (move->split ? postcopy_destination_run(move->split, run_vmm, move->vmm, error)
                     : vmm_resume(move->vmm, error)))
        return VMM_START_DONE;
    return vmm_get_start(move->vmm);
}

static VmmStart try_until_it_starts(DestinationMove *move, GError **error)
{
    VmmStart came = try_start(move, error);

    for (int i = 1; i < START_ATTEMPTS && came == VMM_START_NEVER; i++) {
        clock_sleep_ns(START_PAUSE_NS);
        g_clear_error(error);
        came = try_start(move, error);
    }
    return came;
}

/* FALSE: it stays ours, since that cannot be written down. */
static gboolean take_back(DestinationMove *move, GError **error)
{
    const MigrateDestinationHost *host = move->host;

    guard_disarm(move->guard, GUARD_SLOT_GUEST, NULL);
    fault_point("destination.taking-back", NULL);
    if (!host->take_back(move->guest->transaction, host->user, error)) {
        arm_resume(move);
        return FALSE;
    }
    fault_point("destination.taken-back", NULL);
    if (move->split)
        host->publish(NULL, host->user);
    guard_arm(move->guard, GUARD_SLOT_GUEST, &move->kill_action, NULL);
    return TRUE;
}

/* Runs the machine, or leaves it paused, as START says.  FALSE where it certainly did not
 * run and the commit was taken back; move->resume_error where nobody knows. */
static gboolean start_guest(DestinationMove *move, GError **error)
{
    g_autoptr(GError) failure = NULL;
    g_autoptr(GError) problem = NULL;
    VmmStart came = VMM_START_DONE;

    if (move->start.run)
        came = try_until_it_starts(move, &failure);
    else
        settle_paused(move);
    if (came == VMM_START_DONE)
        return TRUE;
    if (came == VMM_START_NEVER && take_back(move, &problem)) {
        g_propagate_prefixed_error(error, g_steal_pointer(&failure),
                                   "the guest could not be started: ");
        return FALSE;
    }
    if (problem)
        log_warning("guest %s: the commit cannot be taken back: %s", move->guest->guest,
                    problem->message);
    move->resume_error = g_steal_pointer(&failure);
    g_prefix_error(&move->resume_error, "the guest is here, but could not be started: ");
    return TRUE;
}

static void complete(DestinationMove *move)
{
    fault_point("destination.before-started", NULL);
    if (!move->resume_error) {
        session_send_bytes(move->session, FRAME_STARTED, NULL, 0, NULL);
        vmm_announce(move->vmm, NULL);
    }
    move->host->started(g_steal_pointer(&move->vmm), move->resume_error == NULL, move->host->user);
    destination_keep_disks(move);
    destination_end_userfault(move);
    destination_drop_overlays(move);
    if (move->split)
        destination_serve_split(move);
}

/* --- giving up --------------------------------------------------------- */

gboolean destination_vmm_has_ended(Vmm *vmm)
{
    g_autoptr(GError) error = NULL;
    VmmRunState state;

    if (vmm_get_run_state(vmm, &state, &error))
        return state == VMM_RUN_STATE_GONE;
    return error_is(error, VMFERRY_ERROR_DISCONNECTED);
}

/* Where the VMM has ended that is the cause of all; adds its stderr tail. */
static void add_stderr_tail(DestinationMove *move, GError **error)
{
    g_autofree char *tail = NULL;
    char *text;

    if (!error || !*error || !move->vmm || !destination_vmm_has_ended(move->vmm))
        return;
    tail = vmm_get_stderr_tail(move->vmm);
    if (tail && *tail && strstr((*error)->message, tail))
        return;
    text = g_strdup_printf("%s; the VMM has ended%s%s", (*error)->message,
                           tail && *tail ? ": " : "", tail ? tail : "");
    g_free((*error)->message);
    (*error)->message = text;
}

/* Tells the peer and lets it read that: a close with unread bytes in our
 * buffer would be a reset that takes the reason with it. */
static void drain_and_close(DestinationMove *move, const GError *error)
{
    uint64_t end = clock_now_ns() + (uint64_t)DRAIN_MS * 1000000;
    FrameSlot *slot;

    session_send_error(move->session, error);
    while (move->queue && clock_now_ns() < end && (slot = frame_queue_pop(move->queue, 200, NULL)))
        frame_queue_release(move->queue, slot);
}

static void end_vmm(DestinationMove *move)
{
    if (move->vmm)
        vmm_quit(move->vmm, NULL);
}

/* The record first: the source may ask for it as soon as it is told. */
static void give_up(DestinationMove *move)
{
    destination_undo_disks(move);
    move->host->aborted(g_steal_pointer(&move->vmm), move->failure, move->host->user);
    drain_and_close(move, move->failure);
}

/* --- the sequence ------------------------------------------------------ */

static const Stage stages[] = {
    STAGE("guest", receive_guest, give_up),
    STAGE("receive ahead", receive_ahead, NULL),
    STAGE("launch", launch, end_vmm),
    STAGE("guard", arm_guard, NULL), /* it ends the VMM as long as we do not */
    STAGE("machine", make_machine, NULL),
    STAGE("accept", accept_pages, stop_threads),
    STAGE("receive", receive_machine, NULL),
    STAGE("await START", await_start, NULL),
    STAGE("commit", commit, NULL),
    /* Takes the commit back where it fails. */
    STAGE_FINAL("start", start_guest),
};

/* Where disks have failed, the source was told and has gone: that is the cause of all. */
static void prefer_disk_error(DestinationMove *move, GError **error)
{
    g_autoptr(GError) cause = NULL;

    if (destination_check_disks(move, &cause) || error_is(cause, VMFERRY_ERROR_DISCONNECTED))
        return;
    g_clear_error(error);
    *error = g_steal_pointer(&cause);
}

static void note_failure(gpointer user, guint stage, GError **error)
{
    DestinationMove *move = user;

    prefer_disk_error(move, error);
    add_stderr_tail(move, error);
    move->failure = g_error_copy(*error);
}

static void move_clear(DestinationMove *move)
{
    stop_threads(move);
    g_free(move->outstanding_path);
    g_free(move->overlays);
    frame_queue_free(move->queue);
    guard_free(move->guard);
    digest_check_free(move->check);
    epoch_receiver_free(move->epochs);
    page_sink_free(move->sink);
    page_source_free(move->received);
    guest_memory_free(move->memory);
    vmm_description_free(move->description);
    guest_message_free(move->guest);
    destination_disks_free(move->disks);
    destination_seed_free(move->seed);
    g_clear_pointer(&move->images, g_ptr_array_unref);
    g_clear_error(&move->failure);
}

gboolean migrate_destination_serve(Session *session, const MigrateDestinationHost *host,
                                   GError **error)
{
    DestinationMove move = {.session = session, .host = host, .takes_neutral = TRUE};
    gboolean done = stages_run(stages, G_N_ELEMENTS(stages), note_failure, &move, error);

    if (done) {
        complete(&move);
        done = move.resume_error == NULL;
    }
    if (move.resume_error)
        g_propagate_error(error, move.resume_error);
    move_clear(&move);
    return done;
}
