#include "agent/postcopy_fetcher.h"

#include <inttypes.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include "migrate/postcopy_fetch.h"
#include "migrate/witness_open.h"

#define SLICE_NS 50000000ULL
#define PAUSE_MS 1000
#define LONGEST_PAUSE_MS 10000

struct PostcopyFetcher {
    AgentContext *context;
    Guest *guest;
    PostcopyDestination *split;
    GCancellable *cancellable;
    GThread *thread;
    atomic_bool ending, ended;
    gboolean told_begin, told_failure, told_loss;
};

/* A witness that is no agent has no pages. */
static gboolean has_store(const GuestRecord *record)
{
    return record->store && !witness_address_is_foreign(record->store);
}

static gboolean make_job(AgentContext *context, const GuestRecord *record, PostcopyFetchJob *ret,
                         GError **error)
{
    *ret = (PostcopyFetchJob){
        .store = record->store,
        .agent = record->store_agent,
        .transaction = {record->transaction, record->id, record->term},
    };
    return agent_context_get_channel_options(context, &ret->channel, error);
}

/* ---- what its users hear ---- */

static void tell_begin(PostcopyFetcher *fetcher, const char *store)
{
    if (fetcher->told_begin)
        return;
    fetcher->told_begin = TRUE;
    event_log_add(fetcher->context->events, fetcher->guest->name, "fetching", NULL,
                  "its source does not answer: %" PRIu64
                  " pages that it lacks are fetched from the store %s",
                  postcopy_destination_count_outstanding(fetcher->split), store);
}

static void tell_loss(PostcopyFetcher *fetcher, const char *store, const GError *why)
{
    g_autofree char *text = NULL;

    if (fetcher->told_loss)
        return;
    fetcher->told_loss = TRUE;
    text = g_strdup_printf("the guest's process at its source has ended, and the store %s does not "
                           "have the %" PRIu64 " pages that it still lacks (%s); it waits for ever "
                           "where it needs them, and can only be stopped",
                           store, postcopy_destination_count_outstanding(fetcher->split),
                           why->message);
    registry_set_problem(fetcher->guest, text);
    event_log_add(fetcher->context->events, fetcher->guest->name, "memory-lost", NULL, "%s", text);
}

static void tell_failure(PostcopyFetcher *fetcher, const char *store, const GError *why)
{
    gboolean has_none = error_is(why, VMFERRY_ERROR_NOT_FOUND) || error_is(why, VMFERRY_ERROR_BUSY);

    if (has_none && postcopy_destination_is_source_gone(fetcher->split))
        tell_loss(fetcher, store, why);
    log_line(fetcher->told_failure ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARNING,
             "guest %s: its pages do not come from the store %s: %s; that is tried again",
             fetcher->guest->name, store, why->message);
    fetcher->told_failure = TRUE;
}

/* ---- fetching ---- */

static gboolean is_wanted(PostcopyFetcher *fetcher)
{
    guint idle_ms = postcopy_destination_get_idle_ms(fetcher->split);
    guint patience =
        postcopy_destination_is_source_gone(fetcher->split) ? 1 : POSTCOPY_FETCHER_PATIENCE_MS;

    return idle_ms >= patience && postcopy_destination_count_outstanding(fetcher->split) > 0 &&
           !postcopy_destination_is_complete(fetcher->split);
}

static void try_fetch(PostcopyFetcher *fetcher)
{
    g_autoptr(GuestRecord) record = registry_get_record(fetcher->guest);
    g_autoptr(GError) error = NULL;
    PostcopyFetchJob job;

    if (!has_store(record) || !record->transaction)
        return;
    tell_begin(fetcher, record->store);
    if (!make_job(fetcher->context, record, &job, &error)) {
        tell_failure(fetcher, record->store, error);
        return;
    }
    job.cancellable = fetcher->cancellable;
    if (!postcopy_fetch(fetcher->split, &job, &error) && !atomic_load(&fetcher->ending))
        tell_failure(fetcher, record->store, error);
}

static gpointer fetch_main(gpointer data)
{
    PostcopyFetcher *fetcher = data;
    uint64_t next_ns = 0, pause_ms = PAUSE_MS;

    while (!atomic_load(&fetcher->ending)) {
        if (!is_wanted(fetcher)) {
            pause_ms = PAUSE_MS;
        } else if (clock_now_ns() >= next_ns) {
            try_fetch(fetcher);
            next_ns = clock_now_ns() + pause_ms * 1000000;
            pause_ms = MIN(pause_ms * 2, LONGEST_PAUSE_MS);
        }
        clock_sleep_ns(SLICE_NS);
    }
    atomic_store(&fetcher->ended, TRUE);
    return NULL;
}

static void fetcher_free(PostcopyFetcher *fetcher)
{
    guest_unref(fetcher->guest);
    g_object_unref(fetcher->cancellable);
    g_free(fetcher);
}

PostcopyFetcher *postcopy_fetcher_start(AgentContext *context, Guest *guest,
                                        PostcopyDestination *split)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);
    g_autoptr(GError) error = NULL;
    PostcopyFetcher *fetcher;

    if (!has_store(record))
        return NULL;
    fetcher = g_new0(PostcopyFetcher, 1);
    fetcher->context = context;
    fetcher->guest = guest_ref(guest);
    fetcher->split = split;
    fetcher->cancellable = g_cancellable_new();
    fetcher->thread = thread_start("fetch", fetch_main, fetcher, &error);
    if (fetcher->thread)
        return fetcher;
    log_warning("guest %s: nothing is fetched from its store: %s", guest->name, error->message);
    fetcher_free(fetcher);
    return NULL;
}

/* Its session may begin just now. */
void postcopy_fetcher_end(PostcopyFetcher *fetcher)
{
    if (!fetcher)
        return;
    atomic_store(&fetcher->ending, TRUE);
    g_cancellable_cancel(fetcher->cancellable);
    while (!atomic_load(&fetcher->ended)) {
        postcopy_destination_cut(fetcher->split, NULL);
        clock_sleep_ns(SLICE_NS);
    }
    g_thread_join(fetcher->thread);
    fetcher_free(fetcher);
}

/* ---- the end ---- */

typedef struct {
    AgentContext *context;
    GuestRecord *record;
} Drop;

static gpointer drop_main(gpointer data)
{
    g_autofree Drop *drop = data;
    g_autoptr(GuestRecord) record = drop->record;
    g_autoptr(GError) error = NULL;
    PostcopyFetchJob job;

    if (!make_job(drop->context, record, &job, &error) || !postcopy_fetch_drop(&job, &error))
        log_debug("guest %s: its store %s is not told that it has all pages: %s", record->name,
                  record->store, error->message);
    return NULL;
}

void postcopy_fetcher_drop(AgentContext *context, const GuestRecord *record)
{
    Drop *drop;

    if (!has_store(record) || !record->transaction || agent_context_is_stopping(context))
        return;
    drop = g_new(Drop, 1);
    *drop = (Drop){context, guest_record_copy(record)};
    if (agent_context_spawn(context, "drop-stored", drop_main, drop, NULL))
        return;
    guest_record_free(drop->record);
    g_free(drop);
}
