#include "migrate/report.h"

#include "base/json.h"
#include "base/page.h"

static const char *const phase_names[] = {
    [MIGRATE_PHASE_CONNECT] = "connect",   [MIGRATE_PHASE_DISKS] = "disks",
    [MIGRATE_PHASE_PRECOPY] = "precopy",   [MIGRATE_PHASE_STORE] = "store",
    [MIGRATE_PHASE_STOPPED] = "stopped",   [MIGRATE_PHASE_SWITCHOVER] = "switchover",
    [MIGRATE_PHASE_POSTCOPY] = "postcopy", [MIGRATE_PHASE_IMAGE] = "image",
    [MIGRATE_PHASE_DONE] = "done",
};
G_STATIC_ASSERT(G_N_ELEMENTS(phase_names) == MIGRATE_PHASE_DONE + 1);

const char *migrate_phase_name(MigratePhase phase)
{
    return phase_names[phase];
}

static const char *const reclaim_names[] = {
    [MIGRATE_RECLAIM_OFF] = NULL,
    [MIGRATE_RECLAIM_DONE] = "done",
    [MIGRATE_RECLAIM_PARTLY] = "partly",
    [MIGRATE_RECLAIM_LITTLE] = "little-free",
    [MIGRATE_RECLAIM_NO_ANSWER] = "no-answer",
};
G_STATIC_ASSERT(G_N_ELEMENTS(reclaim_names) == MIGRATE_RECLAIM_NO_ANSWER + 1);

const char *migrate_reclaim_name(MigrateReclaim reclaim)
{
    return reclaim_names[reclaim];
}

MigrateReport *migrate_report_new(void)
{
    MigrateReport *report = g_new0(MigrateReport, 1);

    report->rounds = g_array_new(FALSE, FALSE, sizeof(MigrateRound));
    report->verified = -1;
    report->status = MIGRATE_FAILED;
    report->predicted_total_ms = report->predicted_downtime_ms = -1;
    report->least_run_share = 1;
    report->segments = SENT_STORE_OFF;
    return report;
}

void migrate_report_free(MigrateReport *report)
{
    if (!report)
        return;
    g_array_unref(report->rounds);
    g_free(report->untold);
    g_free(report->untold_agent);
    g_free(report->reason);
    g_free(report->error);
    g_free(report->source);
    g_free(report->destination);
    g_free(report->tracker);
    g_free(report->throttle_means);
    g_free(report->throttle_unavailable);
    json_decref(report->disks);
    json_decref(report->files);
    json_decref(report->copies);
    json_decref(report->image);
    g_free(report->seed);
    g_free(report->seed_id);
    g_free(report);
}

static json_t *round_to_json(const MigrateRound *round)
{
    return json_pack(
        "{s:I, s:I, s:I, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "pages",
        (json_int_t)round->pages, "dirty_bytes", (json_int_t)round->dirty_bytes, "wire_bytes",
        (json_int_t)round->wire_bytes, "ms", round->ms, "work_set_bytes",
        (json_int_t)round->work_set_bytes, "pages_whole", (json_int_t)round->pages_whole,
        "pages_segments", (json_int_t)round->pages_segments, "pages_copied",
        (json_int_t)round->pages_copied, "pages_seeded", (json_int_t)round->pages_seeded,
        "pages_unchanged", (json_int_t)round->pages_unchanged, "pages_zero",
        (json_int_t)round->pages_zero);
}

static json_t *rounds_to_json(const GArray *rounds)
{
    json_t *array = json_array();

    for (guint i = 0; i < rounds->len; i++)
        json_array_append_new(array, round_to_json(&g_array_index(rounds, MigrateRound, i)));
    return array;
}

static json_t *packed_to_json(const MigratePacked *packed)
{
    return json_pack("{s:I, s:I}", "bytes_in", (json_int_t)packed->bytes_in, "bytes_out",
                     (json_int_t)packed->bytes_out);
}

static json_t *zstd_to_json(const MigrateReport *report)
{
    json_t *object = packed_to_json(&report->packed_zstd);

    json_object_set_new(object, "level",
                        report->zstd_level > 0 ? json_integer(report->zstd_level) : json_null());
    json_object_set_new(object, "window", packed_to_json(&report->packed_window));
    return object;
}

/* Null where a number is not known. */
static json_t *known_to_json(double number)
{
    return number < 0 ? json_null() : json_real(number);
}

/* How the work set was dealt with. */
static void add_work_set(json_t *object, const MigrateReport *report)
{
    json_t *throttle =
        report->throttle_means
            ? json_pack("{s:s, s:f, s:f}", "means", report->throttle_means, "least_run_share",
                        report->least_run_share, "ms", report->throttled_ms)
            : json_null();
    g_autoptr(json_t) work_set = json_pack(
        "{s:o, s:o, s:b, s:I, s:o, s:s, s:I, s:I, s:i, s:{s:o, s:o, s:o}}", "predicted_total_ms",
        known_to_json(report->predicted_total_ms), "predicted_downtime_ms",
        known_to_json(report->predicted_downtime_ms), "memory_intensive", report->memory_intensive,
        "deferred_bytes", (json_int_t)report->deferred_bytes, "throttle", throttle, "segments",
        sent_store_mode_name(report->segments), "memory_budget_bytes",
        (json_int_t)report->memory_budget_bytes, "store_bytes", (json_int_t)report->store_bytes,
        "streams", (int)report->streams, "compress", "none", packed_to_json(&report->packed_none),
        "lz4", packed_to_json(&report->packed_lz4), "zstd", zstd_to_json(report));

    json_object_update(object, work_set);
    json_object_set_new(object, "throttle_unavailable",
                        report->throttle_unavailable ? json_string(report->throttle_unavailable)
                                                     : json_null());
}

static json_t *direct_io_to_json(const MigrateDirectIo *direct_io)
{
    if (!direct_io->in_use)
        return json_null();
    return json_pack("{s:I, s:I, s:I, s:f, s:i, s:f}", "pages_read_again",
                     (json_int_t)direct_io->pages_read_again, "pages_changed",
                     (json_int_t)direct_io->pages_changed, "pages_in_pause",
                     (json_int_t)direct_io->pages_in_pause, "pause_ms", direct_io->pause_ms,
                     "drains", (int)direct_io->drains, "longest_drain_ms",
                     direct_io->longest_drain_ms);
}

static json_t *postcopy_to_json(const MigratePostcopy *postcopy)
{
    if (!postcopy->switched)
        return json_null();
    return json_pack("{s:b, s:I, s:f, s:f, s:I, s:I, s:I, s:I, s:i}", "stored", postcopy->stored,
                     "uncovered_pages", (json_int_t)postcopy->uncovered_pages, "store_ms",
                     postcopy->store_ms, "ms", postcopy->ms, "outstanding_pages",
                     (json_int_t)postcopy->outstanding_pages, "pushed_pages",
                     (json_int_t)postcopy->pushed_pages, "answered_pages",
                     (json_int_t)postcopy->answered_pages, "again_pages",
                     (json_int_t)postcopy->again_pages, "breaks", (int)postcopy->breaks);
}

static json_t *seed_to_json(const MigrateReport *report)
{
    if (!report->seed)
        return json_null();
    return json_pack("{s:s, s:s?, s:I, s:I, s:I, s:I, s:I}", "image", report->seed, "id",
                     report->seed_id, "digests", (json_int_t)report->seed_digests, "list_bytes",
                     (json_int_t)report->seed_list_bytes, "pages", (json_int_t)report->seed_pages,
                     "bytes", (json_int_t)report->seed_pages * PAGE_BYTES, "lacking_pages",
                     (json_int_t)report->seed_lacking_pages);
}

/* How it came to be moved, whatever was asked for. */
static const char *mode_name(const MigrateReport *report)
{
    return migrate_mode_name(report->postcopy.switched ? report->mode : MIGRATE_MODE_PRECOPY);
}

static const char *status_name(MigrateStatus status)
{
    switch (status) {
    case MIGRATE_COMPLETED:
        return "completed";
    case MIGRATE_CANCELLED:
        return "cancelled";
    case MIGRATE_ENDED:
        return "ended";
    case MIGRATE_SPLIT:
        return "split";
    default:
        return "failed";
    }
}

json_t *migrate_report_to_json(const MigrateReport *report)
{
    json_t *object =
        json_pack("{s:s, s:s, s:s?, s:f, s:f, s:I, s:I, s:o, s:s?, s:s?, s:s?, s:s?, s:f}",
                  "status", status_name(report->status), "mode", mode_name(report), "reason",
                  report->reason, "total_ms", report->total_ms, "downtime_ms", report->downtime_ms,
                  "wire_bytes", (json_int_t)report->wire_bytes, "ram_bytes",
                  (json_int_t)report->ram_bytes, "rounds", rounds_to_json(report->rounds), "source",
                  report->source, "destination", report->destination, "error", report->error,
                  "tracker", report->tracker, "expected_downtime_ms", report->expected_downtime_ms);

    json_object_set_new(object, "downtime_parts",
                        json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "pause_ms",
                                  report->pause_ms, "disks_ms", report->disks_ms, "pages_ms",
                                  report->pages_ms, "save_ms", report->save_ms, "verify_ms",
                                  report->verify_ms, "prepare_ms", report->prepare_ms, "start_ms",
                                  report->start_ms));
    json_object_set_new(object, "breaks", json_integer(report->breaks));
    json_object_set_new(object, "connections", json_integer(MAX(report->connections, 1)));
    json_object_set_new(object, "most_connections", json_integer(MAX(report->most_connections, 1)));
    json_object_set_new(object, "retractions", json_integer(report->retractions));
    json_object_set_new(object, "retracted_ms", json_real(report->retracted_ms));
    json_object_set_new(object, "verified",
                        report->verified < 0 ? json_null() : json_boolean(report->verified));
    json_object_set_new(object, "disks",
                        report->disks ? json_deep_copy(report->disks) : json_array());
    json_object_set_new(object, "copies",
                        report->copies ? json_deep_copy(report->copies) : json_array());
    json_object_set_new(object, "files",
                        report->files ? json_deep_copy(report->files) : json_array());
    json_object_set_new(object, "paused", json_boolean(report->arrives_paused));
    json_object_set_new(object, "in_doubt", json_boolean(report->status == MIGRATE_IN_DOUBT));
    json_object_set_new(object, "reclaim",
                        report->reclaim == MIGRATE_RECLAIM_OFF
                            ? json_null()
                            : json_string(migrate_reclaim_name(report->reclaim)));
    json_object_set_new(object, "reclaimed_bytes",
                        json_integer((json_int_t)report->reclaimed_bytes));
    json_object_set_new(object, "direct_io", direct_io_to_json(&report->direct_io));
    json_object_set_new(object, "postcopy", postcopy_to_json(&report->postcopy));
    json_object_set_new(object, "seed", seed_to_json(report));
    if (report->vmm)
        json_object_set_new(
            object, "neutral",
            json_pack("{s:s, s:i}", "vmm", report->vmm, "moments", (int)report->moments));
    if (report->image)
        json_object_set(object, "image", report->image);
    add_work_set(object, report);
    return object;
}

json_t *migrate_progress_to_json(const MigrateProgress *progress)
{
    double run_share = progress->run_share > 0 ? progress->run_share : 1;

    return json_pack(
        "{s:s, s:i, s:I, s:I, s:I, s:f, s:I, s:f, s:o, s:f, s:I, s:I, s:I, s:I, s:I, "
        "s:I, s:I, s:b, s:i, s:i, s:I}",
        "phase", migrate_phase_name(progress->phase), "round", (int)progress->round, "round_bytes",
        (json_int_t)progress->round_bytes, "round_bytes_done",
        (json_int_t)progress->round_bytes_done, "wire_bytes", (json_int_t)progress->wire_bytes,
        "bytes_per_second", progress->bytes_per_second, "bandwidth",
        (json_int_t)progress->bandwidth, "elapsed_ms", progress->elapsed_ms, "eta_ms",
        known_to_json(progress->eta_ms), "run_share", run_share, "work_set_bytes",
        (json_int_t)progress->work_set_bytes, "deferred_bytes",
        (json_int_t)progress->deferred_bytes, "disk_bytes", (json_int_t)progress->disk_bytes,
        "disk_bytes_done", (json_int_t)progress->disk_bytes_done, "disk_same_bytes",
        (json_int_t)progress->disk_same_bytes, "disk_wire_bytes",
        (json_int_t)progress->disk_wire_bytes, "uncovered_bytes",
        (json_int_t)progress->uncovered_bytes, "disconnected", progress->disconnected,
        "connections", (int)MAX(progress->connections, 1), "most_connections",
        (int)MAX(progress->most_connections, 1), "seed_bytes", (json_int_t)progress->seed_bytes);
}
