#include "migrate/packing.h"

#include <math.h>
#include <string.h>

#define NEW_WEIGHT 0.5

static const char *const mode_names[] = {
    [PACKING_AUTO] = "auto",
    [PACKING_NONE] = "none",
    [PACKING_LZ4] = "lz4",
    [PACKING_ZSTD] = "zstd",
};

const char *packing_mode_name(PackingMode mode)
{
    return mode_names[mode];
}

gboolean packing_mode_from_name(const char *name, PackingMode *ret)
{
    for (guint i = 0; i < G_N_ELEMENTS(mode_names); i++) {
        if (strcmp(name, mode_names[i]) == 0) {
            *ret = (PackingMode)i;
            return TRUE;
        }
    }
    return FALSE;
}

Packing packing_make(PackingMode mode, gboolean with_lz4, gboolean with_zstd, guint workers)
{
    Packing packing = {.mode = mode, .workers = MAX(workers, 1), .method = PACK_NONE};

    packing.usable[PACK_NONE] = TRUE;
    packing.usable[PACK_LZ4] = with_lz4;
    packing.usable[PACK_ZSTD] = with_zstd;
    if (mode == PACKING_LZ4 && with_lz4)
        packing.method = PACK_LZ4;
    if (mode == PACKING_ZSTD && with_zstd)
        packing.method = PACK_ZSTD;
    packing.settled = packing.method;
    if (mode == PACKING_AUTO)
        packing.method = with_zstd ? PACK_ZSTD : with_lz4 ? PACK_LZ4 : PACK_NONE;
    for (guint i = 0; i < PACKING_METHODS; i++)
        packing.methods[i].next_pause = PACKING_FIRST_PAUSE;
    return packing;
}

void packing_choose(const Packing *packing, PackMethod *ret_method, int *ret_level)
{
    *ret_method = packing->method;
    *ret_level = packing->method == PACK_ZSTD ? PACKING_ZSTD_LEVEL : 0;
}

static double smooth(double old, double now)
{
    return old > 0 ? old + NEW_WEIGHT * (now - old) : now;
}

static void learn(Packing *packing)
{
    PackingMethodState *state = &packing->methods[packing->method];

    if (packing->method == PACK_NONE || packing->raw_bytes == 0)
        return;
    state->ratio = smooth(state->ratio, (double)packing->packed_bytes / (double)packing->raw_bytes);
    if (packing->pack_ms > 0)
        state->bytes_per_ms =
            smooth(state->bytes_per_ms, (double)packing->raw_bytes / packing->pack_ms);
}

/* Guest bytes a ms that it would carry. */
static double carries(const Packing *packing, PackMethod method)
{
    const PackingMethodState *state = &packing->methods[method];

    if (method == PACK_NONE)
        return packing->path_bytes_per_ms;
    if (state->ratio <= 0 || state->ratio > PACKING_WORTH_RATIO)
        return 0;
    return fmin(packing->path_bytes_per_ms / state->ratio,
                state->bytes_per_ms * (double)packing->workers);
}

static PackMethod best(const Packing *packing)
{
    PackMethod best = PACK_NONE;

    for (guint i = PACK_LZ4; i < PACKING_METHODS; i++)
        if (packing->usable[i] &&
            carries(packing, (PackMethod)i) > PACKING_GAIN * carries(packing, best))
            best = (PackMethod)i;
    return best;
}

static gboolean may_try(const Packing *packing, PackMethod method)
{
    if (!packing->usable[method] || packing->settled == method ||
        packing->methods[method].paused_windows > 0)
        return FALSE;
    if (method == PACK_NONE)
        return !packing->path_busy;
    /* It makes more of the data, so it is no use where the path is what limits. */
    if (method == PACK_LZ4 && packing->settled == PACK_ZSTD && packing->path_busy)
        return FALSE;
    /* Where lz4 finds nothing, zstd rarely does. */
    return method == PACK_LZ4 || !packing->usable[PACK_LZ4] ||
           (packing->methods[PACK_LZ4].ratio > 0 &&
            packing->methods[PACK_LZ4].ratio <= PACKING_WORTH_RATIO);
}

static void settle(Packing *packing)
{
    PackMethod tried = packing->method;
    PackMethod chosen = best(packing);

    if (tried != packing->settled && chosen != tried) {
        PackingMethodState *state = &packing->methods[tried];

        state->paused_windows = state->next_pause;
        state->next_pause = MIN(2 * state->next_pause, PACKING_LONGEST_PAUSE);
    } else if (tried == chosen) {
        packing->methods[tried].next_pause = PACKING_FIRST_PAUSE;
    }
    /* What is left has not paid either: it is not tried again at once. */
    if (packing->settled != PACK_NONE && chosen != packing->settled && tried == packing->settled) {
        PackingMethodState *state = &packing->methods[packing->settled];

        state->paused_windows = state->next_pause;
        state->next_pause = MIN(2 * state->next_pause, PACKING_LONGEST_PAUSE);
    }
    packing->method = packing->settled = chosen;
}

/* Nothing is known of the path, so whatever shrinks is welcome. */
static void explore(Packing *packing)
{
    if (packing->methods[packing->method].ratio > PACKING_WORTH_RATIO)
        packing->method = PACK_NONE;
}

static void decide(Packing *packing)
{
    for (guint i = 0; i < PACKING_METHODS; i++)
        if (packing->methods[i].paused_windows > 0)
            packing->methods[i].paused_windows--;
    learn(packing);
    if (packing->path_bytes_per_ms <= 0) {
        explore(packing);
        return;
    }
    if (packing->path_bytes_per_ms >= PACKING_SLOW_PATH_BYTES_PER_MS) {
        packing->method = packing->settled = PACK_NONE;
        return;
    }
    settle(packing);
    for (guint i = PACK_NONE; i < PACKING_METHODS; i++) {
        if (may_try(packing, (PackMethod)i)) {
            packing->method = (PackMethod)i;
            break;
        }
    }
}

void packing_note(Packing *packing, const PackingSample *sample)
{
    packing->totals.raw_bytes[sample->method] += sample->raw_bytes;
    packing->totals.packed_bytes[sample->method] += sample->packed_bytes;
    if (packing->mode != PACKING_AUTO || sample->method != packing->method)
        return;
    packing->raw_bytes += sample->raw_bytes;
    packing->packed_bytes += sample->packed_bytes;
    packing->pack_ms += sample->pack_ms;
    packing->path_bytes_per_ms = sample->path_bytes_per_ms;
    packing->path_busy = sample->path_busy;
    if (++packing->batches < PACKING_WINDOW_BATCHES)
        return;
    decide(packing);
    packing->batches = 0;
    packing->raw_bytes = packing->packed_bytes = 0;
    packing->pack_ms = 0;
}
