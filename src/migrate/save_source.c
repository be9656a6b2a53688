#include "migrate/save_source.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/stages.h"
#include "migrate/saved_disks.h"
#include "migrate/source_move.h"

#define ACCEPT_TIMEOUT_MS 60000
/* Until all of it is on a storage that may be slow. */
#define SAVED_TIMEOUT_MS 1800000

typedef struct {
    SourceMove move;
    const SaveJob *job;
    GPtrArray *disks;     /* of VmmDisk: as they were before the save */
    SaveBaseMessage base; /* where there is one */
    GBytes *state;
    json_t *note;
} Save;

/* ---- what must be so ---- */

static gboolean describe(Save *save, GError **error)
{
    SourceMove *move = &save->move;

    if (!source_describe(move, error))
        return FALSE;
    save->disks = vmm_list_disks(move->job->vmm, error);
    return save->disks && saved_disks_check(save->disks, move->job->options.disks,
                                            save->job->ends || save->job->live_disks, error);
}

/* It takes as long as the base's index. */
static gboolean await_base(Save *save, GError **error)
{
    Frame frame;

    return source_await(&save->move, FRAME_SAVE_BASE, ACCEPT_TIMEOUT_MS, &frame, error) &&
           save_base_message_decode((const char *)frame.payload, frame.length, &save->base, error);
}

static gboolean connect_peer(Save *save, GError **error)
{
    SourceMove *move = &save->move;
    SaveMessage message = {(char *)save->job->path, save->job->replace, (char *)save->job->base};
    g_autofree char *text = save_message_encode(&message);

    if (!source_connect(move, "save", error))
        return FALSE;
    if (!peer_has_feature(&move->peer, FEATURE_SAVE)) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "%s keeps no images",
                  session_get_peer_name(move->session));
        return FALSE;
    }
    if (save->job->base && !peer_has_feature(&move->peer, FEATURE_SAVE_BASE)) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "%s keeps full images only",
                  session_get_peer_name(move->session));
        return FALSE;
    }
    if (!session_send_bytes(move->session, FRAME_SAVE, text, strlen(text), error) ||
        (save->job->base && !await_base(save, error)))
        return FALSE;
    move->base = save->job->base ? &save->base : NULL;
    return TRUE;
}

/* It is known at once whether the file can be made. */
static gboolean offer(Save *save, GError **error)
{
    SourceMove *move = &save->move;
    Frame frame;

    if (!source_offer(move, error))
        return FALSE;
    if (!move->accepted && !source_await(move, FRAME_ACCEPTED, ACCEPT_TIMEOUT_MS, &frame, error))
        return FALSE;
    move->accepted = TRUE;
    return !fault_point("save.accepted", error);
}

/* ---- the pause ---- */

static json_t *make_note(Save *save, GError **error)
{
    SourceMove *move = &save->move;
    json_t *disks = saved_disks_note(save->disks, move->report->copies, error);

    if (!disks)
        return NULL;
    return json_pack("{s:s, s:s, s:s, s:I, s:b, s:o}", "guest", move->job->guest, "guest_id",
                     move->job->guest_id, "host", move->job->source_name, "time_us",
                     (json_int_t)g_get_real_time(), "paused", move->stays_paused, "disks", disks);
}

static gboolean finish_in_pause(Save *save, GError **error)
{
    SourceMove *move = &save->move;
    VmmSavePurpose purpose = save->job->ends ? VMM_SAVE_SWITCHOVER : VMM_SAVE_CHECKPOINT;

    source_set_phase(move, MIGRATE_PHASE_STOPPED);
    if (!source_disks_finish(move, error))
        return FALSE;
    move->report->disks_ms = source_lap_ms(move);
    /* One that ran in between is not what was read of it before. */
    if (!source_send_rest(move, purpose, &save->state, error) ||
        !vmm_check_unchanged(move->job->vmm, move->machine, error) ||
        !vmm_check_paused(move->job->vmm, error))
        return FALSE;
    source_disks_describe(move);
    save->note = make_note(save, error);
    return save->note != NULL;
}

/* All of it has been read: it goes on, while the image is completed. */
static gboolean go_on(Save *save, GError **error)
{
    SourceMove *move = &save->move;

    if (save->job->ends)
        return source_deadline_end(move, error);
    source_resume(move);
    move->stays_paused = FALSE;
    if (move->report->unresumed) {
        error_set(error, VMFERRY_ERROR_FAILED, "%s", move->report->error);
        return FALSE;
    }
    source_journal(move, SOURCE_JOURNAL_MOVING, NULL);
    source_set_phase(move, MIGRATE_PHASE_IMAGE);
    return !fault_point("save.resumed", error);
}

/* ---- the image ---- */

static gboolean send_note(Save *save, GError **error)
{
    g_autofree char *text = json_dumps(save->note, JSON_COMPACT);

    if (text && strlen(text) <= SAVE_MESSAGE_MAX_NOTE_BYTES)
        return session_send_bytes(save->move.session, FRAME_SAVE_NOTE, text, strlen(text), error);
    error_set(error, VMFERRY_ERROR_INVALID, "what is to be noted about the guest is too long");
    return FALSE;
}

static json_t *describe_base(const Save *save, const SavedMessage *saved)
{
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I}", "file", save->job->base, "id", save->base.id,
                     "compared_pages", (json_int_t)saved->compared, "equal_pages",
                     (json_int_t)saved->equal, "stored_pages", (json_int_t)saved->stored,
                     "zeroed_pages", (json_int_t)saved->zeroed);
}

static gboolean await_saved(Save *save, GError **error)
{
    SourceMove *move = &save->move;
    g_auto(SavedMessage) saved = {0};
    Frame frame;

    if (!source_await(move, FRAME_SAVED, SAVED_TIMEOUT_MS, &frame, error) ||
        !saved_message_decode((const char *)frame.payload, frame.length, &saved, error))
        return FALSE;
    move->report->image = json_pack("{s:s, s:s, s:I}", "file", save->job->path, "id", saved.id,
                                    "bytes", (json_int_t)saved.bytes);
    if (save->job->base)
        json_object_set_new(move->report->image, "base", describe_base(save, &saved));
    return TRUE;
}

static gboolean complete_image(Save *save, GError **error)
{
    SourceMove *move = &save->move;

    return source_disks_await(move, error) &&
           epoch_sender_add_state(&move->epochs, save->state, error) &&
           epoch_sender_seal(&move->epochs, error) && send_note(save, error) &&
           !fault_point("save.sent", error) && await_saved(save, error);
}

/* ---- the sequence ---- */

static const Stage stages[] = {
    STAGE("check", describe, NULL),
    STAGE("connect", connect_peer, NULL),
    STAGE("guard", source_post_guard, source_dismiss_guard),
    STAGE("disks", source_disks_prepare, source_disks_abort),
    STAGE("track", source_watch, source_unwatch),
    STAGE("offer", offer, source_withdraw),
    STAGE("copy disks", source_disks_mirror, NULL),
    STAGE("pre-copy", source_precopy, NULL),
    STAGE("changes of disks", source_disks_catch_up, NULL),
    STAGE("pause", source_pause, source_resume),
    STAGE("last round", finish_in_pause, NULL),
    STAGE("resume", go_on, NULL),
    STAGE_FINAL("image", complete_image),
};

static void note_failure(gpointer user, guint stage, GError **error)
{
    SourceMove *move = &((Save *)user)->move;
    MigrateReport *report = move->report;

    report->status = error_is(*error, VMFERRY_ERROR_CANCELLED) ? MIGRATE_CANCELLED : MIGRATE_FAILED;
    g_free(report->error);
    report->error = g_strdup_printf("guest %s: %s: %s", move->job->guest, stages[stage].name,
                                    (*error)->message);
    g_free(report->reason);
    report->reason = g_strdup(vmferry_error_code_name((VmferryErrorCode)(*error)->code));
}

/* As after a move that has failed, for a guest that goes on here; one that is to end stays paused, and on record
 * as one that we have paused. */
static void complete(Save *save)
{
    SourceMove *move = &save->move;

    move->report->status = MIGRATE_COMPLETED;
    source_set_phase(move, MIGRATE_PHASE_DONE);
    if (!save->job->ends)
        source_journal(move, SOURCE_JOURNAL_RETURNED, NULL);
    source_disks_keep_bitmaps(move);
    source_unwatch(move);
    source_disks_abort(move);
    source_dismiss_guard(move);
}

static void save_clear(Save *save)
{
    source_clear(&save->move);
    precopy_control_clear(&save->move.control);
    g_clear_pointer(&save->disks, g_ptr_array_unref);
    g_clear_pointer(&save->state, g_bytes_unref);
    json_decref(save->note);
    save_base_message_clear(&save->base);
}

MigrateReport *save_source_run(const SaveJob *job, GCancellable *cancellable)
{
    Save save = {
        .job = job,
        .move = {.job = &job->move,
                 .cancellable = cancellable,
                 .started_ns = clock_now_ns(),
                 .image = job->path,
                 .notes_changes = !job->ends},
    };
    SourceMove *move = &save.move;
    MigrateReport *report = move->report = migrate_report_new();

    report->mode = MIGRATE_MODE_PRECOPY;
    report->source = g_strdup(job->move.source_name);
    report->destination = g_strdup(job->move.destination);
    source_make_transaction_id(move->transaction);
    source_set_phase(move, MIGRATE_PHASE_CONNECT);
    if (stages_run(stages, G_N_ELEMENTS(stages), note_failure, &save, NULL))
        complete(&save);
    report->total_ms = clock_ns_to_ms(clock_now_ns() - move->started_ns);
    source_disks_describe(move);
    save_clear(&save);
    return report;
}
