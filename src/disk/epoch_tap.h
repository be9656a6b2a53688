/*
 * A guest's disk writes, epoch by epoch
 *
 * Theory of operation: a block tap's sink (tap_sink.h) and a thread that reads its events as they
 * come, into the batch of the epoch under way (write_batch.h).  While the guest is paused,
 * epoch_tap_cut() sends a barrier through the sink: what comes before it has been written in this
 * epoch, and as the guest was told of no other write, that is all of it.  That the guest is paused
 * is proved by the marks: a disk's last event before the barrier is never a write.
 *
 *     write write mark | write mark barrier      two pauses, the first one without a cut
 *     ^------- batch of the epoch --------^
 *
 * A batch that becomes larger than the limit is not added to: then the sink's buffer fills, the
 * guest's writes wait, and after TAP_STALL_MS the tap breaks and the guest goes on.  So its owner
 * looks at epoch_tap_get_cost(), and cuts early, or takes what there is (epoch_tap_take()) and sends
 * it ahead.
 *
 * When a tap has broken, for one disk or all, no epoch can be cut any more; what is missing nobody
 * here knows.
 *
 * Threads: one reads.  The functions may be called from any thread, one at a time.
 */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

#include "disk/write_batch.h"

#define EPOCH_TAP_LIMIT_BYTES (256ull << 20)

typedef struct {
    pid_t client;          /* the VMM */
    const uint64_t *bytes; /* size of each disk */
    guint count;
    uint64_t limit_bytes; /* of a batch's cost */
} EpochTapOptions;

typedef struct EpochTap EpochTap;

EpochTap *epoch_tap_start(const EpochTapOptions *options, GError **error);

/* Ends the sink, and so the taps, and forgets what was gathered.  NULL-safe. */
void epoch_tap_free(EpochTap *tap);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(EpochTap, epoch_tap_free)

/* As tap_sink_get_address(); the export is TAP_EXPORT_NAME. */
const char *epoch_tap_get_address(const EpochTap *tap, guint disk);

/* The process of its sink. */
pid_t epoch_tap_get_pid(const EpochTap *tap);

/* Of the batch under way (write_batch_get_cost()). */
uint64_t epoch_tap_get_cost(EpochTap *tap);

/* FALSE where it is broken, and why. */
gboolean epoch_tap_check(EpochTap *tap, GError **error);

/* The guest is paused, by whatever leaves a mark: the batch of the epoch that ends here; free with
 * write_batch_free().  NULL: TIMEOUT, or broken (FAILED where the guest was not paused); what was
 * gathered goes on to be, and another cut may be tried. */
WriteBatch *epoch_tap_cut(EpochTap *tap, int timeout_ms, GError **error);

/* What has been gathered of the epoch under way; the guest may run.  The rest comes with the next
 * one or the cut, and is to be applied after it. */
WriteBatch *epoch_tap_take(EpochTap *tap);

/* Takes back a batch that was cut or taken, and did not get to where it was to: it becomes part of
 * the epoch under way again.  Of several the last one first.  Takes *batch*. */
void epoch_tap_give_back(EpochTap *tap, WriteBatch *batch);
