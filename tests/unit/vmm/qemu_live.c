/*
 * A whole move by hand, on a real QEMU (not part of the suite)
 *
 *     qemu_live FOLDER SECONDS -- QEMU-COMMAND-LINE
 *
 * starts the machine, lets it run, prints its description, checks main RAM
 * against what QEMU itself shows, moves it into a second QEMU on this host
 * (RAM by process_vm_*), lets it run on, and prints the times taken.  Each
 * "SIDE" in the command line becomes "a" for the first QEMU and "b" for the
 * second, so that both can have files of their own.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "vmm/qemu/qemu.h"
#include "vmm/qemu/qmp.h"

static void check(gboolean ok, GError *error, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "FAILED %s: %s\n", what, error ? error->message : "?");
    exit(1);
}

static double since(uint64_t start)
{
    return clock_ns_to_ms(clock_now_ns() - start);
}

static gboolean transfer(pid_t pid, uint64_t address, void *buffer, size_t length, gboolean put)
{
    char *at = buffer;

    while (length > 0) {
        struct iovec local = {at, length}, remote = {(void *)(uintptr_t)address, length};
        ssize_t n = put ? process_vm_writev(pid, &local, 1, &remote, 1, 0)
                        : process_vm_readv(pid, &local, 1, &remote, 1, 0);

        if (n <= 0)
            return FALSE;
        at += n;
        address += (uint64_t)n;
        length -= (size_t)n;
    }
    return TRUE;
}

static RamRegion *find(VmmDescription *description, const char *name)
{
    for (guint i = 0; i < description->ram_regions->len; i++) {
        RamRegion *region = description->ram_regions->pdata[i];

        if (strcmp(region->name, name) == 0)
            return region;
    }
    return NULL;
}

static void print(const VmmDescription *d)
{
    printf("%s %s %s %s vcpus=%u memory=%llu MiB\n", d->kind, d->version, d->machine,
           d->accelerator, d->vcpus, (unsigned long long)d->memory_bytes >> 20);
    for (guint i = 0; i < d->ram_regions->len; i++) {
        RamRegion *region = d->ram_regions->pdata[i];

        printf("  %-36s 0x%012llx %10llu\n", region->name, (unsigned long long)region->host_address,
               (unsigned long long)region->bytes);
    }
}

static void copy_ram(Vmm *from, VmmDescription *source, Vmm *to, VmmDescription *destination)
{
    for (guint i = 0; i < source->ram_regions->len; i++) {
        RamRegion *region = source->ram_regions->pdata[i];
        RamRegion *other = find(destination, region->name);
        g_autofree char *buffer = g_malloc(region->bytes);

        if (!other || other->bytes != region->bytes) {
            fprintf(stderr, "FAILED region %s differs: %llu\n", region->name,
                    other ? (unsigned long long)other->bytes : 0ull);
            exit(1);
        }
        if (!transfer(vmm_get_pid(from), region->host_address, buffer, region->bytes, FALSE) ||
            !transfer(vmm_get_pid(to), other->host_address, buffer, region->bytes, TRUE)) {
            fprintf(stderr, "FAILED copy of %s: %s\n", region->name, g_strerror(errno));
            exit(1);
        }
    }
}

static Vmm *start(const char *folder, char **argv, const char *side, gboolean incoming)
{
    g_autofree char *name = g_strdup_printf("live-%s", side);
    g_auto(GStrv) command_line = g_strdupv(argv);
    VmmLaunch launch = {.name = name, .directory = folder, .incoming = incoming};
    GError *error = NULL;
    uint64_t begin = clock_now_ns();
    Vmm *vmm;

    for (guint i = 0; command_line[i]; i++) {
        GString *word = g_string_new(command_line[i]);

        g_string_replace(word, "SIDE", side, 0);
        g_free(command_line[i]);
        command_line[i] = g_string_free(word, FALSE);
    }
    launch.command_line = command_line;
    vmm = qemu_launch(&launch, &error);
    check(vmm != NULL, error, "launch");
    printf("launch %s: %.1f ms, pid %d\n", side, since(begin), (int)vmm_get_pid(vmm));
    return vmm;
}

static VmmDescription *describe(Vmm *vmm)
{
    GError *error = NULL;
    uint64_t begin = clock_now_ns();
    VmmDescription *description = vmm_describe(vmm, &error);

    check(description != NULL, error, "describe");
    printf("describe: %.1f ms\n", since(begin));
    return description;
}

static void expect_state(Vmm *vmm, VmmRunState wanted)
{
    GError *error = NULL;
    VmmRunState state;

    check(vmm_get_run_state(vmm, &state, &error), error, "run state");
    if (state == wanted)
        return;
    fprintf(stderr, "FAILED state is %s, not %s\n", vmm_run_state_name(state),
            vmm_run_state_name(wanted));
    exit(1);
}

static void move(Vmm *a, Vmm *b)
{
    g_autoptr(VmmDescription) source = describe(a);
    g_autoptr(VmmDescription) destination = NULL;
    g_autoptr(GBytes) state = NULL;
    GError *error = NULL;
    uint64_t begin;

    print(source);
    begin = clock_now_ns();
    check(vmm_open_incoming(b, source->machine, source->ram_regions, &error), error, "open");
    printf("open: %.2f ms\n", since(begin));
    destination = describe(b);
    check(vmm_check_movable(a, &error), error, "check movable");
    begin = clock_now_ns();
    check(vmm_pause(a, NULL, &error), error, "pause");
    printf("pause: %.2f ms\n", since(begin));
    begin = clock_now_ns();
    state = vmm_save_device_state(a, VMM_SAVE_SWITCHOVER, &error);
    check(state != NULL, error, "save");
    printf("save: %.2f ms, %zu bytes\n", since(begin), g_bytes_get_size(state));
    copy_ram(a, source, b, destination);
    begin = clock_now_ns();
    check(vmm_load_device_state(b, state, &error), error, "load");
    printf("load: %.2f ms\n", since(begin));
    expect_state(b, VMM_RUN_STATE_PAUSED);
    begin = clock_now_ns();
    check(vmm_resume(b, &error), error, "resume");
    printf("resume: %.2f ms\n", since(begin));
    expect_state(b, VMM_RUN_STATE_RUNNING);
    check(vmm_announce(b, &error), error, "announce");
}

int main(int argc, char **argv)
{
    GError *error = NULL;
    Vmm *a, *b;
    uint64_t begin;

    if (argc < 5 || strcmp(argv[3], "--") != 0)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    a = start(argv[1], argv + 4, "a", FALSE);
    sleep((unsigned)atoi(argv[2]));
    b = start(argv[1], argv + 4, "b", TRUE);
    expect_state(b, VMM_RUN_STATE_INCOMING);
    move(a, b);
    begin = clock_now_ns();
    check(vmm_quit(a, &error), error, "quit");
    printf("quit a: %.1f ms\n", since(begin));
    expect_state(a, VMM_RUN_STATE_GONE);
    sleep(3);
    expect_state(b, VMM_RUN_STATE_RUNNING);
    check(vmm_quit(b, &error), error, "quit");
    vmm_free(a);
    vmm_free(b);
    printf("OK\n");
    return 0;
}
