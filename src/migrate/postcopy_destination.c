#include "migrate/postcopy_destination.h"

#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/lock_guard.h"
#include "base/log.h"
#include "base/page.h"
#include "memory/discard.h"
#include "migrate/postcopy_source.h"
#include "transfer/guest_pages.h"
#include "transfer/page_applier.h"
#include "transfer/postcopy_receiver.h"
#include "wire/lease_frame.h"
#include "wire/store_frame.h"

#define RECEIVE_AHEAD_FRAMES 64
#define JOIN_TIMEOUT_MS 15000
#define HEAR_SLICE_MS 50
#define END_SLICE_MS 100
/* The source may still be sending what it knows to be in vain when it hears COMPLETE. */
#define DRAIN_MS 2000

/* For a lease, of which answers may still come: they wait behind pages. */
#define LEASE_QUESTIONS 16u

/* Its source is a standby, and is to stay that; or to go on with the guest. */
typedef enum { NOT_STOOD_BY, STOOD_BY, FAILING_OVER } StoodBy;

struct PostcopyDestination {
    gatomicrefcount references;
    PostcopyDestinationHost host;
    GuestMemory *memory;
    Userfault *userfault; /* NULL once it is complete */
    OutstandingPages *pages;
    FaultService *service; /* NULL once it is complete */
    char *path;
    PostcopyProtection *protection; /* NULL: there is none */
    SplitLeases *leases;            /* by which it runs; NULL: it needs none */
    gboolean unleased;              /* it does not need them any more */
    PageSource *regions;            /* for what page numbers count in */
    PageSink *sink;

    GMutex want_lock; /* protects the receiver; held while a request is sent */
    PostcopyReceiver *receiver;

    GMutex lock; /* protects all below */
    GCond changed;
    Session *session; /* borrowed, of who serves it or has begun; NULL: none */
    gboolean serving;
    uint64_t newest;    /* who asked for its turn last: no other is to have it */
    gboolean ending;    /* somebody completes it, or has done so */
    gboolean discarded; /* its VMM is being ended */
    gboolean complete;
    gboolean source_gone;   /* it has said so */
    gint64 idle_since_us;   /* that no session is there */
    gboolean has_source;    /* its source is there, … */
    gint64 source_since_us; /* … or has been away since */

    /* Of who serves a session. */
    gboolean from_store;                /* which may not have all, … */
    gboolean pushed;                    /* … and has sent what it has */
    gboolean said_lost;                 /* the source, that its memory is no more */
    gboolean said_full;                 /* … that it has no room for what we send */
    uint64_t question;                  /* the last one for a lease, … */
    uint64_t asked_ns[LEASE_QUESTIONS]; /* … and when the last ones were sent (clock_boot_ns()) */

    uint64_t uncovered; /* atomic; as its source said last */
    gint forgone;       /* atomic: pages, by a guest that is not to run any more */
    gint stood_by;      /* atomic: a StoodBy */

    /* Of who completes it. */
    FaultServiceCounts counts;
    gboolean unprotected; /* nothing is held back any more */
    gboolean told;
};

/* --- requests -------------------------------------------------------------------- */

/* A FaultServiceWant. */
static void on_want(guint region, PageSpan span, gpointer user)
{
    PostcopyDestination *split = user;
    lock_guard(&split->want_lock);

    /* Without a session the page is asked for when the next one begins. */
    if (split->receiver)
        postcopy_receiver_want(split->receiver, region, span);
}

static gboolean begin_requests(PostcopyDestination *split, Session *session, GError **error)
{
    lock_guard(&split->want_lock);

    split->receiver = postcopy_receiver_start(session, split->sink, error);
    return split->receiver != NULL;
}

/* Its session has been shut down: who is sending a request fails and lets the lock go. */
static void end_requests(PostcopyDestination *split)
{
    PostcopyReceiver *receiver;

    g_mutex_lock(&split->want_lock);
    receiver = g_steal_pointer(&split->receiver);
    g_mutex_unlock(&split->want_lock);
    postcopy_receiver_free(receiver);
}

/* --- what a restarted agent has to know --------------------------------------------- */

/* The guest is to be ended, and has given up what it lacks. */
#define NOTE_FORGONE "forgone"
/* Its source has said that it is gone. */
#define NOTE_SOURCE_GONE "source-gone"
/* It was ended at once. */
#define NOTE_WRITES_LAST "writes-last"
/* It is stood by. */
#define NOTE_STANDBY "standby"

static gboolean has_note(const char *path, const char *note)
{
    g_autofree char *name = g_strconcat(path, ".", note, NULL);

    return access(name, F_OK) == 0;
}

static gboolean try_note(const char *path, const char *note, GError **error)
{
    g_autofree char *name = g_strconcat(path, ".", note, NULL);

    return file_replace(name, "", 0, FALSE, error);
}

static void add_note(const char *path, const char *note)
{
    g_autoptr(GError) problem = NULL;

    if (!try_note(path, note, &problem))
        log_warning("%s", problem->message);
}

static gboolean remove_note(const char *path, const char *note, GError **error)
{
    g_autofree char *name = g_strconcat(path, ".", note, NULL);

    if (unlink(name) == 0 || errno == ENOENT)
        return TRUE;
    error_set_errno(error, errno, "remove %s", name);
    return FALSE;
}

void postcopy_destination_note_writes_last(PostcopyDestination *split)
{
    add_note(split->path, NOTE_WRITES_LAST);
}

gboolean postcopy_destination_are_writes_last(const char *path)
{
    return has_note(path, NOTE_WRITES_LAST) || has_note(path, NOTE_SOURCE_GONE);
}

gboolean postcopy_destination_were_pages_forgone(const char *path)
{
    return has_note(path, NOTE_FORGONE);
}

gboolean postcopy_destination_are_pages_forgone(const PostcopyDestination *split)
{
    return g_atomic_int_get(&((PostcopyDestination *)split)->forgone);
}

/* --- making one ------------------------------------------------------------------ */

PostcopyDestination *postcopy_destination_new(GuestMemory *memory, Userfault *userfault,
                                              OutstandingPages *pages, const char *path,
                                              gboolean resumed, GError **error)
{
    PostcopyDestination *split = g_new0(PostcopyDestination, 1);

    g_atomic_ref_count_init(&split->references);
    g_mutex_init(&split->want_lock);
    g_mutex_init(&split->lock);
    g_cond_init(&split->changed);
    split->memory = memory;
    split->userfault = userfault;
    split->pages = pages;
    split->path = g_strdup(path);
    split->uncovered = UINT64_MAX;
    split->forgone = resumed && has_note(path, NOTE_FORGONE);
    split->source_gone = resumed && has_note(path, NOTE_SOURCE_GONE);
    split->stood_by = has_note(path, NOTE_STANDBY) ? STOOD_BY : NOT_STOOD_BY;
    split->idle_since_us = split->source_since_us = g_get_monotonic_time();
    split->regions = guest_source_new(memory);
    split->service =
        fault_service_start(userfault, memory, pages, NULL, resumed, on_want, split, error);
    /* From here on none comes unseen; none has been put in yet by us. */
    if (split->service && (resumed || guest_memory_check_missing(memory, pages, error))) {
        split->sink = postcopy_sink_new(split->service, split->regions->regions);
        return split;
    }
    split->discarded = !resumed;
    postcopy_destination_unref(split);
    return NULL;
}

static PostcopyDestination *reopen_protection(PostcopyDestination *split,
                                              const PostcopyProtectionOptions *options,
                                              GError **error)
{
    if (!split || !postcopy_protection_exists(split->path))
        return split;
    split->protection =
        postcopy_protection_reopen(split->memory, split->userfault, split->service, split->path,
                                   postcopy_destination_get_transaction(split), options, error);
    if (split->protection)
        return split;
    postcopy_destination_unref(split);
    return NULL;
}

PostcopyDestination *postcopy_destination_reopen(pid_t pid, const char *path,
                                                 const PostcopyProtectionOptions *options,
                                                 GError **error)
{
    g_autoptr(OutstandingPages) pages = outstanding_open(path, error);
    g_autoptr(GuestMemory) memory =
        pages ? guest_memory_open(pid, outstanding_get_regions(pages), error) : NULL;
    g_autoptr(GError) problem = NULL;
    Userfault *userfault;

    if (!memory)
        return NULL;
    userfault = userfault_fetch(pid, &problem);
    if (!userfault && error_is(problem, VMFERRY_ERROR_NOT_FOUND) && outstanding_count(pages) == 0) {
        unlink(path);
        return NULL;
    }
    if (!userfault) {
        g_propagate_error(error, g_steal_pointer(&problem));
        return NULL;
    }
    return reopen_protection(postcopy_destination_new(g_steal_pointer(&memory), userfault,
                                                      g_steal_pointer(&pages), path, TRUE, error),
                             options, error);
}

PostcopyDestination *postcopy_destination_ref(PostcopyDestination *split)
{
    g_atomic_ref_count_inc(&split->references);
    return split;
}

static void end_keeping(PostcopyDestination *split)
{
    gboolean remain = !split->discarded && !split->complete;

    split_leases_free(g_steal_pointer(&split->leases), split->discarded);
    if (!remain)
        split_leases_remove_files(split->path);
}

void postcopy_destination_unref(PostcopyDestination *split)
{
    if (!split || !g_atomic_ref_count_dec(&split->references))
        return;
    end_requests(split);
    if (split->host.free)
        split->host.free(split->host.user);
    if (split->protection && split->discarded)
        postcopy_protection_discard(split->protection);
    postcopy_protection_free(split->protection);
    if (split->leases)
        end_keeping(split);
    g_clear_pointer(&split->service, fault_service_free);
    if (split->userfault)
        (split->discarded ? userfault_free : userfault_leave)(split->userfault);
    page_sink_free(split->sink);
    page_source_free(split->regions);
    outstanding_free(split->pages);
    guest_memory_free(split->memory);
    g_mutex_clear(&split->want_lock);
    g_mutex_clear(&split->lock);
    g_cond_clear(&split->changed);
    g_free(split->path);
    g_free(split);
}

void postcopy_destination_discard(PostcopyDestination *split, const GError *why)
{
    postcopy_destination_cut(split, why);
    split->discarded = TRUE;
    unlink(split->path);
}

gboolean postcopy_destination_protect(PostcopyDestination *split,
                                      const PostcopyProtectionOptions *options, GError **error)
{
    split->protection =
        postcopy_protection_new(split->memory, split->userfault, split->service, split->path,
                                postcopy_destination_get_transaction(split), options, error);
    return split->protection != NULL;
}

gboolean postcopy_destination_note_standby(const char *path, GError **error)
{
    return try_note(path, NOTE_SOURCE_GONE, error) && try_note(path, NOTE_STANDBY, error);
}

gboolean postcopy_destination_is_stood_by(const PostcopyDestination *split)
{
    return g_atomic_int_get(&((PostcopyDestination *)split)->stood_by) != NOT_STOOD_BY;
}

void postcopy_destination_forget_standby(const char *path)
{
    remove_note(path, NOTE_STANDBY, NULL);
    remove_note(path, NOTE_SOURCE_GONE, NULL);
}

gboolean postcopy_destination_begin_standby(PostcopyDestination *split, GError **error)
{
    return remove_note(split->path, NOTE_SOURCE_GONE, error);
}

gboolean postcopy_destination_end_standby(PostcopyDestination *split)
{
    g_autoptr(GError) problem = NULL;

    if (!g_atomic_int_compare_and_exchange(&split->stood_by, STOOD_BY, NOT_STOOD_BY) &&
        postcopy_destination_is_stood_by(split))
        return FALSE;
    if (!remove_note(split->path, NOTE_STANDBY, &problem))
        log_warning("%s", problem->message);
    return TRUE;
}

gboolean postcopy_destination_begin_failover(PostcopyDestination *split)
{
    return g_atomic_int_compare_and_exchange(&split->stood_by, STOOD_BY, FAILING_OVER);
}

void postcopy_destination_drop_failover(PostcopyDestination *split)
{
    g_atomic_int_compare_and_exchange(&split->stood_by, FAILING_OVER, STOOD_BY);
}

/* Its source may still take over a protected guest. */
static gboolean is_needed_no_more(const PostcopyDestination *split)
{
    return !split->protection || postcopy_protection_has_passed(split->protection);
}

/* Its source is needed for that.  A standby that is back after the guest went on alone is told of the end:
 * that may be under way, and no session must begin then. */
static gboolean is_whole(const PostcopyDestination *split)
{
    return outstanding_count(split->pages) == 0 &&
           (!postcopy_destination_is_stood_by(split) || is_needed_no_more(split));
}

gboolean postcopy_destination_hold(PostcopyDestination *split, Vmm *vmm, EpochWrites *writes,
                                   GError **error)
{
    if (split->leases)
        split_leases_set_vmm(split->leases, vmm);
    return !split->protection || postcopy_protection_hold(split->protection, vmm, writes, error);
}

gboolean postcopy_destination_start_leases(PostcopyDestination *split, Vmm *vmm,
                                           const SplitLeasesOptions *options, GError **error)
{
    SplitLeasesOptions own = *options;

    own.transaction = postcopy_destination_get_transaction(split);
    split->leases = split_leases_start(split->memory->pid, split->path, vmm, &own, error);
    if (split->leases && split->protection)
        postcopy_protection_set_leases(split->protection, split->leases);
    return split->leases != NULL;
}

SplitLeases *postcopy_destination_get_leases(PostcopyDestination *split)
{
    return split->leases;
}

gboolean postcopy_destination_run(PostcopyDestination *split,
                                  gboolean (*run)(gpointer user, GError **error), gpointer user,
                                  GError **error)
{
    return split->leases ? split_leases_run(split->leases, run, user, error) : run(user, error);
}

void postcopy_destination_detach(PostcopyDestination *split)
{
    if (split->protection)
        postcopy_protection_detach(split->protection);
    if (split->leases)
        split_leases_set_vmm(split->leases, NULL);
}

gboolean postcopy_destination_get_checkpoints(PostcopyDestination *split, CheckpointCounts *ret)
{
    if (split->protection)
        postcopy_protection_get_counts(split->protection, ret);
    return split->protection != NULL;
}

const char *postcopy_destination_get_transaction(const PostcopyDestination *split)
{
    return outstanding_get_transaction(split->pages);
}

void postcopy_destination_set_host(PostcopyDestination *split, const PostcopyDestinationHost *host)
{
    split->host = *host;
}

/* --- whose turn it is ------------------------------------------------------------ */

gboolean postcopy_destination_begin(PostcopyDestination *split, Session *session, GError **error)
{
    if (!session_await_channel(session, TRAFFIC_FAULT, JOIN_TIMEOUT_MS, error) ||
        !begin_requests(split, session, error))
        return FALSE;
    g_mutex_lock(&split->lock);
    split->session = session;
    g_mutex_unlock(&split->lock);
    fault_service_want_again(split->service);
    return TRUE;
}

/* For a session that has begun. */
static gboolean keep_turn(PostcopyDestination *split, Session *session, GError **error)
{
    lock_guard(&split->lock);

    split->serving = split->session == session;
    if (!split->serving)
        error_set(error, VMFERRY_ERROR_DISCONNECTED, "the source has connected anew");
    return split->serving;
}

/* With the lock held.  FALSE where one that is newer waits, too. */
static gboolean await_turn(PostcopyDestination *split)
{
    uint64_t own = ++split->newest;

    g_cond_broadcast(&split->changed);
    if (split->session)
        session_shutdown(split->session);
    while (split->serving && own == split->newest)
        g_cond_wait(&split->changed, &split->lock);
    return own == split->newest;
}

/* For a session that resumes: those before it end.  One that has only begun is nobody's to end
 * but ours: its thread may be waiting for the VMM, which waits for a page. */
static gboolean take_turn(PostcopyDestination *split, Session *session, GError **error)
{
    gboolean taken, begun;

    g_mutex_lock(&split->lock);
    taken = await_turn(split);
    begun = taken && split->session;
    if (taken) {
        split->session = session;
        split->serving = TRUE;
    }
    g_mutex_unlock(&split->lock);
    if (begun)
        end_requests(split);
    if (!taken)
        error_set(error, VMFERRY_ERROR_DISCONNECTED, "the source has connected anew");
    return taken;
}

static void leave_turn(PostcopyDestination *split, Session *session)
{
    session_shutdown(session);
    end_requests(split);
    if (split->protection)
        postcopy_protection_end_session(split->protection);
    g_mutex_lock(&split->lock);
    split->session = NULL;
    split->serving = FALSE;
    split->idle_since_us = g_get_monotonic_time();
    g_cond_broadcast(&split->changed);
    g_mutex_unlock(&split->lock);
}

/* A new reference, or NULL. */
static Session *get_session(PostcopyDestination *split)
{
    lock_guard(&split->lock);

    return split->session ? session_ref(split->session) : NULL;
}

void postcopy_destination_cut(PostcopyDestination *split, const GError *why)
{
    Session *session = get_session(split);

    if (!session)
        return;
    /* Without the lock: the link may stand still. */
    if (why)
        session_send_error(session, why);
    session_shutdown(session);
    session_unref(session);
}

gboolean postcopy_destination_has_source(PostcopyDestination *split)
{
    lock_guard(&split->lock);

    return split->session && !split->from_store;
}

void postcopy_destination_end_checkpoints(PostcopyDestination *split)
{
    if (!split->protection)
        return;
    postcopy_protection_stop(split->protection);
    postcopy_destination_cut(split, NULL);
    postcopy_protection_end_session(split->protection);
}

/* --- one session ----------------------------------------------------------------- */

static gboolean say_outstanding(PostcopyDestination *split, Session *session, GError **error)
{
    g_autoptr(GPtrArray) sets = page_regions_new_sets(split->regions->regions);
    uint64_t from, first, count;

    for (guint i = 0; i < sets->len; i++)
        for (from = 0; outstanding_next_run(split->pages, i, from, UINT64_MAX, &first, &count);
             from = first + count)
            page_set_add(sets->pdata[i], first, count);
    if (!postcopy_send_outstanding(session, TRAFFIC_CONTROL, sets, error) ||
        !session_send_bytes(session, FRAME_RESUMED, NULL, 0, error) ||
        !session_await_channel(session, TRAFFIC_FAULT, JOIN_TIMEOUT_MS, error) ||
        (split->protection && !split->from_store &&
         !session_await_channel(session, TRAFFIC_CHECKPOINT, JOIN_TIMEOUT_MS, error)) ||
        !begin_requests(split, session, error))
        return FALSE;
    /* What was asked for before is lost with the connection. */
    fault_service_want_again(split->service);
    return TRUE;
}

static void release_slot(gpointer owner, gpointer user)
{
    frame_queue_release(user, owner);
}

static gboolean take_uncovered(PostcopyDestination *split, const Frame *frame, GError **error)
{
    uint64_t pages;

    if (!uncovered_frame_decode(frame->payload, frame->length, &pages, error))
        return FALSE;
    __atomic_store_n(&split->uncovered, pages, __ATOMIC_RELEASE);
    return TRUE;
}

/* Its source is asked for a lease a few times in the length of one; the witness is asked by others. */
static gboolean ask_lease(PostcopyDestination *split, Session *session, GError **error)
{
    uint64_t now = clock_boot_ns();
    uint8_t payload[FRAME_LEASE_BYTES];

    if (!split->leases || split->from_store ||
        now - split->asked_ns[split->question % LEASE_QUESTIONS] <
            split_leases_get_interval_ms(split->leases) * (uint64_t)1000000)
        return TRUE;
    split->asked_ns[++split->question % LEASE_QUESTIONS] = now;
    lease_frame_encode(&(LeaseFrame){split->question, split_leases_get_wanted_ms(split->leases)},
                       payload);
    return session_send_bytes(session, FRAME_LEASE, payload, sizeof payload, error);
}

/* How long nothing else is done than to wait for the source. */
static int choose_slice_ms(PostcopyDestination *split)
{
    return split->leases && !split->from_store
               ? (int)MIN(split_leases_get_interval_ms(split->leases), HEAR_SLICE_MS)
               : HEAR_SLICE_MS;
}

static gboolean take_lease(PostcopyDestination *split, const Frame *frame, GError **error)
{
    LeaseFrame lease;

    if (!lease_frame_decode(frame->payload, frame->length, &lease, error))
        return FALSE;
    if (lease.number == 0 || lease.number > split->question) {
        error_set(error, VMFERRY_ERROR_INVALID, "LEASE that nobody has asked for");
        return FALSE;
    }
    if (split->question - lease.number < LEASE_QUESTIONS)
        split_leases_grant(split->leases, split->asked_ns[lease.number % LEASE_QUESTIONS],
                           lease.length_ms);
    return TRUE;
}

/* What fails here, for want of anything, says nothing of the source. */
static void take_error(PostcopyDestination *split, Session *session, const Frame *frame,
                       GError **error)
{
    g_autoptr(GError) told = NULL;

    session_error_from_frame(session, frame, &told);
    split->said_full = !split->from_store && error_is(told, VMFERRY_ERROR_NO_SPACE);
    split->said_lost = !split->from_store && error_is(told, VMFERRY_ERROR_NOT_FOUND);
    g_propagate_error(error, g_steal_pointer(&told));
}

static gboolean take_other(PostcopyDestination *split, Session *session, const Frame *frame,
                           GError **error)
{
    if (frame->type == FRAME_PUSHED) {
        split->pushed = TRUE;
        return TRUE;
    }
    if (frame->type == FRAME_EPOCH_APPLIED && split->protection && !split->from_store)
        return postcopy_protection_take_applied(split->protection, frame, error);
    if (frame->type == FRAME_UNCOVERED && !split->from_store)
        return take_uncovered(split, frame, error);
    if (frame->type == FRAME_LEASE && split->leases && !split->from_store)
        return take_lease(split, frame, error);
    if (frame->type == FRAME_ERROR || frame->type == FRAME_ABORT)
        take_error(split, session, frame, error);
    else
        error_set(error, VMFERRY_ERROR_INVALID, "unexpected %s frame",
                  frame_type_name(frame->type));
    return FALSE;
}

static gboolean take_slot(PostcopyDestination *split, Session *session, FrameQueue *queue,
                          PageApplier *applier, FrameSlot *slot, GError **error)
{
    gboolean taken;

    if (page_applier_takes(slot->frame.type))
        return page_applier_push(applier, &slot->frame, slot, error);
    taken = take_other(split, session, &slot->frame, error);
    frame_queue_release(queue, slot);
    return taken;
}

static gboolean check_service(PostcopyDestination *split, GError **error)
{
    const GError *failure = fault_service_get_error(split->service);

    if (failure)
        g_propagate_error(error, g_error_copy(failure));
    return failure == NULL;
}

static gboolean check_all(PostcopyDestination *split, GError **error)
{
    uint64_t left = outstanding_count(split->pages);

    if (left > 0)
        error_set(error, VMFERRY_ERROR_BUSY, "the store does not have the last %" PRIu64 " pages",
                  left);
    return left == 0;
}

/* Until nothing is outstanding, or a store has no more. */
static gboolean receive(PostcopyDestination *split, Session *session, FrameQueue *queue,
                        GError **error)
{
    g_autoptr(PageApplier) applier = page_applier_new(split->sink, release_slot, queue);

    while (!is_whole(split) && !(split->from_store && split->pushed)) {
        g_autoptr(GError) quiet = NULL;
        FrameSlot *slot = frame_queue_pop(queue, choose_slice_ms(split), &quiet);

        if (split->protection && postcopy_protection_is_shut_down(split->protection))
            postcopy_destination_forgo_pages(split);
        if (!check_service(split, error) || !ask_lease(split, session, error))
            return FALSE;
        if (slot && !take_slot(split, session, queue, applier, slot, error))
            return FALSE;
        if (!slot && !error_is(quiet, VMFERRY_ERROR_TIMEOUT)) {
            g_propagate_error(error, g_steal_pointer(&quiet));
            return FALSE;
        }
    }
    return page_applier_drain(applier, error) && check_all(split, error);
}

/* Lets the source read what was said last: a close with unread bytes in our buffer would take it
 * away. */
static void drain(FrameQueue *queue)
{
    uint64_t end = clock_now_ns() + (uint64_t)DRAIN_MS * 1000000;
    FrameSlot *slot;

    while (clock_now_ns() < end && (slot = frame_queue_pop(queue, DRAIN_MS, NULL)))
        frame_queue_release(queue, slot);
}

/* Of what still comes only ENDED counts. */
static gboolean take_last(PostcopyDestination *split, Session *session, FrameQueue *queue,
                          FrameSlot *slot, gboolean *ret_ended, GError **error)
{
    gboolean taken;

    *ret_ended = slot->frame.type == FRAME_ENDED;
    taken = *ret_ended || page_applier_takes(slot->frame.type) ||
            take_other(split, session, &slot->frame, error);
    frame_queue_release(queue, slot);
    return taken;
}

/* Where the source may still take over, output waits until it has given that up.  Then it is told
 * that we know. */
static gboolean await_ended(PostcopyDestination *split, Session *session, FrameQueue *queue,
                            GError **error)
{
    gboolean ended = FALSE;

    postcopy_protection_stop(split->protection);
    /* Of one that has just died the source must not hear that. */
    if (!guest_memory_check_process(split->memory, error) ||
        !session_send_bytes(session, FRAME_COMPLETE, NULL, 0, error))
        return FALSE;
    while (!ended) {
        g_autoptr(GError) quiet = NULL;
        FrameSlot *slot = frame_queue_pop(queue, choose_slice_ms(split), &quiet);

        if (!ask_lease(split, session, error))
            return FALSE;
        if (!slot && error_is(quiet, VMFERRY_ERROR_TIMEOUT))
            continue;
        if (!slot) {
            g_propagate_error(error, g_steal_pointer(&quiet));
            return FALSE;
        }
        if (!take_last(split, session, queue, slot, &ended, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean tell_end(PostcopyDestination *split, Session *session, FrameQueue *queue,
                         GError **error)
{
    /* A store cannot say that the source will not take over. */
    if (!split->protection || split->from_store) {
        session_send_bytes(session, FRAME_COMPLETE, NULL, 0, NULL);
        drain(queue);
        return TRUE;
    }
    if (postcopy_protection_has_passed(split->protection)) {
        session_send_bytes(session, FRAME_COMPLETE, NULL, 0, NULL);
    } else {
        if (!await_ended(split, session, queue, error))
            return FALSE;
        postcopy_protection_end_session(split->protection);
        if (fault_point("destination.ended", error) ||
            !postcopy_protection_pass(split->protection, error) ||
            fault_point("destination.passed", error))
            return FALSE;
    }
    session_send_bytes(session, FRAME_COMPLETE, NULL, 0, NULL);
    session_send_bytes(session, FRAME_ENDED, NULL, 0, NULL);
    drain(queue);
    return TRUE;
}

static gboolean serve(PostcopyDestination *split, Session *session, FrameQueue *queue,
                      GError **error)
{
    if (split->protection && !split->from_store)
        postcopy_protection_begin_session(split->protection, session);
    return receive(split, session, queue, error) && !fault_point("destination.all-pages", error) &&
           tell_end(split, session, queue, error);
}

static gboolean serve_resumed(PostcopyDestination *split, Session *session, GError **error)
{
    g_autoptr(FrameQueue) queue = NULL;

    queue = frame_queue_start(session_get_channel(session, TRAFFIC_CONTROL), RECEIVE_AHEAD_FRAMES,
                              error);
    if (!queue)
        return FALSE;
    if (is_whole(split))
        return tell_end(split, session, queue, error);
    return say_outstanding(split, session, error) && serve(split, session, queue, error);
}

/* One thread does it; any other finds it done, or about to be. */
static gboolean begin_end(PostcopyDestination *split)
{
    lock_guard(&split->lock);
    gboolean begins = !split->ending && !split->session;

    if (begins)
        split->ending = TRUE;
    return begins;
}

/* No thread may be left waiting for its discard to be read: the descriptor's end, which would free
 * it, may need that thread. */
static void stop_service(PostcopyDestination *split)
{
    UserfaultEvent events[USERFAULT_MOST_EVENTS];

    if (!split->service)
        return;
    fault_point("destination.complete-sent", NULL);
    fault_service_get_counts(split->service, &split->counts);
    userfault_unregister(split->userfault);
    g_clear_pointer(&split->service, fault_service_free);
    while (userfault_read(split->userfault, events, USERFAULT_MOST_EVENTS) > 0)
        ;
}

/* FALSE: a VMM that is stopped by a signal, say, keeps the userfaultfd, which is to go before the
 * guest is as any other. */
static gboolean end_userfault(PostcopyDestination *split)
{
    g_autoptr(GError) problem = NULL;

    if (!userfault_end(split->userfault, &problem) &&
        guest_memory_check_process(split->memory, NULL)) {
        log_line(split->told ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARNING,
                 "all memory is there, but something is left in the VMM: %s; that is tried again",
                 problem->message);
        split->told = TRUE;
        return FALSE;
    }
    g_clear_pointer(&split->userfault, userfault_free);
    return TRUE;
}

static void note_end(PostcopyDestination *split, gboolean complete)
{
    lock_guard(&split->lock);

    split->complete = complete;
    split->ending = complete;
    g_cond_broadcast(&split->changed);
}

/* FALSE: to be tried again. */
static gboolean end_leases(PostcopyDestination *split)
{
    if (split->leases && !split->unleased)
        split->unleased = split_leases_end(split->leases);
    return !split->leases || split->unleased;
}

static void call_whole(PostcopyDestination *split)
{
    CheckpointCounts checkpoints;
    gboolean has = postcopy_destination_get_checkpoints(split, &checkpoints);

    split->host.whole(&split->counts, has ? &checkpoints : NULL, split->host.user);
}

void postcopy_destination_forgo_pages(PostcopyDestination *split)
{
    /* First: what lacks pages that are not outstanding must not be taken for whole. */
    if (g_atomic_int_compare_and_exchange(&split->forgone, FALSE, TRUE))
        add_note(split->path, NOTE_FORGONE);
    for (guint i = 0; i < split->regions->regions->count; i++)
        outstanding_remove(split->pages, i, (PageSpan){0, split->regions->regions->pages[i]});
    postcopy_destination_end_standby(split);
}

/* FALSE: to be tried again. */
static gboolean end_protection(PostcopyDestination *split)
{
    g_autoptr(GError) problem = NULL;

    if (!split->protection || split->unprotected)
        return TRUE;
    split->unprotected = postcopy_protection_finish(split->protection, &problem);
    if (!split->unprotected && !error_is(problem, VMFERRY_ERROR_BUSY))
        log_line(split->told ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARNING,
                 "all memory is there, but what was held back is not in place yet: %s; that is "
                 "tried again",
                 problem->message);
    return split->unprotected;
}

static void complete(PostcopyDestination *split)
{
    gboolean ended;

    if (!is_needed_no_more(split) || !begin_end(split))
        return;
    if (!end_leases(split) || !end_protection(split)) {
        note_end(split, FALSE);
        return;
    }
    stop_service(split);
    ended = end_userfault(split);
    if (ended && !postcopy_destination_are_pages_forgone(split)) {
        call_whole(split);
        unlink(split->path);
        postcopy_destination_forget_standby(split->path);
    }
    note_end(split, ended);
}

/* FALSE where that was known. */
static gboolean note_source_gone(PostcopyDestination *split)
{
    gboolean known;

    g_mutex_lock(&split->lock);
    known = split->source_gone;
    split->source_gone = TRUE;
    g_mutex_unlock(&split->lock);
    if (!known)
        add_note(split->path, NOTE_SOURCE_GONE);
    return !known;
}

gboolean postcopy_destination_fetch(PostcopyDestination *split, Session *session, GError **error)
{
    gboolean done;

    if (!take_turn(split, session, error))
        return FALSE;
    split->from_store = TRUE;
    split->pushed = FALSE;
    done = serve_resumed(split, session, error);
    leave_turn(split, session);
    if (done)
        complete(split);
    return done;
}

/* A source whose VMM has ended cannot take over any more: nothing is to be waited for.  Tried again
 * where it fails: the VMM may not answer yet. */
static void pass_without_source(PostcopyDestination *split)
{
    g_autoptr(GError) problem = NULL;

    if (!is_needed_no_more(split) && !postcopy_protection_pass(split->protection, &problem))
        log_debug("output of the guest is still held: %s", problem->message);
    else
        end_leases(split);
}

/* No session is there while this lasts.  FALSE where one begins. */
static gboolean take_quiet_turn(PostcopyDestination *split)
{
    lock_guard(&split->lock);
    gboolean taken = await_turn(split) && !split->session;

    split->serving = split->serving || taken;
    return taken;
}

static void leave_quiet_turn(PostcopyDestination *split)
{
    lock_guard(&split->lock);

    split->serving = FALSE;
    g_cond_broadcast(&split->changed);
}

gboolean postcopy_destination_go_alone(PostcopyDestination *split, GError **error)
{
    gboolean passed = TRUE;

    if (is_needed_no_more(split)) {
        end_leases(split);
        return TRUE;
    }
    if (!take_quiet_turn(split)) {
        error_set(error, VMFERRY_ERROR_BUSY, "its source is connecting");
        return FALSE;
    }
    if (!is_needed_no_more(split))
        passed = postcopy_protection_pass(split->protection, error);
    leave_quiet_turn(split);
    if (passed)
        end_leases(split);
    return passed;
}

gboolean postcopy_destination_is_alone(PostcopyDestination *split)
{
    return is_needed_no_more(split);
}

static void note_source(PostcopyDestination *split, gboolean is_there)
{
    lock_guard(&split->lock);

    split->has_source = is_there;
    split->source_since_us = g_get_monotonic_time();
}

guint postcopy_destination_get_source_idle_ms(PostcopyDestination *split)
{
    lock_guard(&split->lock);
    gint64 us = g_get_monotonic_time() - split->source_since_us;

    return split->has_source ? 0 : (guint)CLAMP(us / 1000, 0, G_MAXINT);
}

gboolean postcopy_destination_serve(PostcopyDestination *split, Session *session, FrameQueue *queue,
                                    GError **error)
{
    g_autoptr(GError) problem = NULL;
    gboolean done, lost, full;

    if (!(queue ? keep_turn : take_turn)(split, session, error))
        return FALSE;
    split->from_store = FALSE;
    note_source(split, TRUE);
    split->said_lost = split->said_full = FALSE;
    done = queue ? serve(split, session, queue, &problem) : serve_resumed(split, session, &problem);
    lost = split->said_lost;
    full = split->said_full && postcopy_destination_is_stood_by(split);
    note_source(split, FALSE);
    leave_turn(split, session);
    if (done)
        complete(split);
    if (lost)
        pass_without_source(split);
    /* It may take over until it hears that it is not needed any more, and has given up. */
    full = full && postcopy_destination_end_standby(split);
    if (full || (lost && note_source_gone(split)))
        split->host.source_lost(problem, split->host.user);
    if (problem)
        g_propagate_error(error, g_steal_pointer(&problem));
    return done;
}

/* ---- one that is not begun ---- */

static void ignore_whole(const FaultServiceCounts *counts, const CheckpointCounts *checkpoints,
                         gpointer user)
{
}

static void ignore_lost(const GError *why, gpointer user)
{
}

static gboolean is_vmm_gone(Vmm *vmm)
{
    VmmRunState state;

    return vmm_get_run_state(vmm, &state, NULL) && state == VMM_RUN_STATE_GONE;
}

static void try_alone(PostcopyDestination *split)
{
    g_autoptr(GError) problem = NULL;

    if (!postcopy_destination_go_alone(split, &problem))
        log_debug("what is held of the guest is not let go: %s", problem->message);
}

/* Nothing of it is held. */
static void take_out(PostcopyDestination *split, Vmm *vmm)
{
    g_autoptr(GError) problem = NULL;

    if (!vmm_stay_at_shutdown(vmm, FALSE, &problem))
        log_debug("%s", problem->message);
    if (split->protection)
        postcopy_protection_detach(split->protection);
    stop_service(split);
    while (!end_userfault(split) && !is_vmm_gone(vmm))
        clock_sleep_ns((uint64_t)END_SLICE_MS * 1000000);
    split->discarded = TRUE;
    unlink(split->path);
}

void postcopy_destination_end_alone(PostcopyDestination *split, Vmm *vmm)
{
    static const PostcopyDestinationHost nobody = {ignore_whole, ignore_lost, NULL, NULL};

    split->host = nobody;
    postcopy_destination_end_standby(split);
    if (!split->protection || !postcopy_protection_holds_any(split->protection)) {
        take_out(split, vmm);
        return;
    }
    while (!postcopy_destination_await(split, END_SLICE_MS) && !is_vmm_gone(vmm))
        try_alone(split);
    if (!postcopy_destination_is_complete(split))
        split->discarded = TRUE;
}

/* --- facts ----------------------------------------------------------------------- */

gboolean postcopy_destination_await(PostcopyDestination *split, guint timeout_ms)
{
    gint64 until = g_get_monotonic_time() + timeout_ms * G_TIME_SPAN_MILLISECOND;
    gboolean done;

    if (postcopy_destination_is_source_gone(split))
        pass_without_source(split);
    if (split->leases && is_needed_no_more(split))
        end_leases(split);
    if (outstanding_count(split->pages) == 0 && is_needed_no_more(split))
        complete(split);
    g_mutex_lock(&split->lock);
    while (!split->complete && g_cond_wait_until(&split->changed, &split->lock, until))
        ;
    done = split->complete;
    g_mutex_unlock(&split->lock);
    return done;
}

gboolean postcopy_destination_is_complete(PostcopyDestination *split)
{
    lock_guard(&split->lock);

    return split->complete;
}

uint64_t postcopy_destination_count_outstanding(PostcopyDestination *split)
{
    return outstanding_count(split->pages);
}

uint64_t postcopy_destination_get_memory_bytes(const PostcopyDestination *split)
{
    const PageRegions *regions = split->regions->regions;
    uint64_t pages = 0;

    for (guint i = 0; i < regions->count; i++)
        pages += regions->pages[i];
    return pages * PAGE_BYTES;
}

uint64_t postcopy_destination_count_uncovered(PostcopyDestination *split)
{
    return MIN(__atomic_load_n(&split->uncovered, __ATOMIC_ACQUIRE),
               outstanding_count(split->pages));
}

gboolean postcopy_destination_is_source_gone(PostcopyDestination *split)
{
    lock_guard(&split->lock);

    return split->source_gone;
}

guint postcopy_destination_get_idle_ms(PostcopyDestination *split)
{
    lock_guard(&split->lock);
    gint64 us = g_get_monotonic_time() - split->idle_since_us;

    return split->session ? 0 : (guint)CLAMP(us / 1000, 0, G_MAXINT);
}
