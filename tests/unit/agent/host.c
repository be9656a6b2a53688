#include "host.h"

#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "scratch.h"

#define AWAIT_MS 10000
#define LOOK_NS 5000000

Host *host_new(void)
{
    Host *host = g_new0(Host, 1);
    AgentSettings *settings = agent_settings_new();

    host->folder = scratch_new();
    host->settings = settings;
    g_free(settings->listen);
    settings->listen = g_strdup("none");
    g_free(settings->socket);
    settings->socket = g_build_filename(host->folder, "agent.sock", NULL);
    g_free(settings->state_dir);
    settings->state_dir = g_build_filename(host->folder, "state", NULL);
    g_free(settings->runtime_dir);
    settings->runtime_dir = g_build_filename(host->folder, "run", NULL);
    settings->insecure = TRUE;
    host->socket = g_strdup(settings->socket);
    host->client = client_new(host->socket);
    return host;
}

static gpointer host_thread(gpointer data)
{
    Host *host = data;
    g_autoptr(GMainContext) context = g_main_context_new();

    g_main_context_push_thread_default(context);
    host->agent = agent_new(host->settings, &host->error);
    g_atomic_int_set(&host->ready, 1);
    if (host->agent) {
        agent_run(host->agent, FALSE);
        agent_free(host->agent);
    }
    host->agent = NULL;
    g_main_context_pop_thread_default(context);
    return NULL;
}

gboolean host_start(Host *host)
{
    g_clear_error(&host->error);
    g_atomic_int_set(&host->ready, 0);
    host->thread = g_thread_new("host", host_thread, host);
    await_count(&host->ready, 1);
    if (host->error)
        g_thread_join(g_steal_pointer(&host->thread));
    return host->error == NULL;
}

void host_stop(Host *host)
{
    if (!host->thread)
        return;
    agent_quit(host->agent);
    g_thread_join(g_steal_pointer(&host->thread));
}

void host_free(Host *host)
{
    host_stop(host);
    client_free(host->client);
    g_free(host->socket);
    agent_settings_free(host->settings);
    scratch_remove(host->folder);
    g_clear_error(&host->error);
    g_free(host);
}

json_t *host_call(Host *host, const char *method, const char *path, json_t *body, GError **error)
{
    return client_call(host->client, method, path, body, error);
}

char *host_get_state(Host *host, const char *guest)
{
    g_autofree char *path = g_strdup_printf("/v1/guests/%s", guest);
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) view = host_call(host, "GET", path, NULL, &error);

    if (!view && !error_is(error, VMFERRY_ERROR_NOT_FOUND))
        fail_msg("%s", error->message);
    return g_strdup(view ? json_text_or(view, "state", "?") : "");
}

void host_await_state(Host *host, const char *guest, const char *state)
{
    uint64_t end = clock_now_ns() + AWAIT_MS * 1000000ULL;

    for (;;) {
        g_autofree char *now = host_get_state(host, guest);

        if (strcmp(now, state) == 0)
            return;
        if (clock_now_ns() > end)
            fail_msg("%s is \"%s\", not \"%s\"", guest, now, state);
        clock_sleep_ns(LOOK_NS);
    }
}

void await_count(gint *counter, gint value)
{
    uint64_t end = clock_now_ns() + AWAIT_MS * 1000000ULL;

    while (g_atomic_int_get(counter) < value) {
        if (clock_now_ns() > end)
            fail_msg("waited too long for %d", value);
        clock_sleep_ns(LOOK_NS);
    }
}

char *host_read_record(Host *host)
{
    g_autofree char *path = g_build_filename(host->settings->state_dir, "guests/web1.json", NULL);
    char *text = NULL;

    g_file_get_contents(path, &text, NULL, NULL);
    return text ? text : g_strdup("");
}

void host_assert_event(Host *host, const char *type)
{
    g_autofree char *path = g_build_filename(host->settings->state_dir, "events.ndjson", NULL);
    g_autofree char *wanted = g_strdup_printf("\"type\":\"%s\"", type);
    uint64_t end = clock_now_ns() + 5000000000ULL;

    for (;;) {
        g_autofree char *text = NULL;

        if (g_file_get_contents(path, &text, NULL, NULL) && strstr(text, wanted))
            return;
        if (clock_now_ns() > end)
            fail_msg("no event of type %s: %s", type, text ? text : "");
        clock_sleep_ns(5000000);
    }
}

void host_assert_departed(Host *host, gboolean departed)
{
    GError *error = NULL;
    g_autoptr(json_t) list = host_call(host, "GET", "/v1/departures", NULL, &error);
    json_t *departures = json_object_get(list, "departures");
    json_t *one = json_array_get(departures, 0);

    assert_null(error);
    assert_int_equal(json_array_size(departures), departed);
    assert_int_equal(scratch_exists(host->settings->state_dir, "departed/web1.json"), departed);
    if (!departed)
        return;
    assert_string_equal(json_text_or(one, "name", ""), "web1");
    assert_string_equal(json_text_or(one, "destination", ""), "hostb");
    assert_null(host_call(host, "GET", "/v1/guests/web1", NULL, &error));
    assert_error_says(error, VMFERRY_ERROR_NOT_FOUND, "web1 moved to hostb ");
    assert_true(json_equal(json_object_get(client_get_refusal(host->client), "moved"), one));
}
