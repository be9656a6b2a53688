/* SAVE and SAVED: into which file a guest is saved. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/error.h"
#include "wire/messages.h"

static char path[] = "/srv/saved/web1.img", id[] = "0123456789abcdef0123456789abcdef";

static void test_save(void **state)
{
    g_autofree char *text = save_message_encode(&(SaveMessage){path, TRUE});
    g_auto(SaveMessage) back = {0};

    assert_true(save_message_decode(text, strlen(text), &back, NULL));
    assert_string_equal(back.path, path);
    assert_true(back.replace);
}

static void test_replaces_nothing(void **state)
{
    static const char text[] = "{\"path\": \"/a\"}";
    g_auto(SaveMessage) back = {0};

    assert_true(save_message_decode(text, strlen(text), &back, NULL));
    assert_false(back.replace);
}

static void test_saved(void **state)
{
    g_autofree char *text = saved_message_encode(&(SavedMessage){id, 1234567890123});
    g_auto(SavedMessage) back = {0};

    assert_true(saved_message_decode(text, strlen(text), &back, NULL));
    assert_string_equal(back.id, id);
    assert_int_equal(back.bytes, 1234567890123);
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
    check_refused("{\"id\": \"short\", \"bytes\": 1}", TRUE, "SAVED: \"id\"");
    check_refused("{\"id\": \"0123456789abcdef0123456789abcdef\", \"bytes\": -1}", TRUE, "bytes");
    check_refused("[]", TRUE, "SAVED: ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_save),
        cmocka_unit_test(test_replaces_nothing),
        cmocka_unit_test(test_saved),
        cmocka_unit_test(test_bad),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
