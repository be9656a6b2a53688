/*
 * A seed: an image at the destination that has pages of the guest (docs/protocol.md, SEED)
 *
 * It is asked for before anything is done to the guest.  Its list of digests comes behind GUEST, while the
 * destination starts its VMM, and is waited for: what is sent before that might be in it.  In the first
 * round pages of it are named (page_encoder.h).  What turns out not to be there is told before that
 * round is confirmed, and goes whole with the next one; until then there is no pause.
 */
#include "migrate/source_move.h"

#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/page.h"
#include "wire/postcopy_frame.h"
#include "wire/seed_frame.h"

#define ANSWER_TIMEOUT_MS 60000
/* From one frame to the next: the image is read meanwhile. */
#define DIGESTS_TIMEOUT_MS 60000
/* Of the memory budget, what may be spent on the list. */
#define SEED_SHARE 4

struct SourceSeed {
    SeedIndex *index; /* NULL: the sender has it */
    gboolean complete;
    uint64_t list_bytes;
};

void source_seed_free(SourceSeed *seed)
{
    if (!seed)
        return;
    seed_index_free(seed->index);
    g_free(seed);
}

/* ---- the question ---- */

static gboolean take_answer(SourceMove *move, uint32_t most, const Frame *frame, GError **error)
{
    g_auto(SeedAnswer) answer = {0};
    SourceSeed *seed = move->seed;

    if (!seed_answer_decode((const char *)frame->payload, frame->length, &answer, error))
        return FALSE;
    move->report->seed_id = g_steal_pointer(&answer.id);
    seed->index = seed_index_new((uint32_t)MIN(most, answer.pages), answer.key);
    if (seed->index)
        return TRUE;
    error_set(error, VMFERRY_ERROR_NO_SPACE,
              "no memory for the digests of the seed's %" PRIu64 " pages", answer.pages);
    return FALSE;
}

gboolean source_seed_ask(SourceMove *move, GError **error)
{
    const char *path = move->job->options.seed;
    uint32_t most = MAX(seed_index_fit(source_get_budget(move) / SEED_SHARE), 1);
    g_autofree char *text = NULL;
    Frame frame;

    if (!*path)
        return TRUE;
    if (!peer_has_feature(&move->peer, FEATURE_SEED)) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "%s takes no seed",
                  session_get_peer_name(move->session));
        return FALSE;
    }
    move->seed = g_new0(SourceSeed, 1);
    move->report->seed = g_strdup(path);
    text = seed_message_encode(&(SeedMessage){.path = (char *)path, .most = most});
    return session_send_bytes(move->session, FRAME_SEED, text, strlen(text), error) &&
           source_await(move, FRAME_SEED, ANSWER_TIMEOUT_MS, &frame, error) &&
           take_answer(move, most, &frame, error);
}

uint64_t source_seed_get_bytes(const SourceMove *move)
{
    return move->seed && move->seed->index ? seed_index_get_bytes(move->seed->index) : 0;
}

/* ---- its list ---- */

gboolean source_seed_take(SourceMove *move, const Frame *frame, GError **error)
{
    SourceSeed *seed = move->seed;
    SeedDigestsFrame digests;

    if (!seed || !seed->index || seed->complete) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "%s sent digests of a seed that it was not asked for",
                  session_get_peer_name(move->session));
        return FALSE;
    }
    if (!seed_digests_decode(frame->payload, frame->length, seed_index_get_count(seed->index),
                             seed_index_get_most(seed->index), &digests, error))
        return FALSE;
    for (uint32_t i = 0; i < digests.count; i++)
        seed_index_add(seed->index, seed_digests_next(&digests));
    seed->complete = digests.last;
    seed->list_bytes += FRAME_HEADER_BYTES + frame->length;
    return TRUE;
}

gboolean source_seed_await(SourceMove *move, GError **error)
{
    SourceSeed *seed = move->seed;
    Frame frame;

    if (!seed)
        return TRUE;
    while (!seed->complete)
        if (!source_await(move, FRAME_SEED_DIGESTS, DIGESTS_TIMEOUT_MS, &frame, error) ||
            !source_seed_take(move, &frame, error)) {
            g_prefix_error(error, "waiting for the seed's digests: ");
            return FALSE;
        }
    move->report->seed_digests = seed_index_get_count(seed->index);
    move->report->seed_list_bytes = seed->list_bytes;
    page_sender_set_seed(move->sender, g_steal_pointer(&seed->index));
    return TRUE;
}

/* ---- what was not there ---- */

/* Nothing is being encoded: the first round is sealed and not confirmed. */
static gboolean is_expected(const SourceMove *move)
{
    return move->seed && move->seed->complete && move->epochs.number == 1 &&
           move->epochs.applied == 0;
}

gboolean source_seed_take_lacking(SourceMove *move, const Frame *frame, GError **error)
{
    const PageRegions *regions = move->pages->regions;
    OutstandingFrame runs;

    if (!is_expected(move)) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s sent an unexpected %s frame",
                  session_get_peer_name(move->session), frame_type_name(frame->type));
        return FALSE;
    }
    if (!outstanding_frame_decode(frame->payload, frame->length, regions->pages, regions->count,
                                  &runs, error))
        return FALSE;
    for (uint32_t i = 0; i < runs.runs; i++) {
        PageSpan span;

        outstanding_frame_next(&runs, &span.first, &span.count);
        page_set_add(g_ptr_array_index(work_set_get_next(move->work), runs.region), span.first,
                     span.count);
        page_sender_forget(move->sender, runs.region, span);
        move->report->seed_lacking_pages += span.count;
    }
    log_warning("guest %s: seed %s: %" PRIu64
                " pages were not there when they were needed; they are sent",
                move->job->guest, move->report->seed, move->report->seed_lacking_pages);
    return TRUE;
}

gboolean source_seed_is_settled(const SourceMove *move)
{
    return !move->seed || move->epochs.applied > 0;
}
