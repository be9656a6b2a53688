/* How an image was made, out of QEMU's answers, and what is taken from a peer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/json.h"
#include "vmm/qemu/image_options.h"

#define QCOW2(more, data)                                                                          \
    "{\"format\":\"qcow2\",\"cluster-size\":131072," more                                          \
    "\"format-specific\":{\"type\":\"qcow2\",\"data\":{" data "}}}"

static json_t *parse(const char *text)
{
    json_t *object = json_parse_object(text, strlen(text), 65536, NULL);

    assert_non_null(object);
    return object;
}

static void expect_options(const char *info_text, const char *options_text)
{
    g_autoptr(json_t) info = parse(info_text);
    g_autoptr(json_t) expected = parse(options_text);
    g_autoptr(json_t) options = NULL;
    char *obstacle;

    assert_true(qemu_image_options_from_info(info, &options, &obstacle));
    assert_null(obstacle);
    assert_true(json_equal(options, expected));
    assert_true(qemu_image_options_check("qcow2", options, NULL));
}

static void expect_obstacle(const char *info_text, const char *text)
{
    g_autoptr(json_t) info = parse(info_text);
    g_autofree char *obstacle = NULL;
    json_t *options;

    assert_false(qemu_image_options_from_info(info, &options, &obstacle));
    assert_null(options);
    if (!strstr(obstacle, text))
        fail_msg("\"%s\" does not hold \"%s\"", obstacle, text);
}

static void test_of_qcow2(void **unused)
{
    expect_options(QCOW2("", "\"compat\":\"1.1\",\"compression-type\":\"zstd\",\"corrupt\":false,"
                             "\"lazy-refcounts\":true,\"refcount-bits\":64,\"extended-l2\":true"),
                   "{\"version\":\"v3\",\"cluster-size\":131072,\"compression-type\":\"zstd\","
                   "\"lazy-refcounts\":true,\"refcount-bits\":64,\"extended-l2\":true}");
    expect_options(QCOW2("", "\"compat\":\"0.10\",\"refcount-bits\":16"),
                   "{\"version\":\"v2\",\"cluster-size\":131072,\"refcount-bits\":16}");
}

static void test_of_raw(void **unused)
{
    g_autoptr(json_t) info = parse("{\"format\":\"raw\",\"virtual-size\":512}");
    json_t *options;
    char *obstacle;

    assert_true(qemu_image_options_from_info(info, &options, &obstacle));
    assert_null(options);
    assert_null(obstacle);
}

static void test_obstacles(void **unused)
{
    expect_obstacle("{\"format\":\"vmdk\"}", "only raw and qcow2");
    expect_obstacle("{}", "only raw and qcow2");
    expect_obstacle("{\"format\":\"qcow2\"}", "does not tell");
    expect_obstacle(QCOW2("\"encrypted\":true,", "\"compat\":\"1.1\""), "encryption");
    expect_obstacle(QCOW2("", "\"encrypt\":{\"format\":\"luks\"}"), "encryption");
    expect_obstacle(QCOW2("", "\"data-file\":\"/srv/d\""), "external data file");
    expect_obstacle(QCOW2("\"snapshots\":[{\"id\":\"1\"}],", "\"compat\":\"1.1\""), "snapshots");
    expect_obstacle(QCOW2("", "\"corrupt\":true"), "corrupt");
}

static void expect_refused(const char *format, const char *options_text, VmferryErrorCode code)
{
    g_autoptr(json_t) options = options_text ? parse(options_text) : NULL;
    g_autoptr(GError) error = NULL;

    if (qemu_image_options_check(format, options, &error))
        fail_msg("%s was taken", options_text);
    if (!error_is(error, code))
        fail_msg("%s: %s", options_text, error->message);
}

static void test_from_a_peer(void **unused)
{
    g_autoptr(json_t) array = json_array();

    assert_true(qemu_image_options_check("raw", NULL, NULL));
    assert_true(qemu_image_options_check("qcow2", NULL, NULL));
    assert_false(qemu_image_options_check("qcow2", array, NULL));
    expect_refused("vmdk", NULL, VMFERRY_ERROR_UNSUPPORTED);
    expect_refused("raw", "{\"cluster-size\":65536}", VMFERRY_ERROR_UNSUPPORTED);
    expect_refused("qcow2", "{\"data-file\":\"/etc/passwd\"}", VMFERRY_ERROR_UNSUPPORTED);
    expect_refused("qcow2", "{\"backing-file\":\"/etc/passwd\"}", VMFERRY_ERROR_UNSUPPORTED);
    expect_refused("qcow2", "{\"compression-type\":\"lzma\"}", VMFERRY_ERROR_UNSUPPORTED);
    expect_refused("qcow2", "{\"version\":3}", VMFERRY_ERROR_INVALID);
    expect_refused("qcow2", "{\"version\":\"v4\"}", VMFERRY_ERROR_UNSUPPORTED);
    expect_refused("qcow2", "{\"cluster-size\":\"64k\"}", VMFERRY_ERROR_INVALID);
    expect_refused("qcow2", "{\"cluster-size\":-65536}", VMFERRY_ERROR_INVALID);
    expect_refused("qcow2", "{\"cluster-size\":65537}", VMFERRY_ERROR_INVALID);
    expect_refused("qcow2", "{\"cluster-size\":4194304}", VMFERRY_ERROR_INVALID);
    expect_refused("qcow2", "{\"cluster-size\":-9223372036854775808}", VMFERRY_ERROR_INVALID);
    expect_refused("qcow2", "{\"refcount-bits\":0}", VMFERRY_ERROR_INVALID);
    expect_refused("qcow2", "{\"lazy-refcounts\":1}", VMFERRY_ERROR_INVALID);
    expect_refused("qcow2", "{\"extended-l2\":null}", VMFERRY_ERROR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_of_qcow2),
        cmocka_unit_test(test_of_raw),
        cmocka_unit_test(test_obstacles),
        cmocka_unit_test(test_from_a_peer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
