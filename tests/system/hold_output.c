/*
 * Holds what a guest sends, for test_output.py
 *
 *     hold_output PID QMP-SOCKET hold MS [pause]
 *         all that can be held, until a line comes, in epochs of MS milliseconds, each released at
 *         the end of the next one; with "pause" the guest is paused at the boundaries
 *     hold_output PID QMP-SOCKET end       takes out what another one has left
 *     hold_output PID QMP-SOCKET list      its cards: back end, device, obstacle
 *     hold_output PID QMP-SOCKET taps      its cards: back end, tap interface
 */
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/fd.h"
#include "net/output_buffer.h"
#include "vmm/vmm_driver.h"

#define NAME_FORMAT "test-%u"
#define MAX_NICS 16u

typedef struct {
    Vmm *vmm;
    GPtrArray *nics;
    OutputBuffer *buffer;
} Holder;

static void need(gboolean ok, const GError *error, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "%s: %s\n", what, error ? error->message : "failed");
    exit(1);
}

static Holder *find_guest(int pid, const char *path)
{
    Holder *holder = g_new0(Holder, 1);
    g_autoptr(GError) error = NULL;
    const VmmDriver *driver = vmm_driver_find_for_process(pid, &error);

    holder->vmm = driver ? driver->adopt(pid, path, &error) : NULL;
    need(holder->vmm != NULL, error, "find the guest");
    holder->nics = vmm_list_nics(holder->vmm, &error);
    need(holder->nics != NULL, error, "list its cards");
    return holder;
}

static void begin_holds(Holder *holder)
{
    g_autoptr(GError) error = NULL;

    holder->buffer = output_buffer_new(&(OutputBufferOptions){0}, &error);
    need(holder->buffer != NULL, error, "buffer");
    for (guint i = 0; i < holder->nics->len; i++) {
        const VmmNic *nic = holder->nics->pdata[i];
        g_autofree char *name = g_strdup_printf(NAME_FORMAT, i);
        VmmHoldEnds ends;

        if (nic->obstacle)
            continue;
        need(vmm_begin_hold(holder->vmm, &(VmmHold){.name = name, .nic = nic->id}, &ends, &error),
             error, "begin");
        output_buffer_add_nic(holder->buffer, ends.sent, ends.back);
    }
    need(vmm_announce(holder->vmm, &error), error, "announce");
    puts("holding");
    fflush(stdout);
}

static uint64_t cut(Holder *holder, gboolean pause)
{
    g_autoptr(GError) error = NULL;
    uint64_t epoch;

    need(!pause || vmm_pause(holder->vmm, NULL, &error), error, "pause");
    epoch = output_buffer_cut(holder->buffer);
    need(!pause || vmm_resume(holder->vmm, &error), error, "resume");
    return epoch;
}

static gboolean line_comes(int within_ms)
{
    struct pollfd wait = {.fd = STDIN_FILENO, .events = POLLIN};

    return poll(&wait, 1, within_ms) != 0;
}

static void end_holds(Holder *holder)
{
    g_autoptr(GError) error = NULL;

    for (guint i = 0; i < MAX_NICS; i++) {
        g_autofree char *name = g_strdup_printf(NAME_FORMAT, i);

        need(vmm_end_hold(holder->vmm, name, &error), error, "end");
    }
}

static void hold(Holder *holder, int ms, gboolean pause)
{
    OutputBufferStats stats;
    g_autoptr(GError) error = NULL;

    begin_holds(holder);
    while (!line_comes(ms))
        output_buffer_release(holder->buffer, cut(holder, pause) - 1);
    output_buffer_pass(holder->buffer);
    end_holds(holder);
    need(output_buffer_check(holder->buffer, &error), error, "buffer");
    output_buffer_take_stats(holder->buffer, &stats);
    printf("%" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT
           "\n",
           stats.released_packets, stats.held_packets, stats.dropped_packets, stats.lost_packets);
}

static void list(const Holder *holder)
{
    for (guint i = 0; i < holder->nics->len; i++) {
        const VmmNic *nic = holder->nics->pdata[i];

        printf("%s|%s|%s\n", nic->id ? nic->id : "", nic->device,
               nic->obstacle ? nic->obstacle : "");
    }
}

static void list_taps(const Holder *holder)
{
    for (guint i = 0; i < holder->nics->len; i++) {
        const VmmNic *nic = holder->nics->pdata[i];
        g_autoptr(GError) error = NULL;
        autofd int fd = nic->id ? vmm_open_tap_interface(holder->vmm, nic->id, &error) : -1;
        struct ifreq interface = {0};

        if (fd >= 0)
            need(ioctl(fd, TUNGETIFF, &interface) == 0, NULL, "TUNGETIFF");
        printf("%s|%s\n", nic->id ? nic->id : "",
               fd >= 0 ? interface.ifr_name
               : error ? error->message
                       : "");
    }
}

int main(int argc, char **argv)
{
    Holder *holder = argc >= 4 ? find_guest(atoi(argv[1]), argv[2]) : NULL;

    if (argc >= 5 && strcmp(argv[3], "hold") == 0)
        hold(holder, atoi(argv[4]), argc == 6);
    else if (argc == 4 && strcmp(argv[3], "end") == 0)
        end_holds(holder);
    else if (argc == 4 && strcmp(argv[3], "list") == 0)
        list(holder);
    else if (argc == 4 && strcmp(argv[3], "taps") == 0)
        list_taps(holder);
    else
        return 2;
    output_buffer_free(holder->buffer);
    g_ptr_array_unref(holder->nics);
    vmm_free(holder->vmm);
    g_free(holder);
    return 0;
}
