#include "memory/guest_cost.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The kernel reports times in steps of some ms. */
#define LEAST_MS 80.0
#define LEAST_FAULTS 200u
/* No fault costs less or more; the second is what one waits for on a busy machine. */
#define LEAST_FAULT_MS 0.0005
#define MOST_FAULT_MS 0.2
#define FAULT_WEIGHT 0.5
/* From this use of its cores on, a guest has no time left; at FULL it has none at all. */
#define SLACK 0.8
#define FULL 0.98

/* Fields of stat, counted from the one behind the name. */
enum { FIELD_FAULTS = 7, FIELD_USER = 11, FIELD_SYSTEM = 12, FIELD_START = 19, FIELD_COUNT };

static double tick_ms(void)
{
    return 1000.0 / (double)sysconf(_SC_CLK_TCK);
}

static gboolean read_thread(pid_t pid, pid_t thread, VcpuTimes *times, double *ret_start_ms)
{
    g_autofree char *folder = g_strdup_printf("/proc/%d/task/%d", (int)pid, (int)thread);
    g_autofree char *stat_path = g_build_filename(folder, "stat", NULL);
    g_autofree char *wait_path = g_build_filename(folder, "schedstat", NULL);
    g_autofree char *stat = NULL, *wait = NULL;
    g_auto(GStrv) fields = NULL;
    unsigned long long waited_ns;
    const char *name_end;

    if (!g_file_get_contents(stat_path, &stat, NULL, NULL))
        return FALSE;
    name_end = strrchr(stat, ')');
    fields = g_strsplit(name_end && name_end[1] ? name_end + 2 : "", " ", -1);
    if (g_strv_length(fields) < FIELD_COUNT)
        return FALSE;
    times->faults += g_ascii_strtoull(fields[FIELD_FAULTS], NULL, 10);
    times->user_ms += (double)g_ascii_strtoull(fields[FIELD_USER], NULL, 10) * tick_ms();
    times->system_ms += (double)g_ascii_strtoull(fields[FIELD_SYSTEM], NULL, 10) * tick_ms();
    if (ret_start_ms)
        *ret_start_ms = (double)g_ascii_strtoull(fields[FIELD_START], NULL, 10) * tick_ms();
    /* Not every kernel has it. */
    if (g_file_get_contents(wait_path, &wait, NULL, NULL) &&
        sscanf(wait, "%*u %llu", &waited_ns) == 1)
        times->waited_ms += (double)waited_ns / 1e6;
    return TRUE;
}

/* A thread that has ended counts no more; differences are then not to be trusted. */
static VcpuTimes read_all(const GuestCost *cost, double *ret_start_ms)
{
    VcpuTimes times = {0};

    for (guint i = 0; cost->threads && i < cost->threads->len; i++)
        read_thread(cost->pid, g_array_index(cost->threads, pid_t, i), &times,
                    i == 0 ? ret_start_ms : NULL);
    return times;
}

static double get_uptime_ms(void)
{
    g_autofree char *text = NULL;

    return g_file_get_contents("/proc/uptime", &text, NULL, NULL) ? g_ascii_strtod(text, NULL) * 1e3
                                                                  : 0;
}

void guest_cost_start(GuestCost *cost, pid_t pid, GArray *threads, double now_ms)
{
    double started_ms = 0, age_ms;

    *cost = (GuestCost){.pid = pid, .threads = threads, .since_ms = now_ms};
    cost->since = read_all(cost, &started_ms);
    age_ms = get_uptime_ms() - started_ms;
    cost->usual_system = age_ms > 0 ? cost->since.system_ms / age_ms : 0;
}

void guest_cost_clear(GuestCost *cost)
{
    g_clear_pointer(&cost->threads, g_array_unref);
}

double guest_cost_find_fault_ms(const VcpuTimes *difference, double ms, double usual_system)
{
    double beyond = difference->system_ms - usual_system * ms;

    return CLAMP(beyond / (double)MAX(difference->faults, 1), LEAST_FAULT_MS, MOST_FAULT_MS);
}

double guest_cost_find_share(const VcpuTimes *difference, double ms, guint threads, double fault_ms,
                             uint64_t faults)
{
    double all_ms = ms * MAX(threads, 1);
    double busy = (difference->user_ms + difference->system_ms + difference->waited_ms) / all_ms;
    double felt = CLAMP((busy - SLACK) / (FULL - SLACK), 0, 1);

    return CLAMP((double)faults * fault_ms / all_ms * felt, 0, 1);
}

double guest_cost_note(GuestCost *cost, double now_ms, uint64_t faults)
{
    double ms = now_ms - cost->since_ms;
    VcpuTimes now, difference;

    if (!cost->threads || ms < LEAST_MS)
        return -1;
    now = read_all(cost, NULL);
    difference = (VcpuTimes){MAX(now.user_ms - cost->since.user_ms, 0),
                             MAX(now.system_ms - cost->since.system_ms, 0),
                             MAX(now.waited_ms - cost->since.waited_ms, 0),
                             now.faults > cost->since.faults ? now.faults - cost->since.faults : 0};
    if (difference.faults >= LEAST_FAULTS) {
        double fault_ms = guest_cost_find_fault_ms(&difference, ms, cost->usual_system);

        cost->fault_ms = cost->fault_ms > 0
                             ? cost->fault_ms + FAULT_WEIGHT * (fault_ms - cost->fault_ms)
                             : fault_ms;
    }
    cost->since = now;
    cost->since_ms = now_ms;
    return guest_cost_find_share(&difference, ms, cost->threads->len, cost->fault_ms, faults);
}
