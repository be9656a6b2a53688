/* Traces: what is taken is in bounds, and comes back the same when written. */
#include <stdlib.h>
#include <string.h>

#include "base/page.h"
#include "policy/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_syncs(const Trace *trace)
{
    for (guint i = 0; i < trace->syncs->len; i++) {
        const TraceSync *sync = &g_array_index(trace->syncs, TraceSync, i);
        g_autofree char *line = NULL;

        if (sync->first > trace->entries->len || sync->count > trace->entries->len - sync->first)
            abort();
        line = trace_sync_line(
            sync->ms,
            sync->count > 0 ? &g_array_index(trace->entries, TraceDirty, sync->first) : NULL,
            sync->count);
        if (!line)
            abort();
    }
    for (guint i = 0; i < trace->entries->len; i++) {
        const TraceDirty *entry = &g_array_index(trace->entries, TraceDirty, i);

        if (entry->group >= trace->group_count || entry->pages > GROUP_PAGES ||
            entry->fresh > entry->pages)
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(Trace) trace = trace_parse((const char *)data, size, NULL);
    g_autoptr(Trace) again = NULL;
    g_autofree char *line = NULL;

    if (!trace)
        return 0;
    check_syncs(trace);
    line = trace_header_line(trace->pages, trace->group_count, trace->bytes_per_ms, trace->guest);
    again = line ? trace_parse(line, strlen(line), NULL) : NULL;
    if (!again || again->group_count != trace->group_count ||
        memcmp(again->pages, trace->pages, trace->group_count * sizeof *trace->pages) != 0)
        abort();
    return 0;
}
