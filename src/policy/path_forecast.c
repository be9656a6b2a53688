#include "policy/path_forecast.h"

#include <math.h>

/* Connecting, TLS, HELLO, GUEST; then each of two rounds is confirmed. */
#define MOVE_ROUND_TRIPS 7.0
/* To READY, and START's way there. */
#define PAUSE_ROUND_TRIPS 1.5
/* Stopping, saving and loading a machine, and the size of what is saved. */
#define DEVICE_MS 12.0
#define DEVICE_BYTES 131072.0

double path_forecast_rate(const PathSample *samples, guint count)
{
    guint first = 0;
    double middle_ms;

    if (count < 2)
        return 0;
    middle_ms = (samples[0].ms + samples[count - 1].ms) / 2;
    while (first + 2 < count && samples[first].ms < middle_ms)
        first++;
    if (samples[count - 1].ms <= samples[first].ms ||
        samples[count - 1].carried_bytes <= samples[first].carried_bytes)
        return 0;
    return (double)(samples[count - 1].carried_bytes - samples[first].carried_bytes) /
           (samples[count - 1].ms - samples[first].ms) * 1000;
}

double path_forecast_pause_ms(double bytes_per_second, double round_trip_ms)
{
    if (bytes_per_second <= 0)
        return INFINITY;
    return DEVICE_MS + PAUSE_ROUND_TRIPS * round_trip_ms + DEVICE_BYTES / bytes_per_second * 1000;
}

double path_forecast_move_ms(double memory_bytes, double bytes_per_second, double round_trip_ms)
{
    if (bytes_per_second <= 0)
        return INFINITY;
    return memory_bytes / bytes_per_second * 1000 + MOVE_ROUND_TRIPS * round_trip_ms +
           path_forecast_pause_ms(bytes_per_second, round_trip_ms);
}
