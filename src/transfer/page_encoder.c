#include "transfer/page_encoder.h"

#include <openssl/sha.h>
#include <string.h>

#include "base/clock.h"
#include "base/page.h"
#include "page/pack.h"
#include "page/pack_window.h"
#include "page/zero.h"
#include "wire/page_frame.h"
#include "wire/seed_frame.h"
#include "wire/segment_frame.h"

G_STATIC_ASSERT(WORK_BATCH_PAGES <= PAGE_FRAME_MAX_RAW_PAGES);
/* What pack_window_bound() adds to a batch, and the byte before it. */
G_STATIC_ASSERT(WORK_BATCH_PAGES *PAGE_BYTES / 256 + 64 + 1 <= PAGE_FRAME_WINDOW_MARGIN);
G_STATIC_ASSERT(WORK_BATCH_PAGES <= SEED_FRAME_MAX_PAGES);

#define BATCH_BYTES ((size_t)WORK_BATCH_PAGES * PAGE_BYTES)
/* Read at a time: what is read several times stays in a core's cache. */
#define PIECE_PAGES 64u

/* A batch while it is classified. */
typedef struct {
    PageEncoder *encoder;
    EncoderJob *job;
    PageRun runs[WORK_BATCH_PAGES];
    guint run_count;
    uint64_t last_page; /* of the SEGMENTS body */
    guint segment_pages;
    SeedRun seed_runs[WORK_BATCH_PAGES];
    guint seed_run_count;
} Classifier;

EncoderJob *encoder_job_new(void)
{
    EncoderJob *job = g_new0(EncoderJob, 1);

    job->raw = g_malloc(BATCH_BYTES);
    job->head = g_byte_array_new();
    job->segment_head = g_byte_array_new();
    job->body = g_byte_array_new();
    job->seeded_body = g_byte_array_new();
    job->pack = pack_context_new();
    return job;
}

void encoder_job_free(EncoderJob *job)
{
    if (!job)
        return;
    g_clear_error(&job->error);
    g_free(job->raw);
    g_free(job->packed);
    g_free(job->packed_segments);
    g_free(job->packed_baseline);
    g_byte_array_unref(job->head);
    g_byte_array_unref(job->segment_head);
    g_byte_array_unref(job->body);
    g_byte_array_unref(job->seeded_body);
    g_free(job->seeded_raw);
    pack_context_free(job->pack);
    g_free(job);
}

static void add_run(Classifier *classifier, uint64_t page, PageRunKind kind)
{
    PageRun *last = classifier->run_count ? &classifier->runs[classifier->run_count - 1] : NULL;

    if (last && last->kind == kind && last->first + last->count == page) {
        last->count++;
        return;
    }
    classifier->runs[classifier->run_count++] = (PageRun){.first = page, .count = 1, .kind = kind};
}

/* Whole pages are kept one behind the other, over those that are not. */
static void keep_page(EncoderJob *job, const uint8_t *content)
{
    uint8_t *end = job->raw + job->pages.raw_bytes;

    if (content != end)
        memmove(end, content, PAGE_BYTES);
    job->pages.raw_bytes += PAGE_BYTES;
}

static void add_cost(EncoderJob *job, uint64_t page, gboolean again, uint64_t bytes)
{
    GroupCost *last = job->cost_count ? &job->costs[job->cost_count - 1] : NULL;

    if (!last || last->first_page / GROUP_PAGES != page / GROUP_PAGES) {
        last = &job->costs[job->cost_count++];
        *last = (GroupCost){.first_page = page};
    }
    if (again) {
        last->again.pages++;
        last->again.bytes += bytes;
    } else {
        last->first.pages++;
        last->first.bytes += bytes;
    }
}

/* *sent* may be NULL. */
static void classify_zero(Classifier *classifier, PageSet *sent, uint64_t page)
{
    EncoderJob *job = classifier->job;
    gboolean again = sent && page_set_has(sent, page);

    job->counts.zero++;
    if (again)
        page_set_remove(sent, page, 1);
    if (again || !sent)
        add_run(classifier, page, PAGE_RUN_ZERO);
    if (classifier->encoder->store)
        sent_store_note_zero(classifier->encoder->store, job->batch.region, page);
    add_cost(job, page, again, 0);
}

/* A page that was sent before may be one that others are copies of. */
static gboolean is_copy(Classifier *classifier, uint64_t page, gboolean again,
                        const uint8_t *content)
{
    EncoderJob *job = classifier->job;
    PageCopies *copies = classifier->encoder->copies;

    if (!copies || again ||
        !page_copies_find(copies, job->batch.region, page, content, &job->copies[job->copy_count]))
        return FALSE;
    job->copy_count++;
    return TRUE;
}

/* Its content is kept for the proof. */
static gboolean is_in_seed(Classifier *classifier, uint64_t page, gboolean again,
                           const uint8_t *content)
{
    EncoderJob *job = classifier->job;
    const SeedIndex *seed = classifier->encoder->seed;
    SeedRun *last =
        classifier->seed_run_count ? &classifier->seed_runs[classifier->seed_run_count - 1] : NULL;
    uint32_t number;

    if (!seed || again || !seed_index_find(seed, seed_index_digest(seed, content), &number))
        return FALSE;
    if (last && last->first + last->count == page && last->number + last->count == number)
        last->count++;
    else
        classifier->seed_runs[classifier->seed_run_count++] = (SeedRun){page, 1, number};
    if (!job->seeded_raw)
        job->seeded_raw = g_malloc(BATCH_BYTES);
    memcpy(job->seeded_raw + job->counts.seeded++ * PAGE_BYTES, content, PAGE_BYTES);
    return TRUE;
}

static void note_sent(PageSet *sent, uint64_t page)
{
    if (sent)
        page_set_add(sent, page, 1);
}

static void classify(Classifier *classifier, uint64_t page, const uint8_t *content)
{
    PageEncoder *encoder = classifier->encoder;
    EncoderJob *job = classifier->job;
    PageSet *sent = encoder->sent ? g_ptr_array_index(encoder->sent, job->batch.region) : NULL;
    PageVerdict verdict = PAGE_WHOLE;
    gboolean again = sent && page_set_has(sent, page);
    SegmentList segments;

    if (zero_is_page(content)) {
        if (encoder->index)
            page_index_note(encoder->index, job->batch.region, page, NULL);
        classify_zero(classifier, sent, page);
        return;
    }
    if (encoder->index)
        page_index_note(encoder->index, job->batch.region, page, content);
    if (encoder->store)
        verdict = sent_store_note(encoder->store, job->batch.region, page, content, &segments);
    if (verdict == PAGE_SEGMENTS && encoder->whole_pages)
        verdict = PAGE_WHOLE;
    if (verdict == PAGE_UNCHANGED) {
        job->counts.unchanged++;
        add_cost(job, page, again, 0);
    } else if (verdict == PAGE_SEGMENTS) {
        guint before = job->body->len;

        segment_frame_append(job->body, &classifier->last_page, page, &segments, content);
        note_sent(sent, page);
        classifier->segment_pages++;
        job->counts.segments++;
        add_cost(job, page, again, job->body->len - before);
    } else if (is_in_seed(classifier, page, again, content)) {
        note_sent(sent, page);
        add_cost(job, page, again, 0);
    } else if (is_copy(classifier, page, again, content)) {
        note_sent(sent, page);
        job->counts.copied++;
        add_cost(job, page, again, 0);
    } else {
        note_sent(sent, page);
        add_run(classifier, page, PAGE_RUN_RAW);
        keep_page(job, content);
        job->counts.whole++;
        add_cost(job, page, again, PAGE_BYTES);
    }
}

/* --- packing --------------------------------------------------------------- */

static uint8_t *need_capacity(uint8_t *buffer, size_t bytes, size_t *capacity)
{
    if (*capacity >= bytes)
        return buffer;
    *capacity = bytes;
    return g_realloc(buffer, bytes);
}

static size_t pack_bytes(EncoderJob *job, PackWay way, const void *bytes, size_t length,
                         uint8_t **buffer, size_t *capacity)
{
    size_t bound = pack_bound(way.method, length);

    *buffer = need_capacity(*buffer, bound, capacity);
    return pack(job->pack, way.method, way.level, bytes, length, *buffer, bound);
}

/* 0: they are sent as they are. */
static size_t pack_pages(EncoderJob *job)
{
    size_t raw = job->pages.raw_bytes, packed, beside;
    uint64_t start, middle;

    if (!pack_sample_shrinks(job->pack, job->choice.way.method, job->raw, raw)) {
        job->skipped = TRUE;
        return 0;
    }
    start = clock_now_ns();
    packed = pack_bytes(job, job->choice.way, job->raw, raw, &job->packed, &job->packed_capacity);
    if (job->choice.baseline.method == PACK_NONE)
        return packed;
    middle = clock_now_ns();
    beside = pack_bytes(job, job->choice.baseline, job->raw, raw, &job->packed_baseline,
                        &job->packed_baseline_capacity);
    job->compared = (PackComparison){.bytes = packed ? packed : raw,
                                     .baseline_bytes = beside ? beside : raw,
                                     .ms = clock_ns_to_ms(middle - start),
                                     .baseline_ms = clock_ns_to_ms(clock_now_ns() - middle)};
    return packed;
}

/* 0: they are sent as they are.  What a window has taken is sent as that, shrunk or not: what
 * follows refers to it. */
static size_t pack_linked(PageEncoder *encoder, EncoderJob *job, double *ret_ms)
{
    size_t raw = job->pages.raw_bytes, packed;
    gboolean begins = FALSE;
    uint8_t first;

    if (!pack_sample_shrinks(job->pack, PACK_ZSTD, job->raw, raw)) {
        job->skipped = TRUE;
        return 0;
    }
    job->packed = need_capacity(job->packed, pack_window_bound(raw), &job->packed_capacity);
    packed = window_turns_pack(encoder->window, job->turn, job->choice.way.level, job->raw, raw,
                               job->packed, &begins, ret_ms);
    job->turn = 0;
    first = begins ? 1 : 0;
    if (packed > 0)
        g_byte_array_append(job->head, &first, 1);
    return packed;
}

static FrameType get_type(const EncoderJob *job, size_t packed)
{
    if (packed == 0)
        return FRAME_PAGES;
    if (job->choice.way.linked)
        return FRAME_PAGES_WINDOW;
    return job->choice.way.method == PACK_ZSTD ? FRAME_PAGES_ZSTD : FRAME_PAGES_LZ4;
}

static void finish_pages(Classifier *classifier, double *ret_linked_ms)
{
    EncoderJob *job = classifier->job;
    EncodedFrame *frame = &job->pages;
    size_t packed = 0;

    if (classifier->run_count == 0)
        return;
    page_frame_encode(job->head, job->batch.region, classifier->runs, classifier->run_count);
    if (job->choice.way.method != PACK_NONE && frame->raw_bytes > 0)
        packed = job->choice.way.linked ? pack_linked(classifier->encoder, job, ret_linked_ms)
                                        : pack_pages(job);
    frame->type = get_type(job, packed);
    frame->packed_bytes = packed > 0 ? packed : frame->raw_bytes;
    frame->pieces[0] = (struct iovec){job->head->data, job->head->len};
    frame->pieces[1] = (struct iovec){packed > 0 ? job->packed : job->raw, frame->packed_bytes};
    frame->piece_count = frame->packed_bytes > 0 ? 2 : 1;
}

static void finish_segments(Classifier *classifier)
{
    EncoderJob *job = classifier->job;
    EncodedFrame *frame = &job->segments;
    PackWay way = job->choice.way;
    SegmentFrameHead head = {job->batch.region, classifier->segment_pages, PACK_NONE,
                             job->body->len};
    size_t packed = 0;

    if (classifier->segment_pages == 0)
        return;
    if (way.method != PACK_NONE)
        packed = pack_bytes(job, way, job->body->data, job->body->len, &job->packed_segments,
                            &job->packed_segments_capacity);
    head.method = packed > 0 ? way.method : PACK_NONE;
    segment_frame_encode_head(job->segment_head, &head);
    frame->type = FRAME_SEGMENTS;
    frame->raw_bytes = job->body->len;
    frame->packed_bytes = packed > 0 ? packed : job->body->len;
    frame->piece_count = 2;
    frame->pieces[0] = (struct iovec){job->segment_head->data, job->segment_head->len};
    frame->pieces[1] = packed > 0 ? (struct iovec){job->packed_segments, packed}
                                  : (struct iovec){job->body->data, job->body->len};
}

static void finish_seeded(Classifier *classifier)
{
    EncoderJob *job = classifier->job;
    EncodedFrame *frame = &job->seeded;
    uint8_t proof[FRAME_SEED_PROOF_BYTES];

    if (classifier->seed_run_count == 0)
        return;
    SHA256(job->seeded_raw, job->counts.seeded * PAGE_BYTES, proof);
    seed_pages_encode(job->seeded_body, job->batch.region, classifier->seed_runs,
                      classifier->seed_run_count, proof);
    *frame = (EncodedFrame){.type = FRAME_SEED_PAGES,
                            .pieces = {{job->seeded_body->data, job->seeded_body->len}},
                            .piece_count = 1,
                            .raw_bytes = job->seeded_body->len,
                            .packed_bytes = job->seeded_body->len};
}

/* What was counted before packing becomes what it costs on the wire. */
static void scale_costs(EncoderJob *job)
{
    uint64_t raw = job->pages.raw_bytes + job->segments.raw_bytes;
    uint64_t wire = job->head->len + job->segment_head->len;

    if (job->pages.piece_count)
        wire += job->pages.packed_bytes;
    if (job->segments.piece_count)
        wire += job->segments.packed_bytes;
    for (guint i = 0; raw > 0 && i < job->cost_count; i++) {
        GroupCost *cost = &job->costs[i];

        cost->first.bytes = (uint64_t)((double)cost->first.bytes * (double)wire / (double)raw);
        cost->again.bytes = (uint64_t)((double)cost->again.bytes * (double)wire / (double)raw);
    }
}

static void reset(EncoderJob *job)
{
    g_clear_error(&job->error);
    job->pages = job->segments = job->seeded = (EncodedFrame){0};
    job->counts = (PageCounts){0};
    job->cost_count = 0;
    job->copy_count = 0;
    job->skipped = FALSE;
    job->compared = (PackComparison){0};
    g_byte_array_set_size(job->head, 0);
    g_byte_array_set_size(job->segment_head, 0);
    g_byte_array_set_size(job->body, 0);
    g_byte_array_set_size(job->seeded_body, 0);
}

typedef struct {
    guint span;
    uint64_t page; /* within it */
} BatchPosition;

/* The batch's next pages, up to PIECE_PAGES; *at* moves behind them. */
static guint cut_piece(const WorkBatch *batch, BatchPosition *at, PageSpan spans[PIECE_PAGES])
{
    guint count = 0;

    for (uint64_t pages = 0; at->span < batch->span_count && pages < PIECE_PAGES;) {
        const PageSpan *span = &batch->spans[at->span];
        uint64_t taken = MIN(span->count - at->page, PIECE_PAGES - pages);

        spans[count++] = (PageSpan){span->first + at->page, taken};
        pages += taken;
        at->page += taken;
        if (at->page == span->count)
            *at = (BatchPosition){at->span + 1, 0};
    }
    return count;
}

/* Reads behind the pages that are kept, and keeps what is to be sent whole. */
static gboolean read_and_classify(Classifier *classifier)
{
    EncoderJob *job = classifier->job;
    BatchPosition at = {0};
    PageSpan spans[PIECE_PAGES];
    guint count;

    while ((count = cut_piece(&job->batch, &at, spans)) > 0) {
        uint8_t *content = job->raw + job->pages.raw_bytes;

        if (!page_source_read(classifier->encoder->source, job->batch.region, spans, count, content,
                              &job->error))
            return FALSE;
        for (guint i = 0; i < count; i++)
            for (uint64_t k = 0; k < spans[i].count; k++, content += PAGE_BYTES)
                classify(classifier, spans[i].first + k, content);
    }
    return TRUE;
}

/* Packing linked takes its own time; all the rest is what it takes from here to there. */
static void pack_frames(Classifier *classifier)
{
    EncoderJob *job = classifier->job;
    double linked_ms = 0;
    uint64_t start = clock_now_ns();

    finish_pages(classifier, &linked_ms);
    if (job->choice.way.linked)
        start = clock_now_ns();
    finish_segments(classifier);
    finish_seeded(classifier);
    job->pack_ms = linked_ms + clock_ns_to_ms(clock_now_ns() - start) - job->compared.baseline_ms;
    scale_costs(job);
}

static void encode(PageEncoder *encoder, EncoderJob *job)
{
    g_autofree Classifier *classifier = g_new(Classifier, 1);

    reset(job);
    classifier->encoder = encoder;
    classifier->job = job;
    classifier->run_count = classifier->segment_pages = classifier->seed_run_count = 0;
    classifier->last_page = UINT64_MAX;
    if (read_and_classify(classifier))
        pack_frames(classifier);
}

void page_encoder_run(PageEncoder *encoder, EncoderJob *job)
{
    encode(encoder, job);
    if (job->turn > 0)
        window_turns_pass(encoder->window, job->turn);
    job->turn = 0;
}
