/*
 * Bochs's clock and its timers
 *
 * ticksTotal counts instructions.  The TSC is that and tsc_adjust, which cannot be set below 0; the PM timer
 * follows from it alone; a TSC deadline is compared with it, not with the TSC.  So the clock is set to
 * the TSC where a deadline is armed, else to the latest time before the TSC at which the PM timer is
 * what the guest has read (it wraps in 4.7 s).
 *
 * pc_system.timer are timers in ticks.  virt_timer.timer are in microseconds, and have together one of
 * the former.  Numbers of timers are in the order in which Bochs 2.7 registers them: from 1 on three of each processor, of
 * which the first is its APIC's, then that of the virtual timers, and that of those that follow real time; and of the virtual
 * ones 3 is the interval timer.  That is checked.
 *
 * All processors have the clock, and so one TSC.  KVM tells those of several each at a moment of its own: what differs by less than
 * KVM itself takes for the same (a second) becomes the latest of them, since no TSC may go back.
 */
#include "vmm/bochs/form_private.h"

#include "base/error.h"

#define MICROSECONDS 1000000u
#define PM_TIMER_HZ 3579545u
#define PM_TIMER_MASK 0xffffffu
#define CPU_TIMERS 3u /* of each processor */
#define MAX_VIRTUAL_USEC 0x7fffffffu

typedef unsigned __int128 Wide;

guint bochs_clock_apic_timer(guint cpu)
{
    return 1 + CPU_TIMERS * cpu;
}

/* Of the virtual timers. */
static guint virtual_timer(guint cpus)
{
    return 1 + CPU_TIMERS * cpus;
}

uint64_t bochs_clock_ticks(const BochsClock *clock, int64_t ns)
{
    return ns <= 0 ? 0 : (uint64_t)((Wide)ns * clock->ips / 1000000000u);
}

int64_t bochs_clock_ns(const BochsClock *clock, uint64_t ticks)
{
    return (int64_t)((Wide)ticks * 1000000000u / clock->ips);
}

/* As Bochs computes it. */
uint64_t bochs_clock_usec(const BochsClock *clock)
{
    return (uint64_t)((double)(int64_t)clock->now / ((double)clock->ips / MICROSECONDS));
}

/* ---- choosing ---- */

static uint64_t pm_timer_at(uint64_t usec)
{
    return (uint64_t)((Wide)usec * PM_TIMER_HZ / MICROSECONDS) & PM_TIMER_MASK;
}

uint64_t bochs_clock_pm_timer(const BochsClock *clock)
{
    return pm_timer_at(bochs_clock_usec(clock));
}

/* The latest time up to *clock* at which the PM timer reads *wanted*; the clock as it is where there
 * was none. */
static void go_back_to(BochsClock *clock, uint64_t wanted)
{
    uint64_t usec = bochs_clock_usec(clock);
    uint64_t behind = (pm_timer_at(usec) - wanted) & PM_TIMER_MASK;
    uint64_t back = (behind * MICROSECONDS + PM_TIMER_HZ - 1) / PM_TIMER_HZ;

    if (back > 0 && back <= usec)
        clock->now = (uint64_t)((Wide)(usec - back + 1) * clock->ips / MICROSECONDS);
}

/* The TSC of all of them. */
static gboolean find_tsc(const StateNode *cpus, uint32_t ips, uint64_t *ret, GError **error)
{
    uint64_t earliest = G_MAXUINT64;

    *ret = 0;
    for (guint i = 0; i < state_length(cpus); i++) {
        uint64_t tsc = state_number_or(state_child(cpus, i), "ia32_tsc", 0);

        if (tsc > G_MAXINT64) {
            error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                      "cpus[%u].ia32_tsc: Bochs's clock takes 63 bits", i);
            return FALSE;
        }
        earliest = MIN(earliest, tsc);
        *ret = MAX(*ret, tsc);
    }
    if (*ret - earliest < ips)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "cpus: their ia32_tsc differ by %" G_GUINT64_FORMAT ", Bochs has one for all",
              *ret - earliest);
    return FALSE;
}

static gboolean has_deadline(const StateNode *cpus)
{
    for (guint i = 0; i < state_length(cpus); i++)
        if (state_number_or(state_child(cpus, i), "ia32_tsc_deadline", 0) != 0)
            return TRUE;
    return FALSE;
}

gboolean bochs_clock_choose(const StateNode *state, uint32_t ips, BochsClock *ret, GError **error)
{
    const StateNode *cpus = state_find(state, "cpus");
    const StateNode *pm = state_find_device(state, "intel,piix4-pm", NULL);
    uint64_t rate = state_number_or(state, "clock.tsc_hz", ips), wanted;

    if (rate != ips) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "clock.tsc_hz: the guest's TSC counts %" G_GUINT64_FORMAT
                  " a second, this Bochs was started with %u",
                  rate, ips);
        return FALSE;
    }
    *ret = (BochsClock){.ips = ips, .cpus = state_length(cpus)};
    if (!find_tsc(cpus, ips, &ret->tsc, error))
        return FALSE;
    ret->now = ret->tsc;
    if (!has_deadline(cpus) && pm && state_get_number(pm, "pm_timer", &wanted))
        go_back_to(ret, wanted);
    return TRUE;
}

gboolean bochs_clock_read(const BochsForm *shown, BochsClock *ret, GError **error)
{
    const BochsNode *system = bochs_form_find(shown, "pc_system");
    uint64_t total, countdown, period;

    if (!system) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "Bochs shows no pc_system");
        return FALSE;
    }
    if (!bochs_tree_get(system, "ticksTotal", &total, error) ||
        !bochs_tree_get(system, "currCountdown", &countdown, error) ||
        !bochs_tree_get(system, "currCountdownPeriod", &period, error))
        return FALSE;
    *ret = (BochsClock){
        .ips = shown->ips, .now = total + period - countdown, .cpus = bochs_form_count_cpus(shown)};
    return TRUE;
}

/* ---- setting ---- */

static void set_timer(BochsNode *device, uint64_t timer, const char *name, BochsNodeKind kind,
                      uint64_t value)
{
    g_autofree char *path = g_strdup_printf("timer.%" G_GUINT64_FORMAT ".%s", timer, name);

    bochs_tree_set(device, path, kind, value);
}

static void arm(BochsNode *device, uint64_t timer, uint64_t now, uint64_t after)
{
    set_timer(device, timer, "active", BOCHS_NODE_BOOLEAN, after > 0);
    if (after == 0)
        return;
    set_timer(device, timer, "continuous", BOCHS_NODE_BOOLEAN, FALSE);
    set_timer(device, timer, "period", BOCHS_NODE_DECIMAL, after);
    set_timer(device, timer, "timeToFire", BOCHS_NODE_DECIMAL, now + after);
}

void bochs_clock_arm(const BochsClock *clock, BochsForm *wanted, uint64_t timer, uint64_t ticks)
{
    arm(bochs_form_get(wanted, "pc_system"), timer, clock->now, ticks);
}

void bochs_clock_arm_virtual(const BochsClock *clock, BochsForm *wanted, guint timer, uint64_t usec)
{
    arm(bochs_form_get(wanted, "virt_timer"), timer, bochs_clock_usec(clock),
        MIN(usec, MAX_VIRTUAL_USEC));
}

/* All timers of a device, later by *shift*. */
static gboolean shift_timers(const BochsNode *shown, BochsNode *wanted, uint64_t shift,
                             GError **error)
{
    const BochsNode *timers = bochs_tree_find(shown, "timer");

    for (guint i = 0; timers && timers->children && i < timers->children->len; i++) {
        const BochsNode *timer = timers->children->pdata[i];
        g_autofree char *path = g_strdup_printf("timer.%s.timeToFire", timer->name);
        uint64_t value;

        if (!bochs_tree_get(shown, path, &value, error))
            return FALSE;
        bochs_tree_set(wanted, path, BOCHS_NODE_DECIMAL, value + shift);
    }
    return TRUE;
}

static gboolean are_apic_timers(const BochsForm *shown)
{
    guint cpus = bochs_form_count_cpus(shown);

    for (guint i = 0; i < cpus; i++) {
        uint64_t handle = 0;

        if (!bochs_tree_get(bochs_form_find(shown, bochs_form_cpu(i)), "local_apic.timer_handle",
                            &handle, NULL) ||
            handle != bochs_clock_apic_timer(i))
            return FALSE;
    }
    return TRUE;
}

static gboolean is_virtual_timer(const BochsForm *shown)
{
    g_autofree char *path =
        g_strdup_printf("timer.%u.period", virtual_timer(bochs_form_count_cpus(shown)));
    uint64_t period;

    return bochs_tree_get(bochs_form_find(shown, "pc_system"), path, &period, NULL) &&
           period == (uint64_t)shown->ips * 100 / MICROSECONDS;
}

/* It is one that has not run, and its timers are where they are expected. */
static gboolean check_timers(const BochsForm *shown, uint64_t now, GError **error)
{
    static const struct {
        const char *device, *path;
        uint64_t value;
    } expected[] = {
        {"virt_timer", "s.0.current_virtual_time", 0},
        {"virt_timer", "s.0.virtual_next_event_time", 100},
        {"virt_timer", "timer.2.period", 1000000},
        {"virt_timer", "timer.3.period", 100},
        {"virt_timer", "timer.3.active", 0},
        {"virt_timer", "timer.3.realtime", 0},
    };
    uint64_t value;

    for (guint i = 0; now == 0 && i < G_N_ELEMENTS(expected); i++) {
        const BochsNode *device = bochs_form_find(shown, expected[i].device);

        if (!device || !bochs_tree_get(device, expected[i].path, &value, NULL) ||
            value != expected[i].value)
            now = 1;
    }
    if (now == 0 && are_apic_timers(shown) && is_virtual_timer(shown))
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "state can be loaded into a Bochs 2.7 that has not run yet only");
    return FALSE;
}

static gboolean write_virtual(const BochsClock *clock, const BochsNode *shown, BochsNode *wanted,
                              GError **error)
{
    static const char *const moved[] = {"s.0.current_timers_time", "s.0.current_virtual_time",
                                        "s.1.current_timers_time", "s.1.current_virtual_time",
                                        "last_usec"};
    uint64_t usec = bochs_clock_usec(clock), value;

    for (guint i = 0; i < G_N_ELEMENTS(moved); i++) {
        if (!bochs_tree_get(shown, moved[i], &value, error))
            return FALSE;
        bochs_tree_set(wanted, moved[i], BOCHS_NODE_DECIMAL, value + usec);
    }
    return shift_timers(shown, wanted, usec, error);
}

gboolean bochs_clock_write(const BochsClock *clock, const BochsForm *shown, BochsForm *wanted,
                           GError **error)
{
    const BochsNode *system = bochs_form_find(shown, "pc_system");
    BochsClock before;

    if (!bochs_clock_read(shown, &before, error) || !check_timers(shown, before.now, error))
        return FALSE;
    return shift_timers(system, bochs_form_get(wanted, "pc_system"), clock->now, error) &&
           write_virtual(clock, bochs_form_find(shown, "virt_timer"),
                         bochs_form_get(wanted, "virt_timer"), error);
}

/* What was set, else what is shown. */
static uint64_t get_either(const BochsNode *wanted, const BochsNode *shown, const char *timer,
                           const char *name)
{
    g_autofree char *path = g_strdup_printf("timer.%s.%s", timer, name);
    uint64_t value = 0;

    if (!bochs_tree_get(wanted, path, &value, NULL))
        (void)bochs_tree_get(shown, path, &value, NULL);
    return value;
}

/* How long until the first active timer fires, at most *limit*. */
static uint64_t find_first(const BochsNode *wanted, const BochsNode *shown, uint64_t now,
                           uint64_t limit)
{
    const BochsNode *timers = bochs_tree_find(shown, "timer");

    for (guint i = 0; i < timers->children->len; i++) {
        const char *timer = ((BochsNode *)timers->children->pdata[i])->name;
        uint64_t at = get_either(wanted, shown, timer, "timeToFire");

        if (get_either(wanted, shown, timer, "active") &&
            !get_either(wanted, shown, timer, "realtime"))
            limit = MIN(limit, at > now ? at - now : 1);
    }
    return limit;
}

gboolean bochs_clock_finish(const BochsClock *clock, const BochsForm *shown, BochsForm *wanted,
                            GError **error)
{
    BochsNode *system = bochs_form_get(wanted, "pc_system");
    BochsNode *virtual = bochs_form_get(wanted, "virt_timer");
    const BochsNode *shown_virtual = bochs_form_find(shown, "virt_timer");
    uint64_t usec = find_first(virtual, shown_virtual, bochs_clock_usec(clock), MAX_VIRTUAL_USEC);
    uint64_t ticks;

    bochs_tree_set(virtual, "s.0.timers_next_event_time", BOCHS_NODE_DECIMAL, usec);
    bochs_tree_set(virtual, "s.0.virtual_next_event_time", BOCHS_NODE_DECIMAL, usec);
    arm(system, virtual_timer(clock->cpus), clock->now,
        MAX(1, (uint64_t)((Wide)usec * clock->ips / MICROSECONDS)));
    ticks = find_first(system, bochs_form_find(shown, "pc_system"), clock->now, G_MAXUINT32);
    bochs_tree_set(system, "ticksTotal", BOCHS_NODE_DECIMAL, clock->now);
    bochs_tree_set(system, "currCountdown", BOCHS_NODE_DECIMAL, ticks);
    bochs_tree_set(system, "currCountdownPeriod", BOCHS_NODE_DECIMAL, ticks);
    return TRUE;
}
