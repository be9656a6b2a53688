/*
 * Ordering moves, and following them
 *
 * Theory of operation: the only part of the engine that can start a move.  Each move has a thread, which goes
 * through
 *
 *     write down ─► check again ─► order ─► follow, govern ─► outcome
 *      INTENDED                   ORDERED                     COMPLETED, FAILED, …  (move_record.h)
 *
 * with the journal ahead of each step: what could not be written down is not done.  The source's agent performs the
 * move; if this engine ends, the move goes on.
 *
 * After a restart, and where an agent did not answer to an order, nobody here knows what came of it: the move is
 * *settled* by asking both hosts' agents: by the guest's id and term, by what goes on with it, and by their events since
 * before the order.  Until then the record is open and nothing else may be begun with the guest.  An order is never
 * given twice: it counts for EXECUTOR_ORDER_MS from what its agent had said before the record was written, and what is
 * not found is asked for during EXECUTOR_SETTLE_MS after the record was read, which is longer.
 *
 * Of several engines the one that leads does all this, in its term; one that does not any more lets go of it
 * (executor_stand_down()).  Should it be in the middle of an order then, that one is in the journal, as above.
 *
 * Threads: any may call; the hooks are called from the moves' threads, with no lock of the executor held.
 */
#pragma once

#include <gio/gio.h>

#include "engine/store.h"

/* For so long an order counts, by the clock of the agent that it is for (agent/order_expiry.h). */
#define EXECUTOR_ORDER_MS 10000
/* Longer than that by more than clocks differ: what an agent, asked for so long, does not know of was not ordered, and
 * cannot be any more, whoever gave the order and wherever it is. */
#define EXECUTOR_SETTLE_MS 12000

/* What is said to a move that runs. */
typedef struct {
    double rate;     /* bytes/s, 0: as it is */
    gboolean cancel; /* call it off */
    const char *why; /* static */
} ExecutorWord;

typedef struct {
    /* The address of a host's agent, and where other agents reach it (NULL: not known); free with g_free(). */
    gboolean (*find_host)(const char *host, char **ret_address, char **ret_moves_to, gpointer user,
                          GError **error);
    /* Right before the order, with the figures of now: FALSE with *error* where it must not be. */
    gboolean (*check)(const MoveRecord *record, gpointer user, GError **error);
    /* While it runs, about every second; *progress* may be NULL. */
    void (*govern)(const MoveRecord *record, json_t *progress, ExecutorWord *word, gpointer user);
    /* The record has changed. */
    void (*on_change)(const MoveRecord *record, gpointer user);
    gpointer user;
} ExecutorHooks;

typedef struct Executor Executor;

/* *stop*: cancelled when the engine ends. */
Executor *executor_new(EngineStore *store, const char *pki_dir, GCancellable *stop,
                       const ExecutorHooks *hooks);

/* This engine leads, in that term (store.h): takes up what the journal has open and is not followed yet, without ordering
 * anything.  Before the first executor_begin() of a term; may be called again. */
gboolean executor_lead(Executor *executor, gint64 term, GError **error);

/* It does not lead any more: nothing more is ordered or written down, and the moves under way are another engine's to
 * follow. */
void executor_stand_down(Executor *executor);

/* Writes the move down and goes on in a thread; *record* is taken. *ret_id*: its number.  VMFERRY_ERROR_BUSY: the guest
 * has an open move. *bandwidth*: bytes/s, 0: the agent's default. */
gboolean executor_begin(Executor *executor, MoveRecord *record, double bandwidth, gint64 *ret_id,
                        GError **error);

/* A move that somebody else has ordered (record->activity is set): writes it down and follows it. */
gboolean executor_follow(Executor *executor, MoveRecord *record, GError **error);

/* Asks the agent to call it off; the outcome follows. */
gboolean executor_cancel(Executor *executor, gint64 id, GError **error);

/* Of MoveRecord: copies of those that are open; free with g_ptr_array_unref(). */
GPtrArray *executor_list(Executor *executor);

/* The newest progress of an open one, or NULL; free with json_decref(). */
json_t *executor_get_progress(Executor *executor, gint64 id);

/* Waits for the threads, which wait for no agent once *stop* is cancelled; moves go on without us, and an order that was
 * not answered is settled at the next start. */
void executor_free(Executor *executor);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Executor, executor_free)
