/* An order that says until when it counts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <string.h>

#include <cmocka.h>

#include "agent/order_expiry.h"
#include "base/error.h"

#define BOOT "aaaa"

static gboolean check(json_t *expires, uint64_t now_ms, GError **error)
{
    g_autoptr(json_t) body = json_pack("{s:s}", "destination", "hostb");

    if (expires)
        json_object_set_new(body, "expires", expires);
    return order_expiry_check(body, BOOT, now_ms, error);
}

static void refused(json_t *expires, uint64_t now_ms, VmferryErrorCode code, const char *words)
{
    g_autoptr(GError) error = NULL;

    assert_false(check(expires, now_ms, &error));
    assert_true(error_is(error, code));
    assert_non_null(strstr(error->message, words));
}

static json_t *expiry(const char *boot, json_int_t time_ms)
{
    return json_pack("{s:s, s:I}", "boot_id", boot, "time_ms", time_ms);
}

static void test_counts_until_then(void **state)
{
    assert_true(check(NULL, G_MAXINT64, NULL));
    assert_true(check(expiry(BOOT, 1000), 999, NULL));
    refused(expiry(BOOT, 1000), 1000, VMFERRY_ERROR_REFUSED, "has expired");
    refused(expiry(BOOT, 1000), 70000, VMFERRY_ERROR_REFUSED, "nothing is begun");
    /* After another boot the clock has begun anew. */
    refused(expiry("bbbb", 1000), 5, VMFERRY_ERROR_REFUSED, "has expired");
}

static void test_what_cannot_be_read(void **state)
{
    refused(json_string("soon"), 0, VMFERRY_ERROR_INVALID, "\"expires\"");
    refused(json_null(), 0, VMFERRY_ERROR_INVALID, "\"expires\"");
    refused(json_pack("{s:i}", "time_ms", 5), 0, VMFERRY_ERROR_INVALID, "boot_id");
    refused(json_pack("{s:s, s:s}", "boot_id", BOOT, "time_ms", "5"), 0, VMFERRY_ERROR_INVALID,
            "time_ms");
    refused(expiry(BOOT, -1), 0, VMFERRY_ERROR_INVALID, "time_ms");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts_until_then),
        cmocka_unit_test(test_what_cannot_be_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
