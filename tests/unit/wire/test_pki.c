/* The small CA: its files and what stands in its certificates. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/fd.h"
#include "loopback.h"
#include "wire/pki.h"
#include "wire/pki_certificate.h"

typedef struct {
    char *folder, *ca, *host;
} Fixture;

static int set_up(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);

    fixture->folder = folder_new();
    fixture->ca = g_build_filename(fixture->folder, "deep", "ca", NULL);
    fixture->host = g_build_filename(fixture->folder, "host", NULL);
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    Fixture *fixture = *state;

    folder_remove(fixture->folder);
    g_free(fixture->ca);
    g_free(fixture->host);
    g_free(fixture);
    return 0;
}

static void expect_error(gboolean ok, GError **error, VmferryErrorCode code, const char *words)
{
    assert_false(ok);
    assert_non_null(*error);
    if (!error_is(*error, code) || !strstr((*error)->message, words))
        fail_msg("expected \"%s\", got \"%s\"", words, (*error)->message);
    g_clear_error(error);
}

static void init_ok(Fixture *fixture)
{
    GError *error = NULL;

    if (!pki_init(fixture->ca, 365, &error))
        fail_msg("%s", error->message);
}

static void issue_ok(Fixture *fixture, const char *host, const char *const *extra, guint days)
{
    GError *error = NULL;

    if (!pki_issue(fixture->ca, host, extra, days, fixture->host, &error))
        fail_msg("%s", error->message);
}

static mode_t mode_of(const char *folder, const char *name)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    struct stat info;

    assert_int_equal(stat(path, &info), 0);
    return info.st_mode & 07777;
}

static X509 *load(const char *folder, const char *name)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    X509 *certificate = tls_read_certificate(path, NULL);

    assert_non_null(certificate);
    return certificate;
}

static guint count_files(const char *folder)
{
    g_autoptr(GDir) entries = g_dir_open(folder, 0, NULL);
    guint n = 0;

    while (entries && g_dir_read_name(entries))
        n++;
    return n;
}

static void test_files_and_modes(void **state)
{
    Fixture *fixture = *state;

    init_ok(fixture);
    issue_ok(fixture, "hosta", NULL, 30);
    assert_int_equal(mode_of(fixture->ca, "ca.key"), 0600);
    assert_int_equal(mode_of(fixture->ca, "ca.crt"), 0644);
    assert_int_equal(mode_of(fixture->host, "host.key"), 0600);
    assert_int_equal(mode_of(fixture->host, "host.crt"), 0644);
    assert_int_equal(mode_of(fixture->host, "ca.crt"), 0644);
    assert_int_equal(mode_of(fixture->ca, "."), 0700);
    /* No temporary files. */
    assert_int_equal(count_files(fixture->ca), 2);
    assert_int_equal(count_files(fixture->host), 3);
}

static void test_ca_certificate(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(X509) ca = NULL;

    init_ok(fixture);
    ca = load(fixture->ca, "ca.crt");
    assert_true(X509_check_ca(ca) == 1);
    assert_int_equal(X509_get_pathlen(ca), 0);
    assert_int_equal(X509_get_key_usage(ca), KU_KEY_CERT_SIGN | KU_CRL_SIGN);
    assert_int_equal(EVP_PKEY_get_bits(X509_get0_pubkey(ca)), 256);
    assert_true(X509_verify(ca, X509_get0_pubkey(ca)) == 1);
}

static void test_host_certificate(void **state)
{
    static const char *const extra[] = {"10.0.0.7", "hosta.example.org", "fd00::7", NULL};
    Fixture *fixture = *state;
    g_autofree char *name = NULL;
    g_autoptr(X509) host = NULL;

    init_ok(fixture);
    issue_ok(fixture, "hosta", extra, 30);
    host = load(fixture->host, "host.crt");
    name = tls_certificate_name(host);
    assert_string_equal(name, "hosta");
    assert_int_equal(X509_check_ca(host), 0);
    assert_int_equal(X509_get_key_usage(host), KU_DIGITAL_SIGNATURE);
    assert_int_equal(X509_get_extended_key_usage(host), XKU_SSL_SERVER | XKU_SSL_CLIENT);
    assert_true(X509_check_host(host, "hosta", 0, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT, NULL) == 1);
    assert_true(X509_check_host(host, "hosta.example.org", 0, 0, NULL) == 1);
    assert_true(X509_check_host(host, "hostb", 0, 0, NULL) == 0);
    assert_true(X509_check_ip_asc(host, "10.0.0.7", 0) == 1);
    assert_true(X509_check_ip_asc(host, "fd00::7", 0) == 1);
    assert_true(X509_check_ip_asc(host, "10.0.0.8", 0) == 0);
}

static void test_serials_are_random(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *second = g_build_filename(fixture->folder, "second", NULL);
    g_autoptr(X509) a = NULL;
    g_autoptr(X509) b = NULL;

    init_ok(fixture);
    issue_ok(fixture, "hosta", NULL, 30);
    assert_true(pki_issue(fixture->ca, "hosta", NULL, 30, second, NULL));
    a = load(fixture->host, "host.crt");
    b = load(second, "host.crt");
    assert_int_not_equal(ASN1_INTEGER_cmp(X509_get0_serialNumber(a), X509_get0_serialNumber(b)), 0);
}

static void test_host_does_not_outlive_the_ca(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(X509) ca = NULL;
    g_autoptr(X509) host = NULL;

    init_ok(fixture);
    issue_ok(fixture, "10.0.0.7", NULL, 3650);
    ca = load(fixture->ca, "ca.crt");
    host = load(fixture->host, "host.crt");
    assert_int_equal(ASN1_TIME_compare(X509_get0_notAfter(host), X509_get0_notAfter(ca)), 0);
}

static void test_nothing_is_overwritten(void **state)
{
    Fixture *fixture = *state;
    GError *error = NULL;
    g_autoptr(X509) before = NULL;
    g_autoptr(X509) after = NULL;

    init_ok(fixture);
    before = load(fixture->ca, "ca.crt");
    expect_error(pki_init(fixture->ca, 365, &error), &error, VMFERRY_ERROR_EXISTS,
                 "ca.crt exists already; choose another folder");
    after = load(fixture->ca, "ca.crt");
    assert_int_equal(X509_cmp(before, after), 0);
    issue_ok(fixture, "hosta", NULL, 30);
    expect_error(pki_issue(fixture->ca, "hostb", NULL, 30, fixture->host, &error), &error,
                 VMFERRY_ERROR_EXISTS, "host.key exists already; remove");
}

static void test_folder_of_another_ca(void **state)
{
    Fixture *fixture = *state;
    g_autofree char *other = g_build_filename(fixture->folder, "other", NULL);
    GError *error = NULL;

    init_ok(fixture);
    assert_true(pki_init(other, 365, NULL));
    expect_error(pki_issue(fixture->ca, "hosta", NULL, 30, other, &error), &error,
                 VMFERRY_ERROR_EXISTS, "exists already and is of another CA");
    /* Its own folder will do. */
    assert_true(pki_issue(other, "hosta", NULL, 30, other, NULL));
    assert_int_equal(count_files(other), 4);
}

static void test_bad_names(void **state)
{
    static const char *const bad[] = {"",    "a,DNS:b", "a b",  "-a",         ".a",          "a..b",
                                      "*.a", "a/b",     "a\nb", "10.0.0.1/8", "fe80::1%eth0"};
    static const char *const bad_extra[] = {"fine", "not,fine", NULL};
    Fixture *fixture = *state;
    g_autofree char *long_name = g_strnfill(65, 'a');
    GError *error = NULL;

    init_ok(fixture);
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        expect_error(pki_issue(fixture->ca, bad[i], NULL, 30, fixture->host, &error), &error,
                     VMFERRY_ERROR_INVALID, "is neither a host name nor an IP address");
    }
    expect_error(pki_issue(fixture->ca, "a", bad_extra, 30, fixture->host, &error), &error,
                 VMFERRY_ERROR_INVALID, "\"not,fine\" is neither");
    expect_error(pki_issue(fixture->ca, long_name, NULL, 30, fixture->host, &error), &error,
                 VMFERRY_ERROR_INVALID, "longer than 64 bytes");
    assert_int_equal(count_files(fixture->host), 0);
}

static void test_bad_days(void **state)
{
    Fixture *fixture = *state;
    GError *error = NULL;

    expect_error(pki_init(fixture->ca, 0, &error), &error, VMFERRY_ERROR_INVALID, "0 days");
    expect_error(pki_init(fixture->ca, 40000, &error), &error, VMFERRY_ERROR_INVALID, "40000 days");
    assert_int_equal(count_files(fixture->ca), 0);
}

static void test_no_ca(void **state)
{
    Fixture *fixture = *state;
    GError *error = NULL;

    expect_error(pki_issue(fixture->ca, "a", NULL, 30, fixture->host, &error), &error,
                 VMFERRY_ERROR_NOT_FOUND, "make one with `vmferry pki init`");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_files_and_modes),
        TEST(test_ca_certificate),
        TEST(test_host_certificate),
        TEST(test_serials_are_random),
        TEST(test_host_does_not_outlive_the_ca),
        TEST(test_nothing_is_overwritten),
        TEST(test_folder_of_another_ca),
        TEST(test_bad_names),
        TEST(test_bad_days),
        TEST(test_no_ca),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
