/*
 * Bochs's clock and its timers
 *
 * ticksTotal counts instructions.  The TSC is that and tsc_adjust, which cannot be set below 0; the PM timer
 * follows from it alone; a TSC deadline is compared with it, not with the TSC.  So the clock is set to
 * the TSC where a deadline is armed, else to the latest time before the TSC at which the PM timer is
 * what the guest has read (it wraps in 4.7 s).
 *
 * pc_system.timer are timers in ticks.  virt_timer.timer are in microseconds, and have together one of
 * the former.  Numbers of timers are in the order in which Bochs 2.7 registers them, with one processor: 1 to
 * 3 of the processor, 4 of the virtual timers, 5 of those that follow real time; and of the virtual
 * ones 3 is the interval timer.  That is checked.
 */
#include "vmm/bochs/form_private.h"

#include "base/error.h"

#define MICROSECONDS 1000000u
#define PM_TIMER_HZ 3579545u
#define PM_TIMER_MASK 0xffffffu
#define VIRTUAL_TIMERS "4" /* among pc_system.timer */
#define MAX_VIRTUAL_USEC 0x7fffffffu

typedef unsigned __int128 Wide;

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

gboolean bochs_clock_choose(const StateNode *state, uint32_t ips, BochsClock *ret, GError **error)
{
    const StateNode *pm = state_find_device(state, "intel,piix4-pm", NULL);
    uint64_t rate = state_number_or(state, "clock.tsc_hz", ips), wanted;

    if (rate != ips) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "clock.tsc_hz: the guest's TSC counts %" G_GUINT64_FORMAT
                  " a second, this Bochs was started with %u",
                  rate, ips);
        return FALSE;
    }
    *ret = (BochsClock){.ips = ips, .now = state_number_or(state, "cpus[0].ia32_tsc", 0)};
    if (ret->now > G_MAXINT64) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "cpus[0].ia32_tsc: Bochs's clock takes 63 bits");
        return FALSE;
    }
    if (state_number_or(state, "cpus[0].ia32_tsc_deadline", 0) == 0 && pm &&
        state_get_number(pm, "pm_timer", &wanted))
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
    *ret = (BochsClock){.ips = shown->ips, .now = total + period - countdown};
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
        {"cpu0", "local_apic.timer_handle", 1},
    };
    uint64_t period, value;

    for (guint i = 0; now == 0 && i < G_N_ELEMENTS(expected); i++) {
        const BochsNode *device = bochs_form_find(shown, expected[i].device);

        if (!device || !bochs_tree_get(device, expected[i].path, &value, NULL) ||
            value != expected[i].value)
            now = 1;
    }
    if (now == 0 &&
        bochs_tree_get(bochs_form_find(shown, "pc_system"), "timer." VIRTUAL_TIMERS ".period",
                       &period, NULL) &&
        period == (uint64_t)shown->ips * 100 / MICROSECONDS)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "state can be loaded into a Bochs 2.7 with one processor that has not run yet only");
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
    arm(system, 4, clock->now, MAX(1, (uint64_t)((Wide)usec * clock->ips / MICROSECONDS)));
    ticks = find_first(system, bochs_form_find(shown, "pc_system"), clock->now, G_MAXUINT32);
    bochs_tree_set(system, "ticksTotal", BOCHS_NODE_DECIMAL, clock->now);
    bochs_tree_set(system, "currCountdown", BOCHS_NODE_DECIMAL, ticks);
    bochs_tree_set(system, "currCountdownPeriod", BOCHS_NODE_DECIMAL, ticks);
    return TRUE;
}
