/* What pages of other sites get from the engine: nothing. */
#include "engine/browser.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const char *ask(BrowserRequest request, gboolean is_local, const char *name)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    BrowserSelf self = {.is_local = is_local, .names = names};

    if (name)
        g_ptr_array_add(names, (gpointer)name);
    return browser_find_objection(&request, &self);
}

static const char *ask_host(const char *host, gboolean is_local, const char *name)
{
    return ask((BrowserRequest){.host = host}, is_local, name);
}

static void test_loopback_names(void **state)
{
    const char *good[] = {"localhost",   "localhost:4750", "LOCALHOST", "127.0.0.1:4750",
                          "127.1.2.3:1", "[::1]:4750",     "[::1]"};
    const char *bad[] = {"evil.example:4750",
                         "localhost.evil.example",
                         "127.0.0.1.evil.example",
                         "192.0.2.7:4750",
                         "",
                         ":4750",
                         "engine.example.org:4750"};

    for (guint i = 0; i < G_N_ELEMENTS(good); i++)
        assert_null(ask_host(good[i], TRUE, NULL));
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++)
        assert_non_null(ask_host(bad[i], TRUE, NULL));
    assert_non_null(ask_host(NULL, TRUE, NULL));
    assert_null(ask_host("Engine.example.org:4750", TRUE, "engine.example.org"));
}

static void test_names_in_the_network(void **state)
{
    assert_null(ask_host("192.0.2.7:4750", FALSE, NULL));
    assert_null(ask_host("[2001:db8::1]:4750", FALSE, NULL));
    assert_null(ask_host("engine1:4750", FALSE, "engine1"));
    assert_non_null(ask_host("evil.example:4750", FALSE, "engine1"));
    assert_non_null(ask_host("localhost", FALSE, "engine1"));
}

static void test_a_change_has_its_mark(void **state)
{
    BrowserRequest request = {.host = "localhost", .changes = TRUE};

    assert_string_equal(ask(request, TRUE, NULL), "a change needs the header X-Vmferry: 1");
    request.mark = "0";
    assert_non_null(ask(request, TRUE, NULL));
    request.mark = "1";
    assert_null(ask(request, TRUE, NULL));
}

static const char *ask_origin(const char *origin, gboolean is_local)
{
    return ask((BrowserRequest){.host = is_local ? "localhost:4750" : "192.0.2.7:4750",
                                .origin = origin,
                                .mark = "1",
                                .changes = TRUE},
               is_local, NULL);
}

static void test_origins(void **state)
{
    assert_null(ask_origin("http://localhost:4750", TRUE));
    assert_null(ask_origin("https://localhost:4750", TRUE));
    assert_non_null(ask_origin("http://localhost:4751", TRUE));
    assert_non_null(ask_origin("http://localhost", TRUE));
    assert_non_null(ask_origin("http://evil.example", TRUE));
    assert_non_null(ask_origin("null", TRUE));
    assert_non_null(ask_origin("", TRUE));
    assert_null(ask_origin("https://192.0.2.7:4750", FALSE));
    assert_non_null(ask_origin("http://192.0.2.7:4750", FALSE));
}

static const char *ask_site(const char *site, gboolean is_page)
{
    return ask((BrowserRequest){.host = "localhost", .fetch_site = site, .is_page = is_page}, TRUE,
               NULL);
}

static void test_sites(void **state)
{
    assert_null(ask_site("same-origin", FALSE));
    assert_null(ask_site("none", FALSE));
    assert_non_null(ask_site("same-site", FALSE));
    assert_non_null(ask_site("cross-site", FALSE));
    assert_null(ask_site("cross-site", TRUE));
}

static void test_headers(void **state)
{
    gboolean frames = FALSE, sniffs = FALSE;

    for (guint i = 0; browser_headers[i][0]; i++) {
        const char *value = browser_headers[i][1];

        if (strcmp(browser_headers[i][0], "Content-Security-Policy") == 0)
            frames = strstr(value, "frame-ancestors 'none'") &&
                     strstr(value, "default-src 'none'") && !strstr(value, "unsafe") &&
                     !strstr(value, "*");
        sniffs |= strcmp(browser_headers[i][0], "X-Content-Type-Options") == 0 &&
                  strcmp(value, "nosniff") == 0;
    }
    assert_true(frames);
    assert_true(sniffs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loopback_names),
        cmocka_unit_test(test_names_in_the_network),
        cmocka_unit_test(test_a_change_has_its_mark),
        cmocka_unit_test(test_origins),
        cmocka_unit_test(test_sites),
        cmocka_unit_test(test_headers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
