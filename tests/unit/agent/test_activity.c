/* An activity of any kind: progress, trace, report, and those who follow it. */
#include "scratch.h"

#include <string.h>

#include "agent/activity.h"
#include "base/clock.h"
#include "base/name.h"

typedef struct {
    guint freed, cancelled, news;
    int progress; /* 0: none yet */
} Work;

static void describe(gpointer user, json_t *view)
{
    json_object_set_new(view, "destination", json_string("hostb"));
}

static json_t *get_progress(gpointer user)
{
    int progress = ((Work *)user)->progress;

    return progress > 0 ? json_pack("{s:i}", "round", progress) : NULL;
}

static void cancel(gpointer user)
{
    ((Work *)user)->cancelled++;
}

static void count_free(gpointer user)
{
    ((Work *)user)->freed++;
}

static void on_news(gpointer user)
{
    ((Work *)user)->news++;
}

static const ActivityKind full_kind = {
    .kind = "migrate",
    .state = "migrating",
    .describe = describe,
    .get_progress = get_progress,
    .cancel = cancel,
    .free = count_free,
};

static const ActivityKind bare_kind = {.kind = "stop", .state = "stopping"};

static void assert_takes(ActivitySubscription *subscription, const char *wanted, gboolean ends)
{
    gboolean ended;
    g_autofree char *text = activity_subscription_take(subscription, &ended);

    if (wanted) {
        assert_non_null(text);
        assert_string_equal(text, wanted);
    } else {
        assert_null(text);
    }
    assert_int_equal(ended, ends);
}

static void test_what_is_shown(void **state)
{
    Work work = {0};
    Activity *activity = activity_new(&full_kind, "web1", &work);
    g_autoptr(json_t) first = activity_to_json(activity);
    g_autoptr(json_t) second = NULL;

    assert_true(random_id_is_valid(activity_get_id(activity)));
    assert_string_equal(json_text_or(first, "id", ""), activity_get_id(activity));
    assert_string_equal(json_text_or(first, "kind", ""), "migrate");
    assert_string_equal(json_text_or(first, "destination", ""), "hostb");
    assert_true(json_is_integer(json_object_get(first, "started")));
    assert_true(json_is_null(json_object_get(first, "progress")));
    work.progress = 3;
    second = activity_to_json(activity);
    assert_int_equal(json_count_or(json_object_get(second, "progress"), "round", 0), 3);
    assert_true(activity_cancel(activity));
    assert_int_equal(work.cancelled, 1);
    activity_unref(activity);
    assert_int_equal(work.freed, 1);
}

static void test_bare_kind(void **state)
{
    g_autoptr(Activity) activity = activity_new(&bare_kind, "web1", NULL);
    g_autoptr(json_t) view = activity_to_json(activity);

    assert_true(json_is_null(json_object_get(view, "progress")));
    assert_false(activity_cancel(activity));
    activity_add_trace(activity, "nobody wants this");
    activity_note_progress(activity);
}

static gpointer finish(gpointer data)
{
    clock_sleep_ns(30000000);
    activity_finish(data, json_pack("{s:s}", "status", "completed"));
    return NULL;
}

static void test_report_is_waited_for(void **state)
{
    g_autoptr(Activity) activity = activity_new(&bare_kind, "web1", NULL);
    g_autoptr(json_t) report = NULL;
    GThread *thread;

    assert_null(activity_get_report(activity));
    assert_false(activity_wait(activity, 1));
    thread = g_thread_new("finish", finish, activity);
    assert_true(activity_wait(activity, 10000));
    report = activity_get_report(activity);
    assert_string_equal(json_text_or(report, "guest", ""), "web1");
    assert_string_equal(json_text_or(report, "activity", ""), activity_get_id(activity));
    g_thread_join(thread);
}

static void test_followers(void **state)
{
    Work work = {0}, other = {0};
    Activity *activity = activity_new(&full_kind, "web1", &work);
    ActivitySubscription *one = activity_subscribe(activity, on_news, &work);
    ActivitySubscription *two = activity_subscribe(activity, on_news, &other);
    gboolean ended;
    g_autofree char *report = NULL;

    assert_takes(one, NULL, FALSE);
    work.progress = 1;
    activity_note_progress(activity);
    work.progress = 2;
    activity_note_progress(activity);
    assert_int_equal(work.news, 2);
    assert_int_equal(other.news, 2);
    /* The newest only, and to each of them. */
    assert_takes(one, "{\"round\":2}\n", FALSE);
    assert_takes(one, NULL, FALSE);
    assert_takes(two, "{\"round\":2}\n", FALSE);
    activity_unsubscribe(two);
    activity_note_progress(activity);
    activity_finish(activity, json_pack("{s:s}", "status", "failed"));
    assert_int_equal(work.news, 4);
    assert_int_equal(other.news, 2);
    report = activity_subscription_take(one, &ended);
    assert_true(ended);
    assert_true(g_str_has_prefix(report, "{\"status\":\"failed\",\"guest\":\"web1\""));
    /* A follower keeps it. */
    activity_unref(activity);
    assert_int_equal(work.freed, 0);
    activity_unsubscribe(one);
    assert_int_equal(work.freed, 1);
}

static void test_trace_has_one_reader(void **state)
{
    Work work = {0};
    Activity *activity = activity_new(&full_kind, "web1", &work);
    ActivitySubscription *reader, *other;

    activity_keep_trace(activity, 1 << 20);
    activity_add_trace(activity, "a"); /* before anybody subscribes: kept */
    reader = activity_subscribe(activity, on_news, &work);
    other = activity_subscribe(activity, on_news, &work);
    activity_add_trace(activity, "b");
    activity_finish(activity, json_object());
    /* All of it before the report. */
    assert_takes(reader,
                 "{\"type\":\"trace\",\"line\":\"a\"}\n{\"type\":\"trace\",\"line\":\"b\"}\n",
                 FALSE);
    {
        gboolean ended;
        g_autofree char *first = activity_subscription_take(reader, &ended);
        g_autofree char *second = NULL;

        assert_true(first && ended);
        second = activity_subscription_take(other, &ended);
        assert_true(second && ended);
    }
    activity_unsubscribe(reader);
    activity_unsubscribe(other);
    activity_unref(activity);
    assert_int_equal(work.freed, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_shown),        cmocka_unit_test(test_bare_kind),
        cmocka_unit_test(test_report_is_waited_for), cmocka_unit_test(test_followers),
        cmocka_unit_test(test_trace_has_one_reader),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
