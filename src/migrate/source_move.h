/* What the stages of a move share (private to the source). */
#pragma once

#include "memory/guest_memory.h"
#include "memory/tracker.h"
#include "policy/precopy_control.h"
#include "guard/guard.h"
#include "memory/guest_cost.h"
#include "transfer/bulk_sender.h"
#include "transfer/delta_store.h"
#include "transfer/epoch.h"
#include "transfer/page_sender.h"
#include "transfer/page_source.h"
#include "transfer/postcopy_sender.h"
#include "transfer/recheck.h"
#include "migrate/kept_writes.h"
#include "migrate/source.h"
#include "migrate/takeover_gate.h"
#include "vmm/vmm_driver.h"
#include "throttle/throttle.h"
#include "transfer/work_set.h"
#include "wire/session.h"

/* Device state out, over and in, and the switchover: what is expected before it
 * has been measured (design.md, section 1). */
#define SOURCE_EXPECTED_DEVICE_MS 12.0

typedef struct SourceDeadline SourceDeadline;

typedef struct {
    const MigrateSourceJob *job;
    GCancellable *cancellable;
    MigrateReport *report;
    MigrateProgress progress;
    uint64_t started_ns, paused_ns, last_progress_ns, lap_ns;

    json_t *machine;             /* the live one, as the VMM's driver tells it */
    char **command_line;         /* that makes it */
    struct SourceImages *images; /* NULL: nothing is to be compared */
    struct SourceDisks *disks;   /* NULL: none is to be copied */
    double disk_bytes_per_ms;    /* content of disks that were copied, and in that phase … */
    double disk_eta_ms;          /* … the time to the end of the move; negative: not known yet */
    VmmDescription *description;
    MachineDescription *neutral;     /* it goes to a VMM of another kind; NULL: it does not … */
    const VmmDriver *neutral_driver; /* … that kind's */
    ProcessIdentity *process;        /* who runs it here */
    GuestMemory *memory;
    PageSource *pages;        /* of the same */
    uint64_t populated_pages; /* at the start */
    Session *session;
    char transaction[33];
    const char *image;           /* the file that it is saved into; NULL: it moves */
    const SaveBaseMessage *base; /* of that; NULL: a full one */
    gboolean notes_changes;      /* of its disks, from the pause on, for an image above this one */
    Guard *guard;
    GuardAction resume_action; /* what the guard does about a guest that we have paused */
    gboolean guard_has_work;   /* it is to do what we could not undo */
    uint64_t balloon_bytes;    /* before it was inflated; 0: it was not */
    Tracker *tracker;
    PageSender *sender;
    BulkSender *bulk; /* its connections; NULL: one */
    EpochSender epochs;
    WorkSet *work;
    struct SourceSeed *seed;       /* NULL: all pages travel */
    struct SourceRecheck *recheck; /* NULL: no direct I/O */
    GuestCost cost;                /* of the tracking, to the guest */
    uint64_t faults;               /* when that was read */
    Throttle *throttle;            /* NULL until it is needed */
    guint round;                   /* its number in the report */
    MigrateRound round_in_hand;
    PageSenderCounts round_counts; /* at its begin */
    uint64_t pass_pages;           /* that the sender had done when the pass began */
    HelloMessage peer;             /* what the destination can: peer_has_feature() */
    guint retry_for_ms;            /* its connections may be broken that long; 0: not at all */
    gboolean pause_failed;         /* the pause ended since the connection was no good … */
    char *retracted;               /* … so the rounds go on: why; NULL: they do not … */
    double not_before_ms;          /* … and the next pause is not before that */
    uint64_t prepare_position;     /* where PREPARE was sent in this pause; 0: not yet */
    gboolean offered, accepted;
    gboolean switches; /* the pause is a switchover to post-copy: what is pending follows it */
    gboolean paused;
    SourceDeadline *deadline; /* of the pause; NULL: there is none */
    gboolean stays_paused;    /* its user paused it: not ours to resume, here or there */
    gboolean start_sent;
    struct SourceStore *store; /* NULL: none, or not needed any more */
    PostcopySender *split;     /* that sends it; NULL: it is not told yet what is pending */
    GPtrArray *outstanding; /* all that it lacks at the switchover; NULL: not known, or not kept */
    DeltaStore *deltas;     /* its epochs come back into it … */
    KeptWrites *writes;     /* … and this; NULL: they do not */
    guint lease_ms;         /* of its leases there; 0: LEASE_DEFAULT_MS */
    char *witness_agent;  /* of one that is to be stood by for: its lasting id; NULL: it has none */
    gboolean frozen;      /* nobody writes to the files of its disks any more: it has overlays */
    Witness *witness;     /* of a guest that is split; NULL: there is none … */
    TakeoverGate *gate;   /* … or it does not know of it yet */
    GPtrArray *announced; /* pages that the destination knows to be outstanding; NULL: none */
    float *heat;          /* of the groups, for it */
    PrecopyControl control; /* from the stage "track" on */
} SourceMove;

/* The GUEST message (source.c); free with g_free(). */
char *source_encode_guest(SourceMove *move);

/* source.c: what the machine is, and whether it can be moved at all; the session, and what it is for;
 * frees what these have made, and the disks. */
gboolean source_describe(SourceMove *move, GError **error);
gboolean source_connect(SourceMove *move, const char *purpose, GError **error);
/* From here on the session survives breaks of its connections, as the user wants it: a guest that runs
 * goes on, unthrottled, while they last (source_peer.c). */
void source_allow_breaks(SourceMove *move);
/* A pause does not begin while there is one.  In it, where the move cannot go back to its rounds, only a short one may
 * be waited for; behind it, as before; none any more: from START on, or where the session gets channels of a
 * post-copy, which knows breaks itself. */
gboolean source_shorten_breaks(SourceMove *move, GError **error);
void source_lengthen_breaks(SourceMove *move);
void source_end_breaks(SourceMove *move);
/* source_retract.c: whether a pause that fails by the connection is to end, and the move to go on with the same session
 * as before it; a StageAgain that begins that; with the guest running again: tells the destination. */
gboolean source_may_retract(const SourceMove *move);
gboolean source_begin_retracting(SourceMove *move, const GError *problem);
gboolean source_retract(SourceMove *move, GError **error);
/* source_images.c: what was compared in that pause is not proven any more; what was asked then is awaited. */
gboolean source_images_retract(SourceMove *move, GError **error);
/* Whether disks are copied that are written to: their copies end in the pause. */
gboolean source_disks_end_in_pause(const SourceMove *move);
/* Puts on the progress whether one is, and lets the guest run meanwhile. */
gboolean source_note_break(SourceMove *move, gboolean disconnected, GError **error);
/* Waits while a connection is broken. */
gboolean source_await_connection(SourceMove *move, GError **error);
void source_make_transaction_id(char out[33]);
void source_clear(SourceMove *move);

/* The stages of a move that a save has, too (source.c): the guard that resumes the guest if we die; the
 * tracker, the work set and the sender; GUEST, on record. */
gboolean source_post_guard(SourceMove *move, GError **error);
void source_dismiss_guard(SourceMove *move);
gboolean source_watch(SourceMove *move, GError **error);
void source_unwatch(SourceMove *move);
gboolean source_offer(SourceMove *move, GError **error);
void source_withdraw(SourceMove *move);

/* What a restarted agent is to know (source.c). */
gboolean source_journal(SourceMove *move, SourceJournalState state, GError **error);

/* Whether epochs of a split guest come back, as its user wants it. */
static inline gboolean source_is_protected(const SourceMove *move)
{
    return move->job->options.safety == MIGRATE_SAFETY_FULL &&
           migrate_options_may_split(&move->job->options);
}

/* Memory to remember what was sent (source.c). */
uint64_t source_get_budget(SourceMove *move);

/* The rate limit as it is now; 0: none (source.c). */
uint64_t source_get_rate(const SourceMove *move);

/* Milliseconds since the move's start. */
double source_now_ms(const SourceMove *move);

/* precopy_source.c: with the guest paused, one pass over all pending pages; a round of them, added
 * to the report. */
gboolean source_send_paused_pass(SourceMove *move, GError **error);
gboolean source_send_paused_round(SourceMove *move, GError **error);

/* Seals the round's epoch, and waits until it is applied where the guest runs
 * (source_peer.c). */
gboolean source_confirm_round(SourceMove *move, GError **error);

/* Pre-copy's clockwork begins: once there is a work set. */
void source_begin_control(SourceMove *move);

/* The rounds while the guest runs, up to the decision to stop. */
gboolean source_precopy(SourceMove *move, GError **error);

/* What is to be known of images before the pause; rounds go on where that takes
 * its time. */
gboolean source_settle_images(SourceMove *move, GError **error);

/* Refuses limits that cannot be kept. */
gboolean source_check_limits(SourceMove *move, GError **error);
/* Notes on the report where the guest cannot be slowed: the policy does not count on it then. */
void source_choose_throttle(SourceMove *move);
/* Lifts the throttle and puts what it did on the report.  FALSE: the guest may
 * still be slowed or paused; the guard knows how to undo that. */
gboolean source_end_throttle(SourceMove *move);
/* Puts on the report what the sender did. */
void source_describe_sender(SourceMove *move);
/* source_reclaim.c: takes the guest's free memory by its balloon where that is
 * wanted; lets the balloon go. */
gboolean source_reclaim(SourceMove *move, GError **error);
void source_release_balloon(SourceMove *move);
/* A PageSenderTally. */
void source_tally(guint region, const GroupCost *cost, gpointer user);

/* Waits for a frame of *type*; ACCEPTED may come before it.  Ends early on
 * cancellation and when the peer reports an error. */
gboolean source_await(SourceMove *move, FrameType type, int timeout_ms, Frame *ret, GError **error);

/* Looks whether the destination has something to say, without waiting. */
gboolean source_hear_peer(SourceMove *move, GError **error);

/* FALSE once the user has cancelled. */
gboolean source_not_cancelled(SourceMove *move, GError **error);

/* Milliseconds since the last lap. */
double source_lap_ms(SourceMove *move);

void source_set_phase(SourceMove *move, MigratePhase phase);
void source_report_progress(SourceMove *move);

/* source_images.c: opens what is below the guest's disks; asks the destination
 * about it, once it has accepted; takes an answer. */
typedef struct SourceImages SourceImages;
gboolean source_images_open(SourceMove *move, GError **error);
gboolean source_images_ask(SourceMove *move, GError **error);
gboolean source_images_take(SourceMove *move, const Frame *frame, GError **error);
/* Waits for the answers that come at once.  TRUE as long as images are read as a
 * whole on either side, which takes its time; then judges what was read. */
gboolean source_images_await(SourceMove *move, GError **error);
gboolean source_images_are_read(const SourceMove *move);
gboolean source_images_judge_read(SourceMove *move, GError **error);
/* In the pause: compares what is left; FALSE unless all images are proven. */
gboolean source_images_finish(SourceMove *move, GError **error);
void source_images_describe(SourceMove *move);
void source_images_free(SourceImages *images);

/* source_disks.c: settles what becomes of the disks, and sends what nobody writes to; copies the
 * others while the guest runs, until all are in sync; FALSE where that has failed since; before a
 * pause in which they are verified; ends the copies of a paused guest; waits until all of it is
 * there; undoes it. */
typedef struct SourceDisks SourceDisks;
gboolean source_disks_prepare(SourceMove *move, GError **error);
/* The first step of that, for who needs it before the disks get overlays; what ends a copy of files
 * that nobody writes to. */
gboolean source_disks_list(SourceMove *move, GError **error);
gboolean source_disks_complete(SourceMove *move, GError **error);
gboolean source_disks_mirror(SourceMove *move, GError **error);
/* Of an image: what has changed of disks since; before the pause. */
gboolean source_disks_catch_up(SourceMove *move, GError **error);
/* The image is complete: bitmaps of what changes from now on stay. */
void source_disks_keep_bitmaps(SourceMove *move);
gboolean source_disks_check(SourceMove *move, GError **error);
gboolean source_disks_prepare_verify(SourceMove *move, GError **error);
/* What --verify adds to the pause, at most. */
uint64_t source_disks_verify_ms(const SourceMove *move);
gboolean source_disks_finish(SourceMove *move, GError **error);
gboolean source_disks_await(SourceMove *move, GError **error);
void source_disks_abort(SourceMove *move);
/* TRUE where the file at *path* is made there. */
gboolean source_disks_makes(const SourceMove *move, const char *path);
void source_disks_describe(SourceMove *move);
void source_disks_free(SourceDisks *disks);

/* source_neutral.c: where it goes to a VMM of another kind: what it is made of, and whether that can be made there; whether the
 * peer takes such guests; in the pause: lets it run on for a millisecond at a time, until its state can be told. */
gboolean source_describe_neutral(SourceMove *move, GError **error);
gboolean source_check_neutral_peer(const SourceMove *move, GError **error);
gboolean source_find_moment(SourceMove *move, GError **error);

/* source_seed.c: asks for the image; its list's memory; takes some of the list; waits until it is complete; takes what was
 * not there after all; FALSE while that is still open. */
typedef struct SourceSeed SourceSeed;
gboolean source_seed_ask(SourceMove *move, GError **error);
uint64_t source_seed_get_bytes(const SourceMove *move);
gboolean source_seed_take(SourceMove *move, const Frame *frame, GError **error);
gboolean source_seed_await(SourceMove *move, GError **error);
gboolean source_seed_take_lacking(SourceMove *move, const Frame *frame, GError **error);
gboolean source_seed_is_settled(const SourceMove *move);
void source_seed_free(SourceSeed *seed);

/* source_recheck.c: from the tracker's start on; at a round's end, where it is worth it: drains I/O
 * and sends again what had been written unseen, as a round of its own; once the guest is paused and
 * its last pages are pending: what is left is to be sent, by the next; sends it, or adds it to
 * *sets*, where it is sent later; what it is expected to add to a pause. */
typedef struct SourceRecheck SourceRecheck;
gboolean source_recheck_begin(SourceMove *move, GError **error);
void source_recheck_end(SourceMove *move);
gboolean source_recheck_round(SourceMove *move, GError **error);
void source_recheck_paused(SourceMove *move);
gboolean source_recheck_send(SourceMove *move, GError **error);
void source_recheck_move_to(SourceMove *move, GPtrArray *sets);
double source_recheck_expect_ms(SourceMove *move);

/* The stages from the pause on (source_switchover.c). */
gboolean source_pause(SourceMove *move, GError **error);
void source_resume(SourceMove *move);
/* Its user has paused it before we did: from now on it stays so, whatever becomes of the move. */
gboolean source_note_user_pause(SourceMove *move, GError **error);
/* For a moment before that: holds the guest still, and lets it go again (always, also where holding
 * has failed). */
gboolean source_hold(SourceMove *move, GError **error);
void source_let_go(SourceMove *move);
gboolean source_last_round(SourceMove *move, GError **error);
/* Of it: pages and device state (to be unreferenced), where nothing follows; the state is not sent. */
gboolean source_send_rest(SourceMove *move, VmmSavePurpose purpose, GBytes **ret_state,
                          GError **error);
gboolean source_await_ready(SourceMove *move, GError **error);
gboolean source_send_start(SourceMove *move, GError **error);

/* source_deadline.c: from the pause on a limit holds; FALSE where it has passed.  Its end, after
 * which nothing cuts the connection any more: before START, or when all is undone.  Puts it in
 * place of what a step said that failed by it. */
uint64_t source_deadline_limit_ms(const SourceMove *move); /* what it is */
gboolean source_deadline_start(SourceMove *move, GError **error);
gboolean source_deadline_check(SourceMove *move, GError **error);
gboolean source_deadline_end(SourceMove *move, GError **error);
void source_deadline_replace_error(SourceMove *move, GError **error);

/* source_postcopy.c: before the pause of a guest that switches over with pages pending; names them,
 * and answers who asks for one; undoes that; after START, until the destination has all of them:
 * FALSE with *error* where that will not come (*connected*: the move's session still lives). */
gboolean source_prepare_split(SourceMove *move, GError **error);
/* Undoes that, or at its end. */
void source_abandon_split(SourceMove *move);
/* Where it is to be protected: the state of the switchover is what its epochs begin with. */
gboolean source_keep_state(SourceMove *move, GBytes *state, GError **error);
gboolean source_send_outstanding(SourceMove *move, GError **error);
void source_undo_split(SourceMove *move);
gboolean source_serve_split(SourceMove *move, gboolean connected, GError **error);
/* After START, on a new connection: the destination lacks pages, so it has committed. */
gboolean source_is_asked_for_pages(SourceMove *move);

/* source_store.c: asks a store for its memory, where the user named one; ends that, needed or not
 * (NULL-safe); before the pause of a guest that switches over: sends it what will be outstanding,
 * while the guest runs; with the guest paused: names what of that is stale; waits for its answer;
 * after START: sends it the rest, beside what goes to the destination.  From the second on nothing
 * of it fails a move. */
typedef struct SourceStore SourceStore;
gboolean source_store_connect(SourceMove *move, GError **error);
void source_store_withdraw(SourceMove *move);
void source_store_end(SourceMove *move, gboolean needed);
gboolean source_store_fill(SourceMove *move, GError **error);
void source_store_seal(SourceMove *move);
void source_store_await_sealed(SourceMove *move);
void source_store_begin_rest(SourceMove *move);
gboolean source_store_is_used(const SourceMove *move);
/* For PostcopySourceJob, where it is. */
uint64_t source_store_get_uncovered(SourceMove *move);
uint64_t source_store_get_rate(SourceMove *move);
void source_store_note_sender(SourceMove *move, PostcopySender *sender);
const char *source_store_get_agent(const SourceMove *move);

/* source_witness.c: whether it is to have one; before the pause: tells it of the transaction; ends
 * that, on its record (nobody asks it any more) or not. */
gboolean source_is_witnessed(const SourceMove *move);
gboolean source_register_witness(SourceMove *move, GError **error);
void source_forget_witness(SourceMove *move);
void source_leave_witness(SourceMove *move);

/* source_end.c: ends the guest's process here and lets it say why. */
gboolean source_end_process(SourceMove *move, GError **error);

/* After START: finds out what became of it.  *ret_connected*: by the move's own session. */
TransactionOutcome source_settle(SourceMove *move, gboolean *ret_connected, GError **error);
