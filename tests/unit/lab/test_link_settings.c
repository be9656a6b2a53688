#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "settings.h"

#define MS G_GUINT64_CONSTANT(1000000)
#define NOW (5000 * MS)

static gboolean apply(LinkSettings *settings, const char *line, GError **error)
{
    g_auto(GStrv) words = g_strsplit(line, " ", -1);

    return link_settings_apply(settings, words, NOW, error);
}

static void test_all_words(void **state)
{
    LinkSettings settings;

    link_settings_init(&settings);
    assert_int_equal(settings.queue_ns, 100 * MS);
    assert_true(apply(&settings, "rate 100mbit delay 50ms jitter 0.5ms loss 0.5% burst 4", NULL));
    assert_true(apply(&settings, "reorder 0.01 reorder-by 10ms duplicate 2%", NULL));
    assert_true(apply(&settings, "queue 256Ki queue-time 0 mtu 1400 frag-needed on", NULL));
    assert_int_equal(settings.rate, 12500000);
    assert_int_equal(settings.delay_ns, 50 * MS);
    assert_int_equal(settings.jitter_ns, MS / 2);
    assert_true(settings.loss == 0.005 && settings.burst == 4 && settings.reorder == 0.01);
    assert_true(settings.duplicate == 0.02 && settings.frag_needed);
    assert_int_equal(settings.reorder_by_ns, 10 * MS);
    assert_int_equal(settings.queue_bytes, 256 << 10);
    assert_int_equal(settings.queue_ns, 0);
    assert_int_equal(settings.mtu, 1400);
    assert_true(apply(&settings, "rate unlimited loss 0 mtu 0 frag-needed off", NULL));
    assert_true(settings.rate == 0 && settings.loss == 0 && settings.mtu == 0);
    assert_false(settings.frag_needed);
}

static void test_breaks(void **state)
{
    LinkSettings settings;

    link_settings_init(&settings);
    assert_true(apply(&settings, "break 5s", NULL));
    assert_int_equal(settings.break_from_ns, NOW);
    assert_int_equal(settings.break_ns, 5000 * MS);
    assert_int_equal(settings.break_every_ns, 0);
    assert_true(apply(&settings, "break-every 30s break 4s break-after 10s", NULL));
    assert_int_equal(settings.break_from_ns, NOW + 10000 * MS);
    assert_int_equal(settings.break_ns, 4000 * MS);
    assert_int_equal(settings.break_every_ns, 30000 * MS);
    assert_true(apply(&settings, "delay 1", NULL)); /* of something else: they go on */
    assert_int_equal(settings.break_ns, 4000 * MS);
    assert_true(apply(&settings, "break 0", NULL));
    assert_int_equal(settings.break_ns, 0);
}

static void test_mistakes(void **state)
{
    static const char *const lines[][2] = {
        {"speed 10mbit", "\"speed\" is not a setting"},
        {"rate", "rate: no value"},
        {"rate fast", "rate: \"fast\""},
        {"delay 11s", "delay: \"11s\" is more than the most, 10 s"},
        {"delay -1", "delay: \"-1\""},
        {"delay nan", "delay: \"nan\""},
        {"jitter 5ms", "jitter is more than the delay"},
        {"loss 101%", "loss: \"101%\" is not a share"},
        {"loss 5", "is not a share"},
        {"burst 0.5", "burst: \"0.5\""},
        {"loss 90% burst 2", "bursts that short"},
        {"reorder 1%", "reorder without reorder-by"},
        {"queue 2G", "queue: \"2G\" is more"},
        {"mtu 67", "mtu: \"67\" is not 0 or a number from 68 to 2000"},
        {"mtu 9000", "mtu: \"9000\""},
        {"frag-needed yes", "neither on nor off"},
        {"break-every 30s", "break-every without break"},
        {"break 30s break-every 30s", "nothing would ever arrive"},
        {"trace /nowhere/trace", "/nowhere/trace"},
        {"delay 20ms loss bad", "loss: \"bad\""},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(lines); i++) {
        LinkSettings settings, before;
        g_autoptr(GError) error = NULL;

        link_settings_init(&settings);
        before = settings;
        assert_false(apply(&settings, lines[i][0], &error));
        assert_non_null(strstr(error->message, lines[i][1]));
        assert_memory_equal(&settings, &before, sizeof before);
    }
}

static void test_trace_file(void **state)
{
    g_autofree char *path = g_strdup_printf("/tmp/test_link_settings.%d", getpid());
    static const char text[] = "# words\n\n0\t12mbit # more\n 0.5 900kbit\n60 end\n";
    g_autofree char *line = g_strconcat("trace ", path, NULL);
    LinkSettings settings;

    assert_true(file_replace(path, text, strlen(text), FALSE, NULL));
    link_settings_init(&settings);
    assert_true(apply(&settings, line, NULL));
    unlink(path);
    assert_int_equal(link_trace_length_ns(settings.trace), 60000 * MS);
    assert_int_equal(link_trace_rate(settings.trace, 499 * MS), 1500000);
    assert_int_equal(link_trace_rate(settings.trace, 500 * MS), 112500);
    assert_true(apply(&settings, "rate 1mbit", NULL)); /* a rate takes its place */
    assert_null(settings.trace);
}

static void test_bad_traces(void **state)
{
    static const char *const texts[][2] = {
        {"", "no step"},
        {"0 1mbit\n", "no line \"SECONDS end\""},
        {"1 1mbit\n2 end\n", "line 1: the first step is not at 0"},
        {"0 1mbit\n0 2mbit\n1 end\n", "line 2: this time is not after"},
        {"0 1mbit\n0 end\n", "line 2: this time is not after"},
        {"0 1mbit\nx 2mbit\n1 end\n", "line 2: \"x\" is not a time"},
        {"0 1mbit\n1e9 end\n", "line 2: \"1e9\" is not a time"},
        {"0 1mbit\n1 fast\n2 end\n", "line 2: \"fast\" is not a valid rate"},
        {"0\n1 end\n", "line 1: \"\" is not a valid rate"},
        {"0 unlimited\n1 end\n", "line 1: a step of a trace cannot be unlimited"},
        {"0 1mbit\n1 end\n2 1mbit\n", "line 3: there is more behind"},
        {"0 0\n1 end\n", "nothing would ever arrive"},
        {"0 end\n", "no step"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) error = NULL;

        assert_null(link_trace_parse(texts[i][0], &error));
        assert_non_null(strstr(error->message, texts[i][1]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_words),  cmocka_unit_test(test_breaks),
        cmocka_unit_test(test_mistakes),   cmocka_unit_test(test_trace_file),
        cmocka_unit_test(test_bad_traces),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
