/*
 * From guest pages to frames: one batch
 *
 * Theory of operation: a batch of pages of one region is read into a buffer,
 * some pages at a time, and each is classified by what the destination holds of
 * it (page/sent_store.h): nothing to send, zero, segments, a page of its seed
 * (seed_index.h), a copy of another page (page_copies.h), or the whole page.
 * The batch becomes up to three frames, one of pages (PAGES, or packed), one
 * of SEGMENTS, one of SEED_PAGES.  Where its pages are to be packed in a window, it waits for its turn (window_turns.h).
 * What the seed has is looked up before copies, and never one that others
 * are copies of: it may turn out not to be there.  What was noted as sent is what lies in the buffer, so the
 * buffer is what is sent: the guest may write on meanwhile.
 *
 * Where it is not known what the destination holds (*sent* is NULL), but for what the store has
 * noted, each page is sent whole, or said to be zero.
 *
 * Threads: a job belongs to one thread at a time; several jobs may be encoded
 * side by side when no page is in two of them and, unless *sent* is NULL, no 64 neighbouring pages
 * are shared.
 */
#pragma once

#include <glib.h>
#include <sys/uio.h>

#include "policy/packing.h"
#include "transfer/page_copies.h"
#include "transfer/page_index.h"
#include "transfer/page_source.h"
#include "transfer/seed_index.h"
#include "transfer/window_turns.h"
#include "transfer/work_set.h"
#include "page/pack.h"
#include "page/sent_store.h"
#include "wire/frame.h"

typedef struct {
    uint64_t unchanged, zero, segments, copied, seeded, whole;
} PageCounts;

/* What all jobs of a move share. */
typedef struct {
    PageSource *source;
    GPtrArray *sent;    /* pages that have content at the destination; NULL: not known */
    SentStore *store;   /* NULL: not known what was sent */
    PageCopies *copies; /* NULL: the peer takes no COPIES, or not the first pass */
    SeedIndex *seed;    /* of what the peer has in an image; NULL: nothing, or not the first pass */
    gboolean whole_pages; /* the peer takes no SEGMENTS */
    PageIndex *index;     /* is told of what the peer has; NULL: nobody is */
    WindowTurns *window;  /* for jobs with a turn; NULL: there are none */
} PageEncoder;

typedef struct {
    FrameType type;
    struct iovec pieces[2];         /* head and body */
    int piece_count;                /* 0: no such frame */
    size_t raw_bytes, packed_bytes; /* of the body */
} EncodedFrame;

/* What the pages of one group cost. */
typedef struct {
    uint64_t first_page;
    struct {
        guint pages;
        uint64_t bytes; /* on the wire */
    } first, again;     /* their first sending, and after that */
} GroupCost;

typedef struct EncoderJob EncoderJob;
struct EncoderJob {
    /* In */
    WorkBatch batch;
    PackingChoice choice;
    uint64_t turn; /* with the choice to pack linked: when it may; ends with the job.  0: none */
    /* Out */
    EncodedFrame pages, segments, seeded;
    PageCounts counts;
    GroupCost costs[WORK_BATCH_PAGES];
    guint cost_count;
    PageCopy copies[WORK_BATCH_PAGES]; /* to be told of behind all pages of the pass */
    guint copy_count;
    double pack_ms;          /* without what was packed beside, and without waiting for its turn */
    PackComparison compared; /* of the pages */
    gboolean skipped;        /* the pages were not packed: a sample of them did not shrink */
    GError *error;
    /* Buffers */
    uint8_t *raw, *packed, *packed_segments, *packed_baseline;
    uint8_t *seeded_raw; /* of a batch; NULL until there is a seed */
    size_t packed_capacity, packed_segments_capacity, packed_baseline_capacity;
    GByteArray *head, *segment_head, *body, *seeded_body;
    PackContext *pack;
};

EncoderJob *encoder_job_new(void);
void encoder_job_free(EncoderJob *job);

/* Reads and encodes job->batch; on failure job->error is set. */
void page_encoder_run(PageEncoder *encoder, EncoderJob *job);
