#include "migrate/held_writes.h"

#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "disk/write_piece.h"
#include "wire/event_frame.h"

/* Until the sink has passed on what was in it. */
#define CUT_TIMEOUT_MS 2000
#define END_PAUSE_NS 10000000ULL
#define END_SLICE_NS 200000000ULL

struct HeldWrites {
    char *mark;
    Vmm *vmm;
    EpochWrites *writes;
    WriteBatch *pending; /* cut, and not confirmed; NULL: nothing */
    gboolean broken;     /* a tap in the VMM, though its sink is well */
    gboolean replays;    /* what the peer has in memory is not sent again */
};

static HeldWrites *held_new(Vmm *vmm, EpochWrites *writes, const char *mark)
{
    HeldWrites *held = g_new0(HeldWrites, 1);

    held->vmm = vmm;
    held->writes = writes;
    held->mark = g_strdup(mark);
    held->replays = TRUE;
    return held;
}

HeldWrites *held_writes_begin(Vmm *vmm, EpochWrites *writes, const char *mark, GError **error)
{
    if (epoch_writes_start(writes, error))
        return held_new(vmm, writes, mark);
    epoch_writes_free(writes);
    return NULL;
}

/* ---- pauses of ours ---- */

static gboolean end_pause(Vmm *vmm, const char *mark, GError **error)
{
    VmmRunState state;

    if (access(mark, F_OK) < 0)
        return TRUE;
    if (!vmm_get_run_state(vmm, &state, error) ||
        (state == VMM_RUN_STATE_PAUSED && !vmm_resume(vmm, error)))
        return FALSE;
    unlink(mark);
    return TRUE;
}

/* A guest that its user has paused stays so. */
static gboolean begin_pause(HeldWrites *held, GError **error)
{
    VmmRunState state;

    return vmm_get_run_state(held->vmm, &state, error) &&
           (state != VMM_RUN_STATE_RUNNING || file_replace(held->mark, "", 0, FALSE, error)) &&
           vmm_pause(held->vmm, NULL, error);
}

/* ---- taps that have broken ---- */

static gboolean begin_anew(HeldWrites *held, GError **error)
{
    g_autoptr(GError) problem = NULL;
    gboolean begun;

    g_clear_pointer(&held->pending, write_batch_free);
    begun = begin_pause(held, error) && epoch_writes_restart(held->writes, error);
    if (!end_pause(held->vmm, held->mark, &problem)) {
        log_warning("a guest does not run again after its taps were begun anew: %s",
                    problem->message);
        if (begun)
            g_propagate_error(error, g_steal_pointer(&problem));
        return FALSE;
    }
    held->broken = !begun;
    return begun;
}

static gboolean is_broken(HeldWrites *held)
{
    EpochTap *tap = epoch_writes_get_tap(held->writes);

    return held->broken || !tap || !epoch_tap_check(tap, NULL);
}

static void add_pending(HeldWrites *held, WriteBatch *batch)
{
    if (!held->pending) {
        held->pending = batch;
        return;
    }
    write_batch_add_all(held->pending, batch);
    write_batch_free(batch);
}

/* All of an overlay may be more than a tap gathers. */
static void take_ahead(HeldWrites *held)
{
    EpochTap *tap = epoch_writes_get_tap(held->writes);

    if (tap)
        add_pending(held, epoch_tap_take(tap));
}

static gboolean is_ready(gpointer user, gboolean *ret, GError **error)
{
    HeldWrites *held = user;
    g_autoptr(GError) problem = NULL;

    *ret = FALSE;
    if (is_broken(held))
        return begin_anew(held, error);
    /* One that has broken since is seen next time. */
    held->broken = !epoch_writes_is_whole(held->writes, ret, &problem);
    if (held->broken)
        log_debug("disk writes: %s", problem->message);
    if (!*ret)
        take_ahead(held);
    return TRUE;
}

HeldWrites *held_writes_reopen(Vmm *vmm, const EpochWritesPlace *place, const char *mark,
                               GError **error)
{
    g_autoptr(GError) problem = NULL;
    EpochWrites *writes;

    if (!end_pause(vmm, mark, error))
        return NULL;
    writes = epoch_writes_find(vmm, place, &problem);
    if (!writes && error_is(problem, VMFERRY_ERROR_NOT_FOUND))
        return NULL;
    if (!writes) {
        g_propagate_error(error, g_steal_pointer(&problem));
        return NULL;
    }
    return held_new(vmm, writes, mark);
}

/* ---- an output of epochs ---- */

static gboolean cut(gpointer user, GError **error)
{
    HeldWrites *held = user;
    WriteBatch *batch = epoch_writes_cut(held->writes, CUT_TIMEOUT_MS, error);

    if (!batch)
        return FALSE;
    add_pending(held, batch);
    return TRUE;
}

static gboolean send_bytes(Session *session, FrameType type, GByteArray *bytes, uint64_t *sent,
                           GError **error)
{
    struct iovec payload = {bytes->data, bytes->len};

    *sent += bytes->len;
    return session_send_as(session, TRAFFIC_CHECKPOINT, type, &payload, 1, error);
}

/* All but what is sent as events. */
static gboolean send_pieces(Session *session, const WriteBatch *batch, const GArray *events,
                            uint64_t *sent, GError **error)
{
    g_autoptr(GByteArray) piece = g_byte_array_new();
    WriteBatchWalk walk = write_batch_walk_without(batch, events);

    while (write_piece_encode(&walk, TRUE, piece))
        if (!send_bytes(session, FRAME_EPOCH_WRITES, piece, sent, error))
            return FALSE;
    return TRUE;
}

/* ---- events whose data the peer has in the guest's memory ---- */

/* Of *blocks* (of WriteBlock) those that it has are left; *places* tells of each of these where. */
static gboolean find_events(CheckpointPages *pages, GArray *blocks, GArray *places, GError **error)
{
    guint kept = 0;

    g_array_set_size(places, blocks->len);
    for (guint i = 0; i < blocks->len; i++)
        g_array_index(places, CheckpointBlock, i) =
            (CheckpointBlock){.content = g_array_index(blocks, WriteBlock, i).data};
    if (!checkpoint_pages_find(pages, (CheckpointBlock *)places->data, places->len, error))
        return FALSE;
    for (guint i = 0; i < blocks->len; i++) {
        if (!g_array_index(places, CheckpointBlock, i).found)
            continue;
        g_array_index(places, CheckpointBlock, kept) = g_array_index(places, CheckpointBlock, i);
        g_array_index(blocks, WriteBlock, kept++) = g_array_index(blocks, WriteBlock, i);
    }
    g_array_set_size(places, kept);
    g_array_set_size(blocks, kept);
    return TRUE;
}

static gboolean continues(const WriteEvent *event, const WriteBlock *block,
                          const CheckpointBlock *place)
{
    uint64_t bytes = (uint64_t)event->pages * WRITE_BLOCK_BYTES;

    return event->pages > 0 && event->pages < EVENT_FRAME_MOST_PAGES &&
           event->disk == block->disk && event->region == place->region &&
           event->offset + bytes == block->offset && event->page + event->pages == place->page;
}

static gboolean flush_events(Session *session, GByteArray *frame, guint least, uint64_t *sent,
                             GError **error)
{
    if (frame->len < least)
        return TRUE;
    if (!send_bytes(session, FRAME_EPOCH_EVENTS, frame, sent, error))
        return FALSE;
    g_byte_array_set_size(frame, 0);
    return TRUE;
}

static gboolean send_events(Session *session, const GArray *blocks, const GArray *places,
                            uint64_t *sent, GError **error)
{
    g_autoptr(GByteArray) frame = g_byte_array_new();
    WriteEvent event = {0};

    for (guint i = 0; i < blocks->len; i++) {
        const WriteBlock *block = &g_array_index(blocks, WriteBlock, i);
        const CheckpointBlock *place = &g_array_index(places, CheckpointBlock, i);

        if (continues(&event, block, place)) {
            event.pages++;
            continue;
        }
        if (event.pages > 0)
            event_frame_append(frame, &event);
        if (!flush_events(session, frame, FRAME_EPOCH_EVENT_BYTES * (FRAME_EPOCH_EVENTS_MOST - 1),
                          sent, error))
            return FALSE;
        event = (WriteEvent){block->disk, place->region, block->offset, place->page, 1};
    }
    if (event.pages > 0)
        event_frame_append(frame, &event);
    return flush_events(session, frame, 1, sent, error);
}

static gboolean send_batch(HeldWrites *held, Session *session, CheckpointPages *pages,
                           GError **error)
{
    g_autoptr(GArray) blocks = g_array_new(FALSE, FALSE, sizeof(WriteBlock));
    g_autoptr(GArray) places = g_array_new(FALSE, FALSE, sizeof(CheckpointBlock));
    uint64_t sent = 0;

    if (held->replays)
        write_batch_list_blocks(held->pending, blocks);
    if (!find_events(pages, blocks, places, error) ||
        !send_events(session, blocks, places, &sent, error) ||
        !send_pieces(session, held->pending, blocks, &sent, error))
        return FALSE;
    checkpoint_pages_count_writes(pages, write_batch_count_data(held->pending),
                                  (uint64_t)blocks->len * WRITE_BLOCK_BYTES, sent);
    return TRUE;
}

/* The taps are asked once the VMM answers again: a batch that lacks something must not be sealed. */
static gboolean send_writes(Session *session, CheckpointPages *pages, gpointer user, GError **error)
{
    HeldWrites *held = user;

    held->broken = !epoch_writes_check_taps(held->writes, error);
    return !held->broken && send_batch(held, session, pages, error);
}

static void release(gpointer user)
{
    HeldWrites *held = user;

    g_clear_pointer(&held->pending, write_batch_free);
}

void held_writes_set_replay(HeldWrites *held, gboolean replays)
{
    held->replays = replays;
}

CheckpointOutput held_writes_get(HeldWrites *held)
{
    return (CheckpointOutput){
        .is_ready = is_ready, .cut = cut, .send = send_writes, .release = release, .user = held};
}

/* ---- the end ---- */

gboolean held_writes_end(HeldWrites *held, GError **error)
{
    uint64_t end = clock_now_ns() + END_SLICE_NS;
    gboolean done = FALSE;

    for (;;) {
        if (!epoch_writes_end(held->writes, &done, error))
            return FALSE;
        if (done)
            return TRUE;
        if (clock_now_ns() > end) {
            error_set(error, VMFERRY_ERROR_BUSY,
                      "what the guest has written meanwhile becomes part of its images");
            return FALSE;
        }
        clock_sleep_ns(END_PAUSE_NS);
    }
}

void held_writes_free(HeldWrites *held)
{
    if (!held)
        return;
    write_batch_free(held->pending);
    epoch_writes_free(held->writes);
    g_free(held->mark);
    g_free(held);
}
