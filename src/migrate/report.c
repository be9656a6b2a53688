#include "migrate/report.h"

static const char *const phase_names[] = {
    [MIGRATE_PHASE_CONNECT] = "connect", [MIGRATE_PHASE_PRECOPY] = "precopy",
    [MIGRATE_PHASE_STOPPED] = "stopped", [MIGRATE_PHASE_HANDOVER] = "handover",
    [MIGRATE_PHASE_DONE] = "done",
};
G_STATIC_ASSERT(G_N_ELEMENTS(phase_names) == MIGRATE_PHASE_DONE + 1);

const char *migrate_phase_name(MigratePhase phase)
{
    return phase_names[phase];
}

MigrateReport *migrate_report_new(void)
{
    MigrateReport *report = g_new0(MigrateReport, 1);

    report->rounds = g_array_new(FALSE, FALSE, sizeof(MigrateRound));
    report->verified = -1;
    report->status = MIGRATE_FAILED;
    return report;
}

void migrate_report_free(MigrateReport *report)
{
    if (!report)
        return;
    g_array_unref(report->rounds);
    g_free(report->reason);
    g_free(report->error);
    g_free(report->source);
    g_free(report->destination);
    g_free(report->tracker);
    g_free(report);
}

static json_t *rounds_to_json(const GArray *rounds)
{
    json_t *array = json_array();

    for (guint i = 0; i < rounds->len; i++) {
        const MigrateRound *round = &g_array_index(rounds, MigrateRound, i);

        json_array_append_new(array,
                              json_pack("{s:I, s:I, s:I, s:f}", "pages", (json_int_t)round->pages,
                                        "dirty_bytes", (json_int_t)round->dirty_bytes, "wire_bytes",
                                        (json_int_t)round->wire_bytes, "ms", round->ms));
    }
    return array;
}

static const char *status_name(MigrateStatus status)
{
    switch (status) {
    case MIGRATE_COMPLETED:
        return "completed";
    case MIGRATE_CANCELLED:
        return "cancelled";
    default:
        return "failed";
    }
}

json_t *migrate_report_to_json(const MigrateReport *report)
{
    json_t *object =
        json_pack("{s:s, s:s, s:s?, s:f, s:f, s:I, s:I, s:o, s:s?, s:s?, s:s?, s:s?, s:f}",
                  "status", status_name(report->status), "mode", "precopy", "reason",
                  report->reason, "total_ms", report->total_ms, "downtime_ms", report->downtime_ms,
                  "wire_bytes", (json_int_t)report->wire_bytes, "ram_bytes",
                  (json_int_t)report->ram_bytes, "rounds", rounds_to_json(report->rounds), "source",
                  report->source, "destination", report->destination, "error", report->error,
                  "tracker", report->tracker, "expected_downtime_ms", report->expected_downtime_ms);

    json_object_set_new(object, "downtime_parts",
                        json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "pause_ms", report->pause_ms,
                                  "pages_ms", report->pages_ms, "save_ms", report->save_ms,
                                  "verify_ms", report->verify_ms, "prepare_ms", report->prepare_ms,
                                  "start_ms", report->start_ms));
    json_object_set_new(object, "verified",
                        report->verified < 0 ? json_null() : json_boolean(report->verified));
    json_object_set_new(object, "in_doubt", json_boolean(report->status == MIGRATE_IN_DOUBT));
    return object;
}

json_t *migrate_progress_to_json(const MigrateProgress *progress)
{
    json_t *object = json_pack("{s:s, s:i, s:I, s:I, s:I, s:f, s:f}", "phase",
                               migrate_phase_name(progress->phase), "round", (int)progress->round,
                               "round_bytes", (json_int_t)progress->round_bytes, "round_bytes_done",
                               (json_int_t)progress->round_bytes_done, "wire_bytes",
                               (json_int_t)progress->wire_bytes, "bytes_per_second",
                               progress->bytes_per_second, "elapsed_ms", progress->elapsed_ms);

    json_object_set_new(object, "eta_ms",
                        progress->eta_ms < 0 ? json_null() : json_real(progress->eta_ms));
    return object;
}
