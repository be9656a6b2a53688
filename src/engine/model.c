#include "engine/model.h"

#include <math.h>
#include <string.h>

#include "base/error.h"

/* Shared pages are resident in every guest that maps them. */
#define RESIDENT_SLACK 1.05

/* A guest that its host does not have any more is seen at its next one a little later. */
#define GONE_MS 60000.0

typedef struct {
    guint host;
    double term, at_ms;
} Gone;

static void model_host_free(gpointer data)
{
    ModelHost *host = data;

    g_free(host->name);
    g_free(host->address);
    g_free(host->moves_to);
    g_free(host->problem);
    g_free(host->failure);
    load_free(host->load);
    g_free(host);
}

static void model_guest_free(gpointer data)
{
    ModelGuest *guest = data;

    g_free(guest->name);
    g_free(guest->id);
    g_free(guest->role);
    g_free(guest->state);
    g_free(guest->activity_id);
    g_free(guest->activity_to);
    g_free(guest->stuck);
    g_free(guest->frozen);
    g_free(guest);
}

Model *model_new(const char *version)
{
    Model *model = g_new0(Model, 1);

    model->hosts = g_ptr_array_new_with_free_func(model_host_free);
    model->guests = g_ptr_array_new_with_free_func(model_guest_free);
    model->by_id = g_hash_table_new(g_str_hash, g_str_equal);
    model->gone = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    model->daily = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    model->version = g_strdup(version);
    return model;
}

void model_free(Model *model)
{
    if (!model)
        return;
    g_hash_table_unref(model->by_id);
    g_hash_table_unref(model->gone);
    g_hash_table_unref(model->daily);
    g_ptr_array_unref(model->guests);
    g_ptr_array_unref(model->hosts);
    g_free(model->version);
    g_free(model);
}

guint model_add_host(Model *model, const char *name, const char *address, const char *moves_to)
{
    ModelHost *host = g_new0(ModelHost, 1);

    host->name = g_strdup(name);
    host->address = g_strdup(address);
    host->moves_to = g_strdup(moves_to);
    host->seen_ms = CLUSTER_UNKNOWN;
    host->problem = g_strdup("has not been reached yet");
    g_ptr_array_add(model->hosts, host);
    return model->hosts->len - 1;
}

guint model_find_host(const Model *model, const char *name)
{
    for (guint i = 0; i < model->hosts->len; i++)
        if (g_strcmp0(((ModelHost *)model->hosts->pdata[i])->name, name) == 0)
            return i;
    return CLUSTER_NONE;
}

gboolean model_is_destination(const char *known, const char *given)
{
    size_t length = strlen(given);

    if (!known)
        return FALSE;
    return strcmp(known, given) == 0 ||
           (g_str_has_prefix(known, given) && known[length] == ':' &&
            !strchr(known + length + 1, ':')) ||
           (g_str_has_prefix(given, known) && given[strlen(known)] == ':');
}

guint model_find_destination(const Model *model, const char *destination)
{
    for (guint i = 0; destination && i < model->hosts->len; i++) {
        const ModelHost *host = model->hosts->pdata[i];

        if (model_is_destination(host->moves_to, destination) ||
            model_is_destination(host->name, destination))
            return i;
    }
    return CLUSTER_NONE;
}

ModelGuest *model_find_guest_by_id(const Model *model, const char *id)
{
    return id ? g_hash_table_lookup(model->by_id, id) : NULL;
}

ModelGuest *model_find_guest(const Model *model, const char *name)
{
    ModelGuest *found = NULL;

    for (guint i = 0; i < model->guests->len; i++) {
        ModelGuest *guest = model->guests->pdata[i];
        const ModelHost *host = model->hosts->pdata[guest->host];

        if (strcmp(guest->name, name) == 0 && (!found || !host->problem))
            found = guest;
    }
    return found;
}

/* ---- what was at this time of the day ---- */

static void copy_daily(GHashTable *table, const char *id, const Daily *daily)
{
    g_hash_table_replace(table, g_strdup(id), g_memdup2(daily, sizeof *daily));
}

void model_remember(Model *model, const char *id, const Daily *daily)
{
    copy_daily(model->daily, id, daily);
}

GHashTable *model_list_daily(const Model *model)
{
    GHashTable *list = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    GHashTableIter at;
    gpointer id, daily;

    g_hash_table_iter_init(&at, model->daily);
    while (g_hash_table_iter_next(&at, &id, &daily))
        copy_daily(list, id, daily);
    for (guint i = 0; i < model->guests->len; i++) {
        const ModelGuest *guest = model->guests->pdata[i];

        copy_daily(list, guest->id, &guest->daily);
    }
    return list;
}

static gboolean is_forgotten(gpointer id, gpointer value, gpointer oldest_hour)
{
    const Daily *daily = value;

    return MAX(daily->cpu.hour, daily->network.hour) < *(double *)oldest_hour;
}

void model_forget(Model *model, double oldest_ms)
{
    double oldest_hour = oldest_ms / 3600e3;

    g_hash_table_foreach_remove(model->daily, is_forgotten, &oldest_hour);
}

/* ---- a look at a host ---- */

void model_take_failure(Model *model, guint host, const char *text)
{
    ModelHost *entry = model->hosts->pdata[host];

    g_free(entry->failure);
    entry->failure = g_utf8_make_valid(text, -1);
}

/* What the engine decides on belongs to the host that owns it, not to the one it comes to or has left. */
static gboolean is_owner(const LoadGuest *guest)
{
    static const char *const owning[] = {"starting", "ours",     "switching-over",
                                         "in-doubt", "postcopy", NULL};

    return !guest->role || g_strv_contains(owning, guest->role);
}

/* Without an id, a name on a host is one. */
static char *key_of(const ModelHost *host, const LoadGuest *guest)
{
    return guest->id ? g_strdup(guest->id) : g_strdup_printf("%s/%s", host->name, guest->name);
}

static ModelGuest *add_guest(Model *model, const LoadGuest *said, const char *id, guint host)
{
    ModelGuest *guest = g_new0(ModelGuest, 1);
    const Gone *gone = g_hash_table_lookup(model->gone, id);
    const Daily *daily = g_hash_table_lookup(model->daily, id);

    guest->name = g_strdup(said->name);
    guest->id = g_strdup(id);
    guest->host = host;
    guest->term = said->term;
    guest->came_from = CLUSTER_NONE;
    if (gone && gone->host != host) {
        guest->came_from = gone->host;
        guest->came_from_term = gone->term;
    }
    if (daily)
        guest->daily = *daily;
    g_hash_table_remove(model->gone, id);
    g_hash_table_remove(model->daily, id);
    g_ptr_array_add(model->guests, guest);
    g_hash_table_insert(model->by_id, guest->id, guest);
    return guest;
}

static void move_guest(ModelGuest *guest, const LoadGuest *said, guint host)
{
    guest->came_from = guest->host;
    guest->came_from_term = guest->term;
    guest->host = host;
    /* What it waited for, it waited for there. */
    guest->cpu_wait = guest->backlog = guest->swapped = (ClusterSeries){0};
    memset(guest->means, 0, sizeof(guest->means));
    g_clear_pointer(&guest->activity_id, g_free);
    g_clear_pointer(&guest->activity_to, g_free);
}

/* ---- readings ---- */

static void add_look(ModelMean *mean, double value)
{
    gboolean known = value >= 0 && isfinite(value);

    mean->last = known ? value : CLUSTER_UNKNOWN;
    if (known) {
        mean->sum += value;
        mean->n++;
    }
}

static double end_mean(ModelMean *mean)
{
    double value = mean->n > 0 ? mean->sum / mean->n : CLUSTER_UNKNOWN;

    *mean = (ModelMean){.last = mean->last};
    return value;
}

static double demand_of(const ModelGuest *guest)
{
    ClusterGuest seen = {.vcpus = guest->vcpus, .cpu = guest->cpu, .cpu_wait = guest->cpu_wait};

    return cluster_guest_demand(&seen, 1);
}

static void note_guest(ModelGuest *guest, const LoadGuest *said)
{
    guest->term = said->term;
    g_free(guest->name);
    guest->name = g_strdup(said->name);
    g_free(guest->role);
    guest->role = g_strdup(said->role);
    g_free(guest->state);
    guest->state = g_strdup(said->state);
    guest->vcpus = said->vcpus;
    guest->memory_bytes = said->memory_bytes;
    guest->looked = TRUE;
    add_look(&guest->means[0], said->cpu_used);
    add_look(&guest->means[1], said->cpu_wait);
    add_look(&guest->means[2], said->network);
    add_look(&guest->means[3], said->backlog);
    add_look(&guest->means[4], said->swapped_bytes);
    guest->resident_bytes = said->resident_bytes;
}

static void read_guest(ModelGuest *guest, double now_ms)
{
    cluster_series_add(&guest->cpu, end_mean(&guest->means[0]));
    cluster_series_add(&guest->cpu_wait, end_mean(&guest->means[1]));
    cluster_series_add(&guest->network, end_mean(&guest->means[2]));
    cluster_series_add(&guest->backlog, end_mean(&guest->means[3]));
    cluster_series_add(&guest->swapped, end_mean(&guest->means[4]));
    cluster_history_add(&guest->daily.cpu, now_ms, demand_of(guest));
    cluster_history_add(&guest->daily.network, now_ms, cluster_series_last(&guest->network));
}

/* FALSE: *known*'s host has it with a better right, or was seen with it as lately. */
static gboolean takes_over(const ModelGuest *known, const LoadGuest *said, guint host)
{
    return known->host == host || said->term > known->term || !known->looked;
}

static void take_guests(Model *model, guint index)
{
    ModelHost *host = model->hosts->pdata[index];

    for (guint i = 0; i < model->guests->len; i++) {
        ModelGuest *guest = model->guests->pdata[i];

        if (guest->host == index)
            guest->looked = FALSE;
    }
    for (guint i = 0; i < host->load->guests->len; i++) {
        const LoadGuest *said = host->load->guests->pdata[i];
        g_autofree char *id = key_of(host, said);
        ModelGuest *guest = g_hash_table_lookup(model->by_id, id);

        if (!is_owner(said))
            continue;
        if (!guest)
            guest = add_guest(model, said, id, index);
        else if (!takes_over(guest, said, index))
            continue;
        if (guest->host != index)
            move_guest(guest, said, index);
        note_guest(guest, said);
    }
}

static gboolean is_long_gone(gpointer id, gpointer gone, gpointer now_ms)
{
    return *(double *)now_ms - ((Gone *)gone)->at_ms > GONE_MS;
}

static void remove_gone(Model *model, guint index, double now_ms)
{
    g_hash_table_foreach_remove(model->gone, is_long_gone, &now_ms);
    for (guint i = model->guests->len; i-- > 0;) {
        ModelGuest *guest = model->guests->pdata[i];
        Gone gone = {.host = index, .term = guest->term, .at_ms = now_ms};

        if (guest->host != index || guest->looked)
            continue;
        g_hash_table_insert(model->gone, g_strdup(guest->id), g_memdup2(&gone, sizeof gone));
        model_remember(model, guest->id, &guest->daily);
        g_hash_table_remove(model->by_id, guest->id);
        g_ptr_array_remove_index_fast(model->guests, i);
    }
}

static void set_text(char **field, const char *text)
{
    g_free(*field);
    *field = g_strdup(text);
}

/* One entry of GET /v1/guests. */
static void take_entry(Model *model, guint index, json_t *entry)
{
    ModelGuest *guest = model_find_guest_by_id(model, json_text_or(entry, "id", NULL));
    json_t *activity = json_object_get(entry, "activity");
    const char *kind = json_text_or(activity, "kind", NULL);
    gboolean moves = g_strcmp0(kind, "migrate") == 0;

    if (!guest || guest->host != index)
        return;
    set_text(&guest->activity_id, moves ? json_text_or(activity, "id", "?") : NULL);
    set_text(&guest->activity_to, moves ? json_text_or(activity, "destination", NULL) : NULL);
    g_clear_pointer(&guest->stuck, g_free);
    if (moves)
        guest->stuck = g_strdup("it moves already");
    else if (json_is_object(activity))
        guest->stuck = g_strdup_printf("%.32s goes on with it", kind ? kind : "something");
    else if (json_text_or(entry, "problem", NULL))
        guest->stuck = g_strdup_printf("%.200s", json_text_or(entry, "problem", NULL));
}

static const char *find_absurd(const ModelHost *host, const Load *load)
{
    const Load *before = host->load;

    if (!before || g_strcmp0(before->boot_id, load->boot_id) != 0)
        return NULL;
    return load->time_ms < before->time_ms ? "its clock went back" : NULL;
}

static void note_host(ModelHost *host)
{
    const Load *load = host->load;

    /* What moves cost is no reason for another one. */
    add_look(&host->means[0], load->cpu_used >= 0 && load->moves_cpu > 0
                                  ? fmax(load->cpu_used - load->moves_cpu, 0)
                                  : load->cpu_used);
    add_look(&host->means[1], load->cpu_pressure);
    add_look(&host->means[2], load->guests_network);
    add_look(&host->means[3], load->memory_available_bytes);
    add_look(&host->means[4], load->memory_pressure);
    add_look(&host->means[5], load->swap_out);
}

static void read_host(ModelHost *host)
{
    cluster_series_add(&host->cpu, end_mean(&host->means[0]));
    cluster_series_add(&host->cpu_pressure, end_mean(&host->means[1]));
    cluster_series_add(&host->network, end_mean(&host->means[2]));
    cluster_series_add(&host->memory_available, end_mean(&host->means[3]));
    cluster_series_add(&host->memory_pressure, end_mean(&host->means[4]));
    cluster_series_add(&host->swap_out, end_mean(&host->means[5]));
}

/* Ends the reading where its time is over.  The next one is due by the first one's clock, so that looks that do not divide it
 * make some a little longer and some shorter; and by now, where looks did not come. */
static void read_where_due(Model *model, guint index, double now_ms)
{
    ModelHost *host = model->hosts->pdata[index];

    if (now_ms < host->reading_due_ms)
        return;
    host->reading_due_ms += model->reading_ms;
    if (host->reading_due_ms <= now_ms)
        host->reading_due_ms = now_ms + model->reading_ms;
    read_host(host);
    for (guint i = 0; i < model->guests->len; i++) {
        ModelGuest *guest = model->guests->pdata[i];

        if (guest->host == index && guest->looked)
            read_guest(guest, now_ms);
    }
}

static void take_fresh(Model *model, guint index, Load *load, double now_ms)
{
    ModelHost *host = model->hosts->pdata[index];

    load_free(host->load);
    host->load = load;
    host->seen_ms = now_ms;
    if (load->interval_ms > MODEL_LONGEST_INTERVAL_MS) {
        model_take_failure(model, index, "its figures are over too long a time");
        return;
    }
    note_host(host);
    take_guests(model, index);
    remove_gone(model, index, now_ms);
    read_where_due(model, index, now_ms);
}

void model_take_look(Model *model, guint index, Load *load, json_t *guests, double now_ms,
                     double wall)
{
    ModelHost *host = model->hosts->pdata[index];
    const char *absurd = find_absurd(host, load);
    gboolean same = host->load && !absurd && load->time_ms == host->load->time_ms &&
                    g_strcmp0(load->boot_id, host->load->boot_id) == 0;
    double skew = load->wall > 0 ? load->wall - wall : 0;
    json_t *entry;
    size_t i;

    g_clear_pointer(&host->failure, g_free);
    if (absurd) {
        model_take_failure(model, index, absurd);
        load_free(load);
        return;
    }
    if (fabs(skew) > MODEL_SKEW_S)
        host->failure = g_strdup_printf("its clock is %.0f s %s ours", fabs(skew),
                                        skew > 0 ? "ahead of" : "behind");
    if (same) /* asked again before it has looked again */
        load_free(load);
    else
        take_fresh(model, index, load, now_ms);
    json_array_foreach(guests, i, entry) take_entry(model, index, entry);
}

/* ---- what is wrong with a host ---- */

/* "0.1.7" and "0.1.2" understand each other. */
static gboolean is_version(const char *ours, const char *theirs)
{
    const char *last = strrchr(ours, '.');
    g_autofree char *series = g_strndup(ours, last ? (gsize)(last - ours) + 1 : strlen(ours));

    return g_str_has_prefix(theirs, series);
}

static char *find_memory_lie(const Load *load)
{
    double resident = 0;

    for (guint i = 0; i < load->guests->len; i++)
        resident += fmax(((LoadGuest *)load->guests->pdata[i])->resident_bytes, 0);
    if (resident <= load->memory_bytes * RESIDENT_SLACK)
        return NULL;
    return g_strdup_printf("says that its guests have %.0f MiB in memory, of %.0f MiB that it has",
                           resident / 1048576, load->memory_bytes / 1048576);
}

static char *find_problem(const Model *model, const ModelHost *host, double now_ms)
{
    if (!host->load)
        return host->failure ? g_strdup(host->failure) : g_strdup("has not been reached yet");
    if (now_ms - host->seen_ms > MODEL_STALE_MS)
        return g_strdup_printf("its figures are %.0f s old%s%s", (now_ms - host->seen_ms) / 1e3,
                               host->failure ? ": " : "", host->failure ? host->failure : "");
    if (!is_version(model->version, host->load->version))
        return g_strdup_printf("its agent is of version %s, this engine of %s", host->load->version,
                               model->version);
    if (host->failure)
        return g_strdup(host->failure);
    return find_memory_lie(host->load);
}

static void set_problem(ModelHost *host, char *problem)
{
    g_free(host->problem);
    host->problem = problem;
}

static void find_twins(Model *model, guint index)
{
    ModelHost *host = model->hosts->pdata[index];

    for (guint i = 0; i < index; i++) {
        ModelHost *other = model->hosts->pdata[i];

        if (host->load && other->load && host->load->agent_id &&
            g_strcmp0(host->load->agent_id, other->load->agent_id) == 0)
            set_problem(host, g_strdup_printf("is the same agent as %s", other->name));
    }
}

/* One host says of a guest what another one says, too. */
static void compare_guest(Model *model, guint index, const LoadGuest *said)
{
    ModelHost *host = model->hosts->pdata[index];
    ModelGuest *guest = said->id ? model_find_guest_by_id(model, said->id) : NULL;
    ModelHost *other = guest ? model->hosts->pdata[guest->host] : NULL;

    if (!guest || guest->host == index || !guest->looked || !is_owner(said) || other->problem ||
        host->problem)
        return;
    if (said->term == guest->term)
        set_problem(other, g_strdup_printf("has guest %s, and so has %s", said->name, host->name));
    set_problem(host, g_strdup_printf("has guest %s, and so has %s", said->name, other->name));
}

/* Two guests of one name: neither may go where the other one is, and a user cannot tell them apart. */
static void find_namesakes(Model *model)
{
    g_autoptr(GHashTable) names = g_hash_table_new(g_str_hash, g_str_equal);

    for (guint i = 0; i < model->guests->len; i++) {
        ModelGuest *guest = model->guests->pdata[i];
        ModelGuest *other = g_hash_table_lookup(names, guest->name);

        g_hash_table_insert(names, guest->name, guest);
        if (!other)
            continue;
        set_text(&guest->stuck, "there are two guests of this name");
        set_text(&other->stuck, "there are two guests of this name");
    }
}

void model_check(Model *model, double now_ms)
{
    for (guint i = 0; i < model->hosts->len; i++) {
        ModelHost *host = model->hosts->pdata[i];

        set_problem(host, find_problem(model, host, now_ms));
    }
    for (guint i = 0; i < model->hosts->len; i++)
        find_twins(model, i);
    for (guint i = 0; i < model->hosts->len; i++) {
        const ModelHost *host = model->hosts->pdata[i];

        for (guint j = 0; host->load && !host->problem && j < host->load->guests->len; j++)
            compare_guest(model, i, host->load->guests->pdata[j]);
    }
    find_namesakes(model);
}

/* ---- the view ---- */

static int compare_hosts(gconstpointer a, gconstpointer b)
{
    const ModelGuest *first = *(ModelGuest *const *)a, *second = *(ModelGuest *const *)b;

    if (first->host != second->host)
        return first->host < second->host ? -1 : 1;
    return strcmp(first->name, second->name);
}

static gpointer own(EngineView *view, gpointer memory)
{
    if (memory)
        g_ptr_array_add(view->owned, memory);
    return memory;
}

static void fill_host(const Model *model, guint index, const ModelContext *context,
                      ClusterHost *ret)
{
    const ModelHost *host = model->hosts->pdata[index];
    const Load *load = host->load;

    *ret = (ClusterHost){.name = host->name,
                         .usable = !host->problem,
                         .accepts = !host->problem && !host->drained,
                         .drained = host->drained,
                         .cpus = load ? load->cpus : CLUSTER_UNKNOWN,
                         .memory_bytes = load ? load->memory_bytes : CLUSTER_UNKNOWN,
                         .memory_reserve_bytes =
                             load ? load->memory_bytes * context->memory_reserve : 0,
                         .link_bytes_per_s = load ? load->link_speed : CLUSTER_UNKNOWN,
                         .cpu = host->cpu,
                         .cpu_pressure = host->cpu_pressure,
                         .network = host->network,
                         .memory_available = host->memory_available,
                         .memory_pressure = host->memory_pressure,
                         .swap_out = host->swap_out};
    context->ask_host(index, &ret->moves, &ret->moves_lately, context->user);
}

static gboolean is_in(const guint *list, guint count, guint value)
{
    for (guint i = 0; i < count; i++)
        if (list[i] == value)
            return TRUE;
    return FALSE;
}

/* Where *facts* close some hosts: the others. */
static void fill_destinations(EngineView *view, const Model *model, const ModelGuestFacts *facts,
                              ClusterGuest *ret)
{
    guint *open;

    if (facts->n_closed == 0)
        return;
    open = own(view, g_new(guint, model->hosts->len + 1));
    for (guint i = 0; i < model->hosts->len; i++)
        if (!is_in(facts->closed, facts->n_closed, i))
            open[ret->n_destinations++] = i;
    ret->destinations = open;
}

static gboolean is_pinned(const ModelContext *context, const char *name)
{
    for (guint i = 0; context->rules && i < context->rules->len; i++) {
        const Rule *rule = context->rules->pdata[i];

        if (rule->kind == RULE_NEVER && g_strv_contains((const char *const *)rule->guests, name))
            return TRUE;
    }
    return FALSE;
}

static ClusterMobility find_mobility(const ModelGuest *guest, const ModelContext *context,
                                     const ModelGuestFacts *facts)
{
    static const char *const movable[] = {"running", "paused", NULL};

    if (guest->activity_id || facts->to != CLUSTER_NONE)
        return CLUSTER_IN_MOTION;
    if ((guest->frozen && !context->thaws) || is_pinned(context, guest->name))
        return CLUSTER_PINNED;
    if (guest->stuck || (guest->role && strcmp(guest->role, "ours") != 0) ||
        (guest->state && !g_strv_contains(movable, guest->state)))
        return CLUSTER_NOT_MOVABLE;
    return CLUSTER_CAN_MOVE;
}

static void fill_guest(EngineView *view, const Model *model, const ModelGuest *guest,
                       const ModelContext *context, ClusterGuest *ret)
{
    ModelGuestFacts facts = {.moved_at_ms = CLUSTER_UNKNOWN,
                             .move_ms = CLUSTER_UNKNOWN,
                             .move_bytes = CLUSTER_UNKNOWN,
                             .move_pause_ms = CLUSTER_UNKNOWN,
                             .to = CLUSTER_NONE};

    context->ask_guest(guest, &facts, context->user);
    *ret = (ClusterGuest){.name = guest->name,
                          .host = guest->host,
                          .to = facts.to != CLUSTER_NONE
                                    ? facts.to
                                    : model_find_destination(model, guest->activity_to),
                          .mobility = find_mobility(guest, context, &facts),
                          .sla = facts.sla,
                          .memory_bytes = guest->memory_bytes,
                          .resident_bytes = guest->resident_bytes,
                          .cpu_history = &guest->daily.cpu,
                          .network_history = &guest->daily.network,
                          .vcpus = guest->vcpus,
                          .cpu = guest->cpu,
                          .cpu_wait = guest->cpu_wait,
                          .network = guest->network,
                          .backlog = guest->backlog,
                          .swapped = guest->swapped,
                          .move_ms = facts.move_ms,
                          .move_bytes = facts.move_bytes,
                          .move_pause_ms = facts.move_pause_ms,
                          .moved_at_ms = facts.moved_at_ms,
                          .returns = facts.returns};
    fill_destinations(view, model, &facts, ret);
}

/* The indexes of those that there are; *ret_count* is how many. */
static guint *find_guests(EngineView *view, char **names, guint *ret_count)
{
    guint *found = own(view, g_new(guint, g_strv_length(names) + 1));

    *ret_count = 0;
    for (; *names; names++)
        for (guint i = 0; i < view->cluster.n_guests; i++)
            if (strcmp(view->cluster.guests[i].name, *names) == 0) {
                found[(*ret_count)++] = i;
                break;
            }
    return found;
}

static guint *find_hosts(EngineView *view, const Model *model, char **names, guint *ret_count)
{
    guint *found = own(view, g_new(guint, g_strv_length(names) + 1));

    *ret_count = 0;
    for (; *names; names++) {
        guint index = model_find_host(model, *names);

        if (index != CLUSTER_NONE)
            found[(*ret_count)++] = index;
    }
    return found;
}

static void fill_rules(EngineView *view, const Model *model, const GPtrArray *rules)
{
    ClusterRule *filled = own(view, g_new0(ClusterRule, (rules ? rules->len : 0) + 1));

    for (guint i = 0; rules && i < rules->len; i++) {
        const Rule *rule = rules->pdata[i];
        ClusterRule *one = &filled[view->cluster.n_rules];

        if (rule->kind == RULE_NEVER) /* the guests' mobility says so */
            continue;
        *one = (ClusterRule){
            .id = rule->id, .kind = rule_cluster_kind(rule->kind), .strict = rule->strict};
        one->guests = find_guests(view, rule->guests, &one->n_guests);
        one->hosts = find_hosts(view, model, rule->hosts, &one->n_hosts);
        view->cluster.n_rules++;
    }
    view->cluster.rules = filled;
}

EngineView *model_make_view(const Model *model, const ModelContext *context, double now_ms)
{
    EngineView *view = g_new0(EngineView, 1);
    g_autoptr(GPtrArray) sorted = g_ptr_array_new();

    view->owned = g_ptr_array_new_with_free_func(g_free);
    view->cluster.now_ms = now_ms;
    view->cluster.n_hosts = model->hosts->len;
    view->cluster.hosts = own(view, g_new0(ClusterHost, model->hosts->len + 1));
    for (guint i = 0; i < model->hosts->len; i++)
        fill_host(model, i, context, &view->cluster.hosts[i]);
    for (guint i = 0; i < model->guests->len; i++)
        g_ptr_array_add(sorted, model->guests->pdata[i]);
    g_ptr_array_sort(sorted, compare_hosts);
    view->cluster.n_guests = sorted->len;
    view->cluster.guests = own(view, g_new0(ClusterGuest, sorted->len + 1));
    view->guests = own(view, g_new0(const ModelGuest *, sorted->len + 1));
    for (guint i = 0; i < sorted->len; i++) {
        view->guests[i] = sorted->pdata[i];
        fill_guest(view, model, sorted->pdata[i], context, &view->cluster.guests[i]);
    }
    fill_rules(view, model, context->rules);
    return view;
}

double model_get_newest_network(const ModelHost *host)
{
    return host->load ? host->means[2].last : CLUSTER_UNKNOWN;
}

void engine_view_add_looks(EngineView *view, const Model *model)
{
    for (guint i = 0; i < view->cluster.n_hosts; i++)
        cluster_series_add(&view->cluster.hosts[i].network,
                           model_get_newest_network(model->hosts->pdata[i]));
    for (guint i = 0; i < view->cluster.n_guests; i++) {
        const ModelMean *means = view->guests[i]->means;
        ClusterGuest *guest = &view->cluster.guests[i];

        if (!view->guests[i]->looked)
            continue;
        cluster_series_add(&guest->cpu_wait, means[1].last);
        cluster_series_add(&guest->network, means[2].last);
        cluster_series_add(&guest->backlog, means[3].last);
        cluster_series_add(&guest->swapped, means[4].last);
    }
}

void engine_view_free(EngineView *view)
{
    if (!view)
        return;
    g_ptr_array_unref(view->owned);
    g_free(view);
}
