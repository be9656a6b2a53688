/*
 * The child before exec(2): only system calls from here on
 *
 * The order matters: all files are opened before the limits (which may allow
 * none more), all that needs privileges is done before the user changes, the
 * inheritable set comes before the bounding set (which limits it), ambient
 * capabilities after the user (which clears them).
 */
#include "identity/spawn_steps.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FIRST_FREE_FD 3

/* Each returns 0, or an errno; *at* says where it was. */
typedef int (*StepFunction)(const Spawn *spawn, gint32 *at);

static int result(int returned)
{
    return returned < 0 ? errno : 0;
}

static int write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    int failed = fd < 0 ? errno : result((int)write(fd, text, strlen(text)));

    if (fd >= 0)
        close(fd);
    return failed;
}

static int begin_session(const Spawn *spawn, gint32 *at)
{
    sigset_t none;

    setsid();
    /* The agent may have blocked signals for a signalfd. */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    return 0;
}

static int enter_folder(const Spawn *spawn, gint32 *at)
{
    return result(chdir(spawn->working_directory));
}

static int set_streams(const Spawn *spawn, gint32 *at)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int input = fcntl(spawn->input ? spawn->input : null, F_DUPFD_CLOEXEC, FIRST_FREE_FD);
    int output = fcntl(spawn->output, F_DUPFD_CLOEXEC, FIRST_FREE_FD);
    int errors =
        fcntl(spawn->errors ? spawn->errors : spawn->output, F_DUPFD_CLOEXEC, FIRST_FREE_FD);

    if (null < 0 || dup2(input, STDIN_FILENO) < 0 || dup2(output, STDOUT_FILENO) < 0 ||
        dup2(errors, STDERR_FILENO) < 0)
        return errno;
    return result((int)syscall(SYS_close_range, FIRST_FREE_FD, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */));
}

/* What may be left out does not stop the others. */
static gboolean may_fail(const SpawnPlan *plan)
{
    return plan->allowed & CONFINEMENT_LIMITS;
}

static int set_limits(const Spawn *spawn, gint32 *at)
{
    const SpawnPlan *plan = spawn->plan;

    for (*at = 0; plan->limits && *at < RLIM_NLIMITS; ++*at) {
        const IdentityLimit *limit = &plan->limits[*at];
        struct rlimit value = {limit->soft, limit->hard};

        if (limit->told && setrlimit((__rlimit_resource_t)*at, &value) < 0 && !may_fail(plan))
            return errno;
    }
    return 0;
}

static int set_nice(const Spawn *spawn, gint32 *at)
{
    const SpawnPlan *plan = spawn->plan;

    if (!plan->set_nice || setpriority(PRIO_PROCESS, 0, plan->wanted->nice) == 0)
        return 0;
    return may_fail(plan) ? 0 : errno;
}

static int set_oom_score(const Spawn *spawn, gint32 *at)
{
    const SpawnPlan *plan = spawn->plan;
    int failed = plan->oom_score ? write_file("/proc/self/oom_score_adj", plan->oom_score) : 0;

    return may_fail(plan) ? 0 : failed;
}

static int enter_cgroups(const Spawn *spawn, gint32 *at)
{
    const GArray *fds = spawn->plan->cgroup_fds;

    for (*at = 0; *at < (gint32)fds->len; ++*at)
        if (write(g_array_index(fds, int, *at), "0", 1) < 0)
            return errno;
    return 0;
}

static int enter_netns(const Spawn *spawn, gint32 *at)
{
    int fd = spawn->plan->netns_fd;

    return fd >= 0 ? result(setns(fd, CLONE_NEWNET)) : 0;
}

static int set_label(const Spawn *spawn, gint32 *at)
{
    const SpawnPlan *plan = spawn->plan;

    return plan->label_file ? write_file(plan->label_file, plan->label_text) : 0;
}

static int write_capabilities(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];

    for (int i = 0; i < 2; i++)
        data[i] = (struct __user_cap_data_struct){(uint32_t)(effective >> 32 * i),
                                                  (uint32_t)(permitted >> 32 * i),
                                                  (uint32_t)(inheritable >> 32 * i)};
    return result((int)syscall(SYS_capset, &header, data));
}

static int read_permitted(uint64_t *ret)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];

    if (syscall(SYS_capget, &header, data) < 0)
        return errno;
    *ret = data[0].permitted | (uint64_t)data[1].permitted << 32;
    return 0;
}

static int set_inheritable(const Spawn *spawn, gint32 *at)
{
    const SpawnPlan *plan = spawn->plan;
    uint64_t permitted = 0;
    int failed = plan->set_capabilities ? read_permitted(&permitted) : 0;

    if (!plan->set_capabilities || failed)
        return failed;
    return write_capabilities(permitted, permitted, plan->capabilities.inheritable);
}

static int drop_bounding(const Spawn *spawn, gint32 *at)
{
    const SpawnPlan *plan = spawn->plan;

    for (*at = 0; plan->set_capabilities && *at <= (gint32)plan->last_capability; ++*at)
        if (!(plan->capabilities.bounding >> *at & 1) &&
            prctl(PR_CAPBSET_READ, (unsigned long)*at, 0, 0, 0) == 1 &&
            prctl(PR_CAPBSET_DROP, (unsigned long)*at, 0, 0, 0) < 0)
            return errno;
    return 0;
}

/* By the bare calls: the C library's would look for the agent's other threads. */
static int set_groups(const Spawn *spawn, gint32 *at)
{
    const SpawnPlan *plan = spawn->plan;

    if (!plan->set_owner)
        return 0;
    if (syscall(SYS_setgroups, (size_t)plan->groups->len, plan->groups->data) < 0)
        return errno;
    return result((int)syscall(SYS_setresgid, plan->gid, plan->gid, plan->gid));
}

/* What is to become ambient has to be kept over the change of the user. */
static int set_user(const Spawn *spawn, gint32 *at)
{
    const SpawnPlan *plan = spawn->plan;

    if (!plan->set_owner)
        return 0;
    if (plan->capabilities.ambient && prctl(PR_SET_KEEPCAPS, 1UL, 0, 0, 0) < 0)
        return errno;
    return result((int)syscall(SYS_setresuid, plan->uid, plan->uid, plan->uid));
}

static int raise_ambient(const Spawn *spawn, gint32 *at)
{
    const SpawnPlan *plan = spawn->plan;
    const IdentityCapabilities *wanted = &plan->capabilities;
    int failed;

    if (!plan->set_capabilities || !wanted->ambient)
        return 0;
    failed = write_capabilities(wanted->ambient, wanted->ambient, wanted->inheritable);
    for (*at = 0; !failed && *at <= (gint32)plan->last_capability; ++*at)
        if (wanted->ambient >> *at & 1 && prctl(PR_CAP_AMBIENT, (unsigned long)PR_CAP_AMBIENT_RAISE,
                                                (unsigned long)*at, 0, 0) < 0)
            return errno;
    return failed;
}

static int set_no_new_privs(const Spawn *spawn, gint32 *at)
{
    const ProcessIdentity *wanted = spawn->plan->wanted;

    return wanted && wanted->no_new_privs ? result(prctl(PR_SET_NO_NEW_PRIVS, 1UL, 0, 0, 0)) : 0;
}

static int execute(const Spawn *spawn, gint32 *at)
{
    execve(spawn->program, spawn->argv, spawn->environment);
    return errno;
}

static const struct {
    const char *name;
    StepFunction run;
} steps[] = {
    {"begin a session", begin_session},
    {"enter its working folder", enter_folder},
    {"set its standard streams", set_streams},
    {"set its nice value", set_nice},
    {"set its OOM score", set_oom_score},
    {"enter its control group", enter_cgroups},
    {"enter its network namespace", enter_netns},
    {"set its security label", set_label},
    {"set its resource limit", set_limits},
    {"set its inheritable capabilities", set_inheritable},
    {"drop a capability from its bounding set", drop_bounding},
    {"set its groups", set_groups},
    {"set its user", set_user},
    {"set its ambient capabilities", raise_ambient},
    {"set no_new_privs", set_no_new_privs},
    {"execute", execute},
};

static void tell(int pipe, gint32 step, gint32 value, gint32 error)
{
    SpawnNote note = {step, value, error};

    (void)!write(pipe, &note, sizeof note);
}

/* The parent's death is no leave. */
static gboolean has_leave(int pipe)
{
    ssize_t got;
    char leave;

    do
        got = read(pipe, &leave, 1);
    while (got < 0 && errno == EINTR);
    return got == 1;
}

void spawn_child_run(const Spawn *spawn, const SpawnPipes *pipes)
{
    int pipe = pipes->notes[1];

    close(pipes->leave[1]);
    tell(pipe, SPAWN_STEP_PID, getpid(), 0);
    if (!has_leave(pipes->leave[0]))
        _exit(127);
    for (guint i = 0; i < G_N_ELEMENTS(steps); i++) {
        gint32 at = 0;
        int failed = steps[i].run(spawn, &at);

        if (failed) {
            tell(pipe, (gint32)i, at, failed);
            break;
        }
    }
    _exit(127);
}

/* ---- in the parent ---- */

char *spawn_step_describe(const Spawn *spawn, gint32 step, gint32 value)
{
    StepFunction run;

    if (step < 0 || step >= (gint32)G_N_ELEMENTS(steps))
        return g_strdup("start");
    run = steps[step].run;
    if (run == execute)
        return g_strdup_printf("execute %s", spawn->program);
    if (run == enter_folder)
        return g_strdup_printf("enter its working folder %s", spawn->working_directory);
    if (run == set_limits && identity_limit_name((guint)value))
        return g_strdup_printf("set its resource limit \"%s\"", identity_limit_name((guint)value));
    if ((run == drop_bounding || run == raise_ambient) && value >= 0 && value < 64) {
        g_autofree char *name = identity_capability_names(1ULL << value);

        return g_strdup_printf("%s (%s)", steps[step].name, name);
    }
    return g_strdup(steps[step].name);
}
