#include "engine/poller.h"

#include "base/error.h"
#include "base/lock_guard.h"
#include "base/thread.h"
#include "engine/agent_link.h"

#define GUESTS_LIMIT 4096u
/* GET /v1/status tells what seldom changes. */
#define LOOKS_A_STATUS 15
/* Agents look every two seconds or so; what they have seen is to be known soon after that. */
#define HURRY_MS 500u

typedef struct {
    Poller *owner;
    guint index;
    char *address;
    gboolean hurries; /* by the owner's lock */
    GThread *thread;
} Watched;

struct Poller {
    PollerHandlers handlers;
    char *pki_dir;
    GCancellable *stop;
    guint interval_ms;
    GPtrArray *hosts; /* of Watched */
    GMutex lock;      /* of what follows */
    GCond changed;
    gboolean stopping;
};

static void watched_free(gpointer data)
{
    Watched *watched = data;

    if (watched->thread)
        g_thread_join(watched->thread);
    g_free(watched->address);
    g_free(watched);
}

static gboolean look(Watched *watched, Client *client, gboolean with_status, GError **error)
{
    const PollerHandlers *handlers = &watched->owner->handlers;
    g_autoptr(json_t) load = client_call(client, "GET", "/v1/load", NULL, error);
    g_autoptr(json_t) guests = load ? client_call(client, "GET", "/v1/guests", NULL, error) : NULL;
    g_autoptr(json_t) status =
        guests && with_status ? client_call(client, "GET", "/v1/status", NULL, error) : NULL;
    PollerLook seen = {.status = status};

    if (!guests || (with_status && !status) ||
        !json_get_array(guests, "guests", GUESTS_LIMIT, &seen.guests, error))
        return FALSE;
    seen.load = load_parse(load, error);
    if (!seen.load) {
        g_prefix_error(error, "its figures make no sense: ");
        return FALSE;
    }
    handlers->on_look(watched->index, &seen, handlers->user);
    return TRUE;
}

/* Until the look after the one that began at *last*, which *ret_next* tells; FALSE once it is to end. */
static gboolean pause_after(Watched *watched, gint64 last, gint64 *ret_next)
{
    Poller *poller = watched->owner;

    lock_guard(&poller->lock);
    while (!poller->stopping) {
        guint ms = watched->hurries ? MIN(poller->interval_ms, HURRY_MS) : poller->interval_ms;

        *ret_next = last + ms * (gint64)G_TIME_SPAN_MILLISECOND;
        if (!g_cond_wait_until(&poller->changed, &poller->lock, *ret_next))
            break;
    }
    *ret_next = MAX(*ret_next, g_get_monotonic_time());
    return !poller->stopping;
}

static gpointer watch(gpointer user)
{
    Watched *watched = user;
    Poller *poller = watched->owner;
    g_autoptr(Client) client = NULL;
    gint64 next = g_get_monotonic_time();
    guint looks = 0;

    do {
        g_autoptr(GError) error = NULL;

        if (!client)
            client = agent_link_open(watched->address, poller->pki_dir, poller->stop, &error);
        if (!client || !look(watched, client, looks % LOOKS_A_STATUS == 0, &error)) {
            poller->handlers.on_failure(watched->index, error, poller->handlers.user);
            /* A connection that has failed is made anew, and the status asked for again. */
            g_clear_pointer(&client, client_free);
            looks = 0;
        } else {
            looks++;
        }
    } while (pause_after(watched, next, &next));
    return NULL;
}

Poller *poller_new(const char *const *addresses, const char *pki_dir, guint interval_ms,
                   GCancellable *stop, const PollerHandlers *handlers, GError **error)
{
    g_autoptr(Poller) poller = g_new0(Poller, 1);

    g_mutex_init(&poller->lock);
    g_cond_init(&poller->changed);
    poller->handlers = *handlers;
    poller->pki_dir = g_strdup(pki_dir);
    poller->stop = g_object_ref(stop);
    poller->interval_ms = interval_ms;
    poller->hosts = g_ptr_array_new_with_free_func(watched_free);
    for (; *addresses; addresses++) {
        Watched *watched = g_new0(Watched, 1);

        watched->owner = poller;
        watched->index = poller->hosts->len;
        watched->address = g_strdup(*addresses);
        g_ptr_array_add(poller->hosts, watched);
    }
    for (guint i = 0; i < poller->hosts->len; i++) {
        Watched *watched = poller->hosts->pdata[i];

        watched->thread = thread_start("poller", watch, watched, error);
        if (!watched->thread)
            return NULL;
    }
    return g_steal_pointer(&poller);
}

void poller_hurry(Poller *poller, guint host, gboolean hurries)
{
    Watched *watched = poller->hosts->pdata[host];

    lock_guard(&poller->lock);
    if (watched->hurries == hurries)
        return;
    watched->hurries = hurries;
    g_cond_broadcast(&poller->changed);
}

void poller_free(Poller *poller)
{
    if (!poller)
        return;
    g_mutex_lock(&poller->lock);
    poller->stopping = TRUE;
    g_cond_broadcast(&poller->changed);
    g_mutex_unlock(&poller->lock);
    g_ptr_array_unref(poller->hosts);
    g_mutex_clear(&poller->lock);
    g_cond_clear(&poller->changed);
    g_object_unref(poller->stop);
    g_free(poller->pki_dir);
    g_free(poller);
}
