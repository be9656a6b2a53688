#include "agent/control_socket.h"

#include <errno.h>
#include <gio/gunixsocketaddress.h>
#include <grp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"

#define LISTEN_BACKLOG 32

static gboolean fill_address(struct sockaddr_un *address, const char *path, GError **error)
{
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    if (strlen(path) >= sizeof address->sun_path) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "the control socket's path is longer than %zu bytes: %s",
                  sizeof address->sun_path - 1, path);
        return FALSE;
    }
    strcpy(address->sun_path, path);
    return TRUE;
}

static gboolean is_served(const struct sockaddr_un *address)
{
    autofd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    return fd >= 0 && (connect(fd, (const struct sockaddr *)address, sizeof *address) == 0 ||
                       errno == EAGAIN || errno == EINPROGRESS);
}

/* Makes room at *path*: removes a socket that no process serves any more. */
static gboolean remove_stale(const char *path, const struct sockaddr_un *address, GError **error)
{
    struct stat status;

    if (lstat(path, &status) < 0)
        return TRUE;
    if (!S_ISSOCK(status.st_mode)) {
        error_set(error, VMFERRY_ERROR_EXISTS, "%s is in the way and no socket", path);
        return FALSE;
    }
    if (is_served(address)) {
        error_set(error, VMFERRY_ERROR_BUSY,
                  "an agent answers on %s already; stop it, or take another socket with --socket",
                  path);
        return FALSE;
    }
    if (unlink(path) < 0) {
        error_set_errno(error, errno, "remove the old %s", path);
        return FALSE;
    }
    return TRUE;
}

static void set_owner(const char *path)
{
    const struct group *group = getgrnam(CONTROL_SOCKET_GROUP);

    if (group && chown(path, (uid_t)-1, group->gr_gid) < 0)
        log_warning("cannot give %s to the group %s: %s", path, CONTROL_SOCKET_GROUP,
                    g_strerror(errno));
}

static int bind_socket(const char *path, const struct sockaddr_un *address, GError **error)
{
    autofd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    mode_t old_mask = umask(0177);
    int bound = fd < 0 ? -1 : bind(fd, (const struct sockaddr *)address, sizeof *address);
    int problem = errno;

    umask(old_mask);
    if (bound < 0) {
        error_set_errno(error, problem, "make the control socket %s", path);
        return -1;
    }
    /* Group first: the mode must not open it to the wrong one. */
    set_owner(path);
    if (chmod(path, 0660) < 0 || listen(fd, LISTEN_BACKLOG) < 0) {
        error_set_errno(error, errno, "control socket %s", path);
        return -1;
    }
    return fd_steal(&fd);
}

GSocket *control_socket_open(const char *path, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(path);
    struct sockaddr_un address;
    GSocket *result;
    int fd;

    if (!fill_address(&address, path, error))
        return NULL;
    if (g_mkdir_with_parents(folder, 0755) < 0) {
        error_set_errno(error, errno, "make the directory %s", folder);
        return NULL;
    }
    if (!remove_stale(path, &address, error))
        return NULL;
    fd = bind_socket(path, &address, error);
    if (fd < 0)
        return NULL;
    result = g_socket_new_from_fd(fd, error);
    if (!result)
        close(fd);
    return result;
}
