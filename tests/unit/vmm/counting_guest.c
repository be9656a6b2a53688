#include "counting_guest.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/page.h"
#include "base/process.h"
#include "guard/guard.h"
#include "vmm/bochs/folder.h"
#include "vmm/bochs/parameters.h"

/* again: mov bx, 1000h; next: mov ds, bx; inc dword [0]; add bx, 100h; cmp bx, 2000h; jb next;
 * jmp again */
static const uint8_t code[] = {0xbb, 0x00, 0x10, 0x8e, 0xdb, 0x66, 0xff, 0x06, 0x00, 0x00, 0x81,
                               0xc3, 0x00, 0x01, 0x81, 0xfb, 0x00, 0x20, 0x72, 0xef, 0xeb, 0xea};

char *directory;

BochsMachine make_machine(void)
{
    return (BochsMachine){
        .memory_bytes = MEMORY,
        .vcpus = 1,
        .cpu_model = "corei7_haswell_4770",
        .ips = 50000000,
        .start_time = 1000,
    };
}

Vmm *try_launch(const BochsMachine *machine, GError **error)
{
    const BochsLaunch launch = {.name = "guest", .directory = directory, .machine = machine};

    return bochs_launch(&launch, error);
}

/* Of a test that failed. */
pid_t last_pid;
uint64_t last_start_time;

Vmm *launch(void)
{
    const BochsMachine machine = make_machine();
    g_autoptr(GError) error = NULL;
    Vmm *vmm = try_launch(&machine, &error);

    if (!vmm)
        fail_msg("%s", error ? error->message : "no error");
    last_pid = vmm_get_pid(vmm);
    last_start_time = ((BochsVmm *)vmm)->process->start_time;
    return vmm;
}

int end_last(void **unused)
{
    if (last_pid)
        (void)process_kill(last_pid, last_start_time, SIGKILL, NULL);
    return 0;
}

BochsProcess *process_of(Vmm *vmm)
{
    return ((BochsVmm *)vmm)->process;
}

void end(Vmm *vmm)
{
    g_autoptr(GError) error = NULL;

    if (!vmm_quit(vmm, &error))
        fail_msg("%s", error->message);
    vmm_free(vmm);
}

GuestMemory *open_memory(Vmm *vmm)
{
    g_autoptr(VmmDescription) description = vmm_describe(vmm, NULL);
    g_autoptr(GError) error = NULL;
    GuestMemory *memory = guest_memory_open(vmm_get_pid(vmm), description->ram_regions, &error);

    if (!memory)
        fail_msg("%s", error->message);
    return memory;
}

void put_code(Vmm *vmm, GuestMemory *memory)
{
    const PageSpan span = {CODE_PAGE, 1};
    uint8_t page[PAGE_BYTES] = {0};
    g_autoptr(BochsNode) cpu = bochs_tree_new("cpu0");
    g_autoptr(GError) error = NULL;

    memcpy(page, code, sizeof code);
    assert_true(guest_memory_write(memory, 0, &span, 1, page, NULL));
    bochs_tree_set(cpu, "RIP", BOCHS_NODE_HEX, CODE_PAGE * PAGE_BYTES);
    bochs_tree_set(cpu, "CS.selector", BOCHS_NODE_HEX, 0);
    bochs_tree_set(cpu, "CS.base", BOCHS_NODE_HEX, 0);
    if (!bochs_restore(process_of(vmm)->console, process_of(vmm)->state_folder, cpu, &error))
        fail_msg("%s", error->message);
}

uint32_t read_count(GuestMemory *memory, guint page)
{
    const PageSpan span = {FIRST_PAGE + page, 1};
    uint8_t content[PAGE_BYTES];
    uint32_t count;

    assert_true(guest_memory_read(memory, 0, &span, 1, content, NULL));
    memcpy(&count, content, sizeof count);
    return count;
}

void await_count(GuestMemory *memory, uint32_t above)
{
    gint64 deadline = g_get_monotonic_time() + WAIT_MS * 1000;

    while (read_count(memory, COUNT_PAGES - 1) <= above) {
        assert_true(g_get_monotonic_time() < deadline);
        usleep(1000);
    }
}

void expect_state(Vmm *vmm, VmmRunState wanted)
{
    VmmRunState state;

    assert_true(vmm_get_run_state(vmm, &state, NULL));
    assert_string_equal(vmm_run_state_name(state), vmm_run_state_name(wanted));
}

char *make_image(void)
{
    char *image = g_build_filename(directory, "disk.raw", NULL);
    autofd int fd = open(image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, IMAGE_BYTES), 0);
    return image;
}

Vmm *launch_with_image(const char *image)
{
    const BochsDisk disk = {.path = image};
    BochsMachine machine = make_machine();
    g_autoptr(GError) error = NULL;
    Vmm *vmm;

    machine.disks = &disk;
    machine.disk_count = 1;
    vmm = try_launch(&machine, &error);
    if (!vmm)
        fail_msg("%s", error->message);
    last_pid = vmm_get_pid(vmm);
    last_start_time = process_of(vmm)->start_time;
    return vmm;
}

gboolean set_lock(int fd, short type, off_t byte)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    return fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

/* As a QEMU finds out that it must not write: it shares that with nobody. */
gboolean may_write(const char *image)
{
    autofd int fd = open(image, O_RDWR | O_CLOEXEC);

    return set_lock(fd, F_WRLCK, 101) && set_lock(fd, F_WRLCK, 201);
}

/* As after our death: nothing is said to Bochs. */
Vmm *come_back(Vmm *vmm)
{
    g_autoptr(VmmIdentity) identity = vmm_get_identity(vmm);
    g_autoptr(GError) error = NULL;

    vmm_free(vmm);
    vmm = bochs_driver.reattach(identity, &error);
    if (!vmm)
        fail_msg("%s", error->message);
    return vmm;
}

/* Its action, by the guard's own hand: as if we had died. */
void perform_resume(Vmm *vmm)
{
    GuardAction action;
    Guard *guard = guard_start(vmm_get_pid(vmm), NULL, NULL);

    assert_non_null(guard);
    assert_true(vmm_get_resume_action(vmm, &action, NULL));
    assert_true(guard_arm(guard, GUARD_SLOT_GUEST, &action, NULL));
    guard_leave(guard);
}

int begin(void **unused)
{
    directory = g_dir_make_tmp("vmferry-bochs-XXXXXX", NULL);
    return directory ? 0 : -1;
}

int clean_up(void **unused)
{
    g_autofree char *folder = g_build_filename(directory, "guest.bochs", NULL);

    bochs_folder_remove(folder);
    rmdir(directory);
    g_free(directory);
    return 0;
}
