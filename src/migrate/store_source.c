#include "migrate/store_source.h"

#include <stdatomic.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/lock_guard.h"
#include "base/thread.h"
#include "migrate/postcopy_source.h"
#include "wire/store_frame.h"

#define CONNECT_TIMEOUT_MS 5000
#define ACCEPTED_TIMEOUT_MS 10000
#define STORED_TIMEOUT_MS 60000
#define HEAR_SLICE_MS 100
#define SNAPSHOT_NS 1000000000ULL

struct StoreSource {
    Session *session;
    HelloMessage peer;
    PageSource *pages;
    GPtrArray *sent; /* a PageSet a region */
    PackingMode packing;
    guint workers;
    StoredFrame stored; /* what the store said last */

    /* Of the last pass. */
    GThread *thread;
    GPtrArray *rest;
    void (*lost)(const GError *why, gpointer user);
    gpointer user;
    uint64_t outstanding;
    atomic_bool filling, ending;
    _Atomic uint64_t uncovered, stored_pages;
    GMutex lock;       /* protects *sent* and all below, as long as the last pass goes on */
    GPtrArray *recent; /* what was not sent to the destination lately, … */
    GPtrArray *before; /* … and some time before that */
    uint64_t recent_ns;
    gboolean failed;
};

/* ---- connecting ---- */

static gboolean greet(StoreSource *store, const StoreMessage *message, GError **error)
{
    guint version;

    if (!session_greet(store->session, "store", &store->peer, &version, error))
        return FALSE;
    if (!peer_has_feature(&store->peer, FEATURE_STORE) || !*store->peer.agent)
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "%s keeps no pages: its vmferry is older",
                  session_get_peer_name(store->session));
    else if (strcmp(store->peer.agent, message->destination_agent) == 0)
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "%s is the destination itself: a store is a third host",
                  session_get_peer_name(store->session));
    else
        return TRUE;
    return FALSE;
}

static gboolean ask(StoreSource *store, const StoreMessage *message, GError **error)
{
    g_autofree char *text = store_message_encode(message);
    Frame frame;

    return session_send_bytes(store->session, FRAME_STORE, text, strlen(text), error) &&
           session_expect(store->session, FRAME_ACCEPTED, ACCEPTED_TIMEOUT_MS, &frame, error);
}

StoreSource *store_source_connect(const char *address, const ChannelOptions *channel,
                                  const StoreMessage *message, PageSource *pages,
                                  GCancellable *cancellable, GError **error)
{
    Session *session = session_connect(address, channel, CONNECT_TIMEOUT_MS, cancellable, error);
    StoreSource *store;

    if (!session)
        return NULL;
    store = g_new0(StoreSource, 1);
    store->session = session;
    store->pages = pages;
    store->sent = page_regions_new_sets(pages->regions);
    store->workers = 1;
    g_mutex_init(&store->lock);
    if (greet(store, message, error) && ask(store, message, error))
        return store;
    store_source_end(store, TRUE);
    return NULL;
}

void store_source_end(StoreSource *store, gboolean needed)
{
    if (!store)
        return;
    atomic_store(&store->ending, TRUE);
    /* Between two frames of the last pass, or not at all: then the store's time limit ends it. */
    if (!needed)
        session_send_bytes(store->session, FRAME_COMPLETE, NULL, 0, NULL);
    if (store->thread) {
        if (needed)
            session_shutdown(store->session);
        g_thread_join(store->thread);
    }
    session_unref(store->session);
    hello_message_clear(&store->peer);
    g_ptr_array_unref(store->sent);
    g_clear_pointer(&store->rest, g_ptr_array_unref);
    g_clear_pointer(&store->recent, g_ptr_array_unref);
    g_clear_pointer(&store->before, g_ptr_array_unref);
    g_mutex_clear(&store->lock);
    g_free(store);
}

const char *store_source_get_agent(const StoreSource *store)
{
    return store->peer.agent;
}

const char *store_source_get_name(const StoreSource *store)
{
    return session_get_peer_name(store->session);
}

void store_source_set_rate(StoreSource *store, uint64_t bytes_per_second)
{
    session_set_rate(store->session, bytes_per_second);
}

void store_source_set_packing(StoreSource *store, PackingMode mode, guint workers)
{
    store->packing = mode;
    store->workers = workers;
}

/* ---- what the store says ---- */

static gboolean take_stored(StoreSource *store, const Frame *frame, GError **error)
{
    if (!stored_frame_decode(frame->payload, frame->length, &store->stored, error))
        return FALSE;
    atomic_store(&store->stored_pages, store->stored.pages);
    return TRUE;
}

static gboolean take_frame(StoreSource *store, const Frame *frame, GError **error)
{
    if (frame->type == FRAME_STORED)
        return take_stored(store, frame, error);
    if (frame->type == FRAME_ERROR || frame->type == FRAME_ABORT)
        session_error_from_frame(store->session, frame, error);
    else
        error_set(error, VMFERRY_ERROR_INVALID, "%s sent an unexpected %s frame",
                  session_get_peer_name(store->session), frame_type_name(frame->type));
    return FALSE;
}

/* All that has come; waits for the first of it. */
static gboolean hear(StoreSource *store, int timeout_ms, GError **error)
{
    g_autoptr(GError) quiet = NULL;
    Frame frame;

    while (session_receive(store->session, TRAFFIC_CONTROL, timeout_ms, &frame, &quiet)) {
        if (!take_frame(store, &frame, error))
            return FALSE;
        timeout_ms = 0;
    }
    if (error_is(quiet, VMFERRY_ERROR_TIMEOUT))
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&quiet));
    return FALSE;
}

/* ---- a pass ---- */

uint64_t store_source_count(const GPtrArray *sets)
{
    uint64_t pages = 0;

    for (guint i = 0; i < sets->len; i++)
        pages += page_set_count(sets->pdata[i]);
    return pages;
}

/* The next pages of one region from *from on; FALSE where there are none. */
static gboolean gather(const PageSet *set, uint64_t *from, WorkBatch *batch)
{
    PageSpan span;

    batch->pages = 0;
    batch->span_count = 0;
    while (
        batch->pages < WORK_BATCH_PAGES &&
        page_set_next_run(set, *from, WORK_BATCH_PAGES - batch->pages, &span.first, &span.count)) {
        batch->spans[batch->span_count++] = span;
        batch->pages += span.count;
        *from = span.first + span.count;
    }
    return batch->pages > 0;
}

static void note_sent(StoreSource *store, const WorkBatch *batch)
{
    lock_guard(&store->lock);

    for (guint i = 0; i < batch->span_count; i++)
        page_set_add(store->sent->pdata[batch->region], batch->spans[i].first,
                     batch->spans[i].count);
}

static gboolean may_go_on(const StoreSource *store, GError **error)
{
    if (!atomic_load(&store->ending))
        return TRUE;
    error_set(error, VMFERRY_ERROR_CANCELLED, "it is not needed any more");
    return FALSE;
}

typedef struct {
    StoreSourceBefore before; /* may be NULL */
    gpointer user;
    uint64_t until_ns; /* then enough was pushed */
} Pass;

static gboolean push_region(StoreSource *store, PageSender *sender, const PageSet *set,
                            WorkBatch *batch, const Pass *pass, GError **error)
{
    uint64_t from = 0;

    while (clock_now_ns() < pass->until_ns && gather(set, &from, batch)) {
        if (!may_go_on(store, error) || !hear(store, 0, error) ||
            (pass->before && !pass->before(batch, pass->user, error)))
            return FALSE;
        note_sent(store, batch);
        if (!page_sender_push(sender, batch, error))
            return FALSE;
    }
    return TRUE;
}

static PageSender *make_sender(StoreSource *store)
{
    PageSenderOptions options = {.workers = store->workers, .each_once = TRUE};
    PageSender *sender =
        page_sender_new(store->pages, session_get_channel(store->session, TRAFFIC_BULK), &options);

    page_sender_set_packing(sender, store->packing,
                            peer_has_feature(&store->peer, FEATURE_PAGES_LZ4),
                            peer_has_feature(&store->peer, FEATURE_PAGES_ZSTD));
    return sender;
}

/* Until the store has all that was sent. */
static gboolean await_stored(StoreSource *store, StoreSourceBefore before, gpointer user,
                             GError **error)
{
    uint64_t end = clock_now_ns() + (uint64_t)STORED_TIMEOUT_MS * 1000000;
    uint64_t sent = store_source_count(store->sent);
    const WorkBatch none = {0};

    while (store->stored.pages < sent) {
        if (clock_now_ns() > end) {
            error_set(error, VMFERRY_ERROR_TIMEOUT, "%s does not say that it has all pages",
                      session_get_peer_name(store->session));
            return FALSE;
        }
        if (!may_go_on(store, error) || !hear(store, HEAR_SLICE_MS, error) ||
            (before && !before(&none, user, error)))
            return FALSE;
    }
    return TRUE;
}

static gboolean push_sets(StoreSource *store, PageSender *sender, const GPtrArray *sets,
                          const Pass *pass, GError **error)
{
    g_autofree WorkBatch *batch = g_new(WorkBatch, 1);

    for (guint i = 0; i < sets->len; i++) {
        batch->region = i;
        if (!push_region(store, sender, sets->pdata[i], batch, pass, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean end_pass(StoreSource *store, PageSender *sender, StoreSourceBefore before,
                         gpointer user, GError **error)
{
    return page_sender_flush(sender, error) &&
           session_send_bytes(store->session, FRAME_PUSHED, NULL, 0, error) &&
           await_stored(store, before, user, error);
}

gboolean store_source_push(StoreSource *store, const GPtrArray *sets, StoreSourceBefore before,
                           gpointer user, GError **error)
{
    g_autoptr(PageSender) sender = make_sender(store);
    Pass pass = {.before = before, .user = user, .until_ns = UINT64_MAX};

    return push_sets(store, sender, sets, &pass, error) &&
           end_pass(store, sender, before, user, error);
}

const GPtrArray *store_source_get_sent(const StoreSource *store)
{
    return store->sent;
}

/* ---- the seal ---- */

gboolean store_source_drop(StoreSource *store, const GPtrArray *stale, GError **error)
{
    for (guint i = 0; i < stale->len; i++)
        page_set_remove_all(store->sent->pdata[i], stale->pdata[i]);
    store->stored.pages = 0; /* what it said before is of no use */
    return postcopy_send_outstanding(store->session, TRAFFIC_BULK, stale, error);
}

gboolean store_source_seal(StoreSource *store, const GPtrArray *stale, GError **error)
{
    return store_source_drop(store, stale, error) &&
           session_send_bytes(store->session, FRAME_STORE_SEAL, NULL, 0, error);
}

gboolean store_source_await_sealed(StoreSource *store, guint timeout_ms, GError **error)
{
    uint64_t end = clock_now_ns() + (uint64_t)timeout_ms * 1000000;

    while (!store->stored.sealed) {
        if (!hear(store, 10, error))
            return FALSE;
        if (store->stored.sealed || clock_now_ns() < end)
            continue;
        error_set(error, VMFERRY_ERROR_TIMEOUT, "%s did not answer within %u ms",
                  session_get_peer_name(store->session), timeout_ms);
        return FALSE;
    }
    return TRUE;
}

/* ---- the last pass ---- */

/* Nothing goes on in the session then but what ends it. */
static gboolean await_end(StoreSource *store, GError **error)
{
    while (!atomic_load(&store->ending))
        if (!hear(store, HEAR_SLICE_MS, error))
            return FALSE;
    return TRUE;
}

/* Of *sets*, what was not sent yet; FALSE: nothing.  With the lock held. */
static gboolean choose(const StoreSource *store, const GPtrArray *sets, GPtrArray *ret)
{
    gboolean any = FALSE;

    for (guint i = 0; i < ret->len; i++) {
        page_set_clear(ret->pdata[i]);
        page_set_add_all(ret->pdata[i], sets->pdata[i]);
        page_set_remove_all(ret->pdata[i], store->sent->pdata[i]);
        any = any || page_set_count(ret->pdata[i]) > 0;
    }
    return any;
}

/* What the destination has not been sent comes first. */
static gboolean choose_rest(StoreSource *store, GPtrArray *ret)
{
    lock_guard(&store->lock);

    return choose(store, store->recent, ret) || choose(store, store->rest, ret);
}

static void count_uncovered(StoreSource *store)
{
    g_autoptr(GPtrArray) missing = page_regions_new_sets(store->pages->regions);
    uint64_t stored = atomic_load(&store->stored_pages), sent, pages;
    lock_guard(&store->lock);

    choose(store, store->before, missing);
    sent = store_source_count(store->sent);
    pages = store_source_count(missing) + sent - MIN(stored, sent);
    atomic_store(&store->uncovered, store->failed ? store->outstanding : pages);
}

static gboolean push_rest(StoreSource *store, GError **error)
{
    g_autoptr(PageSender) sender = make_sender(store);
    g_autoptr(GPtrArray) sets = page_regions_new_sets(store->pages->regions);
    Pass pass = {0};

    while (choose_rest(store, sets)) {
        pass.until_ns = clock_now_ns() + SNAPSHOT_NS;
        if (!push_sets(store, sender, sets, &pass, error))
            return FALSE;
    }
    return end_pass(store, sender, NULL, NULL, error);
}

static void note_failed(StoreSource *store)
{
    lock_guard(&store->lock);

    store->failed = TRUE;
}

static gpointer rest_main(gpointer data)
{
    StoreSource *store = data;
    g_autoptr(GError) error = NULL;
    gboolean done = !fault_point("source.store-rest", &error) && push_rest(store, &error);

    atomic_store(&store->filling, FALSE);
    count_uncovered(store);
    if ((done && await_end(store, &error)) || atomic_load(&store->ending))
        return NULL;
    note_failed(store);
    count_uncovered(store);
    store->lost(error, store->user);
    return NULL;
}

static GPtrArray *copy_sets(const StoreSource *store, const GPtrArray *sets)
{
    GPtrArray *copy = page_regions_new_sets(store->pages->regions);

    for (guint i = 0; i < sets->len; i++)
        page_set_add_all(copy->pdata[i], sets->pdata[i]);
    return copy;
}

void store_source_begin_rest(StoreSource *store, const GPtrArray *outstanding,
                             void (*lost)(const GError *why, gpointer user), gpointer user)
{
    g_autoptr(GError) error = NULL;

    store->rest = copy_sets(store, outstanding);
    store->recent = copy_sets(store, outstanding);
    store->before = copy_sets(store, outstanding);
    store->recent_ns = clock_now_ns();
    store->outstanding = store_source_count(outstanding);
    store->lost = lost;
    store->user = user;
    count_uncovered(store);
    atomic_store(&store->filling, TRUE);
    store->thread = thread_start("store", rest_main, store, &error);
    if (store->thread)
        return;
    atomic_store(&store->filling, FALSE);
    store->failed = TRUE;
    count_uncovered(store);
    lost(error, user);
}

/* With the lock held.  What a sender has taken may still be on its way for a moment: so the older
 * one of two snapshots counts. */
static void take_snapshot(StoreSource *store, PostcopySender *sender)
{
    GPtrArray *oldest = store->before;

    store->before = store->recent;
    store->recent = oldest;
    store->recent_ns = clock_now_ns();
    postcopy_sender_copy_left(sender, store->recent);
}

void store_source_note_sender(StoreSource *store, PostcopySender *sender)
{
    g_mutex_lock(&store->lock);
    if (clock_now_ns() - store->recent_ns >= SNAPSHOT_NS)
        take_snapshot(store, sender);
    g_mutex_unlock(&store->lock);
    count_uncovered(store);
}

uint64_t store_source_get_uncovered(const StoreSource *store)
{
    return atomic_load(&store->uncovered);
}

gboolean store_source_is_filling(const StoreSource *store)
{
    return atomic_load(&store->filling);
}
