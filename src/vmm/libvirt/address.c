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

static gboolean is_uri(const char *text)
{
    size_t length = strlen(text);

    for (size_t i = 0; i < length; i++)
        if (!g_ascii_isgraph(text[i]))
            return FALSE;
    return length > 0 && length <= MAX_URI;
}

gboolean libvirt_address_parse(const char *text, char **ret_uuid, char **ret_uri, GError **error)
{
    const char *shown = text ? text : "";
    const char *uuid = g_str_has_prefix(shown, LIBVIRT_ADDRESS_PREFIX)
                           ? shown + strlen(LIBVIRT_ADDRESS_PREFIX)
                           : "";
    g_autofree char *found = g_strndup(uuid, UUID_LENGTH);

    if (!g_uuid_string_is_valid(found) || uuid[UUID_LENGTH] != ':' ||
        !is_uri(uuid + UUID_LENGTH + 1)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%.200s\" does not name a domain of libvirt's",
                  shown);
        return FALSE;
    }
    *ret_uuid = g_steal_pointer(&found);
    *ret_uri = g_strdup(uuid + UUID_LENGTH + 1);
    return TRUE;
}
