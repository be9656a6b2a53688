/* What of libvirt needs no daemon: addresses, command lines, and what is said where nothing is there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "vmm/libvirt/address.h"
#include "vmm/libvirt/domain.h"
#include "vmm/libvirt/library.h"
#include "vmm/libvirt/restore.h"
#include "vmm/libvirt/save_header.h"
#include "vmm/qemu/qmp_libvirt.h"

#define UUID "6811f119-2870-4b04-aa6f-b6fb34fbd56e"
#define NOWHERE "qemu:///system?socket=/nowhere/libvirt-sock"

static void test_address(void **state)
{
    g_autofree char *text = libvirt_address_format(UUID, NOWHERE);
    g_autofree char *uuid = NULL, *uri = NULL;

    assert_string_equal(text, "libvirt:" UUID ":" NOWHERE);
    assert_true(libvirt_address_is(text));
    assert_true(libvirt_address_parse(text, &uuid, &uri, NULL));
    assert_string_equal(uuid, UUID);
    assert_string_equal(uri, NOWHERE);
    assert_false(libvirt_address_is(NULL));
    assert_false(libvirt_address_is("/run/web1.qmp"));
}

static void test_bad_addresses(void **state)
{
    g_autofree char *long_uri = g_strnfill(2000, 'x');
    g_autofree char *too_long = libvirt_address_format(UUID, long_uri);
    const char *const bad[] = {
        "",
        "libvirt:",
        "libvirt:web1:qemu:///system",
        "libvirt:" UUID,
        "libvirt:" UUID ":",
        "libvirt:" UUID "qemu:///system",
        "libvirt:" UUID ":qemu:///sys tem",
        "libvirt:" UUID ":qemu:///\n",
        "libvirt:" UUID ":qemu:///systems",
        "libvirt:" UUID ":qemu:///embed?root=/tmp",
        "libvirt:" UUID ":qemu+ext:///system?command=/bin/sh",
        "libvirt:" UUID ":qemu+ssh://other/system",
        "libvirt:" UUID ":test:///default",
        "/run/" UUID ":qemu:///system",
        too_long,
    };

    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *uuid = NULL, *uri = NULL;
        g_autoptr(GError) error = NULL;

        assert_false(libvirt_address_parse(bad[i], &uuid, &uri, &error));
        assert_true(error_is(error, VMFERRY_ERROR_INVALID));
        assert_null(uuid);
    }
}

static void test_command_lines(void **state)
{
    char *theirs[] = {"qemu",
                      "-name",
                      "guest=web1,debug-threads=on",
                      "-uuid",
                      UUID,
                      "-chardev",
                      "socket,id=charmonitor,fd=25,server=on,wait=off",
                      "-mon",
                      "chardev=charmonitor,id=monitor,mode=control",
                      NULL};
    char *no_uuid[] = {"qemu", "-name", "guest=web1", "-chardev", "socket,id=charmonitor,fd=25",
                       NULL};
    char *no_monitor[] = {"qemu", "-name", "guest=web1", "-uuid", UUID, NULL};
    char *plain[] = {
        "qemu", "-name", "web1", "-uuid", UUID, "-chardev", "socket,id=charmonitor,fd=25", NULL};
    char *ends_early[] = {"qemu", "-uuid", NULL};
    g_autofree char *name = NULL;
    const char *uuid;

    assert_true(libvirt_domain_is_of(theirs, &uuid, &name));
    assert_string_equal(uuid, UUID);
    assert_string_equal(name, "web1");
    assert_false(libvirt_domain_is_of(no_uuid, &uuid, &name));
    assert_false(libvirt_domain_is_of(no_monitor, &uuid, &name));
    assert_false(libvirt_domain_is_of(plain, &uuid, &name));
    assert_false(libvirt_domain_is_of(ends_early, &uuid, &name));
}

static void test_version(void **state)
{
    g_autofree char *text = libvirt_version_text(9000000), *other = libvirt_version_text(10002003);

    assert_string_equal(text, "9.0.0");
    assert_string_equal(other, "10.2.3");
}

/* On a host with the library and without: an error says which. */
static void test_no_daemon(void **state)
{
    gboolean here = libvirt_library_get(NULL) != NULL;
    g_autoptr(GError) error = NULL, second = NULL;
    g_autofree char *address = NULL;
    pid_t pid;

    assert_false(libvirt_domain_find(NOWHERE, "web1", &address, &pid, &error));
    assert_null(address);
    assert_true(error_is(error, here ? VMFERRY_ERROR_DISCONNECTED : VMFERRY_ERROR_UNSUPPORTED));
    assert_true(!here || strstr(error->message, "/nowhere/libvirt-sock"));
    assert_null(qmp_open_libvirt("libvirt:" UUID ":" NOWHERE, &second));
    assert_true(error_is(second, here ? VMFERRY_ERROR_DISCONNECTED : VMFERRY_ERROR_UNSUPPORTED));
}

/* Nothing is connected to that is not of this host. */
static void test_other_uri(void **state)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *address = NULL;
    pid_t pid;

    if (!libvirt_library_get(NULL))
        skip();
    assert_false(libvirt_domain_find("test:///default", "test", &address, &pid, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
    assert_null(address);
    assert_true(libvirt_uri_check("qemu:///system", NULL));
    assert_true(libvirt_uri_check("qemu+unix:///session", NULL));
    assert_true(libvirt_uri_check(NOWHERE, NULL));
}

static void test_save_header(void **state)
{
    g_autoptr(GBytes) bytes = libvirt_save_header_build("<domain/>", TRUE, NULL);
    g_autoptr(GBytes) paused = libvirt_save_header_build("<domain/>", FALSE, NULL);
    g_autofree char *long_xml = g_strnfill(LIBVIRT_SAVE_MAX_XML, 'x');
    g_autoptr(GError) error = NULL;
    const char *at;
    uint32_t words[5];
    gsize length;

    at = g_bytes_get_data(bytes, &length);
    assert_int_equal(length, 92 + 10);
    assert_memory_equal(at, "LibvirtQemudSave", 16);
    memcpy(words, at + 16, sizeof words);
    assert_int_equal(words[0], 2);
    assert_int_equal(words[1], 10);
    assert_int_equal(words[2], 1);
    assert_int_equal(words[3], 0);
    assert_int_equal(words[4], 0);
    assert_string_equal(at + 92, "<domain/>");
    memcpy(words, (const char *)g_bytes_get_data(paused, NULL) + 16, sizeof words);
    assert_int_equal(words[2], 0);
    assert_null(libvirt_save_header_build("", TRUE, &error));
    g_clear_error(&error);
    assert_null(libvirt_save_header_build(long_xml, TRUE, &error));
    assert_true(error_is(error, VMFERRY_ERROR_INVALID));
}

/* Nothing is left, and libvirt's reason is told. */
static void test_restore_without_daemon(void **state)
{
    gboolean here = libvirt_library_get(NULL) != NULL;
    g_autofree char *folder = g_dir_make_tmp("vmferry-restore-XXXXXX", NULL);
    LibvirtRestoreJob job = {.uri = NOWHERE, .uuid = UUID, .xml = "<domain/>", .directory = folder};
    g_autoptr(GError) error = NULL;

    assert_null(libvirt_restore_begin(&job, 20000, &error));
    assert_true(error_is(error, here ? VMFERRY_ERROR_DISCONNECTED : VMFERRY_ERROR_UNSUPPORTED));
    /* An empty folder can be removed. */
    assert_int_equal(rmdir(folder), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_address),       cmocka_unit_test(test_bad_addresses),
        cmocka_unit_test(test_command_lines), cmocka_unit_test(test_version),
        cmocka_unit_test(test_no_daemon),     cmocka_unit_test(test_other_uri),
        cmocka_unit_test(test_save_header),   cmocka_unit_test(test_restore_without_daemon),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
