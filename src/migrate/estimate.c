#include "migrate/estimate.h"

#include <math.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/page.h"
#include "memory/guest_cost.h"
#include "memory/guest_memory.h"
#include "memory/tracker.h"
#include "policy/precopy_control.h"
#include "policy/work_set_model.h"
#include "transfer/guest_pages.h"
#include "transfer/page_encoder.h"
#include "transfer/work_set.h"

#define WORD_PAGES 64u
/* Device state out, over, in, and the switchover; before it, the connection and the destination's
 * start, in which pages are sent already. */
#define EXPECTED_DEVICE_MS 12.0
/* A sample is not encoded again before so long: a round is not shorter, either. */
#define LEAST_AGE_MS 100.0
#define AGAIN_MOST_WORDS 16u
#define SAMPLE_BUDGET_BYTES (16u << 20)
#define SLICE_NS 10000000ULL
/* Below them a look has seen little. */
#define GOOD_LOOK_MS 1000.0
#define LITTLE_DIRTIED_SHARE 0.1

typedef struct {
    guint region;
    uint64_t first; /* page */
    double at_ms;   /* when it was encoded last */
} Word;

typedef struct {
    const EstimateJob *job;
    GCancellable *cancellable;
    uint64_t begun_ns;
    double rate; /* bytes per ms */
    GuestMemory *memory;
    PageSource *pages;
    Tracker *tracker;
    WorkSet *work;
    GuestCost cost;
    uint64_t faults;
    PrecopyControl control;
    GPtrArray *written; /* since they were encoded last, of the sample's */
    GArray *words;      /* of Word, the sample */
    guint next_again;
    GArray *populated; /* of Word, all that have content */
    struct {
        double pages, bytes;
    } drawn; /* of what was drawn from all of them: their first sending */
    PageEncoder encoder;
    EncoderJob *encoding;
    Packing packing;
    GRand *rand;
} Look;

const char *estimate_confidence_name(EstimateConfidence confidence)
{
    static const char *const names[] = {"poor", "fair", "good"};

    return names[confidence];
}

static double now_ms(const Look *look)
{
    return clock_ns_to_ms(clock_now_ns() - look->begun_ns);
}

/* --- its parts -------------------------------------------------------------------------- */

static ConvergenceLimits get_limits(const MigrateOptions *options)
{
    return (ConvergenceLimits){
        .max_downtime_ms = options->max_downtime_ms,
        .downtime_cap_ms = options->downtime_cap_ms,
        .means = options->throttle == THROTTLE_OFF ? 0 : CONVERGENCE_MEANS_THROTTLE,
    };
}

static gboolean open_memory(Look *look, GError **error)
{
    g_autoptr(VmmDescription) description = vmm_describe(look->job->vmm, error);

    if (!description)
        return FALSE;
    look->memory = guest_memory_open(vmm_get_pid(look->job->vmm), description->ram_regions, error);
    if (!look->memory || !vmm_check_process(look->job->vmm, error))
        return FALSE;
    look->pages = guest_source_new(look->memory);
    return TRUE;
}

static void list_populated(Look *look)
{
    const GPtrArray *pending = work_set_get_pending(look->work);

    look->populated = g_array_new(FALSE, FALSE, sizeof(Word));
    for (guint region = 0; region < pending->len; region++) {
        const PageSet *pages = g_ptr_array_index(pending, region);

        for (uint64_t at = 0; at < pages->pages; at += WORD_PAGES)
            if (pages->words[at / WORD_PAGES])
                g_array_append_val(look->populated, ((Word){.region = region, .first = at}));
    }
}

static gboolean start(Look *look, GError **error)
{
    GArray *threads;

    look->tracker = tracker_start(look->memory, look->job->options.tracker, error);
    if (!look->tracker)
        return FALSE;
    look->work = work_set_new(look->memory, look->tracker);
    if (!work_set_add_populated(look->work, error))
        return FALSE;
    threads = vmm_get_vcpu_threads(look->job->vmm, error);
    if (!threads)
        return FALSE;
    guest_cost_start(&look->cost, vmm_get_pid(look->job->vmm), threads, now_ms(look));
    list_populated(look);
    look->words = g_array_new(FALSE, FALSE, sizeof(Word));
    look->written = guest_memory_new_sets(look->memory);
    work_set_note_written(look->work, look->written);
    return TRUE;
}

/* What the sample's pages become on the wire. */
static void start_encoder(Look *look)
{
    const PageRegions *regions = look->pages->regions;
    const MigrateOptions *options = &look->job->options;
    uint64_t pages = 0;

    for (guint i = 0; i < regions->count; i++)
        pages += regions->pages[i];
    look->encoder = (PageEncoder){
        .source = look->pages,
        .sent = page_regions_new_sets(regions),
        .whole_pages = options->segments == SENT_STORE_OFF,
    };
    if (options->segments != SENT_STORE_OFF)
        look->encoder.store =
            sent_store_new(regions->pages, regions->count, SAMPLE_BUDGET_BYTES / PAGE_BYTES,
                           2 * pages + SAMPLE_BUDGET_BYTES, options->segments);
    look->encoding = encoder_job_new();
    look->packing = packing_make(options->compress, TRUE, TRUE, 1);
    look->rand = g_rand_new();
}

static void look_clear(Look *look)
{
    precopy_control_clear(&look->control);
    g_clear_pointer(&look->encoding, encoder_job_free);
    g_clear_pointer(&look->encoder.store, sent_store_free);
    g_clear_pointer(&look->encoder.sent, g_ptr_array_unref);
    g_clear_pointer(&look->rand, g_rand_free);
    guest_cost_clear(&look->cost);
    g_clear_pointer(&look->work, work_set_free);
    g_clear_pointer(&look->tracker, tracker_free);
    g_clear_pointer(&look->written, g_ptr_array_unref);
    g_clear_pointer(&look->words, g_array_unref);
    g_clear_pointer(&look->populated, g_array_unref);
    page_source_free(look->pages);
    guest_memory_free(look->memory);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Look, look_clear)

/* --- the sample --------------------------------------------------------------------------- */

static void fill_batch(const PageSet *set, const Word *word, WorkBatch *batch)
{
    uint64_t end = MIN(word->first + WORD_PAGES, set->pages), at = word->first;
    PageSpan span;

    *batch = (WorkBatch){.region = word->region};
    while (at < end && page_set_next_run(set, at, WORD_PAGES, &span.first, &span.count) &&
           span.first < end) {
        span.count = MIN(span.count, end - span.first);
        batch->spans[batch->span_count++] = span;
        batch->pages += span.count;
        at = span.first + span.count;
    }
}

static void tally(Look *look, const EncoderJob *job)
{
    GroupAccount *account = work_set_get_account(look->work);

    for (guint i = 0; i < job->cost_count; i++) {
        const GroupCost *cost = &job->costs[i];
        guint group = work_set_get_group(look->work, job->batch.region, cost->first_page);

        group_account_note_sent(account, group, cost->first.pages, (double)cost->first.bytes,
                                FALSE);
        group_account_note_sent(account, group, cost->again.pages, (double)cost->again.bytes, TRUE);
    }
    packing_note(&look->packing,
                 &(PackingSample){
                     .way = job->choice.way,
                     .skipped = job->skipped,
                     .raw_bytes = job->pages.raw_bytes + job->segments.raw_bytes,
                     .packed_bytes = job->pages.packed_bytes + job->segments.packed_bytes,
                     .pack_ms = job->pack_ms,
                     .compared = job->compared,
                     .link_bytes_per_ms = look->rate,
                     .link_busy = TRUE,
                 });
}

/* The pages of *word* that are in *set*; they are collected first, as before they are sent. */
static gboolean encode(Look *look, Word *word, const PageSet *set, GError **error)
{
    EncoderJob *job = look->encoding;
    PageSpan span = {word->first, MIN(WORD_PAGES, set->pages - word->first)};

    word->at_ms = now_ms(look);
    if (!work_set_collect(look->work, word->region, span, word->at_ms, error))
        return FALSE;
    fill_batch(set, word, &job->batch);
    page_set_remove(g_ptr_array_index(look->written, word->region), span.first, span.count);
    if (job->batch.pages == 0)
        return TRUE;
    job->choice = packing_choose(&look->packing);
    page_encoder_run(&look->encoder, job);
    if (job->error) {
        g_propagate_error(error, g_steal_pointer(&job->error));
        return FALSE;
    }
    tally(look, job);
    return TRUE;
}

static void note_drawn(Look *look)
{
    const EncoderJob *job = look->encoding;

    for (guint i = 0; job->batch.pages > 0 && i < job->cost_count; i++) {
        look->drawn.pages += job->costs[i].first.pages;
        look->drawn.bytes += (double)job->costs[i].first.bytes;
    }
}

static gboolean add_word(Look *look, Word word, GError **error)
{
    const PageSet *populated = g_ptr_array_index(work_set_get_pending(look->work), word.region);

    if (!encode(look, &word, populated, error))
        return FALSE;
    g_array_append_val(look->words, word);
    return TRUE;
}

/* A word of *group*, which has some with content. */
static Word draw_word(Look *look, guint group)
{
    guint region = 0, words;
    uint64_t first = group, pages;

    for (;; region++) {
        pages = guest_memory_get_region(look->memory, region)->pages;
        if (first < (pages + GROUP_PAGES - 1) / GROUP_PAGES)
            break;
        first -= (pages + GROUP_PAGES - 1) / GROUP_PAGES;
    }
    first *= GROUP_PAGES;
    words = (guint)((MIN(GROUP_PAGES, pages - first) + WORD_PAGES - 1) / WORD_PAGES);
    first += (uint64_t)g_rand_int_range(look->rand, 0, (gint32)words) * WORD_PAGES;
    return (Word){.region = region, .first = first};
}

/* A group that is written: a probe, or one drawn by its rate.  FALSE: none is, as far as is known. */
static gboolean draw_hot(Look *look, guint *ret)
{
    GroupAccount *account = work_set_get_account(look->work);
    guint probes[GROUP_ACCOUNT_PROBES], count = group_account_get_probes(account, probes);
    ConvergenceFacts facts = {0};
    double all = 0, at;

    if (count > 0) {
        *ret = probes[g_rand_int_range(look->rand, 0, (gint32)count)];
        return TRUE;
    }
    group_account_fill_facts(account, &facts);
    for (guint i = 0; i < facts.group_count; i++)
        all += facts.groups[i].dirty_per_ms;
    at = g_rand_double_range(look->rand, 0, MAX(all, 1e-9));
    for (guint i = 0; i < facts.group_count; i++) {
        at -= facts.groups[i].dirty_per_ms;
        if (at <= 0 && facts.groups[i].dirty_per_ms > 0) {
            *ret = i;
            return TRUE;
        }
    }
    return FALSE;
}

static gboolean is_written(const Look *look, const Word *word)
{
    const PageSet *set = g_ptr_array_index(look->written, word->region);

    return set->words[word->first / WORD_PAGES] != 0;
}

/* Those of the sample that were written meanwhile, in turn. */
static gboolean encode_again(Look *look, GError **error)
{
    guint done = 0;

    for (guint i = 0; i < look->words->len && done < AGAIN_MOST_WORDS; i++) {
        Word *word = &g_array_index(look->words, Word, look->next_again++ % look->words->len);

        if (now_ms(look) - word->at_ms < LEAST_AGE_MS || !is_written(look, word))
            continue;
        done++;
        if (!encode(look, word, g_ptr_array_index(look->written, word->region), error))
            return FALSE;
    }
    return TRUE;
}

static gboolean take_sample(Look *look, GError **error)
{
    guint group;

    for (guint i = 0; i < ESTIMATE_SAMPLE_WORDS && look->populated->len > 0; i++) {
        guint number = (guint)g_rand_int_range(look->rand, 0, (gint32)look->populated->len);

        if (!add_word(look, g_array_index(look->populated, Word, number), error))
            return FALSE;
        note_drawn(look);
    }
    if (draw_hot(look, &group) && !add_word(look, draw_word(look, group), error))
        return FALSE;
    return encode_again(look, error);
}

/* --- the look ------------------------------------------------------------------------------ */

static double note_cost(Look *look, double ms)
{
    uint64_t faults = work_set_count_faults(look->work);
    double share = guest_cost_note(&look->cost, ms, faults - look->faults);

    if (share < 0)
        return share;
    look->faults = faults;
    work_set_adjust_sample(look->work, share);
    return share;
}

/* The link that is said to be there carries all the time what it can. */
static void note_link(Look *look, double ms)
{
    double backlog = look->rate * LINK_RATE_WINDOW_MS;

    precopy_control_note_link(&look->control, ms, (uint64_t)(look->rate * ms + backlog),
                              (uint64_t)backlog, FALSE);
}

static gboolean sync_dirty(Look *look, GError **error)
{
    PrecopyFacts facts = {.device_ms = EXPECTED_DEVICE_MS, .can_pause = TRUE};
    double ms = now_ms(look);

    note_link(look, ms);
    if (!work_set_peek(look->work, ms, error))
        return FALSE;
    precopy_control_note_sync(&look->control, ms, note_cost(look, ms));
    if (!take_sample(look, error))
        return FALSE;
    work_set_update_account(look->work);
    facts.now_ms = now_ms(look);
    precopy_control_decide(&look->control, &facts);
    return TRUE;
}

static gboolean go_on(Look *look, GError **error)
{
    return !g_cancellable_set_error_if_cancelled(look->cancellable, error) &&
           guest_memory_check_process(look->memory, error);
}

/* As within a first round that does not end. */
static gboolean look_at(Look *look, GError **error)
{
    precopy_control_begin_round(&look->control, 0, 0);
    note_link(look, 0);
    if (!work_set_peek(look->work, now_ms(look), error))
        return FALSE;
    while (now_ms(look) < look->job->look_ms) {
        if (!go_on(look, error))
            return FALSE;
        precopy_control_note_batch(&look->control, now_ms(look), 1);
        if (precopy_control_get_step(&look->control) == PRECOPY_SYNC && !sync_dirty(look, error))
            return FALSE;
        clock_sleep_ns(SLICE_NS);
    }
    return sync_dirty(look, error);
}

/* --- what comes of it ------------------------------------------------------------------------ */

static double count_dirty(const ConvergenceFacts *facts)
{
    double pages = 0;

    for (guint i = 0; i < facts->group_count; i++) {
        double active = facts->groups[i].active;

        if (active > 0)
            pages += active * -expm1(-facts->groups[i].dirty_per_ms * 1000 / active);
    }
    return pages * PAGE_BYTES;
}

EstimateConfidence estimate_judge(const Estimate *estimate, gboolean cost_known,
                                  double dirtied_share, const char **ret_why)
{
    EstimateConfidence confidence = ESTIMATE_FAIR;

    if (!cost_known && dirtied_share > LITTLE_DIRTIED_SHARE) {
        *ret_why = "the guest writes much, and it was not seen what sending that again costs";
        confidence = ESTIMATE_POOR;
    } else if (estimate->look_ms < GOOD_LOOK_MS) {
        *ret_why = "the look was shorter than a second";
    } else if (estimate->bandwidth_assumed) {
        *ret_why = "the bandwidth is assumed: nobody has said what the link carries";
    } else if (estimate->memory_intensive || !estimate->fits) {
        *ret_why =
            "such a guest does not converge by itself: how it is moved is decided on the way";
    } else {
        *ret_why = "the guest was seen for long enough";
        confidence = ESTIMATE_GOOD;
    }
    return confidence;
}

/* The account's mean follows what was sent last, which in a round is what comes next.  Here nothing
 * comes next: each group's first sending costs what those drawn from all of RAM cost.  g_free(). */
static ConvergenceGroup *level_costs(const Look *look, ConvergenceFacts *facts)
{
    ConvergenceGroup *groups =
        g_memdup2(facts->groups, facts->group_count * sizeof(ConvergenceGroup));

    for (guint i = 0; look->drawn.pages > 0 && i < facts->group_count; i++)
        groups[i].first_send_per_page = (float)(look->drawn.bytes / look->drawn.pages);
    facts->groups = groups;
    return groups;
}

/* As if the move began now, by the policy that would decide it. */
static void forecast(Look *look, Estimate *ret)
{
    const MigrateOptions *options = &look->job->options;
    GroupAccount *account = work_set_get_account(look->work);
    ConvergenceFacts facts = {
        .bytes_per_ms = look->rate, .device_ms = EXPECTED_DEVICE_MS, .limits = get_limits(options)};
    ConvergenceDecision decision;
    g_autofree ConvergenceGroup *groups = NULL;
    WorkSetModel all;
    double dirtied;

    group_account_fill_facts(account, &facts);
    facts.run_share = 1;
    groups = level_costs(look, &facts);
    decision = convergence_decide(&facts);
    all = work_set_model_make(facts.groups, facts.group_count, INFINITY);
    dirtied = work_set_model_dirtied(&all, 1, CONVERGENCE_WINDOW_MS) / CONVERGENCE_WINDOW_MS;
    ret->ms = decision.expected_total_ms;
    ret->pause_ms = decision.expected_downtime_ms;
    ret->bytes = (uint64_t)(MAX(ret->ms - EXPECTED_DEVICE_MS, 0) * look->rate);
    ret->dirty_bytes_per_second = count_dirty(&facts);
    ret->memory_intensive = decision.memory_intensive;
    ret->run_share = decision.run_share;
    ret->fits = ret->pause_ms <= options->downtime_cap_ms;
    ret->confidence = estimate_judge(ret, facts.cost_known, dirtied / look->rate, &ret->why);
}

gboolean estimate_run(const EstimateJob *job, GCancellable *cancellable, Estimate *ret,
                      GError **error)
{
    uint64_t bandwidth = job->options.bandwidth_bytes_per_second;
    g_auto(Look) look = {.job = job, .cancellable = cancellable, .begun_ns = clock_now_ns()};
    PrecopyOptions options = {.limits = get_limits(&job->options)};

    *ret = (Estimate){.bandwidth = bandwidth ? bandwidth : ESTIMATE_ASSUMED_BANDWIDTH,
                      .bandwidth_assumed = bandwidth == 0};
    look.rate = (double)ret->bandwidth / 1000;
    options.link_limit_bytes_per_ms = look.rate;
    /* It is not slowed while it is looked at. */
    options.limits.means = 0;
    if (!open_memory(&look, error) || !start(&look, error))
        return FALSE;
    start_encoder(&look);
    precopy_control_init(&look.control, work_set_get_account(look.work), &options);
    ret->populated_bytes = work_set_count_pending(look.work) * PAGE_BYTES;
    if (!look_at(&look, error))
        return FALSE;
    ret->look_ms = now_ms(&look);
    forecast(&look, ret);
    return TRUE;
}
