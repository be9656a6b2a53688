#include "vmm/libvirt/domain.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "vmm/libvirt/address.h"
#include "vmm/libvirt/library.h"

#define CONNECT_MS 5000
#define STATUS_BYTES 65536
#define MAX_PID (1u << 22)
#define MAX_REPLY_BYTES (4u << 20)

static virDomainPtr look_up(const LibvirtLibrary *libvirt, virConnectPtr connection,
                            const char *name, GError **error)
{
    virDomainPtr domain = libvirt->virDomainLookupByName(connection, name);

    if (!domain && g_uuid_string_is_valid(name))
        domain = libvirt->virDomainLookupByUUIDString(connection, name);
    if (!domain)
        libvirt_error_set(error, "find the domain");
    return domain;
}

/* The daemon's own text of it leaves out what we need to find the daemon again. */
static const char *choose_uri(const char *uri)
{
    const char *preset = g_getenv("LIBVIRT_DEFAULT_URI");

    return uri ? uri : preset && *preset ? preset : LIBVIRT_DEFAULT_URI;
}

static char *make_address(const LibvirtLibrary *libvirt, virDomainPtr domain, const char *uri,
                          GError **error)
{
    char uuid[VIR_UUID_STRING_BUFLEN];
    g_autofree char *address = NULL, *again_uuid = NULL, *again_uri = NULL;

    if (libvirt->virDomainGetUUIDString(domain, uuid) < 0) {
        libvirt_error_set(error, "find the domain's UUID");
        return NULL;
    }
    address = libvirt_address_format(uuid, uri);
    /* It goes into records: what is read from there must be good. */
    if (!libvirt_address_parse(address, &again_uuid, &again_uri, error))
        return NULL;
    return g_steal_pointer(&address);
}

/* The process that a thread belongs to. */
static gboolean find_process(uint64_t thread, pid_t *ret, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%" G_GUINT64_FORMAT "/status", thread);
    g_autofree char *text = file_read(path, STATUS_BYTES, NULL, NULL);
    const char *line = text ? strstr(text, "\nTgid:") : NULL;
    int pid = 0;

    if (line && sscanf(line, "\nTgid: %d", &pid) == 1 && pid > 0) {
        *ret = pid;
        return TRUE;
    }
    error_set(error, VMFERRY_ERROR_NOT_FOUND,
              "the process of libvirt's domain is not on this host, or in another namespace of "
              "processes");
    return FALSE;
}

static gboolean ask_process(const LibvirtLibrary *libvirt, virDomainPtr domain, pid_t *ret,
                            GError **error)
{
    g_autoptr(json_t) answer = NULL;
    uint64_t thread = 0;
    char *reply = NULL;

    if (libvirt->virDomainQemuMonitorCommand(domain, "{\"execute\":\"query-cpus-fast\"}", &reply,
                                             0) < 0) {
        libvirt_error_set(error, "find the domain's process");
        return FALSE;
    }
    answer = json_parse_object(reply, strlen(reply), MAX_REPLY_BYTES, error);
    free(reply);
    return answer &&
           json_get_count(json_array_get(json_object_get(answer, "return"), 0), "thread-id",
                          MAX_PID, &thread, error) &&
           find_process(thread, ret, error);
}

static gboolean find_in(const LibvirtLibrary *libvirt, virConnectPtr connection, const char *uri,
                        const char *name, char **ret_address, pid_t *ret_pid, GError **error)
{
    virDomainPtr domain = look_up(libvirt, connection, name, error);
    g_autofree char *address = NULL;
    gboolean found = FALSE;

    if (!domain)
        return FALSE;
    if (libvirt->virDomainIsActive(domain) != 1) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND,
                  "libvirt's domain %s does not run: `virsh start` it first", name);
    } else {
        address = make_address(libvirt, domain, uri, error);
        found = address && ask_process(libvirt, domain, ret_pid, error);
    }
    libvirt->virDomainFree(domain);
    if (found)
        *ret_address = g_steal_pointer(&address);
    return found;
}

gboolean libvirt_domain_find(const char *uri, const char *domain, char **ret_address,
                             pid_t *ret_pid, GError **error)
{
    const LibvirtLibrary *libvirt = libvirt_library_get(error);
    const char *chosen = choose_uri(uri);
    virConnectPtr connection = libvirt ? libvirt_connect_within(chosen, CONNECT_MS, error) : NULL;
    gboolean found;

    if (!connection)
        return FALSE;
    found = find_in(libvirt, connection, chosen, domain, ret_address, ret_pid, error);
    libvirt->virConnectClose(connection);
    return found;
}

/* ---- by the command line ---- */

/* The value of *option*, or NULL. */
static const char *value_of(char *const *argv, const char *option)
{
    for (guint i = 0; argv && argv[i] && argv[i + 1]; i++)
        if (strcmp(argv[i], option) == 0)
            return argv[i + 1];
    return NULL;
}

static gboolean has_its_monitor(char *const *argv)
{
    for (guint i = 0; argv && argv[i] && argv[i + 1]; i++)
        if (strcmp(argv[i], "-chardev") == 0 && strstr(argv[i + 1], "id=charmonitor"))
            return TRUE;
    return FALSE;
}

gboolean libvirt_domain_is_of(char *const *argv, const char **ret_uuid, char **ret_name)
{
    const char *uuid = value_of(argv, "-uuid"), *name = value_of(argv, "-name");

    if (!uuid || !name || !g_uuid_string_is_valid(uuid) || !g_str_has_prefix(name, "guest=") ||
        !has_its_monitor(argv))
        return FALSE;
    name += strlen("guest=");
    *ret_uuid = uuid;
    *ret_name = g_strndup(name, strcspn(name, ","));
    return TRUE;
}
