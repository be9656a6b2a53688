#include "agent/agent.h"

#include <glib-unix.h>
#include <signal.h>
#include <systemd/sd-daemon.h>

#include "agent/api.h"
#include "agent/certificate.h"
#include "agent/context.h"
#include "agent/directory.h"
#include "agent/load.h"
#include "agent/made_files.h"
#include "agent/peers.h"
#include "agent/protect_again.h"
#include "agent/recovery.h"
#include "agent/watch.h"
#include "base/log.h"
#include "protect/held_output.h"

/* How long readers of the last lines are waited for. */
#define FAREWELL_MS 2000

struct Agent {
    AgentContext *context;
    Peers *peers;
    Api *api;
    GSource *certificate; /* NULL for none */
    gint quit;            /* atomic */
};

Agent *agent_new(const AgentSettings *settings, GError **error)
{
    g_autoptr(Agent) agent = g_new0(Agent, 1);

    agent->context = agent_context_new(settings, error);
    if (!agent->context)
        return NULL;
    guest_directories_clean(settings->runtime_dir);
    made_files_recover(agent->context);
    held_output_sweep();
    /* The guests' names are taken and their transactions marked before any
     * peer or user can ask. */
    if (!recovery_load_guests(agent->context, error))
        return NULL;
    agent->peers = peers_new(agent->context, error);
    if (!agent->peers)
        return NULL;
    agent->api = api_new(agent->context, error);
    if (!agent->api)
        return NULL;
    watch_start_polling(agent->context);
    load_start(agent->context);
    protect_again_start(agent->context);
    agent->certificate = certificate_watch(agent->context);
    return g_steal_pointer(&agent);
}

const char *agent_get_listening(Agent *agent)
{
    return agent->context->listening;
}

void agent_quit(Agent *agent)
{
    g_atomic_int_set(&agent->quit, 1);
    g_main_context_wakeup(agent->context->main);
}

static gboolean on_signal(gpointer user)
{
    agent_quit(user);
    return G_SOURCE_CONTINUE;
}

static GSource *watch_signal(Agent *agent, int number)
{
    GSource *source = g_unix_signal_source_new(number);

    g_source_set_callback(source, on_signal, agent, NULL);
    g_source_attach(source, agent->context->main);
    return source;
}

static void cancel_activities(AgentContext *context)
{
    g_autoptr(GPtrArray) guests = registry_list(context->registry);

    for (guint i = 0; i < guests->len; i++) {
        g_autoptr(Activity) activity = registry_get_activity(guests->pdata[i]);

        if (activity)
            activity_cancel(activity);
    }
}

static void begin_stop(Agent *agent)
{
    AgentContext *context = agent->context;

    if (agent_context_is_stopping(context))
        return;
    g_atomic_int_set(&context->stopping, 1);
    registry_wake(context->registry);
    cancel_activities(context);
    if (agent->peers)
        peers_stop(agent->peers);
    if (agent->api)
        api_stop(agent->api);
}

static gboolean on_tick(gpointer user)
{
    return G_SOURCE_CONTINUE;
}

/* Serves on until all threads have ended and the last lines are written. */
static void drain(Agent *agent)
{
    AgentContext *context = agent->context;
    GSource *tick = g_timeout_source_new(20);
    gint64 until = 0;

    g_source_set_callback(tick, on_tick, NULL, NULL);
    g_source_attach(tick, context->main);
    for (;;) {
        gboolean idle = agent_context_is_idle(context);

        if (idle && until == 0)
            until = g_get_monotonic_time() + FAREWELL_MS * G_TIME_SPAN_MILLISECOND;
        if (idle && (api_is_idle(agent->api) || g_get_monotonic_time() > until))
            break;
        g_main_context_iteration(context->main, TRUE);
    }
    g_source_destroy(tick);
    g_source_unref(tick);
}

void agent_run(Agent *agent, gboolean signals)
{
    GSource *terminate = signals ? watch_signal(agent, SIGTERM) : NULL;
    GSource *interrupt = signals ? watch_signal(agent, SIGINT) : NULL;

    log_info("agent for %s ready, peers: %s", agent->context->host_name,
             agent->context->listening ? agent->context->listening : "none");
    sd_notify(0, "READY=1");
    while (!g_atomic_int_get(&agent->quit))
        g_main_context_iteration(agent->context->main, TRUE);
    sd_notify(0, "STOPPING=1");
    log_info("stopping; guests run on");
    begin_stop(agent);
    drain(agent);
    for (guint i = 0; i < 2; i++) {
        GSource *source = i ? interrupt : terminate;

        if (source) {
            g_source_destroy(source);
            g_source_unref(source);
        }
    }
}

static void unwatch_guests(AgentContext *context)
{
    g_autoptr(GPtrArray) guests = registry_list(context->registry);

    for (guint i = 0; i < guests->len; i++) {
        Guest *guest = guests->pdata[i];

        if (guest->watch)
            g_source_destroy(guest->watch);
    }
}

void agent_free(Agent *agent)
{
    if (!agent)
        return;
    if (agent->certificate) {
        g_source_destroy(agent->certificate);
        g_source_unref(agent->certificate);
    }
    if (agent->context) {
        begin_stop(agent);
        /* Requests at work may still begin something that join() waits for. */
        api_free(agent->api);
        agent_context_join(agent->context);
        unwatch_guests(agent->context);
    }
    peers_free(agent->peers);
    /* What was woken meanwhile still points here. */
    if (agent->context)
        while (g_main_context_iteration(agent->context->main, FALSE))
            ;
    agent_context_free(agent->context);
    g_free(agent);
}
