/*
 * What keeps pages of other sites away from the engine
 *
 * Theory of operation: a browser sends requests here for whatever page its user has open, with the user's certificate,
 * and from within the network that the engine trusts.  So that no page but the engine's own gets anything through or
 * out:
 *
 *   - Host names this engine: a loopback name on a loopback address, else an IP address or one of the names that
 *     the engine has (of its certificate, or configured).  A page of evil.example whose name was pointed here meanwhile
 *     (DNS rebinding) has its own name in there, and no page can change that.
 *   - What changes something is no GET, and has the header `X-Vmferry: 1`.  A form cannot send it; a script of another
 *     site has to ask first (CORS), and is never told yes.
 *   - Origin, where there is one, is this engine's, and Sec-Fetch-Site, where there is one, is "same-origin" or "none"
 *     (typed by the user).  Only the page's own files, which tell nothing, may be linked to from elsewhere.
 *   - Answers cannot be framed, are taken for nothing but what they are, and the page may run and load what the engine
 *     has served and nothing else (Content-Security-Policy).
 *
 * Sources: the Fetch standard, "Fetch Metadata Request Headers" and "Content Security Policy Level 3" of the W3C.
 *
 * Limits: this is about browsers.  Who may do what is decided apart from it (server.h).
 */
#pragma once

#include <glib.h>

/* A request's headers; NULL where it has none. */
typedef struct {
    const char *host, *origin, *fetch_site, *mark; /* Host, Origin, Sec-Fetch-Site, X-Vmferry */
    gboolean changes;                              /* it is no GET */
    gboolean is_page;                              /* it asks for a file of the page */
} BrowserRequest;

/* Who the engine is. */
typedef struct {
    gboolean is_local;      /* on a loopback address, plain HTTP */
    const GPtrArray *names; /* of char *: further names that it has */
} BrowserSelf;

/* Why the request is refused; NULL: no objection. */
const char *browser_find_objection(const BrowserRequest *request, const BrowserSelf *self);

/* Headers of every answer: {name, value}, the last one NULL. */
extern const char *const browser_headers[][2];
