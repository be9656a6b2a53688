#include "timings.h"

#include <stdio.h>

void timings_add(Timings *timings, double begin_ms, double end_ms)
{
    pthread_mutex_lock(&timings->lock);
    timings->kept[(timings->count + 1) % TIMINGS_KEPT] =
        (Timing){(uint32_t)end_ms, (uint32_t)((end_ms - begin_ms) * 1000)};
    timings->count++;
    pthread_mutex_unlock(&timings->lock);
}

uint64_t timings_list(const Timings *timings, uint64_t from, uint64_t *ret_first, char *line,
                      size_t size)
{
    uint64_t last = timings->count;
    size_t used = 0;

    if (last >= TIMINGS_KEPT && from <= last - TIMINGS_KEPT + 1)
        from = last - TIMINGS_KEPT + 2; /* the oldest one may be written over now */
    *ret_first = from;
    for (line[0] = '\0'; from <= last; from++) {
        const Timing *timing = &timings->kept[from % TIMINGS_KEPT];
        int n = snprintf(line + used, size - used, "%u:%u,", timing->end_ms, timing->took_us);

        if ((size_t)n >= size - used) {
            line[used] = '\0';
            break;
        }
        used += (size_t)n;
    }
    return from;
}
