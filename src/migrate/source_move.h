/* What the stages of a move share (private to the source). */
#pragma once

#include "memory/guest_memory.h"
#include "memory/tracker.h"
#include "migrate/guard.h"
#include "migrate/page_sender.h"
#include "migrate/source.h"
#include "wire/messages.h"

typedef struct {
    const MigrateSourceJob *job;
    GCancellable *cancellable;
    MigrateReport *report;
    MigrateProgress progress;
    uint64_t started_ns, paused_ns, last_progress_ns, lap_ns;

    VmmDescription *description;
    GuestMemory *memory;
    Channel *channel;
    char transaction[33];
    Guard *guard;
    Tracker *tracker;
    PageSender *sender;
    GPtrArray *dirty; /* what this round sends */
    GPtrArray *next;  /* written after this round had read it: for the next one */
    guint round;
    HelloMessage peer; /* what the destination can: peer_has_feature() */
    gboolean offered, accepted;
    gboolean paused;
    gboolean word_sent;
    double bytes_per_ms; /* guest bytes, as measured */
} SourceMove;

/* Sends one round of what is in move->dirty and waits until it is applied.
 * Adds it to the report. */
gboolean source_send_round(SourceMove *move, GError **error);

/* The rounds while the guest runs; leaves in move->dirty what was dirty at the
 * moment of the decision to stop. */
gboolean source_precopy(SourceMove *move, GError **error);

/* Waits for a frame of *type*; ACCEPTED may come before it.  Ends early on
 * cancellation and when the peer reports an error. */
gboolean source_await(SourceMove *move, FrameType type, int timeout_ms, Frame *ret, GError **error);

/* FALSE once the user has cancelled. */
gboolean source_not_cancelled(SourceMove *move, GError **error);

/* Milliseconds since the last lap. */
double source_lap_ms(SourceMove *move);

void source_set_phase(SourceMove *move, MigratePhase phase);
void source_report_progress(SourceMove *move);

/* The stages from the pause on (source_handover.c). */
gboolean source_pause(SourceMove *move, GError **error);
void source_resume(SourceMove *move);
gboolean source_last_round(SourceMove *move, GError **error);
gboolean source_await_ready(SourceMove *move, GError **error);
gboolean source_give_word(SourceMove *move, GError **error);

/* After the word: finds out what became of it. */
TransactionOutcome source_settle(SourceMove *move, GError **error);
