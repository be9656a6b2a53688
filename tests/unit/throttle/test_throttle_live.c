/*
 * Turns with a real QEMU (TCG): a guest that does nothing but count gets the
 * share of work that it was given, and all of it afterwards, also where the
 * process that slowed it was killed.  Skipped where there is no QEMU.
 *
 * The guest is a boot sector that adds to a 64-bit number at 0x9000 for ever.
 * Its RAM is a file that this test maps, so the number can be read without
 * stopping anything.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "throttle/throttle.h"
#include "vmm/qemu/qemu.h"

#define QEMU "qemu-system-x86_64"
#define SKIPPED 77 /* for Meson */
#define RAM_BYTES (32u << 20)
#define NUMBER_AT 0x9000
#define SECOND_NS 1000000000ULL
#define AWAIT_NS (60 * SECOND_NS)
#define KILLS 4

static const uint8_t boot_code[] = {
    0xfa,                               /* cli */
    0x31, 0xc0,                         /* xor ax, ax */
    0x8e, 0xd8,                         /* mov ds, ax */
    0x66, 0x83, 0x06, 0x00, 0x90, 0x01, /* add dword [0x9000], 1 */
    0x66, 0x83, 0x16, 0x04, 0x90, 0x00, /* adc dword [0x9004], 0 */
    0xeb, 0xf2,                         /* jmp to the add */
};

static char *folder;
static Vmm *vmm;
static VmmIdentity *identity;
static const volatile uint64_t *number;

static char *in_folder(const char *name)
{
    return g_build_filename(folder, name, NULL);
}

static void write_boot_sector(const char *path)
{
    uint8_t sector[512] = {0};

    memcpy(sector, boot_code, sizeof boot_code);
    sector[510] = 0x55;
    sector[511] = 0xaa;
    assert_true(file_replace(path, sector, sizeof sector, FALSE, NULL));
}

static Vmm *launch(const char *boot, const char *ram)
{
    g_autofree char *backend =
        g_strdup_printf("memory-backend-file,id=ram,size=%u,mem-path=%s,share=on", RAM_BYTES, ram);
    g_autofree char *drive = g_strdup_printf("file=%s,format=raw,if=floppy,readonly=on", boot);
    char *words[] = {(char *)QEMU,
                     (char *)"-accel",
                     (char *)"tcg",
                     (char *)"-M",
                     (char *)"pc,memory-backend=ram",
                     (char *)"-m",
                     (char *)"32M",
                     (char *)"-object",
                     backend,
                     (char *)"-drive",
                     drive,
                     (char *)"-nodefaults",
                     (char *)"-display",
                     (char *)"none",
                     NULL};
    VmmLaunch job = {.name = "counter", .command_line = words, .directory = folder};
    g_autoptr(GError) error = NULL;
    Vmm *launched = qemu_launch(&job, &error);

    if (!launched)
        fail_msg("%s", error->message);
    return launched;
}

static void map_number(const char *ram)
{
    autofd int fd = open(ram, O_RDONLY | O_CLOEXEC);
    uint8_t *map = mmap(NULL, RAM_BYTES, PROT_READ, MAP_SHARED, fd, 0);

    assert_true(map != MAP_FAILED);
    number = (const volatile uint64_t *)(map + NUMBER_AT);
}

/* Its halves are not written at once: one that carried in between is read again. */
static uint64_t read_number(void)
{
    uint64_t first, second;

    do {
        first = *number;
        second = *number;
    } while (second < first || second - first > (1u << 30));
    return second;
}

static void await_count(uint64_t above)
{
    uint64_t end = clock_now_ns() + AWAIT_NS;

    while (read_number() <= above) {
        if (clock_now_ns() > end)
            fail_msg("the guest does not count");
        clock_sleep_ns(5000000);
    }
}

static int set_up(void **state)
{
    g_autofree char *boot = NULL, *ram = NULL;

    folder = g_dir_make_tmp("vmferry-live-XXXXXX", NULL);
    boot = in_folder("boot");
    ram = in_folder("ram");
    write_boot_sector(boot);
    vmm = launch(boot, ram);
    identity = vmm_get_identity(vmm);
    map_number(ram);
    await_count(0);
    return 0;
}

static int tear_down(void **state)
{
    static const char *const names[] = {"boot", "ram"};
    GDir *dir;
    const char *name;

    if (vmm)
        vmm_quit(vmm, NULL);
    else
        kill(identity->pid, SIGKILL);
    vmm_free(vmm);
    vmm_identity_free(identity);
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = in_folder(names[i]);

        unlink(path);
    }
    dir = g_dir_open(folder, 0, NULL);
    while ((name = g_dir_read_name(dir))) { /* the log */
        g_autofree char *path = in_folder(name);

        unlink(path);
    }
    g_dir_close(dir);
    rmdir(folder);
    g_free(folder);
    return 0;
}

/* Counts a second. */
static double measure_rate(void)
{
    uint64_t begin = clock_now_ns(), count = read_number();

    clock_sleep_ns(SECOND_NS);
    return (double)(read_number() - count) / (double)(clock_now_ns() - begin);
}

static double measure_at(Throttle *throttle, double run_share)
{
    g_autoptr(GError) error = NULL;

    if (!throttle_set(throttle, run_share, &error))
        fail_msg("%s", error->message);
    return measure_rate();
}

static void test_vcpu_threads(void **state)
{
    g_autoptr(GArray) threads = vmm_get_vcpu_threads(vmm, NULL);
    g_autofree char *task = NULL;

    assert_non_null(threads);
    assert_int_equal(threads->len, 1);
    task = g_strdup_printf("/proc/%d/task/%d", (int)identity->pid,
                           (int)g_array_index(threads, pid_t, 0));
    assert_true(g_file_test(task, G_FILE_TEST_IS_DIR));
    assert_int_not_equal(g_array_index(threads, pid_t, 0), identity->pid);
}

static void test_shares(void **state)
{
    g_autoptr(Guard) guard = guard_start(identity->pid, NULL, NULL);
    g_autoptr(Throttle) throttle = throttle_new(vmm, guard, THROTTLE_DUTY, NULL, NULL, NULL);
    double free_rate = 0, half = 0, fifth = 0;

    /* In turns, so that what else this machine does falls on all of them. */
    for (guint i = 0; i < 3; i++) {
        free_rate += measure_at(throttle, 1);
        half += measure_at(throttle, 0.5);
        fifth += measure_at(throttle, 0.2);
    }
    print_message("of its free work: %.2f at 0.5, %.2f at 0.2\n", half / free_rate,
                  fifth / free_rate);
    /* Wide: on a busy machine a guest that asks for less gets more of that. */
    assert_true(half / free_rate > 0.25 && half / free_rate < 0.85);
    assert_true(fifth / free_rate > 0.06 && fifth / free_rate < 0.5);
    assert_true(fifth < 0.8 * half);
    assert_true(measure_at(throttle, 1) > 0.4 * free_rate / 3);
}

static void test_hand_over(void **state)
{
    g_autoptr(Guard) guard = guard_start(identity->pid, NULL, NULL);
    g_autoptr(Throttle) throttle = throttle_new(vmm, guard, THROTTLE_DUTY, NULL, NULL, NULL);
    uint64_t since_ns, count;
    GuardAction resume;

    assert_true(throttle_set(throttle, 0.1, NULL));
    await_count(read_number() + 1000);
    assert_true(vmm_get_resume_action(vmm, &resume, NULL));
    assert_true(guard_arm(guard, GUARD_SLOT_GUEST, &resume, NULL));
    assert_true(throttle_end_for_pause(throttle, &since_ns, NULL));
    assert_true(vmm_pause(vmm, NULL, NULL));
    count = read_number();
    g_clear_pointer(&throttle, throttle_free);
    clock_sleep_ns(100000000);
    assert_int_equal(read_number(), count);
    assert_true(vmm_resume(vmm, NULL));
    await_count(count);
}

/* Slows the guest through a connection of its own until it is killed. */
static void slow_for_ever(int ready)
{
    Vmm *own = qemu_reattach(identity, NULL);
    Guard *guard = own ? guard_start(identity->pid, NULL, NULL) : NULL;
    Throttle *throttle = guard ? throttle_new(own, guard, THROTTLE_DUTY, NULL, NULL, NULL) : NULL;

    if (!throttle || !throttle_set(throttle, 0.05, NULL))
        _exit(1);
    clock_sleep_ns(200000000);
    (void)!write(ready, "x", 1);
    for (;;)
        pause();
}

/* A pause that falls into one of the cycle's own is undone with it. */
static gboolean pause_holds(Vmm *own)
{
    uint64_t count;

    if (!vmm_pause(own, NULL, NULL))
        return FALSE;
    clock_sleep_ns(SECOND_NS / 2);
    count = read_number();
    clock_sleep_ns(SECOND_NS / 2);
    return read_number() == count;
}

/* The same, and its user pauses the guest meanwhile. */
static void slow_a_paused_one(int ready)
{
    Vmm *own = qemu_reattach(identity, NULL);
    Guard *guard = own ? guard_start(identity->pid, NULL, NULL) : NULL;
    Throttle *throttle = guard ? throttle_new(own, guard, THROTTLE_DUTY, NULL, NULL, NULL) : NULL;

    if (!throttle || !throttle_set(throttle, 0.5, NULL))
        _exit(1);
    while (!pause_holds(own))
        ;
    (void)!write(ready, "x", 1);
    for (;;)
        pause();
}

static void kill_one_that_slows(void (*slow)(int ready), uint64_t after_ns)
{
    int ends[2];
    char ready;
    pid_t agent;

    assert_int_equal(pipe(ends), 0);
    agent = fork();
    if (agent == 0)
        slow(ends[1]);
    close(ends[1]);
    assert_int_equal(read(ends[0], &ready, 1), 1);
    close(ends[0]);
    clock_sleep_ns(after_ns); /* somewhere else in a turn each time */
    kill(agent, SIGKILL);
    assert_int_equal(waitpid(agent, NULL, 0), agent);
}

/* The guard has the connection for a moment. */
static void reattach(uint64_t end)
{
    while (!(vmm = qemu_reattach(identity, NULL)))
        assert_true(clock_now_ns() < end);
}

static void test_killed(void **state)
{
    double free_rate = measure_rate();
    uint64_t end = clock_now_ns() + AWAIT_NS;

    for (guint i = 0; i < KILLS; i++) {
        g_clear_pointer(&vmm, vmm_free); /* QEMU serves one client */
        kill_one_that_slows(slow_for_ever, i * 25000000ULL);
        while (measure_rate() < free_rate / 2)
            assert_true(clock_now_ns() < end);
        reattach(end);
    }
}

static void test_killed_while_its_user_has_it_paused(void **state)
{
    uint64_t count;
    VmmRunState run_state;

    g_clear_pointer(&vmm, vmm_free);
    kill_one_that_slows(slow_a_paused_one, 0);
    count = read_number();
    assert_true(measure_rate() == 0); /* time for a guard that would resume it */
    reattach(clock_now_ns() + AWAIT_NS);
    assert_true(vmm_get_run_state(vmm, &run_state, NULL));
    assert_int_equal(run_state, VMM_RUN_STATE_PAUSED);
    assert_int_equal(read_number(), count);
    assert_true(vmm_resume(vmm, NULL));
    await_count(count);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vcpu_threads),
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_hand_over),
        cmocka_unit_test(test_killed),
        cmocka_unit_test(test_killed_while_its_user_has_it_paused),
    };
    g_autofree char *program = g_find_program_in_path(QEMU);

    if (!program) {
        print_message("skipped: there is no " QEMU "\n");
        return SKIPPED;
    }
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
