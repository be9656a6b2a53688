#include "disk/image_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

/* Whose words QEMU uses: "gluster+unix", "nbd+unix", "nvme", "file", "json:{…}"
 * and "vhost-…" are none. */
static const char *const schemes[] = {
    "nbd",  "nbds", "nbd+tcp", "iscsi",   "iser",        "http",         "https", "ftp",
    "ftps", "ssh",  "sftp",    "gluster", "gluster+tcp", "gluster+rdma", "nfs",   NULL,
};

static gboolean is_loopback(const char *host)
{
    struct in_addr v4;
    struct in6_addr v6;

    if (inet_aton(host, &v4))
        return v4.s_addr == INADDR_ANY || ntohl(v4.s_addr) >> 24 == 127;
    if (inet_pton(AF_INET6, host, &v6) == 1)
        return IN6_IS_ADDR_LOOPBACK(&v6) || IN6_IS_ADDR_UNSPECIFIED(&v6) ||
               IN6_IS_ADDR_LINKLOCAL(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
    return FALSE;
}

static gboolean is_other_host(const char *host)
{
    g_autofree char *name = g_ascii_strdown(host, -1);
    size_t length = strlen(name);

    if (length > 0 && name[length - 1] == '.')
        name[length - 1] = 0;
    return *name && !strchr(name, '%') && !is_loopback(name) &&
           !g_str_has_prefix(name, "localhost") && !g_str_has_suffix(name, ".localhost");
}

/* "user@[::1]:10809/export" */
static char *get_host(const char *authority)
{
    g_autofree char *text = g_strndup(authority, strcspn(authority, "/?#"));
    const char *at = strrchr(text, '@');
    const char *host = at ? at + 1 : text;

    if (*host == '[')
        return g_strndup(host + 1, strcspn(host + 1, "]"));
    return g_strndup(host, strcspn(host, ":"));
}

/* "rbd:pool/image:conf=…": the cluster is told by its configuration, or by its
 * monitors' addresses. */
static gboolean is_rbd_for_all(const char *address)
{
    g_autofree char *lower = g_ascii_strdown(address, -1);

    return !strstr(lower, "localhost") && !strstr(lower, "mon_host=127.") &&
           !strstr(lower, ";127.") && !strstr(lower, ",127.") && !strstr(lower, "::1");
}

gboolean image_address_is_for_all(const char *address)
{
    const char *mark = strstr(address, "://");
    g_autofree char *scheme = NULL;
    g_autofree char *host = NULL;

    if (g_str_has_prefix(address, "rbd:"))
        return is_rbd_for_all(address);
    if (!mark)
        return FALSE;
    scheme = g_ascii_strdown(address, mark - address);
    host = get_host(mark + 3);
    return g_strv_contains(schemes, scheme) && is_other_host(host);
}
