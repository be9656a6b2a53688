#include "agent/protect_again.h"

#include "agent/protect.h"
#include "base/log.h"
#include "migrate/protect.h"

#define LOOK_US G_TIME_SPAN_SECOND
#define LONGEST_PAUSE_S 300u

/* Of one guest. */
typedef struct {
    gint64 next_us;
    guint pause_s;
    gboolean seen; /* in the last look */
} Attempt;

static gboolean is_stopping(gpointer context)
{
    return agent_context_is_stopping(context);
}

static gboolean read_request(const GuestRecord *record, MigrateOptions *options,
                             ProtectRequest *ret)
{
    json_t *wish = record->protection;
    CheckpointSync sync = CHECKPOINT_SYNC_AUTO;

    g_strlcpy(options->store, json_text_or(wish, "witness", ""), sizeof options->store);
    options->checkpoint_ms = (guint)json_count_or(wish, "interval_ms", options->checkpoint_ms);
    options->overwrite = TRUE;
    options->disks = DISK_MODE_AUTO;
    checkpoint_sync_from_name(json_text_or(wish, "sync", "auto"), &sync);
    *ret = (ProtectRequest){.sync = sync,
                            .standby = json_text_or(wish, "standby", NULL),
                            .copies_writes = json_flag_or(wish, "copies_writes", FALSE),
                            .overhead_percent = (guint)json_count_or(wish, "overhead_percent",
                                                                     PROTECT_OVERHEAD_PERCENT),
                            .options = options};
    return ret->standby != NULL;
}

static void try_guest(AgentContext *context, Guest *guest, const GuestRecord *record)
{
    MigrateOptions options = context->settings->moves;
    g_autoptr(Activity) activity = NULL;
    g_autoptr(GError) problem = NULL;
    ProtectRequest request;

    if (!read_request(record, &options, &request))
        return;
    activity = protect_start(context, guest->name, &request, &problem);
    if (!activity)
        log_debug("guest %s: it is not protected again: %s", guest->name, problem->message);
}

static Attempt *get_attempt(AgentContext *context, GHashTable *attempts, const char *name)
{
    Attempt *attempt = g_hash_table_lookup(attempts, name);

    if (attempt)
        return attempt;
    attempt = g_new0(Attempt, 1);
    attempt->pause_s = context->settings->protect_again;
    attempt->next_us = g_get_monotonic_time() + attempt->pause_s * G_TIME_SPAN_SECOND;
    g_hash_table_insert(attempts, g_strdup(name), attempt);
    return attempt;
}

static void look_at(AgentContext *context, GHashTable *attempts, Guest *guest)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);
    Attempt *attempt;

    if (record->role != GUEST_OURS || !record->protection)
        return;
    attempt = get_attempt(context, attempts, guest->name);
    attempt->seen = TRUE;
    if (g_get_monotonic_time() < attempt->next_us || !registry_is_idle(guest))
        return;
    try_guest(context, guest, record);
    attempt->pause_s = MIN(attempt->pause_s * 2, LONGEST_PAUSE_S);
    attempt->next_us = g_get_monotonic_time() + attempt->pause_s * G_TIME_SPAN_SECOND;
}

/* One that is protected by now begins anew next time. */
static gboolean was_not_seen(gpointer key, gpointer value, gpointer data)
{
    Attempt *attempt = value;
    gboolean gone = !attempt->seen;

    attempt->seen = FALSE;
    return gone;
}

static gpointer look_thread(gpointer data)
{
    AgentContext *context = data;
    g_autoptr(GHashTable) attempts = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);

    while (!agent_context_is_stopping(context)) {
        g_autoptr(GPtrArray) guests = registry_list(context->registry);

        for (guint i = 0; i < guests->len; i++)
            look_at(context, attempts, guests->pdata[i]);
        g_hash_table_foreach_remove(attempts, was_not_seen, NULL);
        registry_await(context->registry, g_get_monotonic_time() + LOOK_US, is_stopping, context);
    }
    return NULL;
}

void protect_again_start(AgentContext *context)
{
    if (context->settings->protect_again > 0)
        agent_context_spawn_surely(context, "protect-again", look_thread, context);
}
