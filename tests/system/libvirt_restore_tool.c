/*
 * libvirt_restore_tool URI UUID XML STREAM DIRECTORY HELD: lets libvirt restore the domain of the file XML from the
 * file STREAM, and holds its last HELD bytes back.  Says "pid N", and "held" once QEMU has read all others; at a line on its input ("go" or "abort") it
 * sends them, or ends it all; says "restored", or "ended".  Any error: exit code 1.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "vmm/libvirt/restore.h"

#define TIMEOUT_MS 120000

static LibvirtRestore *restore;

static gboolean say(const char *text)
{
    printf("%s\n", text);
    return fflush(stdout) == 0;
}

static gboolean await_read(GError **error)
{
    int unread = 1;

    while (unread > 0) {
        if (!libvirt_restore_get_unread(restore, &unread, error))
            return FALSE;
        clock_sleep_ns(2000000);
    }
    return say("held");
}

static gboolean end(const char *tail, size_t held, GError **error)
{
    char order[16] = "";

    if (!fgets(order, sizeof order, stdin) || strcmp(order, "go\n") != 0)
        return libvirt_restore_abort(restore, error) && say("ended");
    return libvirt_restore_write(restore, tail, held, TIMEOUT_MS, error) &&
           libvirt_restore_finish(restore, TIMEOUT_MS, error) && say("restored");
}

int main(int argc, char **argv)
{
    g_autofree char *xml = NULL, *stream = NULL, *pid = NULL;
    g_autoptr(GError) error = NULL;
    gsize length = 0, held;
    gboolean done;

    if (argc != 7 || !g_file_get_contents(argv[3], &xml, NULL, &error) ||
        !g_file_get_contents(argv[4], &stream, &length, &error))
        return 2;
    held = MIN(length, g_ascii_strtoull(argv[6], NULL, 10));
    restore = libvirt_restore_begin(
        &(LibvirtRestoreJob){.uri = argv[1], .uuid = argv[2], .xml = xml, .directory = argv[5]},
        TIMEOUT_MS, &error);
    if (restore)
        pid = g_strdup_printf("pid %d", (int)libvirt_restore_get_pid(restore));
    done = restore && say(pid) &&
           libvirt_restore_write(restore, stream, length - held, TIMEOUT_MS, &error) &&
           await_read(&error) && end(stream + length - held, held, &error);
    if (error)
        fprintf(stderr, "%s\n", error->message);
    libvirt_restore_free(restore);
    return !done;
}
