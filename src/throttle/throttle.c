#include "throttle/throttle.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/names.h"
#include "throttle/throttle_cgroup.h"

struct Throttle {
    ThrottleMode mode;
    CgroupLimit *cgroup; /* one of them, or none (THROTTLE_OFF) */
    DutyCycle *duty;
    DutyCycle *spare; /* THROTTLE_AUTO: taken where the control group fails later */
    double run_share;
    gboolean over; /* the pause has come */
    double least_share;
    double throttled_ms; /* up to since_ns */
    uint64_t since_ns;   /* 0: not slowed now */
};

static CgroupLimit *try_cgroup(Vmm *vmm, Guard *guard, GError **error)
{
    g_autoptr(GArray) threads = vmm_get_vcpu_threads(vmm, error);
    CgroupLimit *limit =
        threads ? cgroup_limit_new("", vmm_get_pid(vmm), threads, guard, error) : NULL;

    if (!limit)
        g_prefix_error(error, "the guest cannot be slowed by its control group: ");
    return limit;
}

static DutyCycle *try_turns(Vmm *vmm, Guard *guard, DutyJournal journal, gpointer user,
                            GError **error)
{
    if (vmm_check_turns(vmm, error))
        return duty_cycle_new(vmm, guard, journal, user);
    g_prefix_error(error, "the guest cannot be slowed by pausing it in turns: ");
    return NULL;
}

Throttle *throttle_new(Vmm *vmm, Guard *guard, ThrottleMode mode, DutyJournal journal,
                       gpointer user, GError **error)
{
    g_autoptr(Throttle) throttle = g_new0(Throttle, 1);
    g_autoptr(GError) problem = NULL, turns_problem = NULL;

    throttle->mode = mode;
    throttle->run_share = throttle->least_share = 1;
    if (mode == THROTTLE_AUTO || mode == THROTTLE_CGROUP)
        throttle->cgroup = try_cgroup(vmm, guard, &problem);
    if (problem && mode == THROTTLE_CGROUP) {
        g_propagate_error(error, g_steal_pointer(&problem));
        return NULL;
    }
    if (problem)
        log_debug("%s", problem->message);
    if (mode == THROTTLE_DUTY || mode == THROTTLE_AUTO)
        throttle->duty = try_turns(vmm, guard, journal, user, &turns_problem);
    if (turns_problem && !throttle->cgroup) {
        g_propagate_error(error, g_steal_pointer(&turns_problem));
        if (problem)
            g_prefix_error(error, "%s; ", problem->message);
        return NULL;
    }
    if (throttle->cgroup)
        throttle->spare = g_steal_pointer(&throttle->duty);
    return g_steal_pointer(&throttle);
}

/* Keeps the account of what was done. */
static void note_share(Throttle *throttle, double run_share)
{
    uint64_t now = clock_now_ns();

    if (throttle->since_ns)
        throttle->throttled_ms += clock_ns_to_ms(now - throttle->since_ns);
    throttle->since_ns = run_share < 1 ? now : 0;
    throttle->run_share = run_share;
    throttle->least_share = MIN(throttle->least_share, run_share);
}

static gboolean lift(Throttle *throttle, GError **error)
{
    if (throttle->cgroup)
        return cgroup_limit_lift(throttle->cgroup, error);
    return !throttle->duty || duty_cycle_end(throttle->duty, error);
}

static gboolean slow(Throttle *throttle, double run_share, GError **error)
{
    g_autoptr(GError) problem = NULL;

    if (!throttle->cgroup)
        return duty_cycle_set(throttle->duty, run_share, error);
    if (cgroup_limit_set(throttle->cgroup, run_share, &problem))
        return TRUE;
    if (!throttle->spare) {
        g_propagate_error(error, g_steal_pointer(&problem));
        return FALSE;
    }
    log_debug("%s; the guest is paused in turns from now on", problem->message);
    g_clear_pointer(&throttle->cgroup, cgroup_limit_free);
    throttle->duty = g_steal_pointer(&throttle->spare);
    return duty_cycle_set(throttle->duty, run_share, error);
}

static gboolean check_allowed(const Throttle *throttle, GError **error)
{
    if (throttle->mode == THROTTLE_OFF)
        error_set(error, VMFERRY_ERROR_REFUSED, "the guest is not to be slowed (throttle: off)");
    else if (throttle->over)
        error_set(error, VMFERRY_ERROR_REFUSED, "the guest is being paused, and cannot be slowed");
    else
        return TRUE;
    return FALSE;
}

gboolean throttle_set(Throttle *throttle, double run_share, GError **error)
{
    gboolean done;

    if (run_share >= 1) {
        note_share(throttle, 1);
        return lift(throttle, error);
    }
    if (!check_allowed(throttle, error))
        return FALSE;
    run_share = MAX(run_share, THROTTLE_LEAST_SHARE);
    done = slow(throttle, run_share, error);
    note_share(throttle, done ? run_share : 1);
    return done;
}

double throttle_get(const Throttle *throttle)
{
    if (throttle->run_share < 1 && throttle->duty && !duty_cycle_is_running(throttle->duty))
        return 1;
    return throttle->run_share;
}

gboolean throttle_end_for_pause(Throttle *throttle, uint64_t *ret_since_ns, GError **error)
{
    *ret_since_ns = 0;
    throttle->over = TRUE;
    note_share(throttle, 1);
    if (throttle->duty)
        duty_cycle_end_for_pause(throttle->duty, ret_since_ns);
    return !throttle->cgroup || cgroup_limit_lift(throttle->cgroup, error);
}

void throttle_get_report(const Throttle *throttle, double *ret_least_share,
                         double *ret_throttled_ms)
{
    *ret_least_share = throttle->least_share;
    *ret_throttled_ms = throttle->throttled_ms;
    if (throttle->since_ns)
        *ret_throttled_ms += clock_ns_to_ms(clock_now_ns() - throttle->since_ns);
}

const char *throttle_get_means(const Throttle *throttle)
{
    if (throttle->cgroup)
        return throttle_mode_name(THROTTLE_CGROUP);
    return throttle_mode_name(throttle->duty ? THROTTLE_DUTY : THROTTLE_OFF);
}

void throttle_free(Throttle *throttle)
{
    if (!throttle)
        return;
    cgroup_limit_free(throttle->cgroup);
    duty_cycle_free(throttle->duty);
    duty_cycle_free(throttle->spare);
    g_free(throttle);
}

static const char *const throttle_mode_names[] = {
    [THROTTLE_AUTO] = "auto",
    [THROTTLE_CGROUP] = "cgroup",
    [THROTTLE_DUTY] = "duty",
    [THROTTLE_OFF] = "off",
};
G_STATIC_ASSERT(G_N_ELEMENTS(throttle_mode_names) == THROTTLE_OFF + 1);
NAMES_DEFINE(throttle_mode, ThrottleMode, throttle_mode_names)
