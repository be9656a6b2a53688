#include "memory/clean.h"

#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/thread.h"
#include "inject/inject.h"
#include "memory/maps.h"

#define USERFAULT_LINK "anon_inode:[userfaultfd]"

typedef struct {
    pid_t pid;
    const GArray *fds;
    gboolean done;
    GError *error;
} CleanRequest;

static GArray *find_userfaults(pid_t pid, GError **error)
{
    g_autofree char *folder = g_strdup_printf("/proc/%d/fd", (int)pid);
    g_autoptr(GDir) dir = g_dir_open(folder, 0, error);
    GArray *fds;
    const char *name;

    if (!dir)
        return NULL;
    fds = g_array_new(FALSE, FALSE, sizeof(int));
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);
        g_autofree char *target = g_file_read_link(path, NULL);
        int fd = atoi(name);

        if (target && strcmp(target, USERFAULT_LINK) == 0)
            g_array_append_val(fds, fd);
    }
    return fds;
}

/* QEMU's own (post-copy, background snapshot) has ranges registered. */
static gboolean find_registered_ranges(pid_t pid, gboolean *ret, GError **error)
{
    g_autoptr(GPtrArray) maps = maps_read(pid, error);

    *ret = FALSE;
    if (!maps)
        return FALSE;
    for (guint i = 0; i < maps->len; i++) {
        const Mapping *mapping = g_ptr_array_index(maps, i);

        *ret = *ret || mapping->userfault_wp || mapping->userfault_missing;
    }
    if (maps->len > 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_FAILED, "process %d tells no mappings", (int)pid);
    return FALSE;
}

static gpointer clean_thread(gpointer data)
{
    CleanRequest *request = data;
    g_autoptr(Inject) inject = inject_attach(request->pid, &request->error);

    request->done = inject != NULL;
    for (guint i = 0; request->done && i < request->fds->len; i++) {
        uint64_t arguments[6] = {(uint64_t)g_array_index(request->fds, int, i)};
        int64_t result;

        request->done = inject_call(inject, SYS_close, arguments, &result, &request->error);
    }
    return NULL;
}

gboolean memory_clean_guest(pid_t pid, GError **error)
{
    g_autoptr(GArray) fds = find_userfaults(pid, error);
    CleanRequest request = {.pid = pid, .fds = fds};
    gboolean in_use;

    if (!fds)
        return FALSE;
    if (fds->len == 0)
        return TRUE;
    /* Not knowing is no leave to close what may be QEMU's. */
    if (!find_registered_ranges(pid, &in_use, error)) {
        g_prefix_error(error, "clean up in pid %d: ", (int)pid);
        return FALSE;
    }
    if (in_use)
        return TRUE;
    if (!thread_run("clean", clean_thread, &request, error))
        return FALSE;
    if (!request.done)
        g_propagate_prefixed_error(error, request.error, "clean up in pid %d: ", (int)pid);
    return request.done;
}
