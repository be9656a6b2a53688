#include "wire/pki.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/fd.h"
#include "wire/pki_certificate.h"

/* ---- files ---- */

static gboolean make_folder(const char *directory, GError **error)
{
    /* Holds keys: nobody else has business in it. */
    if (g_mkdir_with_parents(directory, 0700) == 0)
        return TRUE;
    error_set_errno(error, errno, "create %s", directory);
    return FALSE;
}

static gboolean refuse_existing(const char *directory, const char *name, const char *hint,
                                GError **error)
{
    g_autofree char *path = g_build_filename(directory, name, NULL);
    struct stat info;

    if (lstat(path, &info) < 0 && errno == ENOENT)
        return TRUE;
    error_set(error, VMFERRY_ERROR_EXISTS, "%s exists already; %s", path, hint);
    return FALSE;
}

static gboolean write_temporary(const char *path, const char *data, size_t length, mode_t mode,
                                GError **error)
{
    autofd int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0) {
        error_set_errno(error, errno, "create %s", path);
        return FALSE;
    }
    if (!fd_write_all(fd, data, length, error)) {
        g_prefix_error(error, "%s: ", path);
        return FALSE;
    }
    if (fchmod(fd, mode) < 0 || fsync(fd) < 0) {
        error_set_errno(error, errno, "write %s", path);
        return FALSE;
    }
    return TRUE;
}

/* Makes a whole file with its right mode appear at once, and never instead of
 * one that is there: link() refuses that, rename() would not. */
static gboolean publish(const char *directory, const char *name, const char *data, size_t length,
                        mode_t mode, GError **error)
{
    g_autofree char *path = g_build_filename(directory, name, NULL);
    g_autofree char *temporary = g_strdup_printf("%s.%08x.new", path, g_random_int());
    gboolean ok = write_temporary(temporary, data, length, mode, error);

    if (ok && link(temporary, path) < 0) {
        error_set_errno(error, errno, "create %s", path);
        ok = FALSE;
    }
    unlink(temporary);
    return ok;
}

static void withdraw(const char *directory, const char *name)
{
    g_autofree char *path = g_build_filename(directory, name, NULL);

    unlink(path);
}

static gboolean publish_bio(const char *directory, const char *name, BIO *bio, mode_t mode,
                            GError **error)
{
    char *data = NULL;
    long length = BIO_get_mem_data(bio, &data);

    return publish(directory, name, data, (size_t)MAX(length, 0), mode, error);
}

static gboolean publish_certificate(const char *directory, const char *name, X509 *certificate,
                                    GError **error)
{
    g_autoptr(BIO) bio = BIO_new(BIO_s_mem());

    if (bio && PEM_write_bio_X509(bio, certificate))
        return publish_bio(directory, name, bio, 0644, error);
    error_set(error, VMFERRY_ERROR_FAILED, "%s: %s", name, tls_peer_error());
    return FALSE;
}

static gboolean publish_key(const char *directory, const char *name, EVP_PKEY *key, GError **error)
{
    g_autoptr(BIO) bio = BIO_new(BIO_s_secmem());

    if (bio && PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL))
        return publish_bio(directory, name, bio, 0600, error);
    error_set(error, VMFERRY_ERROR_FAILED, "%s: %s", name, tls_peer_error());
    return FALSE;
}

/* Both or none. */
static gboolean publish_pair(const char *directory, const char *key_name, EVP_PKEY *key,
                             const char *certificate_name, X509 *certificate, GError **error)
{
    if (!publish_key(directory, key_name, key, error))
        return FALSE;
    if (publish_certificate(directory, certificate_name, certificate, error))
        return TRUE;
    withdraw(directory, key_name);
    return FALSE;
}

/* ---- the two commands ---- */

gboolean pki_init(const char *directory, guint days, GError **error)
{
    static const char hint[] = "choose another folder (a new CA would make all certificates of "
                               "the old one worthless)";
    g_autoptr(EVP_PKEY) key = NULL;
    g_autoptr(X509) ca = NULL;

    if (!make_folder(directory, error) || !refuse_existing(directory, "ca.crt", hint, error) ||
        !refuse_existing(directory, "ca.key", hint, error))
        return FALSE;
    key = pki_make_key(error);
    ca = key ? pki_make_ca(key, days, error) : NULL;
    return ca && publish_pair(directory, "ca.key", key, "ca.crt", ca, error);
}

static gboolean load_ca(const char *directory, X509 **ret_ca, EVP_PKEY **ret_key, GError **error)
{
    g_autofree char *ca_path = g_build_filename(directory, "ca.crt", NULL);
    g_autofree char *key_path = g_build_filename(directory, "ca.key", NULL);
    g_autoptr(X509) ca = tls_read_certificate(ca_path, error);
    g_autoptr(EVP_PKEY) key = ca ? tls_read_key(key_path, error) : NULL;

    if (!key) {
        g_prefix_error(error, "no CA in %s (make one with `vmferry pki init`): ", directory);
        return FALSE;
    }
    if (X509_check_private_key(ca, key) != 1) {
        ERR_clear_error();
        error_set(error, VMFERRY_ERROR_INVALID, "%s and %s do not belong together", ca_path,
                  key_path);
        return FALSE;
    }
    if (X509_cmp_current_time(X509_get0_notAfter(ca)) < 0) {
        error_set(error, VMFERRY_ERROR_REFUSED, "the CA has expired (%s)", ca_path);
        return FALSE;
    }
    *ret_ca = g_steal_pointer(&ca);
    *ret_key = g_steal_pointer(&key);
    return TRUE;
}

/* The host's folder gets the CA's certificate too, unless it is there. */
static gboolean copy_ca(const char *directory, X509 *ca, GError **error)
{
    g_autofree char *path = g_build_filename(directory, "ca.crt", NULL);
    g_autoptr(X509) present = NULL;

    if (!g_file_test(path, G_FILE_TEST_EXISTS))
        return publish_certificate(directory, "ca.crt", ca, error);
    present = tls_read_certificate(path, error);
    if (!present)
        return FALSE;
    if (X509_cmp(present, ca) == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_EXISTS, "%s exists already and is of another CA", path);
    return FALSE;
}

static gboolean publish_end(const char *out_directory, X509 *ca, EVP_PKEY *key, X509 *certificate,
                            GError **error)
{
    static const char hint[] = "remove host.key and host.crt there to issue new ones";

    if (!make_folder(out_directory, error) ||
        !refuse_existing(out_directory, "host.key", hint, error) ||
        !refuse_existing(out_directory, "host.crt", hint, error) ||
        !copy_ca(out_directory, ca, error))
        return FALSE;
    return publish_pair(out_directory, "host.key", key, "host.crt", certificate, error);
}

gboolean pki_issue(const char *directory, const char *host, const char *const *extra_names,
                   guint days, const char *out_directory, GError **error)
{
    g_autoptr(X509) ca = NULL;
    g_autoptr(EVP_PKEY) ca_key = NULL;
    g_autoptr(EVP_PKEY) key = NULL;
    g_autoptr(X509) certificate = NULL;

    return load_ca(directory, &ca, &ca_key, error) && (key = pki_make_key(error)) &&
           (certificate = pki_make_host(key, host, extra_names, days, ca, ca_key, error)) &&
           publish_end(out_directory, ca, key, certificate, error);
}

gboolean pki_issue_engine(const char *directory, const char *name, guint days,
                          const char *out_directory, GError **error)
{
    g_autoptr(X509) ca = NULL;
    g_autoptr(EVP_PKEY) ca_key = NULL;
    g_autoptr(EVP_PKEY) key = NULL;
    g_autoptr(X509) certificate = NULL;

    return load_ca(directory, &ca, &ca_key, error) && (key = pki_make_key(error)) &&
           (certificate = pki_make_engine(key, name, days, ca, ca_key, error)) &&
           publish_end(out_directory, ca, key, certificate, error);
}
