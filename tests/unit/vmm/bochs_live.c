/*
 * A guest goes on in Bochs, by hand (not part of the suite)
 *
 *     bochs_live FOLDER IPS SECONDS SECONDS -- QEMU-COMMAND-LINE
 *
 * starts the machine, lets it run, stops and copies it into a Bochs of IPS instructions a second (the
 * guest's TSC frequency), and lets it run on there; what it sends through COM1 is in FOLDER/serial.
 * An attempt that meets an unlucky moment is made again after a millisecond.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/page.h"
#include "state/state_qemu.h"
#include "vmm/bochs/bochs.h"
#include "vmm/qemu/qemu.h"
#include "vmm/vmm_driver.h"

#define ATTEMPTS 200u

static void check(gboolean ok, GError *error, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "FAILED %s: %s\n", what, error ? error->message : "?");
    exit(1);
}

static Vmm *start_qemu(const char *folder, char **line)
{
    const VmmLaunch launch = {.name = "live", .command_line = line, .directory = folder};
    GError *error = NULL;
    Vmm *vmm = qemu_launch(&launch, &error);

    check(vmm != NULL, error, "launch QEMU");
    return vmm;
}

static Vmm *start_bochs(const char *folder, uint32_t ips, uint64_t bytes)
{
    g_autofree char *serial = g_build_filename(folder, "serial", NULL);
    const BochsMachine machine = {
        .memory_bytes = bytes,
        .vcpus = 1,
        .cpu_model = "corei7_haswell_4770",
        .ips = ips,
        .start_time = 1000,
        .serial_file = serial,
    };
    const BochsLaunch launch = {.name = "live", .directory = folder, .machine = &machine};
    GError *error = NULL;
    uint64_t begin = clock_now_ns();
    VmmDescription *description;
    Vmm *vmm = bochs_launch(&launch, &error);

    check(vmm != NULL, error, "launch Bochs");
    description = vmm_describe(vmm, NULL);
    check(vmm_open_incoming(vmm, "pc", description->ram_regions, &error), error, "open");
    vmm_description_free(description);
    printf("Bochs up: %.0f ms\n", clock_ns_to_ms(clock_now_ns() - begin));
    return vmm;
}

static GuestMemory *open_memory(Vmm *vmm, uint64_t bytes, guint *ret_region)
{
    VmmDescription *description = vmm_describe(vmm, NULL);
    GError *error = NULL;
    GuestMemory *memory = guest_memory_open(vmm_get_pid(vmm), description->ram_regions, &error);

    check(memory != NULL, error, "open memory");
    for (*ret_region = 0; *ret_region < memory->regions->len; ++*ret_region)
        if (guest_memory_get_region(memory, *ret_region)->pages * PAGE_BYTES == bytes)
            break;
    vmm_description_free(description);
    return memory;
}

static void copy(GuestMemory *from, guint here, GuestMemory *to, guint there, uint64_t bytes)
{
    const uint64_t step = 256;
    g_autofree uint8_t *buffer = g_malloc(step * PAGE_BYTES);
    GError *error = NULL;

    for (uint64_t page = 0; page < bytes / PAGE_BYTES; page += step) {
        const PageSpan span = {page, step};

        check(guest_memory_read(from, here, &span, 1, buffer, &error) &&
                  guest_memory_write(to, there, &span, 1, buffer, &error),
              error, "copy memory");
    }
}

/* FALSE: it was an unlucky moment. */
static gboolean try_to_load(Vmm *qemu, Vmm *bochs, GError **error)
{
    g_autoptr(GBytes) stream = vmm_save_device_state(qemu, VMM_SAVE_CHECKPOINT, error);
    g_autoptr(StateNode) state = NULL;
    g_autoptr(GBytes) encoded = NULL;
    uint64_t begin = clock_now_ns();

    check(stream != NULL, error ? *error : NULL, "save");
    state = state_from_qemu(g_bytes_get_data(stream, NULL), g_bytes_get_size(stream), error);
    check(state != NULL, error ? *error : NULL, "translate");
    encoded = state_encode(state);
    printf("translated: %.2f ms\n", clock_ns_to_ms(clock_now_ns() - begin));
    begin = clock_now_ns();
    if (!vmm_load_device_state(bochs, encoded, error))
        return FALSE;
    printf("loaded: %.1f ms\n", clock_ns_to_ms(clock_now_ns() - begin));
    return TRUE;
}

static void move(Vmm *qemu, Vmm *bochs)
{
    GError *error = NULL;

    for (guint i = 0; i < ATTEMPTS; i++) {
        check(vmm_pause(qemu, NULL, &error), error, "pause");
        if (try_to_load(qemu, bochs, &error))
            return;
        printf("again: %s\n", error->message);
        if (i + 1 < ATTEMPTS)
            g_clear_error(&error);
        check(vmm_resume(qemu, NULL), NULL, "resume");
        usleep(1000);
    }
    check(FALSE, error, "load");
}

int main(int argc, char **argv)
{
    VmmDescription *description;
    GuestMemory *from, *to;
    guint here, there;
    uint64_t bytes;
    Vmm *qemu, *bochs;

    if (argc < 7 || strcmp(argv[5], "--") != 0) {
        fprintf(stderr, "usage: bochs_live FOLDER IPS SECONDS SECONDS -- QEMU-COMMAND-LINE\n");
        return 2;
    }
    qemu = start_qemu(argv[1], argv + 6);
    description = vmm_describe(qemu, NULL);
    bytes = description->memory_bytes;
    bochs = start_bochs(argv[1], (uint32_t)strtoul(argv[2], NULL, 10), bytes);
    from = open_memory(qemu, bytes, &here);
    to = open_memory(bochs, bytes, &there);
    sleep((unsigned)atoi(argv[3]));
    move(qemu, bochs);
    copy(from, here, to, there, bytes);
    check(vmm_resume(bochs, NULL), NULL, "resume Bochs");
    sleep((unsigned)atoi(argv[4]));
    vmm_quit(qemu, NULL);
    vmm_quit(bochs, NULL);
    return 0;
}
