#include "wire/address.h"

#include <gio/gio.h>
#include <string.h>

#include "base/error.h"

#define MAX_HOST_BYTES 255

gboolean address_is_ip(const char *text)
{
    return g_hostname_is_ip_address(text);
}

static gboolean parse_port(const char *text, uint16_t *ret)
{
    guint64 port;

    if (!g_ascii_string_to_unsigned(text, 10, 1, 65535, &port, NULL))
        return FALSE;
    *ret = (uint16_t)port;
    return TRUE;
}

/* Finds where the host ends and what follows (NULL: no port). */
static gboolean split(const char *text, char **ret_host, const char **ret_port)
{
    const char *colon = strrchr(text, ':');
    const char *bracket = strchr(text, ']');

    *ret_port = NULL;
    if (text[0] == '[') {
        if (!bracket || (bracket[1] != '\0' && bracket[1] != ':'))
            return FALSE;
        *ret_host = g_strndup(text + 1, (gsize)(bracket - text - 1));
        if (bracket[1] == ':')
            *ret_port = bracket + 2;
    } else if (colon && strchr(text, ':') == colon) {
        *ret_host = g_strndup(text, (gsize)(colon - text));
        *ret_port = colon + 1;
    } else {
        *ret_host = g_strdup(text);
    }
    return TRUE;
}

gboolean address_parse(const char *text, uint16_t default_port, Address *ret, GError **error)
{
    g_autofree char *host = NULL;
    const char *port_text = NULL;
    uint16_t port = default_port;

    if (!split(text, &host, &port_text) || host[0] == '\0' || strlen(host) > MAX_HOST_BYTES ||
        strpbrk(host, "/ \t\r\n") || (port_text && !parse_port(port_text, &port))) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "\"%s\" is not a valid address: HOST, HOST:PORT or [IPV6]:PORT is expected",
                  text);
        return FALSE;
    }
    ret->label = g_strdup_printf(strchr(host, ':') ? "[%s]:%u" : "%s:%u", host, port);
    ret->host = g_steal_pointer(&host);
    ret->port = port;
    return TRUE;
}

void address_clear(Address *address)
{
    g_clear_pointer(&address->host, g_free);
    g_clear_pointer(&address->label, g_free);
}
