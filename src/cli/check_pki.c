#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "cli/check.h"
#include "wire/tls.h"

#define SOON_DAYS 30

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
                     ? "make a new one with `vmferry pki issue`, then restart the agent"
                     : NULL);
}

void check_pki(Findings *findings, const char *directory)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(TlsIdentity) identity = NULL;

    if (access(directory, F_OK) != 0) {
        findings_add(findings, "PKI", FINDING_NOTE, "there is none",
                     "make one with `vmferry pki init` and `vmferry pki issue HOST`");
        return;
    }
    identity = tls_identity_load(directory, &error);
    if (identity)
        add_dates(findings, directory, tls_identity_get_name(identity));
    else
        findings_add(findings, "PKI", FINDING_NOTE, error->message,
                     "make a new one with `vmferry pki issue HOST`");
}
