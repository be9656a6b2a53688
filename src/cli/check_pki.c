#include <errno.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/json.h"
#include "cli/check.h"
#include "wire/tls.h"

#define SOON_DAYS 30

#define MAKE_ONE "make one with `vmferry pki init` and `vmferry pki issue HOST`"

static const char how_to_begin[] =
    MAKE_ONE "; or, where everyone on the network is trusted, run the agents with --insecure";

/* Days until the certificate ends; FALSE where it cannot be read. */
static gboolean read_days_left(const char *path, int *ret_days)
{
    FILE *file = fopen(path, "re");
    X509 *certificate = file ? PEM_read_X509(file, NULL, NULL, NULL) : NULL;
    int seconds;
    gboolean done = certificate &&
                    ASN1_TIME_diff(ret_days, &seconds, NULL, X509_get0_notAfter(certificate)) == 1;

    X509_free(certificate);
    if (file)
        fclose(file);
    return done;
}

static void add_dates(Findings *findings, const char *directory, const char *name)
{
    g_autofree char *path = g_build_filename(directory, "host.crt", NULL);
    g_autofree char *text = NULL;
    int days;

    if (!read_days_left(path, &days))
        return;
    text = g_strdup_printf("%s is \"%s\", valid for %d more days", directory, name, days);
    findings_add(findings, "PKI", days < SOON_DAYS ? FINDING_NOTE : FINDING_GOOD, text,
                 days < SOON_DAYS
                     ? "make a new one with `vmferry pki issue`: the agent reads it by itself"
                     : NULL);
}

static void add_missing(Findings *findings, const char *directory)
{
    g_autofree char *text = g_strdup_printf(
        "there is no certificate in %s: the agent reaches no other host, and none reaches it",
        directory);

    findings_add(findings, "PKI", FINDING_BAD, text, how_to_begin);
}

static void check_directory(Findings *findings, const char *directory)
{
    g_autofree char *certificate = g_build_filename(directory, "host.crt", NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(TlsIdentity) identity = NULL;

    if (access(certificate, F_OK) != 0 && errno == ENOENT) {
        add_missing(findings, directory);
        return;
    }
    identity = tls_identity_load(directory, &error);
    if (identity)
        add_dates(findings, directory, tls_identity_get_name(identity));
    else
        findings_add(findings, "PKI", FINDING_BAD, error->message,
                     "the agent runs as root and needs ca.crt, host.crt and host.key of this host "
                     "there, as `vmferry pki issue HOST` makes them");
}

void check_pki(Findings *findings, const AgentSettings *settings, gboolean named, json_t *agent)
{
    gboolean insecure = agent ? json_flag_or(agent, "insecure", FALSE) : settings->insecure;
    const char *directory = settings->pki_dir;

    if (insecure && !named) {
        findings_add(findings, "PKI", FINDING_NOTE,
                     "not used (--insecure): who reaches the agent's port may put guests here and "
                     "read those that leave",
                     MAKE_ONE);
        return;
    }
    /* The agent may have been told something else than its configuration file says. */
    check_directory(findings, named ? directory : json_text_or(agent, "pki_dir", directory));
}
