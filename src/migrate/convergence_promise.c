#include "migrate/convergence.h"

#include <math.h>

#include "base/error.h"

gboolean convergence_check_promise(const ConvergencePromise *promise, uint64_t ram_bytes,
                                   double bytes_per_ms, double device_ms, GError **error)
{
    double least_downtime = ceil(MAX(device_ms, 1)), least_total;

    if (promise->max_downtime_ms < least_downtime) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "a pause of at most %u ms can't be promised: the device state and the switchover "
                  "alone take about %.0f ms (--max-downtime %.0f or more)",
                  promise->max_downtime_ms, least_downtime, least_downtime);
        return FALSE;
    }
    if (promise->downtime_cap_ms < promise->max_downtime_ms) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "the longest pause, %u ms, is shorter than the aim, %u ms (--downtime-cap %u or "
                  "more, or a smaller --max-downtime)",
                  promise->downtime_cap_ms, promise->max_downtime_ms, promise->max_downtime_ms);
        return FALSE;
    }
    if (promise->deadline_ms == 0)
        return TRUE;
    least_total = least_downtime + (bytes_per_ms > 0 ? ceil((double)ram_bytes / bytes_per_ms) : 0);
    if (promise->deadline_ms < least_total) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "%u ms are too short: %.0f MB of memory at %.1f MB/s, the device state and the "
                  "switchover take at least %.0f ms (--deadline %.0f or more, or more --bandwidth)",
                  promise->deadline_ms, (double)ram_bytes / 1e6, bytes_per_ms / 1e3, least_total,
                  least_total);
        return FALSE;
    }
    return TRUE;
}
