#include "agent/context.h"

#include <errno.h>
#include <unistd.h>

#include "agent/agent_id.h"
#include "agent/load.h"
#include "agent/page_stores.h"
#include "agent/postcopy.h"
#include "agent/shared_images.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/name.h"
#include "base/process.h"
#include "base/lock_guard.h"
#include "wire/tls.h"

#define SPAWN_AGAIN_MS 500

static gboolean load_identity(AgentContext *context, GError **error)
{
    const AgentSettings *settings = context->settings;
    g_autofree char *certificate = g_build_filename(settings->pki_dir, "host.crt", NULL);
    gboolean present = access(certificate, F_OK) == 0 || errno != ENOENT;

    if (settings->insecure)
        return TRUE;
    if (!present && g_str_equal(settings->listen, "none"))
        return TRUE;
    if (!present) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND,
                  "there is no %s, so peers could not be told from strangers: make certificates "
                  "with `vmferry pki init` and `vmferry pki issue HOST`, or serve this host only "
                  "with --listen none, or (in a network you trust) speak plain text with "
                  "--insecure",
                  certificate);
        return FALSE;
    }
    context->identity = tls_identity_load(settings->pki_dir, error);
    if (!context->identity)
        g_prefix_error(error, "the host's certificate (ca.crt, host.crt and host.key, as "
                              "`vmferry pki issue` makes them) cannot be used: ");
    return context->identity != NULL;
}

static gboolean make_directory(const char *path, GError **error)
{
    /* Others may pass (the control socket is in here); guests' directories
     * inside are private. */
    if (g_mkdir_with_parents(path, 0755) == 0)
        return TRUE;
    error_set_errno(error, errno, "make the directory %s", path);
    return FALSE;
}

static void on_event(gpointer user)
{
    agent_context_wake(user);
}

static gboolean open_parts(AgentContext *context, GError **error)
{
    const AgentSettings *settings = context->settings;

    if (!load_identity(context, error) || !make_directory(settings->runtime_dir, error))
        return FALSE;
    context->store = state_store_open(settings->state_dir, error);
    if (!context->store)
        return FALSE;
    context->agent_id = agent_id_open(settings->state_dir, error);
    if (!context->agent_id)
        return FALSE;
    context->transactions = transaction_log_open(context->store, context->boot_id, error);
    if (!context->transactions)
        return FALSE;
    context->witness =
        witness_table_open(context->store, context->agent_id, clock_boot_ns(), error);
    if (!context->witness)
        return FALSE;
    context->arrivals = arrivals_new();
    context->splits = postcopy_table_new();
    context->departures = departure_log_open(context->store, error);
    if (!context->departures)
        return FALSE;
    context->shared = shared_images_new();
    context->registry = registry_new(context->store, context->boot_id);
    context->events = event_log_open(settings->state_dir);
    event_log_set_listener(context->events, on_event, context);
    context->stores = page_stores_open(context);
    context->collector = load_collector_new(context, error);
    return context->collector != NULL;
}

static AgentSettings *copy_settings(const AgentSettings *settings)
{
    AgentSettings *copy = g_memdup2(settings, sizeof *settings);

    copy->listen = g_strdup(settings->listen);
    copy->socket = g_strdup(settings->socket);
    copy->state_dir = g_strdup(settings->state_dir);
    copy->runtime_dir = g_strdup(settings->runtime_dir);
    copy->pki_dir = g_strdup(settings->pki_dir);
    copy->metrics_root = g_strdup(settings->metrics_root);
    copy->allow = g_strdupv(settings->allow);
    copy->api = g_strdup(settings->api);
    copy->api_read = g_strdupv(settings->api_read);
    copy->api_operate = g_strdupv(settings->api_operate);
    copy->rules = g_ptr_array_ref(settings->rules);
    return copy;
}

AgentContext *agent_context_new(const AgentSettings *settings, GError **error)
{
    g_autoptr(AgentContext) context = g_new0(AgentContext, 1);

    g_mutex_init(&context->background_lock);
    g_cond_init(&context->background_ended);
    context->settings = copy_settings(settings);
    context->host_name = g_strdup(g_get_host_name());
    context->boot_id = process_get_boot_id();
    context->instance = random_id_new();
    context->main = g_main_context_ref_thread_default();
    return open_parts(context, error) ? g_steal_pointer(&context) : NULL;
}

void agent_context_free(AgentContext *context)
{
    if (!context)
        return;
    collector_free(context->collector);
    page_stores_close(context->stores);
    event_log_close(context->events);
    registry_free(context->registry);
    shared_images_free(context->shared);
    departure_log_close(context->departures);
    arrivals_free(context->arrivals);
    postcopy_table_free(context->splits);
    witness_table_close(context->witness);
    transaction_log_close(context->transactions);
    state_store_close(context->store);
    if (context->identity)
        tls_identity_unref(context->identity);
    agent_settings_free(context->settings);
    g_main_context_unref(context->main);
    g_free(context->host_name);
    g_free(context->boot_id);
    g_free(context->agent_id);
    g_free(context->instance);
    g_free(context->listening);
    g_free(context->api_listening);
    g_cond_clear(&context->background_ended);
    g_mutex_clear(&context->background_lock);
    g_free(context);
}

gboolean agent_context_get_channel_options(AgentContext *context, ChannelOptions *ret,
                                           GError **error)
{
    if (!context->identity && !context->settings->insecure) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "this agent runs without a PKI and cannot talk to other hosts: see "
                  "`vmferry pki --help`, then start it again");
        return FALSE;
    }
    *ret = (ChannelOptions){.tls = context->identity,
                            .instance = context->instance,
                            .agent = context->agent_id,
                            .traffic = &context->traffic};
    return TRUE;
}

static gboolean run_wake(gpointer user)
{
    AgentContext *context = user;

    g_atomic_int_set(&context->wake_pending, 0);
    if (context->on_wake)
        context->on_wake(context->wake_user);
    return G_SOURCE_REMOVE;
}

void agent_context_wake(AgentContext *context)
{
    GSource *source;

    if (!g_atomic_int_compare_and_exchange(&context->wake_pending, 0, 1))
        return;
    source = g_idle_source_new();
    g_source_set_priority(source, G_PRIORITY_DEFAULT);
    g_source_set_callback(source, run_wake, context, NULL);
    g_source_attach(source, context->main);
    g_source_unref(source);
}

typedef struct {
    AgentContext *context;
    const char *name;
    GThreadFunc function;
    gpointer data;
} Background;

static void count_background(AgentContext *context, int change)
{
    lock_guard(&context->background_lock);

    context->background_count += (guint)change;
    g_cond_broadcast(&context->background_ended);
}

static gpointer run_background(gpointer data)
{
    g_autofree Background *background = data;
    AgentContext *context = background->context;

    background->function(background->data);
    count_background(context, -1);
    return NULL;
}

static gboolean start_background(Background *background, GError **error)
{
    GThread *thread = g_thread_try_new(background->name, run_background, background, error);

    if (!thread)
        return FALSE;
    g_thread_unref(thread);
    return TRUE;
}

static Background *make_background(AgentContext *context, const char *name, GThreadFunc function,
                                   gpointer data)
{
    Background *background = g_new(Background, 1);

    *background = (Background){context, name, function, data};
    count_background(context, 1);
    return background;
}

gboolean agent_context_spawn(AgentContext *context, const char *name, GThreadFunc function,
                             gpointer data, GError **error)
{
    Background *background = make_background(context, name, function, data);

    if (start_background(background, error))
        return TRUE;
    g_free(background);
    count_background(context, -1);
    return FALSE;
}

static gboolean try_again(gpointer data)
{
    return start_background(data, NULL) ? G_SOURCE_REMOVE : G_SOURCE_CONTINUE;
}

void agent_context_spawn_surely(AgentContext *context, const char *name, GThreadFunc function,
                                gpointer data)
{
    Background *background = make_background(context, name, function, data);
    g_autoptr(GError) error = NULL;
    GSource *source;

    if (start_background(background, &error))
        return;
    log_warning("thread \"%s\" waits: %s", name, error->message);
    source = g_timeout_source_new(SPAWN_AGAIN_MS);
    g_source_set_callback(source, try_again, background, NULL);
    g_source_attach(source, context->main);
    g_source_unref(source);
}

gboolean agent_context_is_idle(AgentContext *context)
{
    lock_guard(&context->background_lock);

    return context->background_count == 0;
}

void agent_context_join(AgentContext *context)
{
    lock_guard(&context->background_lock);

    while (context->background_count > 0)
        g_cond_wait(&context->background_ended, &context->background_lock);
}
