#include "engine/browser.h"

#include <gio/gio.h>
#include <string.h>

const char *const browser_headers[][2] = {
    {"Content-Security-Policy",
     "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
     "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for "
     "'script'"},
    {"X-Content-Type-Options", "nosniff"},
    {"X-Frame-Options", "DENY"},
    {"Referrer-Policy", "no-referrer"},
    {"Cross-Origin-Resource-Policy", "same-origin"},
    {"Cross-Origin-Opener-Policy", "same-origin"},
    {NULL, NULL},
};

/* HOST of HOST[:PORT].  Free with g_free(). */
static char *name_of(const char *host)
{
    return host[0] == '[' ? g_strndup(host + 1, strcspn(host + 1, "]"))
                          : g_strndup(host, strcspn(host, ":"));
}

static gboolean is_listed(const char *name, const GPtrArray *names)
{
    for (guint i = 0; names && i < names->len; i++)
        if (g_ascii_strcasecmp(name, names->pdata[i]) == 0)
            return TRUE;
    return FALSE;
}

static gboolean is_own_host(const char *host, const BrowserSelf *self)
{
    g_autofree char *name = name_of(host);
    g_autoptr(GInetAddress) address = g_inet_address_new_from_string(name);

    if (is_listed(name, self->names))
        return TRUE;
    if (self->is_local)
        return g_ascii_strcasecmp(name, "localhost") == 0 ||
               (address && g_inet_address_get_is_loopback(address));
    /* An address cannot be pointed elsewhere. */
    return address != NULL;
}

/* A proxy before a loopback address may speak TLS. */
static gboolean is_own_origin(const char *origin, const char *host, gboolean is_local)
{
    g_autofree char *plain = g_strconcat("http://", host, NULL);
    g_autofree char *secure = g_strconcat("https://", host, NULL);

    return g_ascii_strcasecmp(origin, secure) == 0 ||
           (is_local && g_ascii_strcasecmp(origin, plain) == 0);
}

static gboolean is_own_site(const char *fetch_site)
{
    return strcmp(fetch_site, "same-origin") == 0 || strcmp(fetch_site, "none") == 0;
}

const char *browser_find_objection(const BrowserRequest *request, const BrowserSelf *self)
{
    if (!request->host || !is_own_host(request->host, self))
        return self->is_local ? "this port is for this host alone: use 127.0.0.1 or localhost"
                              : "the engine has no such name; engine.conf's \"names\" may give it "
                                "further ones";
    if (request->changes && g_strcmp0(request->mark, "1") != 0)
        return "a change needs the header X-Vmferry: 1";
    if (request->origin && !is_own_origin(request->origin, request->host, self->is_local))
        return "a page of another site may ask for nothing and change nothing";
    if (!request->is_page && request->fetch_site && !is_own_site(request->fetch_site))
        return "a page of another site may ask for nothing and change nothing";
    return NULL;
}
