#include "agent/path_check.h"

#include <math.h>

#include "agent/api_call.h"
#include "agent/stop_watch.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/lock_guard.h"
#include "migrate/path_probe.h"
#include "policy/path_forecast.h"

#define CONGESTION_CONTROLS "/proc/sys/net/ipv4/tcp_available_congestion_control"
#define CONGESTION_CONTROLS_BYTES 4096

typedef struct {
    AgentContext *context;
    Activity *activity; /* owns this */
    char *destination;
    double memory_bytes;
    PathProbeJob job;
    GMutex lock; /* protects all below */
    PathStage stage;
    double share;
    uint64_t bytes;
} PathCheck;

/* ---- the kind of activity ---- */

static json_t *get_progress(gpointer user)
{
    PathCheck *check = user;
    lock_guard(&check->lock);

    return json_pack("{s:s, s:f, s:I}", "phase", path_stage_name(check->stage), "share",
                     check->share, "wire_bytes", (json_int_t)check->bytes);
}

static void path_check_free(gpointer user)
{
    PathCheck *check = user;

    g_free(check->destination);
    g_mutex_clear(&check->lock);
    g_free(check);
}

static const ActivityKind check_kind = {
    .kind = "check",
    .state = "",
    .get_progress = get_progress,
    .free = path_check_free,
};

static void on_progress(PathStage stage, double share, uint64_t bytes, gpointer user)
{
    PathCheck *check = user;

    g_mutex_lock(&check->lock);
    check->stage = stage;
    check->share = share;
    check->bytes = bytes;
    g_mutex_unlock(&check->lock);
    activity_note_progress(check->activity);
}

/* ---- the report ---- */

/* What is not known is null. */
static json_t *number(double value)
{
    return isfinite(value) && value > 0 ? json_real(value) : json_null();
}

static json_t *count(uint64_t value)
{
    return value > 0 ? json_integer((json_int_t)value) : json_null();
}

static json_t *list_congestion_controls(void)
{
    size_t length;
    g_autofree char *text =
        file_read(CONGESTION_CONTROLS, CONGESTION_CONTROLS_BYTES, &length, NULL);
    g_auto(GStrv) names = g_strsplit_set(text ? text : "", " \n", -1);
    json_t *list = json_array();

    for (char **name = names; *name; name++)
        if (**name)
            json_array_append_new(list, json_string(*name));
    return list;
}

static void add_forecast(const PathCheck *check, const PathReport *path, json_t *report)
{
    double rate = path->bytes_per_second;
    double round_trip_ms = path->median_round_trip_ms;

    json_object_set_new(report, "memory_bytes", json_integer((json_int_t)check->memory_bytes));
    json_object_set_new(report, "move_ms",
                        number(path_forecast_move_ms(check->memory_bytes, rate, round_trip_ms)));
    json_object_set_new(report, "pause_ms", number(path_forecast_pause_ms(rate, round_trip_ms)));
}

static json_t *make_report(const PathCheck *check, const PathReport *path, const GError *failure)
{
    json_t *report = json_pack(
        "{s:s, s:s, s:s, s:s?, s:s?, s:s?, s:b, s:o, s:o, s:o, s:o, s:o, s:b, s:o, s:I, s:f, s:I, "
        "s:I,"
        " s:o, s:o, s:s, s:o}",
        "destination", check->destination, "status", failure ? "failed" : "completed", "stage",
        path_stage_name(path->stage), "peer", path->peer, "address", path->address, "software",
        path->software, "secure", path->secure, "connect_ms", number(path->connect_ms),
        "round_trip_ms", number(path->round_trip_ms), "median_round_trip_ms",
        number(path->median_round_trip_ms), "loaded_round_trip_ms",
        number(path->loaded_round_trip_ms), "bytes_per_second", number(path->bytes_per_second),
        "limited", path->limited, "bandwidth", count(check->job.most_bytes_per_second), "bytes",
        (json_int_t)path->bytes, "ms", path->ms, "segments", (json_int_t)path->segments,
        "retransmitted", (json_int_t)path->retransmitted, "path_mtu", count(path->path_mtu),
        "largest_packet", count(path->largest_packet), "congestion_control",
        path->congestion_control, "congestion_controls", list_congestion_controls());

    add_forecast(check, path, report);
    if (failure) {
        g_autoptr(json_t) error = api_error_to_json(failure);

        json_object_update(report, error);
    } else {
        json_object_set_new(report, "error", json_null());
    }
    return report;
}

/* ---- the thread ---- */

static gpointer check_thread(gpointer data)
{
    PathCheck *check = data;
    g_autoptr(Activity) activity = check->activity;
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_auto(PathReport) path = {0};
    g_autoptr(GError) failure = NULL;
    g_autoptr(StopWatch) watch = stop_watch_new(check->context, cancellable, &failure);

    if (watch && agent_context_get_channel_options(check->context, &check->job.channel, &failure))
        path_probe_run(&check->job, cancellable, &path, &failure);
    g_atomic_int_add(&check->context->path_checks, -1);
    activity_finish(activity, make_report(check, &path, failure));
    return NULL;
}

static PathCheck *path_check_new(AgentContext *context, const PathCheckRequest *request)
{
    PathCheck *check = g_new0(PathCheck, 1);

    check->context = context;
    check->destination = g_strdup(request->destination);
    check->memory_bytes = request->memory_bytes;
    check->job = (PathProbeJob){
        .destination = check->destination,
        .data_ms = request->data_ms,
        .most_bytes_per_second = context->settings->moves.bandwidth_bytes_per_second,
        .progress = on_progress,
        .user = check,
    };
    g_mutex_init(&check->lock);
    return check;
}

Activity *path_check_start(AgentContext *context, const PathCheckRequest *request, GError **error)
{
    PathCheck *check;
    Activity *activity;

    if (g_atomic_int_add(&context->path_checks, 1) >= PATH_CHECKS_MOST) {
        g_atomic_int_add(&context->path_checks, -1);
        error_set(error, VMFERRY_ERROR_BUSY, "%d paths are being measured already; try again later",
                  PATH_CHECKS_MOST);
        return NULL;
    }
    check = path_check_new(context, request);
    activity = activity_new(&check_kind, NULL, check);
    check->activity = activity;
    if (agent_context_spawn(context, "check", check_thread, check, error))
        return activity_ref(activity);
    g_atomic_int_add(&context->path_checks, -1);
    activity_unref(activity);
    return NULL;
}
