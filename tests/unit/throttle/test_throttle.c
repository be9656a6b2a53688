/* The throttle without QEMU: its numbers, control groups that are a folder
 * which looks like them, and turns with a VMM that only counts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "throttle/throttle.h"
#include "throttle/throttle_cgroup.h"
#include "throttle/throttle_duty.h"

#define AWAIT_NS 20000000000ULL

/* ---- the numbers of a turn ---- */

static void test_plan(void **state)
{
    for (guint percent = 1; percent < 100; percent++) {
        double share = percent / 100.0;
        DutyPlan plan = duty_plan(share);
        double period = plan.run_ms + plan.stop_ms;

        assert_true(plan.stop_ms <= DUTY_LONGEST_STOP_MS + 1e-9);
        assert_true(ABS(plan.run_ms / period - share) < 1e-9);
        if (share >= 0.1)
            assert_true(ABS(period - DUTY_PERIOD_MS) < 1e-9);
        else if (share >= 0.05)
            assert_true(ABS(plan.run_ms - DUTY_LEAST_RUN_MS) < 1e-9);
    }
}

/* Stops and runs that take longer than they should are made up for. */
static void test_account(void **state)
{
    static const double shares[] = {0.9, 0.5, 0.2, 0.05, 0.01, 0.002};

    for (guint i = 0; i < G_N_ELEMENTS(shares); i++) {
        g_autoptr(GRand) random = g_rand_new_with_seed(i);
        DutyAccount account = {0};
        double ran = 0, stood = 0;

        for (guint turn = 0; turn < 3000; turn++) {
            double run = duty_account_get_run_ms(&account, shares[i]) * (1 + g_rand_double(random));
            double stop = duty_account_note_run(&account, shares[i], run);

            assert_true(stop <= DUTY_LONGEST_STOP_MS);
            stop += 3 * g_rand_double(random);
            duty_account_note_stop(&account, stop);
            ran += run;
            stood += stop;
        }
        assert_true(ABS(ran / (ran + stood) / shares[i] - 1) < 0.15 || shares[i] < 0.02);
        assert_true(ran / (ran + stood) < shares[i] + 0.03);
    }
}

static void assert_limit(double cpus, double share, const char *text)
{
    g_autofree char *made = cgroup_limit_format(cpus, share);

    assert_string_equal(made, text);
}

static void test_limits(void **state)
{
    assert_limit(1, 0.5, "10000 20000");
    assert_limit(4, 0.25, "20000 20000");
    assert_limit(1, 0.05, "1000 20000");
    assert_limit(1, 0.01, "1000 100000"); /* the kernel's least quota */
    assert_limit(0.05, 0.01, "1000 1000000");
    assert_true(cgroup_limit_parse("max 100000", 3) == 3);
    assert_true(cgroup_limit_parse("50000 100000\n", 3) == 0.5);
    assert_true(cgroup_limit_parse("900000 100000", 3) == 3);
    assert_true(cgroup_limit_parse("", 1) < 0);
    assert_true(cgroup_limit_parse("max", 1) < 0);
    assert_true(cgroup_limit_parse("0 100000", 1) < 0);
    assert_true(cgroup_limit_parse("1 0", 1) < 0);
    assert_true(cgroup_limit_parse("1 2 3", 1) < 0);
}

/* ---- control groups ---- */

#define PID 4000

static char *root;

static char *at(const char *path)
{
    return g_strconcat(root, path, NULL);
}

static void put(const char *path, const char *text)
{
    g_autofree char *file = at(path);
    g_autofree char *folder = g_path_get_dirname(file);

    assert_int_equal(g_mkdir_with_parents(folder, 0700), 0);
    assert_true(g_file_set_contents(file, text, -1, NULL));
}

static void assert_holds(const char *path, const char *text)
{
    g_autofree char *file = at(path);
    g_autofree char *got = NULL;

    assert_true(g_file_get_contents(file, &got, NULL, NULL));
    assert_string_equal(got, text);
}

static void put_thread(guint thread, const char *group)
{
    g_autofree char *file = g_strdup_printf("/proc/%d/task/%u/cgroup", PID, thread);
    g_autofree char *text = g_strdup_printf("1:cpu:/x\n0::%s\n", group);

    put(file, text);
}

static void put_group(const char *group, const char *threads, const char *limit)
{
    g_autofree char *members = g_strconcat("/sys/fs/cgroup", group, "/cgroup.threads", NULL);
    g_autofree char *file = g_strconcat("/sys/fs/cgroup", group, "/cpu.max", NULL);

    put("/sys/fs/cgroup/cgroup.controllers", "cpu memory\n");
    put(members, threads);
    if (limit)
        put(file, limit);
}

static int make_root(void **state)
{
    root = g_dir_make_tmp("vmferry-cgroup-XXXXXX", NULL);
    return root ? 0 : -1;
}

static int remove_root(void **state)
{
    g_autofree char *command = g_strdup_printf("rm -rf '%s'", root);
    int status = system(command);

    g_clear_pointer(&root, g_free);
    return status;
}

static Guard *start_guard(void)
{
    Guard *guard = guard_start(getpid(), NULL, NULL);

    assert_non_null(guard);
    return guard;
}

static CgroupLimit *find_limit(Guard *guard, GError **error)
{
    static const pid_t vcpus[] = {4001, 4002};
    g_autoptr(GArray) threads = g_array_new(FALSE, FALSE, sizeof(pid_t));

    g_array_append_vals(threads, vcpus, 2);
    return cgroup_limit_new(root, PID, threads, guard, error);
}

/* As libvirt has it: a threaded group for each vCPU, one for the rest. */
static void put_libvirt(void)
{
    put_thread(4000, "/m/vm.scope/libvirt/emulator");
    put_thread(4001, "/m/vm.scope/libvirt/vcpu0");
    put_thread(4002, "/m/vm.scope/libvirt/vcpu1");
    put_group("/m/vm.scope/libvirt/emulator", "4000\n", "max 100000\n");
    put_group("/m/vm.scope/libvirt/vcpu0", "4001\n", "max 100000\n");
    put_group("/m/vm.scope/libvirt/vcpu1", "4002\n", "50000 100000\n");
}

#define LIBVIRT "/sys/fs/cgroup/m/vm.scope/libvirt"

static void test_groups_of_vcpus(void **state)
{
    g_autoptr(Guard) guard = start_guard();
    g_autoptr(CgroupLimit) limit = NULL;
    g_autoptr(GError) error = NULL;

    put_libvirt();
    limit = find_limit(guard, &error);
    assert_null(error);
    assert_holds(LIBVIRT "/vcpu1/cpu.max", "50000 100000");
    assert_true(cgroup_limit_set(limit, 0.5, NULL));
    assert_holds(LIBVIRT "/vcpu0/cpu.max", "10000 20000");
    assert_holds(LIBVIRT "/vcpu1/cpu.max", "5000 20000");
    assert_holds(LIBVIRT "/emulator/cpu.max", "max 100000\n");
    assert_true(cgroup_limit_set(limit, 0.25, NULL));
    assert_holds(LIBVIRT "/vcpu0/cpu.max", "5000 20000");
    assert_true(cgroup_limit_lift(limit, NULL));
    assert_holds(LIBVIRT "/vcpu0/cpu.max", "max 100000");
    assert_holds(LIBVIRT "/vcpu1/cpu.max", "50000 100000");
    /* Again, and lifted by freeing. */
    assert_true(cgroup_limit_set(limit, 0.1, NULL));
    g_clear_pointer(&limit, cgroup_limit_free);
    assert_holds(LIBVIRT "/vcpu1/cpu.max", "50000 100000");
}

/* In Linux each write gives a new quota at once: what is there already is not written. */
static void test_limit_is_written_once(void **state)
{
    g_autoptr(Guard) guard = start_guard();
    g_autoptr(CgroupLimit) limit = NULL;

    put_libvirt();
    limit = find_limit(guard, NULL);
    assert_non_null(limit);
    assert_true(cgroup_limit_set(limit, 0.5, NULL));
    put(LIBVIRT "/vcpu0/cpu.max", "seen");
    assert_true(cgroup_limit_set(limit, 0.5, NULL));
    assert_holds(LIBVIRT "/vcpu0/cpu.max", "seen");
    assert_true(cgroup_limit_set(limit, 0.25, NULL));
    assert_holds(LIBVIRT "/vcpu0/cpu.max", "5000 20000");
    /* After lifting it is there no more. */
    assert_true(cgroup_limit_lift(limit, NULL));
    assert_true(cgroup_limit_set(limit, 0.25, NULL));
    assert_holds(LIBVIRT "/vcpu0/cpu.max", "5000 20000");
}

static void test_group_of_the_process(void **state)
{
    g_autoptr(Guard) guard = start_guard();
    g_autoptr(CgroupLimit) limit = NULL;

    for (guint thread = 4000; thread <= 4002; thread++)
        put_thread(thread, "/vm.scope");
    put_group("/vm.scope", "4000\n4001\n4002\n", "max 100000\n");
    limit = find_limit(guard, NULL);
    assert_non_null(limit);
    assert_true(cgroup_limit_set(limit, 0.5, NULL));
    assert_holds("/sys/fs/cgroup/vm.scope/cpu.max", "20000 20000"); /* two vCPUs */
}

static void assert_no_limit(const char *words)
{
    g_autoptr(Guard) guard = start_guard();
    g_autoptr(GError) error = NULL;

    assert_null(find_limit(guard, &error));
    if (!strstr(error->message, words))
        fail_msg("\"%s\" does not hold \"%s\"", error->message, words);
}

static void test_groups_that_do_not_serve(void **state)
{
    assert_no_limit("no control groups of version 2");
    put("/sys/fs/cgroup/cgroup.controllers", "\n");
    assert_no_limit("/task/4001/cgroup");
    put_thread(4001, "/");
    put_thread(4002, "/");
    assert_no_limit("no control group for itself: it is in /");
    put_thread(4001, "/../other");
    assert_no_limit("no control group for itself");
    put("/proc/4000/task/4001/cgroup", "1:cpu:/x\n");
    assert_no_limit("names no control group of version 2");
    put_thread(4001, "/shared");
    put_thread(4002, "/shared");
    put_group("/shared", "77\n4001\n4002\n", "max 100000\n");
    assert_no_limit("shares its control group");
    put_group("/shared", "4001\n4002\n", NULL);
    put("/sys/fs/cgroup/shared/cpu.max", "nonsense\n");
    assert_no_limit("holds \"nonsense\"");
    put("/sys/fs/cgroup/shared/below/cgroup.threads", "");
    assert_no_limit("has groups below it");
    put_thread(4001, "/bare");
    put_thread(4002, "/bare");
    put_group("/bare", "4001\n4002\n", NULL);
    assert_no_limit("/bare/cpu.max");
}

/* The second group's file cannot be written any more: the first is set back. */
static void test_group_that_fails_later(void **state)
{
    g_autoptr(Guard) guard = start_guard();
    g_autoptr(CgroupLimit) limit = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree char *file = NULL;

    put_libvirt();
    limit = find_limit(guard, NULL);
    assert_non_null(limit);
    file = at(LIBVIRT "/vcpu1/cpu.max");
    assert_int_equal(unlink(file), 0);
    assert_false(cgroup_limit_set(limit, 0.5, &error));
    assert_true(error_is(error, VMFERRY_ERROR_NOT_FOUND));
    assert_holds(LIBVIRT "/vcpu0/cpu.max", "max 100000");
}

/* Whoever throttled is killed: the guard sets it back. */
static void test_killed_with_lowered_limits(void **state)
{
    uint64_t end = clock_now_ns() + AWAIT_NS;
    pid_t agent;

    put_libvirt();
    agent = fork();
    if (agent == 0) {
        Guard *guard = guard_start(getppid(), NULL, NULL);
        CgroupLimit *limit = guard ? find_limit(guard, NULL) : NULL;

        if (!limit || !cgroup_limit_set(limit, 0.5, NULL))
            _exit(1);
        put("/lowered", "");
        kill(getpid(), SIGKILL);
    }
    assert_int_equal(waitpid(agent, NULL, 0), agent);
    assert_holds("/lowered", "");
    for (;;) {
        g_autofree char *first = at(LIBVIRT "/vcpu0/cpu.max"), *text = NULL;
        g_autofree char *second = at(LIBVIRT "/vcpu1/cpu.max"), *other = NULL;

        assert_true(g_file_get_contents(first, &text, NULL, NULL));
        assert_true(g_file_get_contents(second, &other, NULL, NULL));
        if (strcmp(text, "max 100000") == 0 && strcmp(other, "50000 100000") == 0)
            return;
        assert_true(clock_now_ns() < end);
        clock_sleep_ns(5000000);
    }
}

/* ---- turns ---- */

typedef struct {
    Vmm vmm;
    GMutex lock; /* protects all below */
    VmmRunState state;
    guint pauses, resumes;
    guint resumes_to_fail;
    gboolean pause_fails;
    gboolean forbids_turns;
} FakeVmm;

static pid_t fake_get_pid(Vmm *vmm)
{
    return getpid();
}

static gboolean fake_get_run_state(Vmm *vmm, VmmRunState *ret, GError **error)
{
    FakeVmm *fake = (FakeVmm *)vmm;

    g_mutex_lock(&fake->lock);
    *ret = fake->state;
    g_mutex_unlock(&fake->lock);
    return TRUE;
}

static gboolean fake_pause(Vmm *vmm, gboolean *ret_was_running, GError **error)
{
    FakeVmm *fake = (FakeVmm *)vmm;
    gboolean fails;

    g_mutex_lock(&fake->lock);
    fails = fake->pause_fails;
    fake->pauses++;
    *ret_was_running = fake->state == VMM_RUN_STATE_RUNNING;
    if (fake->state == VMM_RUN_STATE_RUNNING)
        fake->state = VMM_RUN_STATE_PAUSED; /* also where its answer is lost */
    g_mutex_unlock(&fake->lock);
    if (fails)
        error_set(error, VMFERRY_ERROR_TIMEOUT, "QEMU gave no answer");
    return !fails;
}

static gboolean fake_resume(Vmm *vmm, GError **error)
{
    FakeVmm *fake = (FakeVmm *)vmm;
    gboolean fails;

    g_mutex_lock(&fake->lock);
    fails = fake->resumes_to_fail > 0;
    if (fails)
        fake->resumes_to_fail--;
    else
        fake->state = VMM_RUN_STATE_RUNNING;
    fake->resumes++;
    g_mutex_unlock(&fake->lock);
    if (fails)
        error_set(error, VMFERRY_ERROR_FAILED, "not now");
    return !fails;
}

static GArray *fake_get_vcpu_threads(Vmm *vmm, GError **error)
{
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "this VMM names no threads");
    return NULL;
}

static gboolean fake_check_turns(Vmm *vmm, GError **error)
{
    if (!((FakeVmm *)vmm)->forbids_turns)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "its disks would not bear that");
    return FALSE;
}

/* Nothing to do: the guard's process is this test's. */
static gboolean fake_get_resume_action(Vmm *vmm, GuardAction *ret, GError **error)
{
    guard_action_begin(ret, 1);
    return TRUE;
}

static const VmmOps fake_ops = {
    .kind = "fake",
    .get_pid = fake_get_pid,
    .get_run_state = fake_get_run_state,
    .get_vcpu_threads = fake_get_vcpu_threads,
    .check_turns = fake_check_turns,
    .pause = fake_pause,
    .resume = fake_resume,
    .get_resume_action = fake_get_resume_action,
};

static void fake_init(FakeVmm *fake)
{
    *fake = (FakeVmm){.vmm = {&fake_ops}, .state = VMM_RUN_STATE_RUNNING};
    g_mutex_init(&fake->lock);
}

static guint get_pauses(FakeVmm *fake)
{
    guint pauses;

    g_mutex_lock(&fake->lock);
    pauses = fake->pauses;
    g_mutex_unlock(&fake->lock);
    return pauses;
}

static void await_pauses(FakeVmm *fake, guint pauses)
{
    uint64_t end = clock_now_ns() + AWAIT_NS;

    while (get_pauses(fake) < pauses) {
        assert_true(clock_now_ns() < end);
        clock_sleep_ns(1000000);
    }
}

static void await_state(FakeVmm *fake, VmmRunState wanted)
{
    uint64_t end = clock_now_ns() + AWAIT_NS;
    VmmRunState state;

    do {
        assert_true(clock_now_ns() < end);
        fake_get_run_state(&fake->vmm, &state, NULL);
    } while (state != wanted);
}

static Throttle *make_throttle(FakeVmm *fake, Guard *guard)
{
    Throttle *throttle = throttle_new(&fake->vmm, guard, THROTTLE_DUTY, NULL, NULL, NULL);

    assert_non_null(throttle);
    return throttle;
}

static void test_turns_are_not_offered(void **state)
{
    FakeVmm fake;

    fake_init(&fake);
    fake.forbids_turns = TRUE;
    for (ThrottleMode mode = THROTTLE_AUTO; mode <= THROTTLE_OFF; mode++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(Throttle) throttle = throttle_new(&fake.vmm, NULL, mode, NULL, NULL, &error);

        if (mode == THROTTLE_OFF) {
            assert_non_null(throttle);
            continue;
        }
        assert_null(throttle);
        if (mode != THROTTLE_CGROUP)
            assert_non_null(strstr(error->message, "its disks would not bear that"));
        if (mode != THROTTLE_DUTY)
            assert_non_null(strstr(error->message, "this VMM names no threads"));
    }
    assert_int_equal(get_pauses(&fake), 0);
}

static void test_turns(void **state)
{
    FakeVmm fake;
    g_autoptr(Guard) guard = start_guard();
    g_autoptr(Throttle) throttle = NULL;
    double least, ms;

    fake_init(&fake);
    throttle = make_throttle(&fake, guard);
    assert_string_equal(throttle_get_means(throttle), "duty");
    assert_true(throttle_get(throttle) == 1);
    throttle_get_report(throttle, &least, &ms);
    assert_true(least == 1 && ms == 0);
    assert_true(throttle_set(throttle, 0.5, NULL));
    assert_true(throttle_get(throttle) == 0.5);
    await_pauses(&fake, 3);
    assert_true(throttle_set(throttle, 0.001, NULL));
    assert_true(throttle_get(throttle) == THROTTLE_LEAST_SHARE);
    await_pauses(&fake, 5);
    assert_true(throttle_set(throttle, 1, NULL));
    assert_int_equal(fake.state, VMM_RUN_STATE_RUNNING);
    assert_int_equal(fake.pauses, fake.resumes);
    throttle_get_report(throttle, &least, &ms);
    assert_true(least == THROTTLE_LEAST_SHARE && ms > 0);
    /* Lifted by freeing, too. */
    assert_true(throttle_set(throttle, 0.2, NULL));
    await_pauses(&fake, 7);
    g_clear_pointer(&throttle, throttle_free);
    assert_int_equal(fake.state, VMM_RUN_STATE_RUNNING);
    assert_int_equal(fake.pauses, fake.resumes);
}

/* The guest stands when the real pause comes: it is left so. */
static void test_end_for_pause(void **state)
{
    FakeVmm fake;
    g_autoptr(Guard) guard = start_guard();
    g_autoptr(Throttle) throttle = NULL;
    g_autoptr(GError) error = NULL;
    uint64_t before, since;
    guint resumes;

    fake_init(&fake);
    throttle = make_throttle(&fake, guard);
    before = clock_now_ns();
    assert_true(throttle_set(throttle, 0.02, NULL));
    await_pauses(&fake, 2);
    await_state(&fake, VMM_RUN_STATE_PAUSED);
    assert_true(throttle_end_for_pause(throttle, &since, NULL));
    assert_int_equal(fake.state, since ? VMM_RUN_STATE_PAUSED : VMM_RUN_STATE_RUNNING);
    assert_true(since == 0 || (since > before && since < clock_now_ns()));
    assert_true(vmm_pause(&fake.vmm, NULL, NULL));
    resumes = fake.resumes;
    assert_false(throttle_set(throttle, 0.5, &error));
    assert_true(error_is(error, VMFERRY_ERROR_REFUSED));
    g_clear_pointer(&throttle, throttle_free);
    assert_int_equal(fake.state, VMM_RUN_STATE_PAUSED);
    assert_int_equal(fake.resumes, resumes);
}

static void test_end_for_pause_of_a_free_guest(void **state)
{
    FakeVmm fake;
    g_autoptr(Guard) guard = start_guard();
    g_autoptr(Throttle) throttle = NULL;
    uint64_t since = 1;

    fake_init(&fake);
    throttle = make_throttle(&fake, guard);
    assert_true(throttle_end_for_pause(throttle, &since, NULL));
    assert_int_equal(since, 0);
    assert_int_equal(fake.pauses, 0);
}

static void test_resume_that_fails_at_first(void **state)
{
    FakeVmm fake;
    g_autoptr(Guard) guard = start_guard();
    g_autoptr(Throttle) throttle = NULL;

    fake_init(&fake);
    fake.resumes_to_fail = 2;
    throttle = make_throttle(&fake, guard);
    assert_true(throttle_set(throttle, 0.5, NULL));
    await_pauses(&fake, 2);
    assert_true(throttle_set(throttle, 1, NULL));
    assert_int_equal(fake.state, VMM_RUN_STATE_RUNNING);
    assert_int_equal(fake.resumes, fake.pauses + 2);
}

static void await_end(Throttle *throttle)
{
    uint64_t end = clock_now_ns() + AWAIT_NS;

    while (throttle_get(throttle) < 1) {
        assert_true(clock_now_ns() < end);
        clock_sleep_ns(1000000);
    }
}

/* The answer to a stop is lost: the guest runs on, and the next call says why. */
static void test_pause_that_fails(void **state)
{
    FakeVmm fake;
    g_autoptr(Guard) guard = start_guard();
    g_autoptr(Throttle) throttle = NULL;
    g_autoptr(GError) error = NULL;

    fake_init(&fake);
    fake.pause_fails = TRUE;
    throttle = make_throttle(&fake, guard);
    assert_true(throttle_set(throttle, 0.5, NULL));
    await_end(throttle);
    assert_int_equal(fake.state, VMM_RUN_STATE_RUNNING);
    assert_false(throttle_set(throttle, 0.4, &error));
    assert_non_null(strstr(error->message, "QEMU gave no answer"));
    fake.pause_fails = FALSE;
    assert_true(throttle_set(throttle, 0.4, NULL));
    await_pauses(&fake, 3);
    assert_true(throttle_set(throttle, 1, NULL));
    assert_int_equal(fake.state, VMM_RUN_STATE_RUNNING);
}

static void set_state(FakeVmm *fake, VmmRunState state)
{
    g_mutex_lock(&fake->lock);
    fake->state = state;
    g_mutex_unlock(&fake->lock);
}

/* A guest that shut down, or that somebody else paused, is not resumed. */
static void test_other_states(void **state)
{
    FakeVmm fake;
    g_autoptr(Guard) guard = start_guard();
    g_autoptr(Throttle) throttle = NULL;
    g_autoptr(GError) error = NULL;

    fake_init(&fake);
    set_state(&fake, VMM_RUN_STATE_PAUSED);
    throttle = make_throttle(&fake, guard);
    assert_true(throttle_set(throttle, 0.5, NULL));
    clock_sleep_ns(100000000); /* time for some turns; none may come */
    assert_int_equal(get_pauses(&fake), 0);
    assert_true(throttle_get(throttle) == 0.5);
    set_state(&fake, VMM_RUN_STATE_ENDED);
    await_end(throttle);
    assert_int_equal(fake.resumes, 0);
    assert_false(throttle_set(throttle, 1, &error));
    assert_non_null(strstr(error->message, "does not run any more (it is ended)"));
}

/* What a restarted agent would find on record. */
typedef struct {
    gint pausing; /* atomic */
    gint notes;   /* atomic */
} Journal;

static gboolean note_turns(gboolean pausing, gpointer user, GError **error)
{
    Journal *journal = user;

    g_atomic_int_set(&journal->pausing, pausing);
    g_atomic_int_inc(&journal->notes);
    return TRUE;
}

static void await_notes(Journal *journal, gint notes)
{
    uint64_t end = clock_now_ns() + AWAIT_NS;

    while (g_atomic_int_get(&journal->notes) < notes) {
        assert_true(clock_now_ns() < end);
        clock_sleep_ns(1000000);
    }
    assert_int_equal(g_atomic_int_get(&journal->notes), notes);
}

/* While its user pauses it nobody is told to resume it; and only turns pause it. */
static void test_journal(void **state)
{
    FakeVmm fake;
    g_autoptr(Guard) guard = start_guard();
    g_autoptr(Throttle) throttle = NULL;
    Journal journal = {0};

    fake_init(&fake);
    throttle = throttle_new(&fake.vmm, guard, THROTTLE_DUTY, note_turns, &journal, NULL);
    assert_non_null(throttle);
    assert_int_equal(journal.notes, 0);
    set_state(&fake, VMM_RUN_STATE_PAUSED);
    assert_true(throttle_set(throttle, 0.5, NULL));
    await_notes(&journal, 2);
    assert_false(journal.pausing);
    clock_sleep_ns(100000000); /* some turns, of which none writes again */
    await_notes(&journal, 2);
    set_state(&fake, VMM_RUN_STATE_RUNNING);
    await_pauses(&fake, 2);
    await_notes(&journal, 3);
    assert_true(journal.pausing);
    assert_true(throttle_set(throttle, 1, NULL));
    await_notes(&journal, 4);
    assert_false(journal.pausing);
}

static void test_modes(void **state)
{
    FakeVmm fake;
    g_autoptr(Guard) guard = start_guard();
    g_autoptr(Throttle) off = NULL, automatic = NULL;
    g_autoptr(GError) error = NULL;

    fake_init(&fake);
    off = throttle_new(&fake.vmm, guard, THROTTLE_OFF, NULL, NULL, NULL);
    assert_string_equal(throttle_get_means(off), "off");
    assert_true(throttle_set(off, 1, NULL));
    assert_false(throttle_set(off, 0.5, &error));
    assert_true(error_is(error, VMFERRY_ERROR_REFUSED));
    g_clear_error(&error);
    assert_null(throttle_new(&fake.vmm, guard, THROTTLE_CGROUP, NULL, NULL, &error));
    assert_non_null(
        strstr(error->message, "cannot be slowed by its control group: this VMM names no threads"));
    automatic = throttle_new(&fake.vmm, guard, THROTTLE_AUTO, NULL, NULL, NULL);
    assert_string_equal(throttle_get_means(automatic), "duty");
}

int main(void)
{
#define WITH_ROOT(test) cmocka_unit_test_setup_teardown(test, make_root, remove_root)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan),
        cmocka_unit_test(test_account),
        cmocka_unit_test(test_limits),
        WITH_ROOT(test_groups_of_vcpus),
        WITH_ROOT(test_limit_is_written_once),
        WITH_ROOT(test_group_of_the_process),
        WITH_ROOT(test_groups_that_do_not_serve),
        WITH_ROOT(test_group_that_fails_later),
        WITH_ROOT(test_killed_with_lowered_limits),
        cmocka_unit_test(test_turns_are_not_offered),
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_end_for_pause),
        cmocka_unit_test(test_end_for_pause_of_a_free_guest),
        cmocka_unit_test(test_resume_that_fails_at_first),
        cmocka_unit_test(test_pause_that_fails),
        cmocka_unit_test(test_journal),
        cmocka_unit_test(test_other_states),
        cmocka_unit_test(test_modes),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
