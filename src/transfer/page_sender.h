/*
 * Sending pages: a bounded pipeline
 *
 * Theory of operation: batches of pages are pushed in; worker threads read and
 * encode them side by side (page_encoder.h), and the pushing thread encrypts
 * and sends what is ready, in the order of the pushes.  So reading, packing
 * and sending overlap, and the memory in use is that of a fixed number of
 * jobs.  Within an epoch no page is pushed twice, and page_sender_flush() at
 * its end waits for everything: a newer version of a page cannot be overtaken
 * by an older one.
 *
 * The sender knows which pages the destination holds with content: a page that
 * is zero and was never sent with content is not sent at all, since the
 * destination starts with all RAM zero.  (With *each_once* it does not, and what is zero is said.)
 *
 * Threads: push, flush and the rest from one thread.
 */
#pragma once

#include <glib.h>

#include "policy/packing.h"
#include "transfer/page_encoder.h"
#include "policy/link_rate.h"
#include "transfer/bulk_sender.h"
#include "wire/channel.h"

typedef struct PageSender PageSender;

typedef struct {
    guint workers;        /* 1 to PAGE_SENDER_MAX_WORKERS */
    guint batch_pages;    /* at most so many in a batch; 0: WORK_BATCH_PAGES */
    SentStore *store;     /* NULL: no SEGMENTS; taken over */
    gboolean whole_pages; /* the store tells unchanged pages only; changed ones are sent whole */
    PageCopies *copies;   /* for the first pass; NULL: no COPIES; taken over */
    /* In any order, each page once in an epoch: of what the destination holds only that is known
     * which the store has noted; other pages are sent whole, or said to be zero.  Without copies;
     * with a store only one worker. */
    gboolean each_once;
    PageIndex
        *index; /* with *each_once*: is told of what the peer has (borrowed); NULL: nobody is */
} PageSenderOptions;

#define PAGE_SENDER_MAX_WORKERS 16u

/* Called in the pushing thread for what was sent of one group. */
typedef void (*PageSenderTally)(guint region, const GroupCost *cost, gpointer user);

/* Borrows both. */
PageSender *page_sender_new(PageSource *source, Channel *channel, const PageSenderOptions *options);
/* Compresses as *mode* says, from now on (default: PACKING_NONE), with the
 * methods that the peer can unpack. */
void page_sender_set_packing(PageSender *sender, PackingMode mode, gboolean with_lz4,
                             gboolean with_zstd);
/* After that: the peer takes PAGES_WINDOW, too, and windows of 2^*log* bytes are to be used where the link
 * is slow. */
void page_sender_allow_windows(PageSender *sender, guint log);
/* Where the link's rate is to be seen (borrowed), for packing and how far to run ahead. */
void page_sender_set_link(PageSender *sender, const LinkRate *link);
/* Pages go by this (borrowed) from now on, which has the channel as its first connection. */
void page_sender_set_bulk(PageSender *sender, BulkSender *bulk);
void page_sender_set_tally(PageSender *sender, PageSenderTally tally, gpointer user);

/* With a store and *each_once*: FALSE: pages go whole, and take no memory of the store; only as long as
 * nothing is in it.  When all that was pushed has been sent. */
void page_sender_set_noting(PageSender *sender, gboolean notes);

/* What the peer has in its seed, for the first pass; taken over.  Before anything is pushed. */
void page_sender_set_seed(PageSender *sender, SeedIndex *seed);

/* Waits for the workers and drops what was not sent.  NULL-safe. */
void page_sender_free(PageSender *sender);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PageSender, page_sender_free)

/* So many pages should the next batch have at most (WORK_LEAST_BATCH_PAGES to
 * WORK_BATCH_PAGES): on a slow link few, so that what was read does not wait for long. */
guint page_sender_get_batch_pages(const PageSender *sender);

/* Takes a copy of *batch*.  Waits, sending, while all jobs are taken. */
gboolean page_sender_push(PageSender *sender, const WorkBatch *batch, GError **error);

/* What was sent of these pages has turned out not to be there: when they are sent next, they go whole.  While
 * nothing is encoded. */
void page_sender_forget(PageSender *sender, guint region, PageSpan span);

/* Ends a pass: returns when all that was pushed has been sent. */
gboolean page_sender_flush(PageSender *sender, GError **error);

/* Adds to *sets* the pages that were sent with content and have lost their own
 * since (discarded by a balloon): they read as zero now.  Not with *each_once*. */
gboolean page_sender_add_discarded(PageSender *sender, GPtrArray *sets, GError **error);

typedef struct {
    PageCounts pages;
    uint64_t done_pages; /* that went through */
    uint64_t body_bytes; /* handed to the channel */
    PackingTotals packing;
    PackWay way;          /* now */
    uint64_t store_bytes; /* now */
} PageSenderCounts;

/* Since page_sender_new(). */
void page_sender_get_counts(const PageSender *sender, PageSenderCounts *ret);
