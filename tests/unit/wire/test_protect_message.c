/* PROTECT: what a standby is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/error.h"
#include "wire/messages.h"

static char path[] = "/srv/vm/web1.qcow2", format[] = "qcow2";

static char *encode(void)
{
    WireImage image = {path, format, 10u << 20};
    ProtectMessage message = {.port = 4747,
                              .images = &image,
                              .image_count = 1,
                              .sync = "timed",
                              .overhead_percent = 50,
                              .copies_writes = TRUE};

    return protect_message_encode(&message);
}

static void test_there_and_back(void **state)
{
    g_autofree char *text = encode();
    g_auto(ProtectMessage) back = {0};

    assert_true(protect_message_decode(text, strlen(text), &back, NULL));
    assert_int_equal(back.port, 4747);
    assert_int_equal(back.image_count, 1);
    assert_string_equal(back.images[0].path, path);
    assert_string_equal(back.images[0].format, format);
    assert_int_equal(back.images[0].bytes, 10u << 20);
    assert_string_equal(back.sync, "timed");
    assert_int_equal(back.overhead_percent, 50);
    assert_true(back.copies_writes);
}

static void test_no_disks(void **state)
{
    static const char text[] = "{\"port\": 1, \"images\": []}";
    g_auto(ProtectMessage) back = {0};

    assert_true(protect_message_decode(text, strlen(text), &back, NULL));
    assert_int_equal(back.image_count, 0);
}

/* As by a peer that knows of none. */
static void test_no_options(void **state)
{
    static const char text[] = "{\"port\": 1, \"images\": []}";
    g_auto(ProtectMessage) back = {0};

    assert_true(protect_message_decode(text, strlen(text), &back, NULL));
    assert_null(back.sync);
    assert_int_equal(back.overhead_percent, 0);
    assert_false(back.copies_writes);
}

static void test_refused(void **state)
{
    static const char *const texts[] = {
        "",
        "[]",
        "{\"images\": []}",
        "{\"port\": 0, \"images\": []}",
        "{\"port\": 65536, \"images\": []}",
        "{\"port\": 1}",
        "{\"port\": 1, \"images\": [7]}",
        "{\"port\": 1, \"images\": [{\"path\": \"\", \"format\": \"raw\", \"bytes\": 512}]}",
        "{\"port\": 1, \"images\": [{\"path\": \"a\\n\", \"format\": \"raw\", \"bytes\": 512}]}",
        "{\"port\": 1, \"images\": [{\"path\": \"a\", \"bytes\": 512}]}",
        "{\"port\": 1, \"images\": [{\"path\": \"a\", \"format\": \"raw\", \"bytes\": 0}]}",
        "{\"port\": 1, \"images\": [{\"path\": \"a\", \"format\": \"raw\", \"bytes\": 513}]}",
        "{\"port\": 1, \"images\": [{\"path\": \"a\", \"format\": \"raw\", \"bytes\": -512}]}",
        "{\"port\": 1, \"images\": [], \"sync\": \"\"}",
        "{\"port\": 1, \"images\": [], \"sync\": \"Timed\"}",
        "{\"port\": 1, \"images\": [], \"sync\": 1}",
        "{\"port\": 1, \"images\": [], \"overhead_percent\": 0}",
        "{\"port\": 1, \"images\": [], \"overhead_percent\": 51}",
        "{\"port\": 1, \"images\": [], \"overhead_percent\": \"5\"}",
        "{\"port\": 1, \"images\": [], \"copies_writes\": 1}",
    };

    for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_auto(ProtectMessage) back = {0};
        g_autoptr(GError) error = NULL;

        if (protect_message_decode(texts[i], strlen(texts[i]), &back, &error) ||
            !error_is(error, VMFERRY_ERROR_INVALID))
            fail_msg("%s was taken", texts[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_no_disks),
        cmocka_unit_test(test_no_options),
        cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
