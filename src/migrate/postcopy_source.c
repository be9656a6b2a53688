#include "migrate/postcopy_source.h"

#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "wire/lease_frame.h"
#include "wire/postcopy_frame.h"
#include "wire/session.h"
#include "wire/store_frame.h"

#define CONNECT_TIMEOUT_MS 3000
#define SHORTEST_CONNECT_MS 50
#define RESUMED_TIMEOUT_MS 30000
#define JOIN_TIMEOUT_MS 10000
#define HEAR_SLICE_MS 100
#define ENDED_TIMEOUT_MS 5000
#define WITNESS_TIMEOUT_MS 1000
#define SETTLE_PAUSE_NS 2000000000ULL
#define PROGRESS_INTERVAL_NS 100000000ULL
/* After a break the first attempts follow each other quickly: the guest waits. */
#define FIRST_PAUSE_MS 20
#define LONGEST_PAUSE_MS 2000
#define SHORT_PAUSE_MS 200
#define SLEEP_SLICE_NS 50000000ULL

typedef struct {
    const PostcopySourceJob *job;
    Session *session; /* NULL: not connected */
    gboolean own_session;
    PostcopySender *sender;
    MigratePostcopy *counts;
    MigratePostcopy before; /* of sessions that have ended */
    uint64_t last_progress_ns;
    uint64_t rate;              /* of this session */
    uint64_t uncovered;         /* that this session's destination knows of */
    CheckpointReceiver *epochs; /* NULL: none come */
    gboolean complete;          /* the destination needs nothing any more … */
    gboolean given_up;          /* … this is on record … */
    gboolean told;              /* … and it knows that it will not be taken from it */
    gboolean lost;              /* it has lost the guest */
    gboolean taken;             /* the gate led through */
    uint64_t heard_ns;          /* when it was there last; clock_now_ns(), as all here */
    uint64_t ask_gate_ns;       /* when the gate may be tried */
    gboolean denied;            /* which it never leads through, and that was said */
    gboolean settled;           /* no consent is with the witness, … */
    uint64_t settle_ns;         /* … or it is told so then */
} Run;

/* --- OUTSTANDING ----------------------------------------------------------------- */

typedef struct {
    Session *session;
    TrafficClass traffic;
    guint region;
    guint runs;
    GByteArray *body;
} Writer;

static gboolean write_frame(Writer *writer, GError **error)
{
    g_autoptr(GByteArray) head = g_byte_array_new();
    struct iovec parts[2];

    if (writer->runs == 0)
        return TRUE;
    outstanding_frame_encode_head(head, writer->region, writer->runs);
    parts[0] = (struct iovec){head->data, head->len};
    parts[1] = (struct iovec){writer->body->data, writer->body->len};
    writer->runs = 0;
    if (!session_send_as(writer->session, writer->traffic, FRAME_OUTSTANDING, parts, 2, error))
        return FALSE;
    g_byte_array_set_size(writer->body, 0);
    return TRUE;
}

static gboolean write_region(Writer *writer, const PageSet *set, GError **error)
{
    uint64_t from = 0, first, count;

    while (page_set_next_run(set, from, UINT64_MAX, &first, &count)) {
        outstanding_frame_append(writer->body, first, count);
        writer->runs++;
        from = first + count;
        if (writer->runs == FRAME_OUTSTANDING_MAX_RUNS && !write_frame(writer, error))
            return FALSE;
    }
    return write_frame(writer, error);
}

gboolean postcopy_send_outstanding(Session *session, TrafficClass traffic, const GPtrArray *sets,
                                   GError **error)
{
    g_autoptr(GByteArray) body = g_byte_array_new();
    Writer writer = {.session = session, .traffic = traffic, .body = body};

    for (guint i = 0; i < sets->len; i++) {
        writer.region = i;
        if (!write_region(&writer, sets->pdata[i], error))
            return FALSE;
    }
    return TRUE;
}

gboolean postcopy_take_outstanding(const PageRegions *regions, GPtrArray *sets, const Frame *frame,
                                   GError **error)
{
    OutstandingFrame outstanding;
    uint64_t first, pages;

    if (!outstanding_frame_decode(frame->payload, frame->length, regions->pages, regions->count,
                                  &outstanding, error))
        return FALSE;
    for (uint32_t i = 0; i < outstanding.runs; i++) {
        outstanding_frame_next(&outstanding, &first, &pages);
        page_set_add(sets->pdata[outstanding.region], first, pages);
    }
    return TRUE;
}

/* --- connecting again ------------------------------------------------------------ */

static gboolean send_resume(const PostcopySourceJob *job, Session *session, GError **error)
{
    g_autofree char *text = resolve_message_encode(&job->transaction);

    return session_send_bytes(session, FRAME_RESUME, text, strlen(text), error);
}

/* A name that is not found is another matter: this comes from the destination itself. */
static gboolean is_lost(const GError *from_peer)
{
    return error_is(from_peer, VMFERRY_ERROR_NOT_FOUND);
}

static PostcopyAnswer answer_of_error(const GError *from_peer)
{
    if (is_lost(from_peer))
        return POSTCOPY_ANSWER_LOST;
    return error_is(from_peer, VMFERRY_ERROR_BUSY) ? POSTCOPY_ANSWER_LATER : POSTCOPY_ANSWER_NONE;
}

/* The next frame, as long as it is not to stop: the destination may have to end an older session
 * first, or say nothing any more. */
static gboolean receive_answer(const PostcopySourceJob *job, Session *session, Frame *ret,
                               GError **error)
{
    uint64_t end = clock_now_ns() + (uint64_t)RESUMED_TIMEOUT_MS * 1000000;

    while (!job->is_stopping(job->user)) {
        g_autoptr(GError) quiet = NULL;

        if (session_receive(session, TRAFFIC_CONTROL, HEAR_SLICE_MS, ret, &quiet))
            return TRUE;
        if (error_is(quiet, VMFERRY_ERROR_TIMEOUT) && clock_now_ns() < end)
            continue;
        g_propagate_error(error, g_steal_pointer(&quiet));
        return FALSE;
    }
    error_set(error, VMFERRY_ERROR_CANCELLED, "the agent is being stopped");
    return FALSE;
}

/* Up to RESUMED, or another answer, which is an error. */
static gboolean receive_outstanding(const PostcopySourceJob *job, Session *session, GPtrArray *sets,
                                    PostcopyAnswer *ret, GError **error)
{
    g_autoptr(GError) told = NULL;

    for (;;) {
        Frame frame;

        if (!receive_answer(job, session, &frame, error))
            return FALSE;
        switch (frame.type) {
        case FRAME_OUTSTANDING:
            if (job->pages != postcopy_source_no_pages() &&
                !postcopy_take_outstanding(job->pages->regions, sets, &frame, error))
                return FALSE;
            break;
        case FRAME_ENDED:
            break; /* COMPLETE follows */
        case FRAME_RESUMED:
            *ret = POSTCOPY_ANSWER_RESUMED;
            return TRUE;
        case FRAME_COMPLETE:
            *ret = POSTCOPY_ANSWER_COMPLETE;
            return TRUE;
        case FRAME_ERROR:
        case FRAME_ABORT:
            session_error_from_frame(session, &frame, &told);
            *ret = answer_of_error(told);
            g_propagate_error(error, g_steal_pointer(&told));
            return FALSE;
        default:
            error_set(error, VMFERRY_ERROR_INVALID, "unexpected %s frame",
                      frame_type_name(frame.type));
            return FALSE;
        }
    }
}

/* A name may lead elsewhere by now. */
static gboolean greet(const PostcopySourceJob *job, Session *session, GError **error)
{
    HelloMessage peer = {0};
    gboolean right;
    guint version;

    if (!session_greet(session, "resume", &peer, &version, error))
        return FALSE;
    right = job->agent && strcmp(peer.agent, job->agent) == 0;
    hello_message_clear(&peer);
    if (!right)
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "%s is another agent than the one that has the guest",
                  session_get_peer_name(session));
    return right;
}

static gboolean join(const PostcopySourceJob *job, Session *session, const ChannelOptions *channel,
                     GError **error)
{
    session_set_transaction(session, job->transaction.transaction);
    return session_join(session, TRAFFIC_FAULT, channel, JOIN_TIMEOUT_MS, NULL, error) &&
           (!job->give_up ||
            session_join(session, TRAFFIC_CHECKPOINT, channel, JOIN_TIMEOUT_MS, NULL, error));
}

/* Of a host that has fallen silent the gate is to be tried when the last lease has ended, not later. */
static int choose_connect_ms(const PostcopySourceJob *job)
{
    int most = job->connect_timeout_ms ? (int)job->connect_timeout_ms : CONNECT_TIMEOUT_MS;
    guint left_ms = job->watches_leases && job->gate ? takeover_gate_get_left_ms(job->gate) : 0;

    return left_ms > 0 ? (int)CLAMP(left_ms, SHORTEST_CONNECT_MS, (guint)most) : most;
}

/* A session whose destination has answered RESUMED or COMPLETE. */
static Session *ask(const PostcopySourceJob *job, ChannelOptions *channel, GPtrArray *sets,
                    PostcopyAnswer *ret_answer, GError **error)
{
    g_autoptr(Session) session = NULL;

    *ret_answer = POSTCOPY_ANSWER_NONE;
    if (!job->get_channel(channel, job->user, error))
        return NULL;
    session = session_connect(job->destination, channel, choose_connect_ms(job), NULL, error);
    if (!session || !greet(job, session, error) || !send_resume(job, session, error) ||
        !receive_outstanding(job, session, sets, ret_answer, error))
        return NULL;
    return g_steal_pointer(&session);
}

Session *postcopy_source_connect(const PostcopySourceJob *job, GPtrArray **ret_left,
                                 PostcopyAnswer *ret_answer, GError **error)
{
    g_autoptr(GPtrArray) sets = page_regions_new_sets(job->pages->regions);
    g_autoptr(Session) session = NULL;
    ChannelOptions channel;

    session = ask(job, &channel, sets, ret_answer, error);
    if (session && *ret_answer == POSTCOPY_ANSWER_COMPLETE) {
        error_set(error, VMFERRY_ERROR_EXISTS, "the guest has all of its memory");
        return NULL;
    }
    if (!session || !join(job, session, &channel, error))
        return NULL;
    session_set_rate(session, job->rate);
    *ret_left = g_steal_pointer(&sets);
    return g_steal_pointer(&session);
}

/* ---- no pages ---- */

static gboolean read_none(PageSource *source, guint region, const PageSpan *spans, guint count,
                          uint8_t *buffer, GError **error)
{
    error_set(error, VMFERRY_ERROR_INVALID, "there are no pages here");
    return FALSE;
}

static gboolean add_none(PageSource *source, guint region, PageSet *set, GError **error)
{
    return TRUE;
}

static void free_none(PageSource *source)
{
}

PageSource *postcopy_source_no_pages(void)
{
    static const PageSourceMethods methods = {read_none, add_none, free_none};
    static const PageRegions regions;
    static PageSource none = {&methods, &regions};

    return &none;
}

/* --- one session ----------------------------------------------------------------- */

static void count(Run *run)
{
    PostcopySenderCounts now;

    if (!run->sender)
        return;
    postcopy_sender_get_counts(run->sender, &now);
    run->counts->pushed_pages = run->before.pushed_pages + now.pushed;
    run->counts->answered_pages = run->before.answered_pages + now.answered;
    run->counts->again_pages = run->before.again_pages + now.again;
    if (run->job->progress && clock_now_ns() - run->last_progress_ns > PROGRESS_INTERVAL_NS) {
        run->last_progress_ns = clock_now_ns();
        run->job->progress(run->counts, now.left, run->job->user);
        if (run->job->note_sender)
            run->job->note_sender(run->sender, run->job->user);
    }
}

/* The destination lives, and asks for how long it may run the guest. */
static gboolean grant_lease(Run *run, const Frame *frame, GError **error)
{
    uint8_t payload[FRAME_LEASE_BYTES];
    LeaseFrame lease;

    if (!lease_frame_decode(frame->payload, frame->length, &lease, error))
        return FALSE;
    lease.length_ms = takeover_gate_grant(run->job->gate, lease.length_ms);
    lease_frame_encode(&lease, payload);
    return session_send_bytes(run->session, FRAME_LEASE, payload, sizeof payload, error);
}

/* The destination is back: what the witness has consented to meanwhile is given back. */
static void settle(Run *run)
{
    g_autoptr(GError) problem = NULL;

    if (!run->job->gate || run->settled || clock_now_ns() < run->settle_ns)
        return;
    run->settled = takeover_gate_settle(run->job->gate, WITNESS_TIMEOUT_MS, &problem);
    run->settle_ns = clock_now_ns() + SETTLE_PAUSE_NS;
    if (problem)
        log_debug("transaction %s: the witness: %s", run->job->transaction.transaction,
                  problem->message);
}

/* Hears the destination; TRUE where there is more to come. */
static gboolean hear(Run *run, int timeout_ms, GError **error)
{
    g_autoptr(GError) quiet = NULL;
    Frame frame;

    if (!session_receive(run->session, TRAFFIC_CONTROL, timeout_ms, &frame, &quiet)) {
        if (error_is(quiet, VMFERRY_ERROR_TIMEOUT))
            return TRUE;
        g_propagate_error(error, g_steal_pointer(&quiet));
        return FALSE;
    }
    g_clear_error(&quiet);
    run->heard_ns = clock_now_ns();
    if (frame.type == FRAME_LEASE)
        return !run->job->gate || grant_lease(run, &frame, error);
    if (frame.type == FRAME_COMPLETE || (frame.type == FRAME_ENDED && run->complete)) {
        run->complete = TRUE;
        run->told = run->told || frame.type == FRAME_ENDED;
        return TRUE;
    }
    if (frame.type == FRAME_ERROR || frame.type == FRAME_ABORT)
        session_error_from_frame(run->session, &frame, &quiet);
    else
        error_set(&quiet, VMFERRY_ERROR_INVALID, "%s sent an unexpected %s frame",
                  session_get_peer_name(run->session), frame_type_name(frame.type));
    /* Whether the guest is lost there is what a new RESUME is answered: here any step that has
     * failed may have found something not to be there. */
    g_propagate_error(error, g_steal_pointer(&quiet));
    return FALSE;
}

static gboolean tell_uncovered(Run *run, GError **error)
{
    uint64_t pages = run->job->get_uncovered ? run->job->get_uncovered(run->job->user) : 0;
    uint8_t payload[FRAME_UNCOVERED_BYTES];

    if (!run->job->get_uncovered || pages == run->uncovered)
        return TRUE;
    run->uncovered = run->counts->uncovered_pages = pages;
    uncovered_frame_encode(pages, payload);
    return session_send_bytes(run->session, FRAME_UNCOVERED, payload, sizeof payload, error);
}

static void follow_rate(Run *run)
{
    uint64_t rate = run->job->get_rate ? run->job->get_rate(run->job->user) : run->rate;

    if (rate != run->rate)
        session_set_rate(run->session, rate);
    run->rate = rate;
}

static uint64_t get_patience_ns(const PostcopySourceJob *job)
{
    return (job->patience_ms ? job->patience_ms : (uint64_t)POSTCOPY_SOURCE_PATIENCE_MS) * 1000000;
}

/* In how long the gate may be tried; G_MAXUINT: never, as it stands. */
static guint get_gate_wait_ms(const Run *run)
{
    const PostcopySourceJob *job = run->job;
    uint64_t now = clock_now_ns(), at;

    if (!job->gate || run->given_up || (job->may_take_over && !job->may_take_over(job->user)))
        return G_MAXUINT;
    at = MAX(run->heard_ns + get_patience_ns(job), run->ask_gate_ns);
    return at > now ? (guint)((at - now) / 1000000) + 1 : 0;
}

/* The destination cannot be reached: TRUE where nobody else runs the guest, or will. */
static gboolean try_gate(Run *run)
{
    g_autoptr(GError) reason = NULL;
    TakeoverDecision decision;
    guint wait_ms;

    if (run->taken || get_gate_wait_ms(run) > 0)
        return run->taken;
    decision = takeover_gate_try(run->job->gate, WITNESS_TIMEOUT_MS, &wait_ms, &reason);
    run->taken = decision == TAKEOVER_TAKEN;
    if (run->taken)
        return TRUE;
    run->ask_gate_ns = clock_now_ns() + (uint64_t)wait_ms * 1000000;
    log_line(decision == TAKEOVER_DENIED && !run->denied ? LOG_LEVEL_WARNING : LOG_LEVEL_DEBUG,
             "transaction %s: the guest is not taken over: %s", run->job->transaction.transaction,
             reason->message);
    run->denied = decision == TAKEOVER_DENIED;
    return FALSE;
}

/* A session may stand long after its peer's host has fallen silent.  FALSE with *error*: the guest is ours
 * to take over. */
static gboolean watch_leases(Run *run, GError **error)
{
    if (!run->job->watches_leases || !run->job->gate ||
        takeover_gate_get_left_ms(run->job->gate) > 0 || !try_gate(run))
        return TRUE;
    error_set(error, VMFERRY_ERROR_DISCONNECTED, "its last lease has ended");
    return FALSE;
}

/* Until then nothing is to be done than to hear the destination. */
static int choose_hear_ms(Run *run)
{
    guint wait_ms = run->job->watches_leases ? get_gate_wait_ms(run) : HEAR_SLICE_MS;

    if (!run->job->watches_leases || wait_ms == G_MAXUINT)
        return HEAR_SLICE_MS;
    return (int)CLAMP(MAX(wait_ms, takeover_gate_get_left_ms(run->job->gate)), 1, HEAR_SLICE_MS);
}

static gboolean may_go_on(Run *run, GError **error)
{
    if (!run->job->is_stopping(run->job->user))
        return TRUE;
    error_set(error, VMFERRY_ERROR_CANCELLED, "the agent is being stopped");
    return FALSE;
}

/* A PostcopyBetween.  COMPLETE ends pushing, too: the guest may have ended, or discarded what it
 * lacked. */
static gboolean between(gpointer user, GError **error)
{
    Run *run = user;

    count(run);
    follow_rate(run);
    settle(run);
    if (!may_go_on(run, error) || !tell_uncovered(run, error) || !hear(run, 0, error))
        return FALSE;
    if (run->complete)
        error_set(error, VMFERRY_ERROR_CANCELLED, "complete");
    return !run->complete;
}

static gboolean push(Run *run, GError **error)
{
    g_autoptr(GError) problem = NULL;

    if (postcopy_sender_push(run->sender, between, run, &problem) &&
        !fault_point("source.pushed", &problem) &&
        session_send_bytes(run->session, FRAME_PUSHED, NULL, 0, &problem))
        return TRUE;
    if (run->complete)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&problem));
    return FALSE;
}

/* COMPLETE of a protected guest: its epochs are of no use from now on, which is on record before the
 * destination hears of it. */
static gboolean tell_ended(Run *run, GError **error)
{
    uint64_t end = clock_now_ns() + (uint64_t)ENDED_TIMEOUT_MS * 1000000;
    g_autoptr(GError) unsent = NULL;

    if (!run->given_up && !run->job->give_up(run->job->user, error))
        return FALSE;
    run->given_up = TRUE;
    if (fault_point("source.given-up", error))
        return FALSE;
    /* One that has known it for long says so and goes: that is heard all the same. */
    if (!session_send_bytes(run->session, FRAME_ENDED, NULL, 0, &unsent))
        log_debug("ENDED: %s", unsent->message);
    while (!run->told) {
        if (!may_go_on(run, error) || !hear(run, HEAR_SLICE_MS, error))
            return FALSE;
        if (clock_now_ns() < end)
            continue;
        error_set(error, VMFERRY_ERROR_TIMEOUT, "%s does not answer ENDED",
                  session_get_peer_name(run->session));
        return FALSE;
    }
    return TRUE;
}

static gboolean end_serving(Run *run, GError **error)
{
    run->told = run->told || !run->job->give_up;
    return run->told || tell_ended(run, error);
}

static gboolean start_epochs(Run *run, GError **error)
{
    const PostcopySourceJob *job = run->job;
    g_autoptr(GError) problem = NULL;

    run->epochs = checkpoint_receiver_start(run->session, job->deltas, job->parts, job->part_count,
                                            job->no_room == NULL, &problem);
    if (run->epochs)
        return TRUE;
    if (error_is(problem, VMFERRY_ERROR_NO_SPACE))
        session_send_error(run->session, problem);
    g_propagate_error(error, g_steal_pointer(&problem));
    return FALSE;
}

static gboolean serve(Run *run, GError **error)
{
    if (run->complete)
        return end_serving(run, error);
    if (run->job->deltas && !start_epochs(run, error))
        return FALSE;
    if (!push(run, error))
        return FALSE;
    while (!run->complete) {
        count(run);
        follow_rate(run);
        settle(run);
        if (!may_go_on(run, error) || !tell_uncovered(run, error) ||
            !hear(run, choose_hear_ms(run), error) || !watch_leases(run, error))
            return FALSE;
    }
    return end_serving(run, error);
}

/* Its threads end with the session's channels.  Also where it is complete: the destination has said
 * all, and waits for us to go. */
static void end_session(Run *run)
{
    count(run);
    run->before = *run->counts;
    if (run->session)
        session_shutdown(run->session);
    g_clear_pointer(&run->sender, postcopy_sender_free);
    g_clear_pointer(&run->epochs, checkpoint_receiver_free);
    if (run->own_session)
        g_clear_pointer(&run->session, session_unref);
    run->session = NULL;
}

static gboolean connect_again(Run *run, GError **error)
{
    const PostcopySourceJob *job = run->job;
    g_autoptr(GPtrArray) left = page_regions_new_sets(job->pages->regions);
    ChannelOptions channel;
    PostcopyAnswer answer;

    run->session = ask(job, &channel, left, &answer, error);
    run->own_session = TRUE;
    run->lost = answer == POSTCOPY_ANSWER_LOST;
    if (!run->session)
        return FALSE;
    run->complete = answer == POSTCOPY_ANSWER_COMPLETE;
    if (run->complete)
        return TRUE;
    if (!join(job, run->session, &channel, error))
        return FALSE;
    session_set_rate(run->session, job->rate);
    run->sender = postcopy_sender_new(run->job->pages, run->session, g_steal_pointer(&left),
                                      &run->job->sender);
    return postcopy_sender_answer(run->sender, error);
}

/* --- the whole ------------------------------------------------------------------- */

/* FALSE: there is no use in trying again, or none is wanted. */
static gboolean may_try_again(Run *run, PostcopyOutcome *ret)
{
    /* Nothing is left to be told where nobody has the guest any more. */
    if (run->given_up && run->lost)
        return FALSE;
    if (!run->complete && run->job->has_ended(run->job->user))
        *ret = POSTCOPY_DRAINED;
    else if (run->job->is_stopping(run->job->user))
        *ret = POSTCOPY_STOPPED;
    else if (run->lost)
        *ret = POSTCOPY_LOST;
    else
        return TRUE;
    return FALSE;
}

static void note_silence(const Run *run, uint64_t ns)
{
    if (run->job->note_silence)
        run->job->note_silence(ns / 1000000, run->job->user);
}

/* While the witness may be asked soon, the next attempt is soon, too. */
static void pause_between(Run *run, guint attempts)
{
    uint64_t longest = run->job->gate && !run->denied ? SHORT_PAUSE_MS : LONGEST_PAUSE_MS;
    uint64_t ms = MIN((uint64_t)FIRST_PAUSE_MS << MIN(attempts, 10), longest);
    uint64_t now = clock_now_ns(), end;

    if (!run->denied)
        ms = MIN(ms, MAX(get_gate_wait_ms(run), 1));
    end = now + ms * 1000000;
    while ((now = clock_now_ns()) < end && !run->job->is_stopping(run->job->user))
        clock_sleep_ns(MIN(end - now, SLEEP_SLICE_NS));
}

/* The pages are lost with the VMM here: whoever waits for them at the destination waits for ever, and
 * its users are to know.  On a connection of its own: the other one may have failed in any way. */
PostcopyAnswer postcopy_source_tell_drained(const PostcopySourceJob *job, const char *why,
                                            GError **error)
{
    g_autoptr(GPtrArray) left = NULL;
    g_autoptr(GError) reason = NULL;
    PostcopyAnswer answer;
    g_autoptr(Session) session = postcopy_source_connect(job, &left, &answer, error);

    if (!session)
        return answer == POSTCOPY_ANSWER_RESUMED ? POSTCOPY_ANSWER_NONE : answer;
    error_set(
        &reason, VMFERRY_ERROR_NOT_FOUND, "%s",
        why ? why
            : "the guest's process at its source has ended: what it still lacks of its memory "
              "is lost; it waits for ever where it needs that, and can only be stopped");
    session_send_error(session, reason);
    return answer;
}

PostcopyOutcome postcopy_source_run(const PostcopySourceJob *job, Session *session,
                                    PostcopySender *sender, MigratePostcopy *counts, GError **error)
{
    uint64_t begun_ns = clock_now_ns();
    Run run = {.job = job,
               .session = session,
               .sender = sender,
               .counts = counts,
               .before = *counts,
               .heard_ns = begun_ns};
    PostcopyOutcome outcome = POSTCOPY_COMPLETE;
    guint attempts = 0;

    while (!run.told) {
        g_autoptr(GError) problem = NULL;
        gboolean connected = run.session || connect_again(&run, &problem);

        run.uncovered = UINT64_MAX;
        run.rate = job->rate;
        if (connected) {
            attempts = 0;
            run.settled = FALSE;
            note_silence(&run, 0);
            run.heard_ns = clock_now_ns();
            serve(&run, &problem);
            if (!job->watches_leases)
                run.heard_ns = clock_now_ns();
        }
        if (run.told)
            break;
        if (job->no_room && error_is(problem, VMFERRY_ERROR_NO_SPACE))
            job->no_room(problem, job->user);
        if (run.session)
            counts->breaks++;
        end_session(&run);
        log_line(attempts == 0 ? LOG_LEVEL_WARNING : LOG_LEVEL_DEBUG,
                 "transaction %s: post-copy was interrupted: %s", job->transaction.transaction,
                 problem ? problem->message : "");
        if (!may_try_again(&run, &outcome)) {
            g_propagate_error(error, g_steal_pointer(&problem));
            break;
        }
        note_silence(&run, clock_now_ns() - run.heard_ns);
        if (try_gate(&run)) {
            error_set(error, VMFERRY_ERROR_DISCONNECTED, "it has not answered for %" PRIu64 " ms",
                      (clock_now_ns() - run.heard_ns) / 1000000);
            outcome = POSTCOPY_TAKEN;
            break;
        }
        pause_between(&run, attempts++);
    }
    end_session(&run);
    if (outcome == POSTCOPY_DRAINED)
        postcopy_source_tell_drained(job, NULL, NULL);
    counts->ms += clock_ns_to_ms(clock_now_ns() - begun_ns);
    return outcome;
}
