#include "base/names.h"
#include "policy/packing.h"

#include <math.h>
#include <string.h>

#define NEW_WEIGHT 0.5
/* A dearer level is tried where packing is so much faster than the link. */
#define SLACK_TO_CLIMB 2.0
#define STAY 1.1
#define STARVED 2.0

/* *gain*: how much more it must carry than what it is chosen before. */
static const struct {
    PackWay way;
    double gain, gain_over_lz4;
} ladder[PACKING_STEPS] = {
    {{PACK_NONE, 0}, 1, 1},       {{PACK_LZ4, 0}, 1.1, 1},       {{PACK_ZSTD, 1}, 1.1, 0.5},
    {{PACK_ZSTD, 3}, 1.03, 1.03}, {{PACK_ZSTD, 6}, 1.03, 1.03},  {{PACK_ZSTD, 3, TRUE}, 1, 1},
    {{PACK_ZSTD, 9, TRUE}, 1, 1}, {{PACK_ZSTD, 18, TRUE}, 1, 1},
};

#define STEP_NONE 0u
#define STEP_LZ4 1u
#define STEP_ZSTD 2u   /* its first level */
#define STEP_LINKED 5u /* the first of them */

/* Of the linked steps, beside STEP_ZSTD: RAM of the bench's guests in batches as for 20 Mbit/s, windows of
 * 32 MiB.  *share*: of one core's time that it may take. */
static const struct {
    double ratio, speed, share;
} linked[PACKING_STEPS - STEP_LINKED] = {{0.88, 0.25, 1}, {0.83, 0.065, 1}, {0.77, 0.007, 0.5}};
/* A step is chosen for so much more than a cheaper one carries; what is in use is kept for less, since
 * what it knows is worth something. */
#define LINKED_GAIN 1.02
#define LINKED_STAY 1.05
/* Blocks instead, where they carry so much more. */
#define UNLINK_GAIN 1.15
#define LINKED_SLACK 1.5
/* The link was what limited in so many batches of a window: it was not starved. */
#define BUSY_BATCHES 2u

static const char *const mode_names[] = {
    [PACKING_AUTO] = "auto",
    [PACKING_NONE] = "none",
    [PACKING_LZ4] = "lz4",
    [PACKING_ZSTD] = "zstd",
};

NAMES_DEFINE(packing_mode, PackingMode, mode_names)

static gboolean is_linked(guint step)
{
    return step >= STEP_LINKED;
}

/* As a step of the ladder of blocks. */
static gboolean is_usable(const Packing *packing, guint step, gboolean with_lz4, gboolean with_zstd)
{
    switch (ladder[step].way.method) {
    case PACK_NONE: /* zstd by order is zstd, of whatever level */
        return packing->mode != PACKING_LZ4 && packing->mode != PACKING_ZSTD;
    case PACK_LZ4:
        return with_lz4 && (packing->mode == PACKING_AUTO || packing->mode == PACKING_LZ4);
    case PACK_ZSTD:
        return with_zstd && !is_linked(step) &&
               (packing->mode == PACKING_AUTO || packing->mode == PACKING_ZSTD);
    }
    return FALSE;
}

static guint first_usable(const Packing *packing)
{
    for (guint i = 0; i < PACKING_STEPS; i++)
        if (packing->steps[i].usable)
            return i;
    return STEP_NONE;
}

Packing packing_make(PackingMode mode, gboolean with_lz4, gboolean with_zstd, guint workers)
{
    Packing packing = {.mode = mode, .workers = MAX(workers, 1)};

    for (guint i = 0; i < PACKING_STEPS; i++) {
        packing.steps[i].usable = is_usable(&packing, i, with_lz4, with_zstd);
        packing.steps[i].next_pause = PACKING_FIRST_PAUSE;
    }
    packing.now = packing.settled = first_usable(&packing);
    if (mode == PACKING_AUTO)
        packing.now = packing.settled = with_zstd ? STEP_ZSTD : with_lz4 ? STEP_LZ4 : STEP_NONE;
    return packing;
}

void packing_allow_links(Packing *packing, gboolean allowed)
{
    packing->may_link = allowed && packing->steps[STEP_ZSTD].usable;
    if (!packing->may_link && is_linked(packing->settled))
        packing->now = packing->settled = STEP_ZSTD;
}

PackWay packing_get_way(const Packing *packing)
{
    return ladder[packing->settled].way;
}

PackingChoice packing_choose(Packing *packing)
{
    PackingChoice choice = {.way = ladder[packing->settled].way};

    if (packing->now != packing->settled && packing->to_try > 0) {
        packing->to_try--;
        choice.way = ladder[packing->now].way;
        if (packing->now != STEP_NONE)
            choice.baseline = ladder[packing->settled].way;
    }
    return choice;
}

static double smooth(double old, double now)
{
    return old > 0 ? old + NEW_WEIGHT * (now - old) : now;
}

/* The data has become harder or easier to pack: for the other steps as well, of which it was
 * other data that is known. */
static void learn_of_data(Packing *packing, double change)
{
    for (guint i = 0; i < PACKING_STEPS; i++)
        if (i != packing->now)
            packing->steps[i].ratio *= change;
}

static void learn_of_use(Packing *packing, double ratio, double bytes_per_ms)
{
    PackingStep *step = &packing->steps[packing->now];
    double before = step->ratio;

    step->ratio = smooth(before, ratio);
    if (before > 0)
        learn_of_data(packing, step->ratio / before);
    if (bytes_per_ms > 0)
        step->bytes_per_ms = smooth(step->bytes_per_ms, bytes_per_ms);
}

/* Compared with the step in use on the same data, where that packs. */
static void learn_of_trial(Packing *packing, double ratio, double bytes_per_ms)
{
    PackingStep *step = &packing->steps[packing->now];
    const PackingStep *usual = &packing->steps[packing->settled];
    const PackComparison *seen = &packing->compared;
    gboolean compared = seen->bytes > 0 && seen->baseline_bytes > 0 && usual->ratio > 0;

    step->ratio =
        compared ? usual->ratio * (double)seen->bytes / (double)seen->baseline_bytes : ratio;
    if (compared && seen->ms > 0 && seen->baseline_ms > 0)
        step->bytes_per_ms = usual->bytes_per_ms * seen->baseline_ms / seen->ms;
    else if (bytes_per_ms > 0)
        step->bytes_per_ms = bytes_per_ms;
}

/* FALSE: the window had too little to learn from. */
static gboolean learn(Packing *packing)
{
    double raw = (double)packing->raw_bytes;
    double bytes_per_ms = packing->pack_ms > 0 ? raw / packing->pack_ms : 0;

    if (packing->now == STEP_NONE)
        return TRUE;
    if (packing->raw_bytes < PACKING_LEAST_BYTES)
        return FALSE;
    (packing->now == packing->settled ? learn_of_use : learn_of_trial)(
        packing, (double)packing->packed_bytes / raw, bytes_per_ms);
    return TRUE;
}

/* Guest bytes per ms that it would carry. */
static double carries(const Packing *packing, guint i)
{
    const PackingStep *step = &packing->steps[i];

    if (i == STEP_NONE)
        return packing->link_bytes_per_ms;
    if (step->ratio <= 0 || step->ratio > PACKING_WORTH_RATIO)
        return 0;
    return fmin(packing->link_bytes_per_ms / step->ratio,
                step->bytes_per_ms * (is_linked(i) ? 1 : (double)packing->workers));
}

static guint best(const Packing *packing)
{
    guint best = first_usable(packing);

    for (guint i = best + 1; i < PACKING_STEPS; i++) {
        double gain = best == STEP_LZ4 ? ladder[i].gain_over_lz4 : ladder[i].gain;

        /* Batches differ: what is in use is not left for a window that shrank less. */
        if (i == packing->settled)
            gain /= STAY;
        if (packing->steps[i].usable && carries(packing, i) > gain * carries(packing, best))
            best = i;
    }
    return best;
}

static gboolean shrinks(const Packing *packing, guint step)
{
    return packing->steps[step].ratio > 0 && packing->steps[step].ratio <= PACKING_WORTH_RATIO;
}

static gboolean has_slack(const Packing *packing, guint i)
{
    const PackingStep *step = &packing->steps[i];

    return packing->link_busy && step->ratio > 0 &&
           step->bytes_per_ms * (double)packing->workers >
               SLACK_TO_CLIMB * packing->link_bytes_per_ms / step->ratio;
}

/* Packing limits, and carries little more than the link would by itself. */
static gboolean is_starved(const Packing *packing)
{
    return !packing->link_busy &&
           carries(packing, packing->settled) < STARVED * packing->link_bytes_per_ms;
}

static gboolean may_try(const Packing *packing, guint i)
{
    if (!packing->steps[i].usable || i == packing->settled || packing->steps[i].paused_windows > 0)
        return FALSE;
    switch (i) {
    case STEP_NONE:
        return !packing->link_busy;
    case STEP_LZ4: /* It makes more of the data: no use where that is what limits. */
        return packing->settled < STEP_LZ4 || is_starved(packing);
    case STEP_ZSTD: /* Where lz4 finds nothing, zstd rarely does. */
        return packing->settled > STEP_ZSTD || !packing->steps[STEP_LZ4].usable ||
               shrinks(packing, STEP_LZ4);
    default:
        return packing->settled == i - 1 && has_slack(packing, i - 1);
    }
}

static void pause_step(PackingStep *step)
{
    step->paused_windows = step->next_pause;
    step->next_pause = MIN(2 * step->next_pause, PACKING_LONGEST_PAUSE);
}

static void settle(Packing *packing)
{
    guint tried = packing->now;
    guint chosen = best(packing);

    if (tried != packing->settled && chosen != tried)
        pause_step(&packing->steps[tried]);
    else if (tried == chosen)
        packing->steps[tried].next_pause = PACKING_FIRST_PAUSE;
    /* What is left has not paid either: it is not tried again at once. */
    if (packing->settled != STEP_NONE && chosen != packing->settled && tried == packing->settled)
        pause_step(&packing->steps[packing->settled]);
    packing->now = packing->settled = chosen;
}

/* Nothing is known of the link, so whatever shrinks is welcome. */
static void explore(Packing *packing)
{
    if (packing->steps[packing->now].ratio > PACKING_WORTH_RATIO)
        packing->now = packing->settled = first_usable(packing);
}

/* ---- linked ---- */

static gboolean wants_links(const Packing *packing)
{
    double most = PACKING_LINKED_BYTES_PER_MS * (is_linked(packing->settled) ? STARVED : 1);

    return packing->may_link && !packing->link_limited && packing->unlinked_wait == 0 &&
           packing->link_bytes_per_ms < most;
}

static double factor_of_ratio(guint step)
{
    return is_linked(step) ? linked[step - STEP_LINKED].ratio : 1;
}

static double factor_of_speed(guint step)
{
    return is_linked(step) ? linked[step - STEP_LINKED].speed : 1;
}

/* What the step would make of the data, and how fast, by what is known of the one in use: what others made
 * was of other data. */
static PackingStep expect_of(const Packing *packing, guint step)
{
    guint from = is_linked(packing->settled) ? packing->settled : STEP_ZSTD;
    PackingStep expected = packing->steps[from];

    expected.ratio *= factor_of_ratio(step) / factor_of_ratio(from);
    expected.bytes_per_ms *= factor_of_speed(step) / factor_of_speed(from);
    return expected;
}

static double linked_carries(const Packing *packing, guint i)
{
    PackingStep step = expect_of(packing, i);

    return step.ratio > 0 ? fmin(packing->link_bytes_per_ms / step.ratio,
                                 step.bytes_per_ms * linked[i - STEP_LINKED].share)
                          : 0;
}

static guint best_linked(const Packing *packing)
{
    guint best = STEP_LINKED;

    for (guint i = STEP_LINKED + 1; i <= packing->dearest; i++) {
        double gain = i == packing->settled ? LINKED_GAIN / LINKED_STAY : LINKED_GAIN;

        if (linked[i - STEP_LINKED].share < 1 &&
            packing->linked_windows < PACKING_LINKED_BEFORE_DEAR)
            break;
        if (best == packing->settled)
            gain *= LINKED_STAY;
        if (linked_carries(packing, i) > gain * linked_carries(packing, best))
            best = i;
    }
    return best;
}

static void use_linked(Packing *packing, guint step)
{
    PackingStep expected = expect_of(packing, step);

    packing->steps[step].ratio = expected.ratio;
    packing->steps[step].bytes_per_ms = expected.bytes_per_ms;
    packing->now = packing->settled = step;
    packing->linked_wait = packing->linked_next_wait;
    packing->linked_next_wait = MIN(2 * packing->linked_next_wait, PACKING_LONGEST_PAUSE);
}

static void go_unlinked(Packing *packing)
{
    packing->now = packing->settled = STEP_ZSTD;
    packing->unlinked_wait = PACKING_LINKED_PAUSE;
}

/* The link did not limit, and packing has no time to spare for what is known of it: it may well have been
 * packing.  (Others are breaks, ends of rounds, a machine that is busy elsewhere.) */
static gboolean is_relief_due(const Packing *packing)
{
    const PackingStep *step = &packing->steps[packing->settled];

    return packing->busy < BUSY_BATCHES &&
           step->bytes_per_ms * step->ratio < LINKED_SLACK * packing->link_bytes_per_ms;
}

/* The link waits for what is packed: the next cheaper step.  What the link carries is not known then. */
static void relieve(Packing *packing)
{
    const PackingStep *blocks = &packing->steps[STEP_ZSTD];
    double they_carry = blocks->bytes_per_ms * (double)packing->workers;

    packing->dearest = MAX(packing->settled, STEP_LINKED + 1) - 1;
    if (packing->settled > STEP_LINKED)
        use_linked(packing, packing->settled - 1);
    else if (they_carry > UNLINK_GAIN * packing->steps[STEP_LINKED].bytes_per_ms)
        go_unlinked(packing);
}

static void decide_linked(Packing *packing)
{
    packing->linked_windows++;
    if (!is_linked(packing->settled)) {
        packing->linked_next_wait = PACKING_LINKED_FIRST_PAUSE;
        packing->dearest = PACKING_STEPS - 1;
        use_linked(packing, best_linked(packing));
    } else if (is_relief_due(packing)) {
        relieve(packing);
    } else if (packing->linked_wait > 0) {
        packing->linked_wait--;
    } else {
        use_linked(packing, best_linked(packing));
    }
}

static void decide(Packing *packing)
{
    gboolean learned;

    for (guint i = 0; i < PACKING_STEPS; i++)
        if (packing->steps[i].paused_windows > 0)
            packing->steps[i].paused_windows--;
    if (packing->unlinked_wait > 0)
        packing->unlinked_wait--;
    learned = learn(packing);
    if (packing->link_bytes_per_ms <= 0) {
        explore(packing);
        return;
    }
    if (packing->mode == PACKING_AUTO &&
        packing->link_bytes_per_ms >= PACKING_SLOW_LINK_BYTES_PER_MS) {
        packing->now = packing->settled = STEP_NONE;
        return;
    }
    if (!learned) {
        packing->now = packing->settled;
        return;
    }
    if (wants_links(packing)) {
        decide_linked(packing);
        return;
    }
    if (is_linked(packing->settled))
        packing->now = packing->settled = STEP_ZSTD;
    settle(packing);
    for (guint i = 0; i < PACKING_STEPS; i++) {
        if (may_try(packing, i)) {
            packing->now = i;
            packing->to_try = PACKING_WINDOW_BATCHES;
            break;
        }
    }
}

static void see_link(Packing *packing, const PackingSample *sample)
{
    packing->link_bytes_per_ms = sample->link_bytes_per_ms;
    packing->link_busy = sample->link_busy;
    packing->link_limited = sample->link_limited;
    /* What it carries is known now: no hurry to send without packing. */
    if (sample->link_busy && !packing->link_seen) {
        packing->link_seen = TRUE;
        packing->steps[STEP_NONE].next_pause = PACKING_LINK_PAUSE;
        pause_step(&packing->steps[STEP_NONE]);
    }
}

static void add_comparison(PackComparison *sum, const PackComparison *one)
{
    sum->bytes += one->bytes;
    sum->baseline_bytes += one->baseline_bytes;
    sum->ms += one->ms;
    sum->baseline_ms += one->baseline_ms;
}

static gboolean is_same_way(PackWay a, PackWay b)
{
    return a.method == b.method && a.level == b.level && a.linked == b.linked;
}

void packing_note(Packing *packing, const PackingSample *sample)
{
    PackMethod method = sample->skipped ? PACK_NONE : sample->way.method;

    packing->totals.raw_bytes[method] += sample->raw_bytes;
    packing->totals.packed_bytes[method] += sample->packed_bytes;
    if (sample->way.linked && !sample->skipped) {
        packing->totals.linked_raw_bytes += sample->raw_bytes;
        packing->totals.linked_packed_bytes += sample->packed_bytes;
    }
    see_link(packing, sample);
    if (!is_same_way(sample->way, ladder[packing->now].way))
        return;
    if (!sample->skipped) {
        packing->raw_bytes += sample->raw_bytes;
        packing->packed_bytes += sample->packed_bytes;
        packing->pack_ms += sample->pack_ms;
        add_comparison(&packing->compared, &sample->compared);
    }
    packing->busy += sample->link_busy ? 1 : 0;
    if (++packing->batches < PACKING_WINDOW_BATCHES)
        return;
    decide(packing);
    packing->batches = packing->busy = 0;
    packing->raw_bytes = packing->packed_bytes = 0;
    packing->pack_ms = 0;
    packing->compared = (PackComparison){0};
}
