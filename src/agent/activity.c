#include "agent/activity.h"

#include "agent/trace_queue.h"
#include "base/lock_guard.h"
#include "base/name.h"

struct Activity {
    gatomicrefcount references;
    const ActivityKind *kind;
    gpointer user;
    char *guest;
    char *id;
    int64_t started;   /* wall clock, seconds */
    TraceQueue *trace; /* NULL: none is kept */
    GMutex lock;       /* protects all below */
    GCond ended;
    gboolean trace_taken; /* by a subscriber */
    uint64_t version;     /* of the progress; 0: none yet */
    json_t *report;       /* NULL: under way */
    GPtrArray *subscriptions;
};

struct ActivitySubscription {
    Activity *activity;
    void (*on_news)(gpointer user);
    gpointer user;
    gboolean traces; /* the trace is this one's to take */
    uint64_t seen;   /* version of the progress */
};

Activity *activity_new(const ActivityKind *kind, const char *guest, gpointer user)
{
    Activity *activity = g_new0(Activity, 1);

    g_atomic_ref_count_init(&activity->references);
    g_mutex_init(&activity->lock);
    g_cond_init(&activity->ended);
    activity->kind = kind;
    activity->user = user;
    activity->guest = g_strdup(guest);
    activity->id = random_id_new();
    activity->started = g_get_real_time() / G_USEC_PER_SEC;
    activity->subscriptions = g_ptr_array_new();
    return activity;
}

Activity *activity_ref(Activity *activity)
{
    g_atomic_ref_count_inc(&activity->references);
    return activity;
}

void activity_unref(Activity *activity)
{
    if (!activity || !g_atomic_ref_count_dec(&activity->references))
        return;
    if (activity->kind->free)
        activity->kind->free(activity->user);
    g_ptr_array_unref(activity->subscriptions);
    json_decref(activity->report);
    trace_queue_free(activity->trace);
    g_cond_clear(&activity->ended);
    g_mutex_clear(&activity->lock);
    g_free(activity->guest);
    g_free(activity->id);
    g_free(activity);
}

const char *activity_get_id(const Activity *activity)
{
    return activity->id;
}

const ActivityKind *activity_get_kind(const Activity *activity)
{
    return activity->kind;
}

gpointer activity_get_user(const Activity *activity)
{
    return activity->user;
}

gboolean activity_cancel(Activity *activity)
{
    if (!activity->kind->cancel)
        return FALSE;
    activity->kind->cancel(activity->user);
    return TRUE;
}

gboolean activity_wait(Activity *activity, guint timeout_ms)
{
    gint64 until = g_get_monotonic_time() + (gint64)timeout_ms * G_TIME_SPAN_MILLISECOND;
    lock_guard(&activity->lock);

    while (!activity->report)
        if (!g_cond_wait_until(&activity->ended, &activity->lock, until))
            return activity->report != NULL;
    return TRUE;
}

json_t *activity_get_report(Activity *activity)
{
    lock_guard(&activity->lock);

    /* A copy: reference counts of one object are not shared between threads. */
    return activity->report ? json_deep_copy(activity->report) : NULL;
}

static json_t *get_progress(Activity *activity)
{
    return activity->kind->get_progress ? activity->kind->get_progress(activity->user) : NULL;
}

json_t *activity_to_json(Activity *activity)
{
    json_t *progress = get_progress(activity);
    json_t *view = json_pack("{s:s, s:s, s:I}", "id", activity->id, "kind", activity->kind->kind,
                             "started", (json_int_t)activity->started);

    if (activity->kind->describe)
        activity->kind->describe(activity->user, view);
    json_object_set_new(view, "progress", progress ? progress : json_null());
    return view;
}

/* With the lock held. */
static void wake_subscribers(Activity *activity)
{
    for (guint i = 0; i < activity->subscriptions->len; i++) {
        const ActivitySubscription *subscription = activity->subscriptions->pdata[i];

        subscription->on_news(subscription->user);
    }
}

void activity_keep_trace(Activity *activity, gsize limit_bytes)
{
    activity->trace = trace_queue_new(limit_bytes);
}

void activity_add_trace(Activity *activity, const char *line)
{
    lock_guard(&activity->lock);

    if (!activity->trace)
        return;
    trace_queue_add(activity->trace, line);
    wake_subscribers(activity);
}

void activity_note_progress(Activity *activity)
{
    lock_guard(&activity->lock);

    activity->version++;
    wake_subscribers(activity);
}

void activity_finish(Activity *activity, json_t *report)
{
    lock_guard(&activity->lock);

    json_object_set_new(report, "guest", json_string(activity->guest));
    json_object_set_new(report, "activity", json_string(activity->id));
    activity->report = report;
    g_cond_broadcast(&activity->ended);
    wake_subscribers(activity);
}

ActivitySubscription *activity_subscribe(Activity *activity, void (*on_news)(gpointer user),
                                         gpointer user)
{
    ActivitySubscription *subscription = g_new0(ActivitySubscription, 1);
    lock_guard(&activity->lock);

    subscription->activity = activity_ref(activity);
    subscription->on_news = on_news;
    subscription->user = user;
    subscription->traces = activity->trace && !activity->trace_taken;
    if (subscription->traces)
        activity->trace_taken = TRUE;
    g_ptr_array_add(activity->subscriptions, subscription);
    return subscription;
}

void activity_unsubscribe(ActivitySubscription *subscription)
{
    Activity *activity;

    if (!subscription)
        return;
    activity = subscription->activity;
    g_mutex_lock(&activity->lock);
    g_ptr_array_remove_fast(activity->subscriptions, subscription);
    g_mutex_unlock(&activity->lock);
    if (subscription->traces)
        trace_queue_close(activity->trace);
    activity_unref(activity);
    g_free(subscription);
}

static char *make_line(json_t *object)
{
    char *text = json_dumps(object, JSON_LINE);
    char *line = g_strconcat(text ? text : "{}", "\n", NULL);

    free(text);
    return line;
}

static json_t *get_new_progress(ActivitySubscription *subscription)
{
    Activity *activity = subscription->activity;
    uint64_t version;

    g_mutex_lock(&activity->lock);
    version = activity->version;
    g_mutex_unlock(&activity->lock);
    if (version <= subscription->seen)
        return NULL;
    subscription->seen = version;
    return get_progress(activity);
}

char *activity_subscription_take(ActivitySubscription *subscription, gboolean *ret_ended)
{
    /* The report first: once it is there, older progress is not news, and
     * nothing is added to the trace any more. */
    g_autoptr(json_t) report = activity_get_report(subscription->activity);
    g_autoptr(json_t) progress = NULL;
    char *trace = subscription->traces ? trace_queue_take(subscription->activity->trace) : NULL;

    *ret_ended = FALSE;
    if (trace)
        return trace;
    if (report) {
        *ret_ended = TRUE;
        return make_line(report);
    }
    progress = get_new_progress(subscription);
    return progress ? make_line(progress) : NULL;
}
