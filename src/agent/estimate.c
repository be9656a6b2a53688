#include "agent/estimate.h"

#include <math.h>

#include "agent/launch.h"
#include "agent/registry.h"
#include "agent/stop_watch.h"
#include "agent/watch.h"
#include "base/error.h"
#include "migrate/estimate.h"

static gboolean look(AgentContext *context, const EstimateJob *job, Estimate *ret, GError **error)
{
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_autoptr(StopWatch) watch = stop_watch_new(context, cancellable, error);

    return watch && estimate_run(job, cancellable, ret, error);
}

/* What cannot be said is null: JSON has no infinity. */
static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *estimate_to_json(const Estimate *estimate)
{
    return json_pack("{s:o, s:I, s:o, s:b, s:b, s:f, s:I, s:o, s:I, s:b, s:s, s:s, s:f, s:n}", "ms",
                     number(estimate->ms), "bytes", (json_int_t)estimate->bytes, "pause_ms",
                     number(estimate->pause_ms), "fits", estimate->fits, "memory_intensive",
                     estimate->memory_intensive, "run_share", estimate->run_share,
                     "populated_bytes", (json_int_t)estimate->populated_bytes, "dirty_bytes_per_s",
                     number(estimate->dirty_bytes_per_second), "bandwidth",
                     (json_int_t)estimate->bandwidth, "bandwidth_assumed",
                     estimate->bandwidth_assumed, "confidence",
                     estimate_confidence_name(estimate->confidence), "why", estimate->why,
                     "look_ms", estimate->look_ms, "not_movable");
}

/* The same keys, all null but why it cannot be moved. */
static json_t *obstacle_to_json(const char *obstacle)
{
    return json_pack("{s:n, s:n, s:n, s:n, s:n, s:n, s:n, s:n, s:n, s:n, s:n, s:n, s:n, s:s}", "ms",
                     "bytes", "pause_ms", "fits", "memory_intensive", "run_share",
                     "populated_bytes", "dirty_bytes_per_s", "bandwidth", "bandwidth_assumed",
                     "confidence", "why", "look_ms", "not_movable", obstacle);
}

/* With the guest claimed. */
static json_t *make_answer(AgentContext *context, Guest *guest, const EstimateRequest *request,
                           GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);
    g_autoptr(VmmDescription) description = NULL;
    g_autofree char *obstacle = NULL;
    EstimateJob job = {.vmm = registry_get_vmm(guest, error),
                       .options = request->options,
                       .look_ms = request->look_ms};
    Estimate estimate;

    if (!job.vmm)
        return NULL;
    obstacle = movable_find_obstacle(job.vmm, record, &description);
    if (obstacle)
        return obstacle_to_json(obstacle);
    return look(context, &job, &estimate, error) ? estimate_to_json(&estimate) : NULL;
}

json_t *estimate_guest(AgentContext *context, const char *name, const EstimateRequest *request,
                       GError **error)
{
    g_autoptr(Guest) guest = registry_find(context->registry, name, error);
    json_t *answer;

    if (!guest || !registry_claim(guest, GUEST_OURS, "estimate", error))
        return NULL;
    answer = make_answer(context, guest, request, error);
    watch_release(context, guest);
    if (!answer) {
        g_prefix_error(error, "guest %s: estimate: ", name);
        return NULL;
    }
    json_object_set_new(answer, "guest", json_string(name));
    json_object_set_new(answer, "destination",
                        request->destination ? json_string(request->destination) : json_null());
    return answer;
}
