/* SAVE, SAVE_BASE and SAVED: into which file a guest is saved, and what is below it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/error.h"
#include "wire/messages.h"

static char path[] = "/srv/saved/web1.img", base[] = "/srv/saved/old.img",
            id[] = "0123456789abcdef0123456789abcdef";

static void test_save(void **state)
{
    g_autofree char *text = save_message_encode(&(SaveMessage){path, TRUE, base});
    g_auto(SaveMessage) back = {0};

    assert_true(save_message_decode(text, strlen(text), &back, NULL));
    assert_string_equal(back.path, path);
    assert_true(back.replace);
    assert_string_equal(back.base, base);
}

static void test_replaces_nothing(void **state)
{
    static const char text[] = "{\"path\": \"/a\"}";
    g_auto(SaveMessage) back = {0};

    assert_true(save_message_decode(text, strlen(text), &back, NULL));
    assert_false(back.replace);
    assert_null(back.base);
}

static void test_saved(void **state)
{
    g_autofree char *text = saved_message_encode(&(SavedMessage){.id = id, .bytes = 1234567890123});
    g_auto(SavedMessage) back = {0};

    assert_true(saved_message_decode(text, strlen(text), &back, NULL));
    assert_string_equal(back.id, id);
    assert_int_equal(back.bytes, 1234567890123);
    assert_false(back.above_base);
}

static void test_saved_above_a_base(void **state)
{
    g_autofree char *text = saved_message_encode(&(SavedMessage){id, 5, TRUE, 1000, 900, 120, 7});
    g_auto(SavedMessage) back = {0};

    assert_true(saved_message_decode(text, strlen(text), &back, NULL));
    assert_true(back.above_base);
    assert_int_equal(back.compared, 1000);
    assert_int_equal(back.equal, 900);
    assert_int_equal(back.stored, 120);
    assert_int_equal(back.zeroed, 7);
}

static char disk0[] = "disk0", copy0[] = "old.img.disk0", qcow2[] = "qcow2", raw[] = "raw";

static void test_base(void **state)
{
    static char bitmap[] = "vmferry-saved-1", below[] = "older.img.disk0";
    char *backing[] = {below, NULL}, *nothing[] = {NULL};
    SaveBaseDisk disks[] = {{disk0, copy0, qcow2, 1 << 30, bitmap, backing},
                            {path, copy0, raw, 0, NULL, nothing}};
    g_autofree char *text = save_base_message_encode(&(SaveBaseMessage){id, disks, 2});
    g_auto(SaveBaseMessage) back = {0};

    assert_true(save_base_message_decode(text, strlen(text), &back, NULL));
    assert_string_equal(back.id, id);
    assert_int_equal(back.disk_count, 2);
    assert_string_equal(back.disks[0].saved, copy0);
    assert_int_equal(back.disks[0].bytes, 1 << 30);
    assert_string_equal(back.disks[0].bitmap, bitmap);
    assert_string_equal(back.disks[0].backing[0], below);
    assert_null(back.disks[0].backing[1]);
    assert_null(back.disks[1].bitmap);
    assert_string_equal(back.disks[1].id, path);
    assert_string_equal(back.disks[1].format, raw);
}

static void check_bad_base(const char *text, const char *why)
{
    g_autoptr(GError) error = NULL;
    g_auto(SaveBaseMessage) back = {0};

    assert_false(save_base_message_decode(text, strlen(text), &back, &error));
    assert_non_null(strstr(error->message, why));
}

#define BASE "{\"id\": \"0123456789abcdef0123456789abcdef\", \"disks\": "

static void test_bad_base(void **state)
{
    check_bad_base("{\"disks\": []}", "SAVE_BASE: \"id\"");
    check_bad_base(BASE "{}}", "disks");
    check_bad_base(BASE "[1]}", "not an object");
    check_bad_base(BASE "[{\"id\": \"a\", \"saved\": \"../b\", \"format\": \"raw\", \"bytes\": 1, "
                        "\"backing\": []}]}",
                   "not a valid name");
    check_bad_base(
        BASE
        "[{\"id\": \"a\", \"saved\": \"..\", \"format\": \"raw\", \"bytes\": 1, \"backing\": []}]}",
        "not a valid name");
    check_bad_base(BASE "[{\"id\": \"a\", \"saved\": \"b\", \"format\": \"raw\"}]}", "bytes");
    check_bad_base(BASE "[{\"id\": \"a\", \"saved\": \"b\", \"format\": \"raw\", \"bytes\": 1, "
                        "\"backing\": [\"../c\"]}]}",
                   "not a valid name");
}

static void check_refused(const char *text, gboolean saved, const char *why)
{
    g_autoptr(GError) error = NULL;
    g_auto(SaveMessage) save = {0};
    g_auto(SavedMessage) answer = {0};

    assert_false(saved ? saved_message_decode(text, strlen(text), &answer, &error)
                       : save_message_decode(text, strlen(text), &save, &error));
    assert_non_null(strstr(error->message, why));
}

static void test_bad(void **state)
{
    check_refused("{}", FALSE, "SAVE: \"path\"");
    check_refused("{\"path\": \"\"}", FALSE, "path");
    check_refused("{\"path\": \"web1.img\"}", FALSE, "not an absolute path");
    check_refused("{\"path\": \"/a\", \"replace\": 1}", FALSE, "neither true nor false");
    check_refused("{\"path\": \"/a\", \"base\": \"b\"}", FALSE, "\"base\" is not an absolute path");
    check_refused("{\"id\": \"0123456789abcdef0123456789abcdef\", \"bytes\": 1, \"pages\": 1}",
                  TRUE, "\"pages\" is not an object");
    check_refused("{\"id\": \"short\", \"bytes\": 1}", TRUE, "SAVED: \"id\"");
    check_refused("{\"id\": \"0123456789abcdef0123456789abcdef\", \"bytes\": -1}", TRUE, "bytes");
    check_refused("[]", TRUE, "SAVED: ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_save),  cmocka_unit_test(test_replaces_nothing),
        cmocka_unit_test(test_saved), cmocka_unit_test(test_saved_above_a_base),
        cmocka_unit_test(test_base),  cmocka_unit_test(test_bad_base),
        cmocka_unit_test(test_bad),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
