#include "agent/certificate.h"

#include "base/log.h"
#include "wire/tls.h"

#define INTERVAL_S 3600
#define TELL_AGAIN_US (24 * 3600 * G_TIME_SPAN_SECOND)
#define DAY_S 86400
#define SOON_S (14 * DAY_S)

typedef struct {
    AgentContext *context;
    char *said; /* the last thing said, NULL for none */
    gint64 said_at;
} CertificateWatch;

CertificateState certificate_judge(gint64 seconds)
{
    if (seconds < 0)
        return CERTIFICATE_EXPIRED;
    return seconds < SOON_S ? CERTIFICATE_ENDS_SOON : CERTIFICATE_GOOD;
}

/* What there is to say, or NULL. */
static char *describe(const CertificateWatch *watch, gint64 seconds, const GError *problem)
{
    const char *folder = watch->context->settings->pki_dir;

    if (problem)
        return g_strdup_printf("the certificate in %s changed and cannot be used, the one before "
                               "still is: %s",
                               folder, problem->message);
    switch (certificate_judge(seconds)) {
    case CERTIFICATE_EXPIRED:
        return g_strdup_printf(
            "the certificate in %s (or its CA's) has expired: no guest can move "
            "and no guest in doubt be settled until there is a new one (`vmferry pki "
            "issue`; no restart is needed)",
            folder);
    case CERTIFICATE_ENDS_SOON:
        return g_strdup_printf("the certificate in %s (or its CA's) ends in less than %d days: "
                               "issue a new one with `vmferry pki issue` (no restart is needed)",
                               folder, (int)(seconds / DAY_S) + 1);
    case CERTIFICATE_GOOD:
        break;
    }
    return NULL;
}

static void check(CertificateWatch *watch)
{
    g_autoptr(GError) problem = NULL;
    g_autofree char *text = NULL;
    gint64 now = g_get_monotonic_time();
    gint64 seconds;

    tls_identity_check(watch->context->identity, &seconds, &problem);
    text = describe(watch, seconds, problem);
    if (text && (g_strcmp0(text, watch->said) != 0 || now - watch->said_at > TELL_AGAIN_US)) {
        log_warning("%s", text);
        event_log_add(watch->context->events, NULL, "certificate", NULL, "%s", text);
        watch->said_at = now;
    }
    g_free(watch->said);
    watch->said = g_steal_pointer(&text);
}

static gboolean on_time(gpointer user)
{
    check(user);
    return G_SOURCE_CONTINUE;
}

static void watch_free(gpointer user)
{
    CertificateWatch *watch = user;

    g_free(watch->said);
    g_free(watch);
}

GSource *certificate_watch(AgentContext *context)
{
    CertificateWatch *watch;
    GSource *source;

    if (!context->identity)
        return NULL;
    watch = g_new0(CertificateWatch, 1);
    watch->context = context;
    check(watch);
    source = g_timeout_source_new_seconds(INTERVAL_S);
    g_source_set_callback(source, on_time, watch, watch_free);
    g_source_attach(source, context->main);
    return source;
}
