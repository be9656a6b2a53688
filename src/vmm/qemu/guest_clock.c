/* The guest's wall clock, set by its own agent. */
#include <stdlib.h>

#include "base/error.h"
#include "vmm/qemu/agent_channel.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/guest_agent.h"

/* The agent's own pages may have to be fetched first. */
#define SYNC_MS 10000
/* It runs hwclock in the guest, too. */
#define SET_MS 10000
#define GET_MS 3000
#define NEAR_NS G_GINT64_CONSTANT(2000000000)

static gint64 now_ns(void)
{
    return g_get_real_time() * 1000;
}

/* FALSE without *error*: it is not right. */
static gboolean is_right(GuestAgent *agent, GError **error)
{
    g_autoptr(json_t) time = guest_agent_execute(agent, "guest-get-time", NULL, GET_MS, error);
    gint64 said = json_integer_value(time), now = now_ns();

    return time && said > now - NEAR_NS && said < now + NEAR_NS;
}

/* The agent complains of a missing hardware clock, which it sets along, when it has set the clock that counts: whether
 * that is right now decides. */
static gboolean set_time(GuestAgent *agent, GError **error)
{
    g_autoptr(GError) problem = NULL;
    g_autoptr(json_t) done =
        guest_agent_execute(agent, "guest-set-time",
                            json_pack("{s:I}", "time", (json_int_t)now_ns()), SET_MS, &problem);

    if ((done || error_is(problem, VMFERRY_ERROR_FAILED)) &&
        is_right(agent, problem ? NULL : &problem))
        return TRUE;
    if (!problem)
        error_set(&problem, VMFERRY_ERROR_FAILED, "the clock in the guest is not right after that");
    g_propagate_error(error, g_steal_pointer(&problem));
    return FALSE;
}

gboolean qemu_set_clock(QemuVmm *qemu, gboolean (*gives_up)(gpointer user), gpointer user,
                        GError **error)
{
    int fd = qemu_connect_agent(qemu->pid, error);
    g_autoptr(GuestAgent) agent = fd >= 0 ? guest_agent_new(fd, gives_up, user) : NULL;

    if (!agent || !guest_agent_sync(agent, SYNC_MS, error) || !set_time(agent, error))
        return FALSE;
    /* Ticks of the RTC that a guest (Windows) has missed must not be made up for on top of that.  Machines without that
     * clock know no such command. */
    (void)qmp_run(qemu->qmp, "rtc-reset-reinjection", NULL, QMP_COMMAND_MS, NULL);
    return TRUE;
}
