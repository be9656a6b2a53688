/*
 * Traces: what a guest dirtied during a move, and what the move did
 *
 * JSON lines, version 1 (docs/convergence.md has an example):
 *
 *     {"trace":1,"group_pages":512,"pages":[512,…],"bytes_per_ms":…,"guest":"…"}
 *     {"ms":t,"dirty":[[group,pages,new],…]}                      after each sync
 *     {"ms":t,"round":n,"sent":bytes,"wire_per_page":…,"left":bytes}    a round's end
 *     {"total_ms":…,"downtime_ms":…,"reason":"…"}                        the last line
 *
 * "pages" has the populated pages of each group, "groups" their number.  Times are ms since the
 * start of the move and never fall.  Unknown keys are passed over, so that later versions may add
 * some; everything else that is out of order is refused, with the line's number.  The writers make
 * one line each, without the line's end, to be freed by the caller.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#define TRACE_VERSION 1
/* 1 TiB; a day of syncs. */
#define TRACE_MAX_GROUPS (1u << 19)
#define TRACE_MAX_SYNCS (1u << 20)
#define TRACE_MAX_ROUNDS (1u << 16)
/* All syncs' entries together. */
#define TRACE_MAX_ENTRIES (1u << 26)
#define TRACE_LINE_LIMIT (8u << 20)
#define TRACE_MAX_MS 1e9
#define TRACE_MAX_BYTES 1e16

typedef struct {
    guint32 group;
    guint16 pages; /* written since the sync before */
    guint16 fresh; /* of these: never seen dirty before ("new") */
} TraceDirty;

typedef struct {
    double ms;
    guint first, count; /* of the trace's entries */
} TraceSync;

typedef struct {
    double ms;
    guint round;
    double sent_bytes, wire_per_page, left_bytes;
} TraceRound;

typedef struct {
    guint group_count;
    guint16 *pages; /* populated, of each group */
    double bytes_per_ms;
    char *guest;
    GArray *entries; /* TraceDirty */
    GArray *syncs;   /* TraceSync */
    GArray *rounds;  /* TraceRound */
    gboolean ended;  /* the last line was there */
    double total_ms, downtime_ms;
    char *reason;
} Trace;

char *trace_header_line(const guint16 *pages, guint group_count, double bytes_per_ms,
                        const char *guest);
char *trace_sync_line(double ms, const TraceDirty *dirty, guint count);
char *trace_round_line(const TraceRound *round);
char *trace_end_line(double total_ms, double downtime_ms, const char *reason);

/* Parses a whole trace; a cut-short one (without its last line) is one, too.
 * NULL with *error* (VMFERRY_ERROR_INVALID). */
Trace *trace_parse(const char *text, size_t length, GError **error);
void trace_free(Trace *trace);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Trace, trace_free)
