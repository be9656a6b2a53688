#include "base/page.h"
#include "sim/workload.h"

#include <math.h>
#include <string.h>

#define MIB (1ULL << 20)
#define FRAME_BYTES 8.0 /* a page's share of frame headers */
#define SPARSE_BYTES 140.0
#define TEXT_BYTES 1400.0
/* What an idle guest writes: kernel data, a few pages of which are always the
 * same. */
#define IDLE_PAGES_PER_MS 0.4
#define IDLE_PAGES 400
#define SKEWED_WRITES 0.9
#define SKEWED_SET 0.1
#define MOST_HIT_SHARE 0.98

typedef struct {
    const char *name;
    guint set_mib;
    double bytes_per_second;
} Usual;

static const Usual usual[] = {
    [SIM_IDLE] = {"idle", 0, 0},
    [SIM_SPARSE] = {"sparse", 512, 20000 * PAGE_BYTES},
    [SIM_DENSE] = {"dense", 256, 60e6},
    [SIM_INTENSIVE] = {"intensive", 512, 300e6},
    [SIM_SEQUENTIAL] = {"sequential", 512, 300e6},
    [SIM_SKEWED] = {"skewed", 512, 200e6},
    [SIM_PHASES] = {"phases", 256, 400e6},
    [SIM_TEXT] = {"text", 256, 60e6},
    [SIM_READ_HEAVY] = {"read-heavy", 0, 0},
    [SIM_TRACE] = {"trace", 0, 0},
};

struct SimWorkload {
    SimWorkloadOptions options;
    guint pages, set_first, set_pages;
    double pages_per_ms;
    double now_ms;
    double owed, owed_idle; /* parts of pages */
    guint next;             /* of a sequence, or a trace's sync */
    guint64 random;
    /* A trace's: pages of each group, costs. */
    guint repeats;
    guint16 *active;
    double first_send_bytes, resend_bytes;
};

const char *sim_workload_name(SimWorkloadKind kind)
{
    return usual[kind].name;
}

gboolean sim_workload_from_name(const char *name, SimWorkloadKind *ret)
{
    for (guint i = 0; i < G_N_ELEMENTS(usual); i++)
        if (strcmp(usual[i].name, name) == 0) {
            *ret = (SimWorkloadKind)i;
            return TRUE;
        }
    return FALSE;
}

/* A round tells its mean: the first is that of first sendings. */
static void use_trace_costs(SimWorkload *workload)
{
    const GArray *rounds = workload->options.trace->rounds;
    double bytes = 0, pages = 0;

    workload->first_send_bytes = PAGE_BYTES + FRAME_BYTES;
    for (guint i = 0; i < rounds->len; i++) {
        const TraceRound *round = &g_array_index(rounds, TraceRound, i);

        if (i == 0 && round->wire_per_page > 0)
            workload->first_send_bytes = round->wire_per_page;
        else if (round->wire_per_page > 0) {
            bytes += round->sent_bytes;
            pages += round->sent_bytes / round->wire_per_page;
        }
    }
    workload->resend_bytes = pages > 0 ? bytes / pages : workload->first_send_bytes;
}

/* A dirty sync tells how many pages of a group were written, not which.  Taken: any
 * of those of the group that were ever seen dirty. */
static void use_trace(SimWorkload *workload)
{
    const Trace *trace = workload->options.trace;

    workload->pages = trace->group_count * GROUP_PAGES;
    workload->active = g_new0(guint16, MAX(trace->group_count, 1));
    for (guint i = 0; i < trace->entries->len; i++) {
        const TraceDirty *dirty = &g_array_index(trace->entries, TraceDirty, i);
        guint16 *active = &workload->active[dirty->group];

        *active = (guint16)CLAMP(*active + dirty->fresh, dirty->pages, GROUP_PAGES);
    }
    use_trace_costs(workload);
}

SimWorkload *sim_workload_new(const SimWorkloadOptions *options)
{
    SimWorkload *workload = g_new0(SimWorkload, 1);
    const Usual *kind = &usual[options->kind];
    uint64_t ram = options->ram_bytes ? options->ram_bytes : 640 * MIB;
    uint64_t set = options->set_bytes ? options->set_bytes : kind->set_mib * MIB;

    workload->options = *options;
    workload->random = options->seed * 0x9e3779b97f4a7c15ULL + 0x2545f4914f6cdd1dULL;
    if (options->kind == SIM_TRACE) {
        use_trace(workload);
        return workload;
    }
    if (workload->options.burst_ms <= 0)
        workload->options.burst_ms = 1000;
    if (workload->options.quiet_ms <= 0)
        workload->options.quiet_ms = 4000;
    workload->pages = (guint)MAX(ram / (guint)PAGE_BYTES, IDLE_PAGES);
    workload->set_pages = kind->set_mib ? (guint)MIN(set / (guint)PAGE_BYTES, workload->pages) : 0;
    workload->set_first = workload->pages - workload->set_pages;
    workload->pages_per_ms =
        (options->bytes_per_second > 0 ? options->bytes_per_second : kind->bytes_per_second) /
        PAGE_BYTES / 1000;
    return workload;
}

void sim_workload_free(SimWorkload *workload)
{
    if (!workload)
        return;
    g_free(workload->active);
    g_free(workload);
}

guint sim_workload_get_pages(const SimWorkload *workload)
{
    return workload->pages;
}

/* xorshift64*, below *limit*. */
static guint pick(SimWorkload *workload, guint limit)
{
    workload->random ^= workload->random >> 12;
    workload->random ^= workload->random << 25;
    workload->random ^= workload->random >> 27;
    return (guint)(((workload->random * 0x2545f4914f6cdd1dULL >> 32) * limit) >> 32);
}

static guint next_page(SimWorkload *workload)
{
    guint limit = workload->set_pages;

    switch (workload->options.kind) {
    case SIM_SEQUENTIAL:
        workload->next = (workload->next + 1) % workload->set_pages;
        return workload->next;
    case SIM_SKEWED:
        if (pick(workload, 1000) < SKEWED_WRITES * 1000)
            limit = MAX((guint)(limit * SKEWED_SET), 1);
        return pick(workload, limit);
    default:
        return pick(workload, limit);
    }
}

static gboolean is_quiet(const SimWorkload *workload)
{
    const SimWorkloadOptions *options = &workload->options;

    return options->kind == SIM_PHASES &&
           fmod(workload->now_ms, options->burst_ms + options->quiet_ms) >= options->burst_ms;
}

static void write_sync(SimWorkload *workload, const TraceSync *sync, SimWrite write, gpointer user)
{
    for (guint i = 0; i < sync->count; i++) {
        const TraceDirty *dirty =
            &g_array_index(workload->options.trace->entries, TraceDirty, sync->first + i);
        double active = workload->active[dirty->group];
        /* Some are hit twice: that is how many picks make as many pages. */
        guint picks = (guint)ceil(-active * log1p(-MIN(dirty->pages / active, MOST_HIT_SHARE)));

        for (guint k = 0; k < picks; k++)
            write(user, dirty->group * GROUP_PAGES + pick(workload, (guint)active));
    }
}

/* A guest that runs for longer than it was recorded does the same again. */
static void run_trace(SimWorkload *workload, SimWrite write, gpointer user)
{
    const GArray *syncs = workload->options.trace->syncs;
    double length = syncs->len > 0 ? g_array_index(syncs, TraceSync, syncs->len - 1).ms : 0;

    if (length < 1)
        return;
    for (;;) {
        const TraceSync *sync = &g_array_index(syncs, TraceSync, workload->next);

        if (workload->repeats * length + sync->ms > workload->now_ms)
            return;
        write_sync(workload, sync, write, user);
        if (++workload->next == syncs->len) {
            workload->next = 0;
            workload->repeats++;
        }
    }
}

void sim_workload_run(SimWorkload *workload, double ms, SimWrite write, gpointer user)
{
    workload->now_ms += ms;
    if (workload->options.kind == SIM_TRACE) {
        run_trace(workload, write, user);
        return;
    }
    for (workload->owed_idle += ms * IDLE_PAGES_PER_MS; workload->owed_idle >= 1;
         workload->owed_idle--)
        write(user, pick(workload, IDLE_PAGES));
    if (workload->set_pages == 0 || is_quiet(workload))
        return;
    for (workload->owed += ms * workload->pages_per_ms; workload->owed >= 1; workload->owed--)
        write(user, workload->set_first + next_page(workload));
}

gboolean sim_workload_is_populated(const SimWorkload *workload, guint page)
{
    const Trace *trace = workload->options.trace;

    return !trace || page % GROUP_PAGES < trace->pages[page / GROUP_PAGES];
}

gboolean sim_workload_is_hot(const SimWorkload *workload, guint page)
{
    return workload->set_pages > 0 && page >= workload->set_first;
}

double sim_workload_cost(const SimWorkload *workload, guint page, gboolean again)
{
    if (workload->options.kind == SIM_TRACE)
        return again ? workload->resend_bytes : workload->first_send_bytes;
    if (workload->options.kind == SIM_TEXT && sim_workload_is_hot(workload, page))
        return TEXT_BYTES;
    if (again && (workload->options.kind == SIM_SPARSE || !sim_workload_is_hot(workload, page)))
        return SPARSE_BYTES;
    return PAGE_BYTES + FRAME_BYTES;
}
