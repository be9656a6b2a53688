#include "disk/nbd_export.h"

#include "base/error.h"
#include "base/fd.h"
#include "base/unix_socket.h"

void nbd_export_set_error(NbdHandle *nbd, const char *what, GError **error)
{
    /* They tell of the last call, also of those below. */
    const char *text = nbd_get_error();
    int number = nbd_get_errno();
    g_autofree char *kept = g_strdup(text ? text : "unknown error");
    VmferryErrorCode code = vmferry_error_code_from_errno(number);

    if (nbd && (nbd_aio_is_dead(nbd) == 1 || nbd_aio_is_closed(nbd) == 1))
        code = VMFERRY_ERROR_DISCONNECTED;
    error_set(error, code, "%s: %s", what, kept);
}

/* Before it is connected. */
static gboolean prepare(NbdHandle *nbd, const char *name, gboolean status)
{
    return nbd_set_debug(nbd, false) == 0 && nbd_set_export_name(nbd, name) == 0 &&
           (!status || nbd_add_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) == 0);
}

NbdHandle *nbd_export_connect(const char *socket_path, const char *name, gboolean status,
                              GError **error)
{
    g_autofree char *what = g_strdup_printf("connect to export \"%s\"", name);
    g_autoptr(NbdHandle) nbd = nbd_create();
    int fd;

    if (!nbd || !prepare(nbd, name, status)) {
        nbd_export_set_error(nbd, what, error);
        return NULL;
    }
    /* libnbd itself takes no long paths. */
    fd = unix_socket_connect(socket_path, error);
    if (fd < 0)
        return NULL;
    /* It closes the socket, whether or not this succeeds. */
    if (nbd_connect_socket(nbd, fd) == 0)
        return g_steal_pointer(&nbd);
    nbd_export_set_error(nbd, what, error);
    return NULL;
}
