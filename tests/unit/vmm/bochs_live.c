/*
 * A guest goes on in Bochs, and comes back, by hand (not part of the suite)
 *
 *     bochs_live FOLDER IPS SECONDS SECONDS SECONDS -- QEMU-COMMAND-LINE
 *
 * starts the machine, lets it run, stops and copies it into a Bochs of IPS instructions a second (the
 * guest's TSC frequency), lets it run on there, and from there copies it into another QEMU.  Each
 * "SIDE" in the command line becomes "a" or "b"; what it sends through COM1 in Bochs is in
 * FOLDER/serial.  An attempt that meets an unlucky moment is made again after a millisecond.  In Bochs it has the
 * VGA where QEMU has one, an e1000 where the command line says "e1000", and the first raw image that it names
 * ("file=PATH,…", with file.locking=off, for all use the same one), as the first disk.
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

static Vmm *start_qemu(const char *folder, char **words, const char *side, gboolean incoming)
{
    g_auto(GStrv) line = g_strdupv(words);
    const VmmLaunch launch = {
        .name = side, .command_line = line, .directory = folder, .incoming = incoming};
    GError *error = NULL;
    Vmm *vmm;

    for (guint i = 0; line[i]; i++) {
        GString *word = g_string_new(line[i]);

        g_string_replace(word, "SIDE", side, 0);
        g_free(line[i]);
        line[i] = g_string_free(word, FALSE);
    }
    vmm = qemu_launch(&launch, &error);
    check(vmm != NULL, error, "launch QEMU");
    return vmm;
}

/* The first "file=" of a command line, or NULL. */
static char *find_disk(char **words)
{
    for (guint i = 0; words[i]; i++)
        if (g_str_has_prefix(words[i], "file="))
            return g_strndup(words[i] + 5, strcspn(words[i] + 5, ","));
    return NULL;
}

static gboolean says_e1000(char **words)
{
    for (guint i = 0; words[i]; i++)
        if (strstr(words[i], "e1000"))
            return TRUE;
    return FALSE;
}

static Vmm *start_bochs(const char *folder, uint32_t ips, uint64_t bytes, gboolean vga,
                        char **words)
{
    g_autofree char *serial = g_build_filename(folder, "serial", NULL);
    g_autofree char *path = find_disk(words);
    const BochsDisk disk = {.path = path};
    const BochsMachine machine = {
        .memory_bytes = bytes,
        .vcpus = 1,
        .cpu_model = "corei7_haswell_4770",
        .ips = ips,
        .start_time = 1000,
        .serial_file = serial,
        .disks = &disk,
        .disk_count = path ? 1 : 0,
        .slots = {vga ? BOCHS_SLOT_VGA : BOCHS_SLOT_EMPTY,
                  says_e1000(words) ? BOCHS_SLOT_E1000 : BOCHS_SLOT_EMPTY},
        .mac = {0x52, 0x54, 0, 0x12, 0x34, 0x56},
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

/* Of the VGA, or the number of regions. */
static guint find_video(GuestMemory *memory)
{
    guint i = 0;

    while (i < memory->regions->len &&
           !g_str_has_suffix(guest_memory_get_region(memory, i)->name, "vga.vram") &&
           strcmp(guest_memory_get_region(memory, i)->name, VMM_NEUTRAL_VIDEO) != 0)
        i++;
    return i;
}

static void copy(GuestMemory *from, guint here, GuestMemory *to, guint there, uint64_t bytes)
{
    const uint64_t step = 64;
    g_autofree uint8_t *buffer = g_malloc(step * PAGE_BYTES);
    GError *error = NULL;

    for (uint64_t page = 0; page < bytes / PAGE_BYTES; page += step) {
        const PageSpan span = {page, MIN(step, bytes / PAGE_BYTES - page)};

        check(guest_memory_read(from, here, &span, 1, buffer, &error) &&
                  guest_memory_write(to, there, &span, 1, buffer, &error),
              error, "copy memory");
    }
}

static void copy_video(GuestMemory *from, GuestMemory *to)
{
    guint here = find_video(from), there = find_video(to);

    if (here < from->regions->len && there < to->regions->len)
        copy(from, here, to, there, guest_memory_get_region(from, here)->pages * PAGE_BYTES);
}

/* What is copied. */
typedef struct {
    Vmm *qemu, *bochs, *back;
    GuestMemory *in_qemu, *in_bochs, *in_back;
    guint at_qemu, at_bochs, at_back;
    uint64_t bytes;
    GBytes *stream; /* of the first QEMU: the template of the second one's */
} Journey;

/* FALSE: it was an unlucky moment. */
typedef gboolean (*Attempt)(Journey *journey, GError **error);

static gboolean go_there(Journey *journey, GError **error)
{
    g_autoptr(StateNode) state = NULL;
    g_autoptr(GBytes) encoded = NULL;
    uint64_t begin;

    g_clear_pointer(&journey->stream, g_bytes_unref);
    journey->stream = vmm_save_device_state(journey->qemu, VMM_SAVE_CHECKPOINT, error);
    check(journey->stream != NULL, error ? *error : NULL, "save");
    begin = clock_now_ns();
    state = state_from_qemu(g_bytes_get_data(journey->stream, NULL),
                            g_bytes_get_size(journey->stream), error);
    check(state != NULL, error ? *error : NULL, "translate");
    encoded = state_encode(state);
    printf("translated: %.2f ms\n", clock_ns_to_ms(clock_now_ns() - begin));
    begin = clock_now_ns();
    if (!vmm_load_device_state(journey->bochs, encoded, error))
        return FALSE;
    printf("loaded: %.1f ms\n", clock_ns_to_ms(clock_now_ns() - begin));
    return TRUE;
}

static gboolean go_back(Journey *journey, GError **error)
{
    uint64_t begin = clock_now_ns();
    g_autoptr(GBytes) encoded = vmm_save_device_state(journey->bochs, VMM_SAVE_SWITCHOVER, error);
    g_autoptr(StateNode) state = NULL;
    g_autoptr(GBytes) stream = NULL;

    if (!encoded)
        return FALSE;
    printf("saved: %.1f ms\n", clock_ns_to_ms(clock_now_ns() - begin));
    state = state_decode(g_bytes_get_data(encoded, NULL), g_bytes_get_size(encoded), error);
    stream = state_to_qemu(state, g_bytes_get_data(journey->stream, NULL),
                           g_bytes_get_size(journey->stream), error);
    check(stream != NULL, error ? *error : NULL, "translate back");
    copy(journey->in_bochs, journey->at_bochs, journey->in_back, journey->at_back, journey->bytes);
    copy_video(journey->in_bochs, journey->in_back);
    check(vmm_load_device_state(journey->back, stream, error), error ? *error : NULL, "load");
    return TRUE;
}

static void try_to(Attempt attempt, Journey *journey, Vmm *from)
{
    GError *error = NULL;

    for (guint i = 0; i < ATTEMPTS; i++) {
        gboolean paused = vmm_pause(from, NULL, &error);

        check(paused, error, "pause");
        if (attempt(journey, &error))
            return;
        printf("again: %s\n", error->message);
        if (i + 1 < ATTEMPTS)
            g_clear_error(&error);
        check(vmm_resume(from, NULL), NULL, "resume");
        usleep(1000);
    }
    check(FALSE, error, "find a good moment");
}

/* All but main RAM: what QEMU's firmware is in. */
static void copy_rest(Journey *journey)
{
    for (guint i = 0; i < journey->in_qemu->regions->len; i++)
        if (i != journey->at_qemu)
            copy(journey->in_qemu, i, journey->in_back, i,
                 guest_memory_get_region(journey->in_qemu, i)->pages * PAGE_BYTES);
}

static void start_all(Journey *journey, char **argv)
{
    VmmDescription *description;
    GError *error = NULL;

    journey->qemu = start_qemu(argv[1], argv + 7, "a", FALSE);
    description = vmm_describe(journey->qemu, NULL);
    journey->bytes = description->memory_bytes;
    journey->in_qemu = open_memory(journey->qemu, journey->bytes, &journey->at_qemu);
    journey->bochs =
        start_bochs(argv[1], (uint32_t)strtoul(argv[2], NULL, 10), journey->bytes,
                    find_video(journey->in_qemu) < journey->in_qemu->regions->len, argv + 7);
    journey->back = start_qemu(argv[1], argv + 7, "b", TRUE);
    check(vmm_open_incoming(journey->back, description->machine, description->ram_regions, &error),
          error, "open the second QEMU");
    vmm_description_free(description);
    journey->in_bochs = open_memory(journey->bochs, journey->bytes, &journey->at_bochs);
    journey->in_back = open_memory(journey->back, journey->bytes, &journey->at_back);
}

int main(int argc, char **argv)
{
    Journey journey = {0};
    GError *error = NULL;

    if (argc < 8 || strcmp(argv[6], "--") != 0) {
        fprintf(stderr,
                "usage: bochs_live FOLDER IPS SECONDS SECONDS SECONDS -- QEMU-COMMAND-LINE\n");
        return 2;
    }
    setlinebuf(stdout);
    start_all(&journey, argv);
    sleep((unsigned)atoi(argv[3]));
    try_to(go_there, &journey, journey.qemu);
    copy(journey.in_qemu, journey.at_qemu, journey.in_bochs, journey.at_bochs, journey.bytes);
    copy_video(journey.in_qemu, journey.in_bochs);
    check(vmm_resume(journey.bochs, &error), error, "resume Bochs");
    sleep((unsigned)atoi(argv[4]));
    copy_rest(&journey);
    try_to(go_back, &journey, journey.bochs);
    check(vmm_resume(journey.back, &error), error, "resume the second QEMU");
    sleep((unsigned)atoi(argv[5]));
    vmm_quit(journey.qemu, NULL);
    vmm_quit(journey.bochs, NULL);
    vmm_quit(journey.back, NULL);
    return 0;
}
