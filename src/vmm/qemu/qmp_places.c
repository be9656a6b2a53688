#include "vmm/qemu/qmp_places.h"

#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/unix_socket.h"

#define ENVIRONMENT_LIMIT (2u << 20)

static gboolean same_file(pid_t pid, const char *entry)
{
    g_autofree char *theirs = g_strdup_printf("/proc/%d/%s", (int)pid, entry);
    g_autofree char *ours = g_strdup_printf("/proc/self/%s", entry);
    struct stat a, b;

    return stat(theirs, &a) == 0 && stat(ours, &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

/* An absolute path as the process sees it.  Where its root is another one only
 * by -chroot, the socket was bound before that; where its mounts are its own,
 * what we see under that path may be another file. */
static void add_absolute(GPtrArray *places, pid_t pid, const char *path)
{
    char *through = g_strdup_printf("/proc/%d/root%s", (int)pid, path);
    gboolean own_mounts = !same_file(pid, "ns/mnt");

    if (!own_mounts || same_file(pid, "root/."))
        g_ptr_array_add(places, g_strdup(path));
    g_ptr_array_add(places, through);
    if (own_mounts)
        g_ptr_array_add(places, g_strdup(path));
}

/* PWD as the process was given it: the folder that it was started in, unless
 * who started it had not told it so.  NULL where there is none. */
static char *read_first_folder(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/environ", (int)pid);
    size_t length = 0;
    g_autofree char *text = file_read(path, ENVIRONMENT_LIMIT, &length, NULL);

    for (size_t at = 0; text && at < length; at += strlen(text + at) + 1)
        if (g_str_has_prefix(text + at, "PWD=/"))
            return g_strdup(text + at + strlen("PWD="));
    return NULL;
}

static void add_relative(GPtrArray *places, pid_t pid, const char *path)
{
    g_autofree char *link = g_strdup_printf("/proc/%d/cwd", (int)pid);
    g_autofree char *folder = g_file_read_link(link, NULL);
    g_autofree char *first = read_first_folder(pid);

    if (folder && same_file(pid, "root/."))
        g_ptr_array_add(places, g_build_filename(folder, path, NULL));
    g_ptr_array_add(places, g_build_filename(link, path, NULL));
    if (first) {
        g_autofree char *whole = g_build_filename(first, path, NULL);

        add_absolute(places, pid, whole);
    }
}

static void add_endpoint(GPtrArray *places, pid_t pid, const QmpEndpoint *endpoint)
{
    if (endpoint->kind == QMP_AT_ABSTRACT)
        g_ptr_array_add(places, unix_socket_abstract(pid, endpoint->text, endpoint->padded));
    else if (endpoint->kind == QMP_AT_PATH && g_path_is_absolute(endpoint->text))
        add_absolute(places, pid, endpoint->text);
    else if (endpoint->kind == QMP_AT_PATH)
        add_relative(places, pid, endpoint->text);
}

/* ---- what is there instead ---- */

/* An address to connect to: a listener on all addresses is on this one, too. */
static char *connect_address(const char *listening)
{
    const char *port = strrchr(listening, ':');
    g_autofree char *host = port ? g_strndup(listening, (gsize)(port - listening)) : NULL;

    if (!port)
        return g_strdup(listening);
    if (!*host || strcmp(host, "0.0.0.0") == 0 || strcmp(host, "*") == 0)
        return g_strdup_printf("127.0.0.1%s", port);
    if (strcmp(host, "[::]") == 0 || strcmp(host, "::") == 0)
        return g_strdup_printf("[::1]%s", port);
    return g_strdup(listening);
}

static void set_tcp_error(pid_t pid, const QmpEndpoint *endpoint, GError **error)
{
    g_autofree char *address = connect_address(endpoint->text);
    g_autofree char *enter =
        same_file(pid, "ns/net") ? g_strdup("") : g_strdup_printf("nsenter -t %d -n ", (int)pid);

    error_set(
        error, VMFERRY_ERROR_UNSUPPORTED,
        "the QMP of pid %d is at TCP %.200s, and a Unix socket is needed: run `%ssocat "
        "UNIX-LISTEN:/run/qmp-%d.sock,fork TCP:%.200s` as long as the guest is here, and adopt "
        "it with --qmp /run/qmp-%d.sock",
        (int)pid, endpoint->text, enter, (int)pid, address, (int)pid);
}

static void set_other_error(pid_t pid, const GPtrArray *endpoints, GError **error)
{
    const QmpEndpoint *first = endpoints->len > 0 ? endpoints->pdata[0] : NULL;

    for (guint i = 0; i < endpoints->len; i++) {
        const QmpEndpoint *endpoint = endpoints->pdata[i];

        if (endpoint->kind == QMP_AT_TCP) {
            set_tcp_error(pid, endpoint, error);
            return;
        }
    }
    if (!first)
        error_set(error, VMFERRY_ERROR_NOT_FOUND,
                  "the command line of pid %d opens no QMP socket that can be found; name one with "
                  "--qmp PATH, or start QEMU with -qmp unix:PATH,server=on,wait=off",
                  (int)pid);
    else if (first->kind == QMP_AT_DESCRIPTOR)
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "the QMP of pid %d is a descriptor that it inherited (fd=%.32s), which only who "
                  "started it can reach (libvirt does so: its guests are libvirt's to manage); if "
                  "it is a listening socket with a path, name that with --qmp PATH, else start the "
                  "guest with -qmp unix:PATH,server=on,wait=off",
                  (int)pid, first->text);
    else
        error_set(
            error, VMFERRY_ERROR_UNSUPPORTED,
            "the QMP of pid %d is %.200s, which cannot be connected to: name a socket of it with "
            "--qmp PATH, or start the guest with -qmp unix:PATH,server=on,wait=off",
            (int)pid, first->text);
}

GPtrArray *qmp_places_find(pid_t pid, char *const *argv, GError **error)
{
    g_autoptr(GPtrArray) endpoints = qmp_endpoints_find(argv);
    g_autoptr(GPtrArray) places = g_ptr_array_new_with_free_func(g_free);

    for (guint i = 0; i < endpoints->len; i++)
        add_endpoint(places, pid, endpoints->pdata[i]);
    if (places->len > 0)
        return g_steal_pointer(&places);
    set_other_error(pid, endpoints, error);
    return NULL;
}

GPtrArray *qmp_places_of(pid_t pid, const QmpEndpoint *endpoint)
{
    GPtrArray *places = g_ptr_array_new_with_free_func(g_free);

    add_endpoint(places, pid, endpoint);
    return places;
}
