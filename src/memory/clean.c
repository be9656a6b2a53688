#include "memory/clean.h"

#include <sys/syscall.h>

#include "base/error.h"
#include "base/thread.h"
#include "inject/inject.h"
#include "memory/maps.h"
#include "memory/userfault.h"

typedef struct {
    pid_t pid;
    const GArray *fds;
    gboolean done;
    GError *error;
} CleanRequest;

typedef struct {
    gboolean any, missing;
} Registered;

/* QEMU's own (post-copy, background snapshot) has ranges registered. */
static gboolean find_registered_ranges(pid_t pid, Registered *ret, GError **error)
{
    g_autoptr(GPtrArray) maps = maps_read(pid, error);

    *ret = (Registered){0};
    if (!maps)
        return FALSE;
    for (guint i = 0; i < maps->len; i++) {
        const Mapping *mapping = g_ptr_array_index(maps, i);

        ret->any = ret->any || mapping->userfault_wp || mapping->userfault_missing;
        ret->missing = ret->missing || mapping->userfault_missing;
    }
    if (maps->len > 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_FAILED, "process %d has no mappings", (int)pid);
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

/* Those that nobody uses.  One that we kept holds, as long as anything may be missing, threads
 * that would read zeroes without it; otherwise it goes, and what it tracked with it. */
static GArray *choose_fds(const GArray *list, const Registered *registered)
{
    GArray *fds = g_array_new(FALSE, FALSE, sizeof(int));

    for (guint i = 0; i < list->len; i++) {
        const UserfaultFd *one = &g_array_index(list, UserfaultFd, i);

        if (one->kept ? !registered->missing : !registered->any)
            g_array_append_val(fds, one->fd);
    }
    return fds;
}

gboolean memory_clean_guest(pid_t pid, GError **error)
{
    g_autoptr(GArray) list = userfault_list(pid, error);
    g_autoptr(GArray) fds = NULL;
    CleanRequest request = {.pid = pid};
    Registered registered;

    if (!list)
        return FALSE;
    if (list->len == 0)
        return TRUE;
    /* Where that is not known, nothing that may be QEMU's is closed. */
    if (!find_registered_ranges(pid, &registered, error)) {
        g_prefix_error(error, "clean up in pid %d: ", (int)pid);
        return FALSE;
    }
    request.fds = fds = choose_fds(list, &registered);
    if (fds->len == 0)
        return TRUE;
    if (!thread_run("clean", clean_thread, &request, error))
        return FALSE;
    if (!request.done)
        g_propagate_prefixed_error(error, request.error, "clean up in pid %d: ", (int)pid);
    return request.done;
}
