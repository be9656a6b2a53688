#include "migrate/destination.h"

#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "memory/guest_memory.h"
#include "migrate/destination_move.h"
#include "transfer/digest.h"
#include "guard/guard.h"
#include "wire/messages.h"

#define GUEST_TIMEOUT_MS 15000
#define START_TIMEOUT_MS 30000
#define DRAIN_MS 2000
/* Frames received ahead; packed ones are small (and FRAME_QUEUE_MOST_BYTES a
 * limit besides). */
#define RECEIVE_AHEAD_FRAMES 128

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

static gboolean receive_guest(DestinationMove *move, GError **error)
{
    Frame frame;

    if (!channel_expect(move->channel, FRAME_GUEST, GUEST_TIMEOUT_MS, &frame, error))
        return FALSE;
    move->guest = guest_message_decode((const char *)frame.payload, frame.length, error);
    return move->guest != NULL;
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

/* Gets hold of it, all zero: opening has left something in each region. */
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

/* If we die, the guard ends the VMM; later it resumes the guest instead, and lets
 * its balloon go, which is armed before there is no way back any more. */
static gboolean post_guard(DestinationMove *move, GError **error)
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
             guard_arm(move->guard, GUARD_SLOT_BALLOON, &balloon_action, error)));
}

/* Launches the VMM and prepares it for pages. */
static gboolean accept_guest(DestinationMove *move, GError **error)
{
    const MigrateDestinationHost *host = move->host;

    move->vmm = host->launch(move->guest, host->user, error);
    if (!move->vmm || !post_guard(move, error))
        return FALSE;
    if (fault_point("destination.launched", error) ||
        !vmm_match_machine(move->vmm, move->guest->machine, move->guest->live, error) ||
        !open_incoming(move, error) || fault_point("destination.opened", error) ||
        !open_memory(move, error))
        return FALSE;
    move->applier = page_applier_new(move->memory, move->queue);
    move->check = digest_check_new(move->memory);
    return channel_send_bytes(move->channel, FRAME_ACCEPTED, NULL, 0, error);
}

/* Loads the device state, with all memory in place. */
static gboolean prepare(DestinationMove *move, GError **error)
{
    ReadyMessage ready = {0};
    g_autoptr(GBytes) state = NULL;
    g_autofree char *text = NULL;
    uint64_t start;

    if (!move->state || move->state_bytes != move->state->len) {
        error_set(error, VMFERRY_ERROR_INVALID, "PREPARE before the whole device state");
        return FALSE;
    }
    if (move->guest->verify && !digest_check_finish(move->check, error))
        return FALSE;
    ready.verified = move->guest->verify;
    state = g_byte_array_free_to_bytes(g_steal_pointer(&move->state));
    if (fault_point("destination.before-load", error) || !destination_try_images(move, error))
        return FALSE;
    start = clock_now_ns();
    if (!vmm_load_device_state(move->vmm, state, error))
        return FALSE;
    ready.load_ms = clock_ns_to_ms(clock_now_ns() - start);
    if (fault_point("destination.before-ready", error))
        return FALSE;
    text = ready_message_encode(&ready);
    return channel_send_bytes(move->channel, FRAME_READY, text, strlen(text), error);
}

/* Everything but PAGES is done here, with all pages before it in place. */
static gboolean handle_frame(DestinationMove *move, const Frame *frame, GError **error)
{
    if (!page_applier_drain(move->applier, error))
        return FALSE;
    switch (frame->type) {
    case FRAME_ROUND_END:
        return destination_end_round(move, frame, error);
    case FRAME_DEVICE_STATE:
        return destination_take_state(move, frame, error);
    case FRAME_DIGESTS:
        return digest_check_frame(move->check, frame->payload, frame->length, error);
    case FRAME_IMAGES:
        return destination_show_images(move, frame, error);
    case FRAME_PREPARE:
        return prepare(move, error);
    case FRAME_ERROR:
    case FRAME_ABORT:
        channel_error_from_frame(move->channel, frame, error);
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
            if (!page_applier_push(move->applier, slot, error))
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

static gboolean await_start(DestinationMove *move, GError **error)
{
    FrameSlot *slot = frame_queue_pop(move->queue, START_TIMEOUT_MS, error);
    gboolean given;

    if (!slot) {
        g_prefix_error(error, "waiting for START: ");
        return FALSE;
    }
    given = slot->frame.type == FRAME_START && slot->frame.payload[0] <= 1;
    move->run = given && slot->frame.payload[0] == 1;
    if (slot->frame.type == FRAME_ERROR || slot->frame.type == FRAME_ABORT)
        channel_error_from_frame(move->channel, &slot->frame, error);
    else if (!given)
        error_set(error, VMFERRY_ERROR_INVALID, "%s frame where START was expected",
                  frame_type_name(slot->frame.type));
    frame_queue_release(move->queue, slot);
    return given;
}

/* Waits for START, then commits: journal first, then the guest runs, if it did
 * before.  While the journal is written the guard leaves the guest alone: what
 * becomes of it if we die then is known from the journal only. */
static gboolean take_over(DestinationMove *move, GError **error)
{
    const MigrateDestinationHost *host = move->host;

    if (!await_start(move, error) || fault_point("destination.before-commit", error) ||
        !guard_disarm(move->guard, GUARD_SLOT_GUEST, error) ||
        fault_point("destination.before-journal", error) ||
        !host->commit(move->guest->transaction, move->run, host->user, error))
        return FALSE;
    fault_point("destination.committed", NULL);
    if (move->run)
        guard_arm(move->guard, GUARD_SLOT_GUEST, &move->resume_action, NULL);
    fault_point("destination.after-commit", NULL);
    if (!destination_start_guest(move, error))
        return FALSE;
    fault_point("destination.before-started", NULL);
    if (!move->resume_error)
        channel_send_bytes(move->channel, FRAME_STARTED, NULL, 0, NULL);
    return TRUE;
}

/* Its process may take a moment to go, its QMP connection is closed at once. */
static gboolean has_ended(Vmm *vmm)
{
    g_autoptr(GError) error = NULL;
    VmmRunState state;

    if (vmm_get_run_state(vmm, &state, &error))
        return state == VMM_RUN_STATE_GONE;
    return error_is(error, VMFERRY_ERROR_DISCONNECTED);
}

/* Where the VMM has ended that is the cause of all; adds what it said. */
static void add_stderr_tail(DestinationMove *move, GError **error)
{
    g_autofree char *words = NULL;
    char *text;

    if (!error || !*error || !move->vmm || !has_ended(move->vmm))
        return;
    words = vmm_get_stderr_tail(move->vmm);
    if (words && *words && strstr((*error)->message, words))
        return;
    text = g_strdup_printf("%s; the VMM has ended%s%s", (*error)->message,
                           words && *words ? ": " : " without a word", words ? words : "");
    g_free((*error)->message);
    (*error)->message = text;
}

/* Tells the peer and lets it read that: a close with unread bytes in our
 * buffer would be a reset that takes our words with it. */
static void drain_and_close(DestinationMove *move, const GError *error)
{
    uint64_t end = clock_now_ns() + (uint64_t)DRAIN_MS * 1000000;
    FrameSlot *slot;

    channel_send_error(move->channel, error);
    while (move->queue && clock_now_ns() < end && (slot = frame_queue_pop(move->queue, 200, NULL)))
        frame_queue_release(move->queue, slot);
}

static void abandon(DestinationMove *move, const GError *error)
{
    const MigrateDestinationHost *host = move->host;

    /* No thread of ours writes to the VMM that is being ended. */
    g_clear_pointer(&move->applier, page_applier_free);
    g_clear_pointer(&move->answer, destination_images_free);
    /* First the VMM and the record: "aborted" may be asked for at once. */
    if (move->vmm)
        vmm_quit(move->vmm, NULL);
    host->aborted(g_steal_pointer(&move->vmm), error, host->user);
    drain_and_close(move, error);
}

static void move_clear(DestinationMove *move)
{
    page_applier_free(move->applier);
    destination_images_free(move->answer);
    frame_queue_free(move->queue);
    guard_free(move->guard);
    digest_check_free(move->check);
    guest_memory_free(move->memory);
    vmm_description_free(move->description);
    guest_message_free(move->guest);
    g_clear_pointer(&move->state, g_byte_array_unref);
    g_clear_pointer(&move->images, g_ptr_array_unref);
}

gboolean migrate_destination_serve(Channel *channel, const MigrateDestinationHost *host,
                                   GError **error)
{
    DestinationMove move = {.channel = channel, .host = host};
    g_autoptr(GError) failure = NULL;
    gboolean done = receive_guest(&move, &failure);

    if (done) {
        move.queue = frame_queue_start(channel, RECEIVE_AHEAD_FRAMES, &failure);
        done = move.queue && accept_guest(&move, &failure) && receive_machine(&move, &failure) &&
               take_over(&move, &failure);
    }

    if (done) {
        if (!move.resume_error)
            vmm_announce(move.vmm, NULL);
        host->started(g_steal_pointer(&move.vmm), move.resume_error == NULL, host->user);
        if (move.resume_error)
            g_propagate_error(error, move.resume_error);
        done = move.resume_error == NULL;
    } else {
        add_stderr_tail(&move, &failure);
        abandon(&move, failure);
        g_propagate_error(error, g_steal_pointer(&failure));
    }
    move_clear(&move);
    return done;
}

gboolean destination_end_round(DestinationMove *move, const Frame *frame, GError **error)
{
    if (fault_point("destination.round-applied", error))
        return FALSE;
    return channel_send_bytes(move->channel, FRAME_ROUND_APPLIED, frame->payload, frame->length,
                              error);
}

gboolean destination_take_state(DestinationMove *move, const Frame *frame, GError **error)
{
    ByteReader reader = byte_reader_make(frame->payload, frame->length);
    uint64_t total = byte_read_le64(&reader);
    uint64_t offset = byte_read_le64(&reader);
    size_t piece = reader.left;

    if (!move->state) {
        move->state = g_byte_array_new();
        move->state_bytes = total;
    }
    if (!byte_reader_ok(&reader) || total > MESSAGE_MAX_DEVICE_STATE_BYTES ||
        total != move->state_bytes || offset != move->state->len || piece > total - offset) {
        error_set(error, VMFERRY_ERROR_INVALID, "malformed DEVICE_STATE frame");
        return FALSE;
    }
    byte_write_span(move->state, reader.at, piece);
    return TRUE;
}
