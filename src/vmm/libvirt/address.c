#include "vmm/libvirt/address.h"

#include <string.h>

#include "base/error.h"

#define UUID_LENGTH 36u
#define MAX_URI 1024u

gboolean libvirt_address_is(const char *text)
{
    return text && g_str_has_prefix(text, LIBVIRT_ADDRESS_PREFIX);
}

char *libvirt_address_format(const char *uuid, const char *uri)
{
    return g_strconcat(LIBVIRT_ADDRESS_PREFIX, uuid, ":", uri, NULL);
}

static gboolean is_local(const char *uri)
{
    static const char *const places[] = {"qemu:///system", "qemu:///session", "qemu+unix:///system",
                                         "qemu+unix:///session"};

    for (guint i = 0; i < G_N_ELEMENTS(places); i++)
        if (g_str_has_prefix(uri, places[i]) && strchr("?", uri[strlen(places[i])]))
            return TRUE;
    return FALSE;
}

static gboolean is_printable(const char *text)
{
    for (; *text; text++)
        if (!g_ascii_isgraph(*text))
            return FALSE;
    return TRUE;
}

gboolean libvirt_uri_check(const char *uri, GError **error)
{
    if (strlen(uri) <= MAX_URI && is_printable(uri) && is_local(uri))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "\"%.200s\" is not the URI of a QEMU daemon of libvirt's on this host, as "
              "qemu:///system or qemu:///system?socket=PATH are",
              uri);
    return FALSE;
}

gboolean libvirt_address_parse(const char *text, char **ret_uuid, char **ret_uri, GError **error)
{
    const char *shown = text ? text : "";
    const char *uuid = g_str_has_prefix(shown, LIBVIRT_ADDRESS_PREFIX)
                           ? shown + strlen(LIBVIRT_ADDRESS_PREFIX)
                           : "";
    g_autofree char *found = g_strndup(uuid, UUID_LENGTH);

    if (!g_uuid_string_is_valid(found) || uuid[UUID_LENGTH] != ':') {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%.200s\" does not name a domain of libvirt's",
                  shown);
        return FALSE;
    }
    if (!libvirt_uri_check(uuid + UUID_LENGTH + 1, error))
        return FALSE;
    *ret_uuid = g_steal_pointer(&found);
    *ret_uri = g_strdup(uuid + UUID_LENGTH + 1);
    return TRUE;
}
