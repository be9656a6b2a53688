/* What the engine does once a second; see engine.h. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/lock_guard.h"
#include "base/log.h"
#include "engine/engine_private.h"

#define DAY_MS 86400000
#define HOUR_MS 3600000
/* What an agent has said of a move's cost is good for so long. */
#define ESTIMATE_MS 300000.0
/* Until when it makes sense to look whether a move has helped, from the first time on. */
#define JUDGE_WITHIN_MS 540000
/* A host's figures show within that time that a guest has left. */
#define FOLLOW_WITHIN_MS 30000
/* A host to which a guest could not be moved is not tried again for so long; nor one that it was not moved to because
 * something had changed. */
#define CLOSED_MS 3600000.0
#define REFUSED_MS 60000.0
#define REFUSED_DRAIN_MS 10000.0

/* ---- what a view needs to know ---- */

typedef struct {
    Engine *engine;
    gint64 except;
    GPtrArray *open; /* of MoveRecord */
    double now_ms;
    guint *moves, *lately; /* a host */
    GArray *closed;        /* guint, of the guest that is asked about */
} Facts;

static void count_host(const Model *model, const char *name, guint *counts)
{
    guint index = model_find_host(model, name);

    if (index != CLUSTER_NONE)
        counts[index]++;
}

static void count_moves(Facts *facts)
{
    const Engine *engine = facts->engine;

    for (guint i = 0; i < facts->open->len; i++) {
        const MoveRecord *record = facts->open->pdata[i];

        if (record->id == facts->except)
            continue;
        count_host(engine->model, record->from, facts->moves);
        count_host(engine->model, record->to, facts->moves);
    }
    for (guint i = 0; i < engine->recent->len; i++) {
        const MoveRecord *record = engine->recent->pdata[i];

        /* What never began burdened nobody. */
        if (record->ordered_ms == 0 || engine_wall_ms() - record->ordered_ms > HOUR_MS)
            continue;
        count_host(engine->model, record->from, facts->lately);
        count_host(engine->model, record->to, facts->lately);
    }
}

static void ask_host(guint host, guint *ret_moves, guint *ret_lately, gpointer user)
{
    const Facts *facts = user;

    *ret_moves = facts->moves[host];
    *ret_lately = facts->lately[host];
}

/* When it moved last, and how often it came to a host that it had left, within a day. */
static void fill_past(const Facts *facts, const ModelGuest *guest, ModelGuestFacts *ret)
{
    const GPtrArray *recent = facts->engine->recent;

    for (guint i = 0; i < recent->len; i++) {
        const MoveRecord *record = recent->pdata[i];

        /* One that was tried in vain burdened it, too. */
        if (record->ordered_ms == 0 || g_strcmp0(record->guest_id, guest->id) != 0)
            continue;
        ret->moved_at_ms = facts->now_ms - (double)(engine_wall_ms() - record->ended_ms);
        if (record->state != MOVE_COMPLETED)
            continue;
        for (guint j = 0; j < i; j++) {
            const MoveRecord *before = recent->pdata[j];

            if (before->state == MOVE_COMPLETED && g_strcmp0(before->guest_id, guest->id) == 0 &&
                g_strcmp0(before->from, record->to) == 0) {
                ret->returns++;
                break;
            }
        }
    }
}

static void fill_closed(Facts *facts, const ModelGuest *guest, ModelGuestFacts *ret)
{
    const GArray *known = g_hash_table_lookup(facts->engine->closed, guest->id);

    g_array_set_size(facts->closed, 0);
    for (guint i = 0; known && i < known->len; i++) {
        const EngineClosed *one = &g_array_index(known, EngineClosed, i);

        if (one->until_ms > facts->now_ms)
            g_array_append_val(facts->closed, one->host);
    }
    ret->closed = (const guint *)(gpointer)facts->closed->data;
    ret->n_closed = facts->closed->len;
}

static void ask_guest(const ModelGuest *guest, ModelGuestFacts *ret, gpointer user)
{
    Facts *facts = user;
    const Engine *engine = facts->engine;
    const ClusterSla *sla = g_hash_table_lookup(engine->slas, guest->name);
    const EngineEstimate *estimate = g_hash_table_lookup(engine->estimates, guest->id);

    if (sla)
        ret->sla = *sla;
    if (estimate && !estimate->pending && facts->now_ms - estimate->asked_ms < ESTIMATE_MS) {
        ret->move_ms = estimate->ms;
        ret->move_bytes = estimate->bytes;
        ret->move_pause_ms = estimate->pause_ms;
    }
    for (guint i = 0; i < facts->open->len; i++) {
        const MoveRecord *record = facts->open->pdata[i];

        if (record->id != facts->except && g_strcmp0(record->guest_id, guest->id) == 0)
            ret->to = model_find_host(engine->model, record->to);
    }
    fill_past(facts, guest, ret);
    fill_closed(facts, guest, ret);
}

EngineView *engine_make_view(Engine *engine, gint64 except, gboolean thaws)
{
    guint hosts = engine->model->hosts->len;
    g_autofree guint *moves = g_new0(guint, hosts + 1);
    g_autofree guint *lately = g_new0(guint, hosts + 1);
    g_autoptr(GPtrArray) open = engine_list_open(engine);
    g_autoptr(GArray) closed = g_array_new(FALSE, FALSE, sizeof(guint));
    Facts facts = {.engine = engine,
                   .except = except,
                   .open = open,
                   .now_ms = engine_now_ms(),
                   .moves = moves,
                   .lately = lately,
                   .closed = closed};
    ModelContext context = {.memory_reserve = engine->settings->memory_reserve,
                            .rules = engine->rules,
                            .thaws = thaws,
                            .ask_guest = ask_guest,
                            .ask_host = ask_host,
                            .user = &facts};

    count_moves(&facts);
    return model_make_view(engine->model, &context, facts.now_ms);
}

/* ---- limits of now ---- */

static gboolean is_quiet(const Engine *engine)
{
    g_autoptr(GDateTime) now = g_date_time_new_now_local();
    const GArray *hours = engine->settings->quiet_hours;
    guint minute = (guint)(g_date_time_get_hour(now) * 60 + g_date_time_get_minute(now));

    return cluster_is_quiet((const ClusterQuietHours *)(gpointer)hours->data, hours->len, minute);
}

const char *engine_find_bar(Engine *engine)
{
    return engine->broken ? engine->broken : engine->standing;
}

gboolean engine_is_frozen(const Engine *engine)
{
    return engine->broken || g_hash_table_contains(engine->frozen, "");
}

const char *engine_find_hold(Engine *engine)
{
    const char *bar = engine_find_bar(engine);

    return bar ? bar : g_hash_table_lookup(engine->frozen, "");
}

ClusterLimits engine_limits(Engine *engine, MoveBy by)
{
    ClusterLimits limits = engine->settings->limits;

    limits.frozen = engine_find_hold(engine) != NULL;
    limits.quiet = is_quiet(engine);
    if (by == MOVE_BY_ENGINE)
        return limits;
    /* A person has decided; what cannot work still cannot. */
    limits.quiet = FALSE;
    limits.cool_down_ms = 0;
    limits.moves_per_host_hour = 0;
    /* As full as a host may be that is not hot (cluster_drain.h). */
    limits.destination_cpu = engine->settings->thresholds.cpu;
    limits.destination_link = engine->settings->thresholds.link;
    if (by == MOVE_BY_USER) {
        limits.frozen = engine_find_bar(engine) != NULL;
        limits.moves_per_host = G_MAXINT16;
        limits.moves = 0;
        limits.destination_cpu = limits.destination_link = 1;
    }
    return limits;
}

double engine_bandwidth(Engine *engine, guint from, guint to)
{
    const ModelHost *source = engine->model->hosts->pdata[from];
    const ModelHost *destination = engine->model->hosts->pdata[to];
    double least = 0;

    if (source->load && source->load->link_speed > 0)
        least = source->load->link_speed;
    if (destination->load && destination->load->link_speed > 0)
        least =
            least > 0 ? fmin(least, destination->load->link_speed) : destination->load->link_speed;
    return least * engine->settings->bandwidth_share;
}

void engine_apply_wishes(Engine *engine)
{
    for (guint i = 0; i < engine->model->hosts->len; i++) {
        ModelHost *host = engine->model->hosts->pdata[i];

        host->drained = g_hash_table_contains(engine->drained, host->name);
    }
    for (guint i = 0; i < engine->model->guests->len; i++) {
        ModelGuest *guest = engine->model->guests->pdata[i];

        g_free(guest->frozen);
        guest->frozen = g_strdup(g_hash_table_lookup(engine->frozen, guest->name));
    }
}

MoveRecord *engine_make_record(Engine *engine, const ModelGuest *guest, guint to, MoveBy by)
{
    MoveRecord *record =
        move_record_new(guest->name, ((ModelHost *)engine->model->hosts->pdata[guest->host])->name,
                        ((ModelHost *)engine->model->hosts->pdata[to])->name, by);

    record->guest_id = g_strdup(guest->id);
    record->term = (gint64)fmax(guest->term, 0);
    return record;
}

/* ---- the executor's hooks ---- */

gboolean engine_find_host(const char *host, char **ret_address, char **ret_moves_to, gpointer user,
                          GError **error)
{
    Engine *engine = user;
    const ModelHost *entry;
    guint index;

    lock_guard(&engine->lock);
    index = model_find_host(engine->model, host);
    if (index == CLUSTER_NONE) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "there is no host %s any more", host);
        return FALSE;
    }
    entry = engine->model->hosts->pdata[index];
    *ret_address = g_strdup(entry->address);
    *ret_moves_to = g_strdup(entry->moves_to);
    /* An address on a network serves both, but for the port. */
    if (!*ret_moves_to && !g_str_has_prefix(entry->address, "unix:"))
        *ret_moves_to =
            g_strndup(entry->address, strchr(entry->address, ':') == strrchr(entry->address, ':')
                                          ? strcspn(entry->address, ":")
                                          : strlen(entry->address));
    return TRUE;
}

static guint find_in_view(const EngineView *view, const char *guest_id)
{
    for (guint i = 0; i < view->cluster.n_guests; i++)
        if (g_strcmp0(view->guests[i]->id, guest_id) == 0)
            return i;
    return CLUSTER_NONE;
}

static gboolean is_swap(const MoveRecord *record)
{
    return json_is_true(json_object_get(record->explanation, "swap"));
}

/* The other guest of its swap. */
static guint find_swapped(const EngineView *view, const MoveRecord *record)
{
    const char *name = json_text_or(record->explanation, "swap_with", NULL);

    for (guint i = 0; name && i < view->cluster.n_guests; i++)
        if (strcmp(view->cluster.guests[i].name, name) == 0)
            return i;
    return CLUSTER_NONE;
}

static gboolean check_in_view(Engine *engine, const EngineView *view, const MoveRecord *record,
                              GError **error)
{
    guint guest = find_in_view(view, record->guest_id), to, rule = CLUSTER_NONE;
    ClusterLimits limits = engine_limits(engine, record->by);
    g_autofree char *text = NULL;
    ClusterWhy why;

    to = model_find_host(engine->model, record->to);
    if (guest == CLUSTER_NONE || to == CLUSTER_NONE ||
        view->cluster.guests[guest].host != model_find_host(engine->model, record->from)) {
        error_set(error, VMFERRY_ERROR_REFUSED, "it is not on %s any more", record->from);
        return FALSE;
    }
    why = is_swap(record)
              ? cluster_swap_check(&view->cluster, &limits, &engine->settings->thresholds, guest,
                                   to, find_swapped(view, record), &rule)
              : cluster_move_check(&view->cluster, &limits, guest, to, &rule);
    if (why == CLUSTER_WHY_NOTHING)
        return TRUE;
    text = planner_describe_why(view, guest, to, why, rule);
    error_set(error, VMFERRY_ERROR_REFUSED, "%s", text);
    return FALSE;
}

gboolean engine_check_move(const MoveRecord *record, gpointer user, GError **error)
{
    Engine *engine = user;
    g_autoptr(EngineView) view = NULL;
    const char *hold;

    lock_guard(&engine->lock);
    hold = record->by == MOVE_BY_USER ? engine_find_bar(engine) : engine_find_hold(engine);
    if (hold) {
        error_set(error, VMFERRY_ERROR_REFUSED, "the engine is frozen: %s", hold);
        return FALSE;
    }
    if (engine_wall_ms() - record->made_ms > (gint64)engine->settings->limits.plan_ms) {
        error_set(error, VMFERRY_ERROR_REFUSED, "the plan has expired");
        return FALSE;
    }
    model_check(engine->model, engine_now_ms());
    view = engine_make_view(engine, record->id, record->by == MOVE_BY_USER);
    return check_in_view(engine, view, record, error);
}

/* ---- what becomes of moves ---- */

static void tell_move(Engine *engine, const MoveRecord *record)
{
    json_t *data = move_record_to_json(record);

    json_object_del(data, "explanation");
    event_log_add(engine->events, record->guest, "move", data, "%s to %s (by %s): %s%s%s",
                  record->from ? record->from : "?", record->to ? record->to : "?",
                  move_by_name(record->by), move_state_name(record->state),
                  record->problem ? ": " : "", record->problem ? record->problem : "");
}

/* The destination (or its agent) would not have it: another try soon would end the same. */
static double closed_ms(const MoveRecord *record)
{
    if (record->state == MOVE_FAILED)
        return CLOSED_MS;
    return record->by == MOVE_BY_DRAIN ? REFUSED_DRAIN_MS : REFUSED_MS;
}

static void close_host(Engine *engine, const MoveRecord *record)
{
    EngineClosed entry = {.host = model_find_host(engine->model, record->to),
                          .until_ms = engine_now_ms() + closed_ms(record)};
    GArray *list = g_hash_table_lookup(engine->closed, record->guest_id);

    if (entry.host == CLUSTER_NONE)
        return;
    if (!list) {
        list = g_array_new(FALSE, FALSE, sizeof(EngineClosed));
        g_hash_table_insert(engine->closed, g_strdup(record->guest_id), list);
    }
    g_array_append_val(list, entry);
}

void engine_note_move(const MoveRecord *record, gpointer user)
{
    Engine *engine = user;

    tell_move(engine, record);
    lock_guard(&engine->lock);
    if (move_state_is_open(record->state))
        return;
    g_ptr_array_add(engine->recent, move_record_copy(record));
    g_hash_table_remove(engine->governed, &record->id);
    /* The guest is another one now as for what its moves cost. */
    if (record->guest_id)
        g_hash_table_remove(engine->estimates, record->guest_id);
    if ((record->state == MOVE_FAILED || record->state == MOVE_REFUSED) && record->guest_id)
        close_host(engine, record);
}

static void forget_old(Engine *engine)
{
    while (engine->recent->len > 0) {
        const MoveRecord *record = engine->recent->pdata[0];

        if (engine_wall_ms() - record->ended_ms < DAY_MS)
            break;
        g_ptr_array_remove_index(engine->recent, 0);
    }
}

/* Whether a move has helped: its source is not hot any more, and its destination not hot by it. */
static void judge_one(Engine *engine, MoveRecord *record)
{
    guint from = model_find_host(engine->model, record->from);
    guint to = model_find_host(engine->model, record->to);
    double late = (double)(engine_wall_ms() - record->ended_ms) - engine->settings->judge_ms;
    g_autoptr(GError) error = NULL;

    if (record->by != MOVE_BY_ENGINE || record->state != MOVE_COMPLETED || record->hit >= 0 ||
        late < 0 || late > JUDGE_WITHIN_MS || from == CLUSTER_NONE || to == CLUSTER_NONE ||
        !engine->plan->view->cluster.hosts[from].usable ||
        !engine->plan->view->cluster.hosts[to].usable)
        return;
    record->lead_term = engine->lead_term;
    record->hit = !planner_is_hot(engine->plan, from) && !planner_is_hot(engine->plan, to);
    if (!engine_store_write_move(engine->store, record, &error)) {
        record->hit = -1;
        log_warning("move %lld: %s", (long long)record->id, error->message);
    }
}

/* ---- moves that nobody here has ordered ---- */

static gboolean is_known(const GPtrArray *records, const ModelGuest *guest, const char *activity)
{
    for (guint i = 0; i < records->len; i++) {
        const MoveRecord *record = records->pdata[i];

        if (g_strcmp0(record->guest_id, guest->id) != 0)
            continue;
        /* One that is just being ordered has no activity yet. */
        if (!activity || record->state == MOVE_INTENDED ||
            g_strcmp0(record->activity, activity) == 0)
            return TRUE;
    }
    return FALSE;
}

/* One of ours has brought it here, or is just about to say so. */
static gboolean was_brought(Engine *engine, const GPtrArray *open, const ModelGuest *guest)
{
    const ModelHost *here = engine->model->hosts->pdata[guest->host];

    if (is_known(open, guest, NULL))
        return TRUE;
    for (guint i = 0; i < engine->recent->len; i++) {
        const MoveRecord *record = engine->recent->pdata[i];

        if (g_strcmp0(record->guest_id, guest->id) == 0 &&
            (double)record->term >= guest->came_from_term && g_strcmp0(record->to, here->name) == 0)
            return TRUE;
    }
    return FALSE;
}

static void freeze_guest(Engine *engine, const ModelGuest *guest)
{
    static const char reason[] =
        "somebody else has moved it; `vmferry thaw` lets the engine have it";
    g_autoptr(GError) error = NULL;

    g_hash_table_insert(engine->frozen, g_strdup(guest->name), g_strdup(reason));
    if (!engine_store_set_frozen(engine->store, guest->name, reason, &error))
        log_warning("guest %s: %s", guest->name, error->message);
    event_log_add(engine->events, guest->name, "second-balancer", NULL,
                  "was moved by somebody else; the engine leaves it alone until it is thawed");
    engine_apply_wishes(engine);
}

static MoveRecord *foreign_record(Engine *engine, const ModelGuest *guest, guint from, guint to)
{
    MoveRecord *record = move_record_new(
        guest->name, ((ModelHost *)engine->model->hosts->pdata[from])->name,
        to == CLUSTER_NONE ? NULL : ((ModelHost *)engine->model->hosts->pdata[to])->name,
        MOVE_BY_OTHER);

    record->guest_id = g_strdup(guest->id);
    return record;
}

static void follow_foreign(Engine *engine, const ModelGuest *guest)
{
    guint to = model_find_destination(engine->model, guest->activity_to);
    MoveRecord *record = foreign_record(engine, guest, guest->host, to);
    g_autoptr(GError) error = NULL;

    record->term = (gint64)fmax(guest->term, 0);
    record->activity = g_strdup(guest->activity_id);
    if (!record->to)
        record->to = g_strdup(guest->activity_to ? guest->activity_to : "?");
    tell_move(engine, record);
    if (!executor_follow(engine->executor, record, &error))
        log_warning("guest %s: %s", guest->name, error->message);
}

static void note_arrival(Engine *engine, const ModelGuest *guest)
{
    g_autoptr(MoveRecord) record = foreign_record(engine, guest, guest->came_from, guest->host);
    g_autoptr(GError) error = NULL;

    record->term = (gint64)fmax(guest->came_from_term, 0);
    record->lead_term = engine->lead_term;
    record->state = MOVE_COMPLETED;
    record->ordered_ms = record->ended_ms = record->made_ms;
    if (!engine_store_write_move(engine->store, record, &error))
        log_warning("guest %s: %s", guest->name, error->message);
    tell_move(engine, record);
    g_ptr_array_add(engine->recent, g_steal_pointer(&record));
}

/* They are for the engine that leads to notice; one that comes to lead begins with those of now. */
static void forget_arrivals(Engine *engine)
{
    for (guint i = 0; i < engine->model->guests->len; i++)
        ((ModelGuest *)engine->model->guests->pdata[i])->came_from = CLUSTER_NONE;
}

static void notice_foreign(Engine *engine)
{
    g_autoptr(GPtrArray) open = executor_list(engine->executor);

    for (guint i = 0; i < engine->model->guests->len; i++) {
        ModelGuest *guest = engine->model->guests->pdata[i];

        if (guest->came_from != CLUSTER_NONE) {
            if (!was_brought(engine, open, guest)) {
                note_arrival(engine, guest);
                freeze_guest(engine, guest);
            }
            guest->came_from = CLUSTER_NONE;
        } else if (guest->activity_id && !is_known(open, guest, guest->activity_id) &&
                   !is_known(engine->recent, guest, guest->activity_id)) {
            freeze_guest(engine, guest);
            follow_foreign(engine, guest);
        }
    }
}

/* ---- what is done ---- */

typedef struct {
    MoveRecord *record;
    double bandwidth;
    EnginePending *then; /* what is to follow it, or NULL */
    guint group;         /* of the plan; CLUSTER_NONE: not of one */
} Order;

static void add_order(Engine *engine, GArray *orders, MoveRecord *record)
{
    guint from = model_find_host(engine->model, record->from);
    guint to = model_find_host(engine->model, record->to);
    Order order = {
        .record = record, .bandwidth = engine_first_rate(engine, from, to), .group = CLUSTER_NONE};

    g_array_append_val(orders, order);
}

static guint count_open(const EngineView *view)
{
    guint count = 0;

    for (guint i = 0; i < view->cluster.n_hosts; i++)
        count += view->cluster.hosts[i].moves;
    return count / 2;
}

/* The first steps of a drain, as many as there may be at a time. */
static void drain_host(Engine *engine, EngineView *view, guint host, GArray *orders)
{
    ClusterLimits limits = engine_limits(engine, MOVE_BY_DRAIN);
    g_autoptr(ClusterDrain) drain =
        cluster_drain_plan(&view->cluster, &engine->settings->thresholds, &limits, host);
    ClusterHost *hosts = view->cluster.hosts;

    for (guint i = 0; i < drain->steps->len; i++) {
        const ClusterDrainStep *step = &g_array_index(drain->steps, ClusterDrainStep, i);
        MoveRecord *record;

        if (hosts[host].moves >= limits.moves_per_host)
            return;
        if (hosts[step->to].moves >= limits.moves_per_host ||
            (limits.moves > 0 && count_open(view) >= limits.moves))
            continue;
        hosts[host].moves++;
        hosts[step->to].moves++;
        record = engine_make_record(engine, view->guests[step->guest], step->to, MOVE_BY_DRAIN);
        record->forecast = planner_cost_to_json(&step->price);
        record->explanation =
            json_pack("{s:s+}", "text", "the host is drained: ", hosts[host].name);
        add_order(engine, orders, record);
    }
}

static void find_drains(Engine *engine, GArray *orders)
{
    g_autoptr(EngineView) view = NULL;

    for (guint i = 0; i < engine->model->hosts->len; i++) {
        const ModelHost *host = engine->model->hosts->pdata[i];

        if (!host->drained || host->problem)
            continue;
        if (!view)
            view = engine_make_view(engine, 0, FALSE);
        drain_host(engine, view, i, orders);
    }
}

static MoveRecord *record_of_move(Engine *engine, guint index)
{
    const ClusterMove *move = &g_array_index(engine->plan->plan->moves, ClusterMove, index);
    MoveRecord *record = engine_make_record(engine, engine->plan->view->guests[move->guest],
                                            move->to, MOVE_BY_ENGINE);

    record->forecast = planner_cost_to_json(&move->price);
    record->explanation = planner_move_to_json(engine->plan, index);
    json_object_set(record->forecast, "source_after",
                    json_object_get(record->explanation, "source_after"));
    json_object_set(record->forecast, "destination_after",
                    json_object_get(record->explanation, "destination_after"));
    return record;
}

/* TRUE where all moves of a group have a price that their agents have told; else they are asked. */
static gboolean has_prices(Engine *engine, guint group)
{
    const GArray *moves = engine->plan->plan->moves;
    gboolean known = TRUE;

    for (guint i = 0; i < moves->len; i++) {
        const ClusterMove *move = &g_array_index(moves, ClusterMove, i);
        const ModelGuest *guest = engine->plan->view->guests[move->guest];
        const EngineEstimate *estimate = g_hash_table_lookup(engine->estimates, guest->id);

        if (move->group != group || !move->price.guessed)
            continue;
        /* An agent that does not know either has answered, too. */
        if (estimate && !estimate->pending && engine_now_ms() - estimate->asked_ms < ESTIMATE_MS)
            continue;
        engine_ask_estimate(engine, guest, move->to);
        known = FALSE;
    }
    return known;
}

/* *record*, of the group's next move, follows the moves of the last order; FALSE: they are not that group's. */
static gboolean add_next(GArray *orders, MoveRecord *record, guint group)
{
    Order *last = orders->len > 0 ? &g_array_index(orders, Order, orders->len - 1) : NULL;
    EnginePending **end;

    if (!last || last->group != group)
        return FALSE;
    for (end = &last->then; *end;)
        end = &(*end)->next;
    *end = g_new0(EnginePending, 1);
    (*end)->record = record;
    return TRUE;
}

static void find_moves(Engine *engine, GArray *orders)
{
    const GArray *moves = engine->plan->plan->moves;

    for (guint i = 0; i < moves->len; i++) {
        const ClusterMove *move = &g_array_index(moves, ClusterMove, i);
        MoveRecord *record;

        if (!has_prices(engine, move->group))
            continue;
        record = record_of_move(engine, i);
        if (move->after == CLUSTER_NONE) {
            add_order(engine, orders, record);
            g_array_index(orders, Order, orders->len - 1).group = move->group;
        } else if (!add_next(orders, record, move->group)) {
            move_record_free(record);
        }
    }
}

static const MoveRecord *find_recent(const Engine *engine, gint64 id)
{
    for (guint i = 0; i < engine->recent->len; i++)
        if (((MoveRecord *)engine->recent->pdata[i])->id == id)
            return engine->recent->pdata[i];
    return NULL;
}

/* What is to follow does not; takes *record*. */
static void refuse_pending(Engine *engine, MoveRecord *record, const char *why)
{
    g_autoptr(GError) error = NULL;

    record->state = MOVE_REFUSED;
    record->ended_ms = engine_wall_ms();
    record->problem = g_strdup(why);
    if (!engine_store_write_move(engine->store, record, &error))
        log_warning("guest %s: %s", record->guest, error->message);
    tell_move(engine, record);
    close_host(engine, record);
    g_ptr_array_add(engine->recent, record);
}

typedef enum { PENDING_WAITS, PENDING_GOES, PENDING_IS_OVER } PendingFate;

/* *before* is over.  Until the figures of the host that its guest has left show that, there is no room for the next. */
static PendingFate judge_pending(Engine *engine, EnginePending *pending, const MoveRecord *before)
{
    const ModelGuest *moved = model_find_guest_by_id(engine->model, before->guest_id);
    gboolean is_seen = moved && moved->host == model_find_host(engine->model, before->to);
    gboolean is_late = engine_wall_ms() - before->ended_ms > FOLLOW_WITHIN_MS;
    g_autoptr(EngineView) view = NULL;
    g_autoptr(GError) error = NULL;

    if (before->state != MOVE_COMPLETED)
        return PENDING_IS_OVER;
    if (!is_seen && !is_late)
        return PENDING_WAITS;
    view = engine_make_view(engine, 0, FALSE);
    if (!is_late && check_in_view(engine, view, pending->record, &error))
        return PENDING_GOES;
    if (!is_late)
        return PENDING_WAITS;
    if (!error)
        error_set(&error, VMFERRY_ERROR_REFUSED, "the move that it was to follow is too long ago");
    refuse_pending(engine, g_steal_pointer(&pending->record), error->message);
    return PENDING_IS_OVER;
}

/* Second halves of swaps, once the first ones are done; what failed takes them along.  TRUE: one is about to follow. */
static gboolean find_pending(Engine *engine, GArray *orders)
{
    gboolean waits = FALSE;

    for (guint i = engine->pending->len; i-- > 0;) {
        EnginePending *pending = engine->pending->pdata[i];
        const MoveRecord *before = find_recent(engine, pending->after);
        PendingFate fate = before ? judge_pending(engine, pending, before) : PENDING_WAITS;

        waits = waits || (before && fate == PENDING_WAITS);
        if (fate == PENDING_WAITS)
            continue;
        if (fate == PENDING_GOES) {
            /* It is checked again like any other; the time it waited does not count. */
            pending->record->made_ms = engine_wall_ms();
            add_order(engine, orders, g_steal_pointer(&pending->record));
            g_array_index(orders, Order, orders->len - 1).then = g_steal_pointer(&pending->next);
        }
        g_ptr_array_remove_index(engine->pending, i);
    }
    return waits;
}

static void perform(Engine *engine, Order *order)
{
    g_autoptr(GError) error = NULL;
    gint64 id = 0;

    tell_move(engine, order->record);
    if (!executor_begin(engine->executor, order->record, order->bandwidth, &id, &error))
        log_warning("no move is begun: %s", error->message);
    if (!order->then)
        return;
    if (error) {
        engine_pending_free(order->then);
        return;
    }
    order->then->after = id;
    g_mutex_lock(&engine->lock);
    g_ptr_array_add(engine->pending, order->then);
    g_mutex_unlock(&engine->lock);
}

static void make_plan(Engine *engine)
{
    ClusterLimits limits = engine_limits(engine, MOVE_BY_ENGINE);
    double began = engine_now_ms();
    EnginePlan *plan;

    /* One that stands by plans as if it led. */
    limits.frozen = engine_is_frozen(engine);
    plan = planner_make(engine_make_view(engine, 0, FALSE), &engine->settings->thresholds, &limits);

    engine_plan_free(engine->plan);
    engine->plan = plan;
    json_decref(engine->hot);
    engine->hot = json_array();
    for (guint i = 0; i < engine->model->hosts->len; i++)
        json_array_append_new(engine->hot, planner_list_hot(plan, i));
    engine->plan_wall = (double)g_get_real_time() / 1e6;
    json_decref(engine->plan_json);
    engine->plan_json = planner_plan_to_json(plan, engine->plan_wall);
    engine->thought_ms = engine_now_ms() - began;
}

/* With the lock held; what is to be begun goes to *orders*. */
static void think_locked(Engine *engine, GArray *orders)
{
    gboolean waits;

    engine_apply_wishes(engine);
    model_check(engine->model, engine_now_ms());
    if (engine->leader)
        notice_foreign(engine);
    else if (engine->lead_term == 0)
        forget_arrivals(engine);
    forget_old(engine);
    for (guint i = 0; i < engine->model->hosts->len; i++)
        engine_note_history(engine, i);
    make_plan(engine);
    for (guint i = 0; engine->leader && i < engine->recent->len; i++)
        judge_one(engine, engine->recent->pdata[i]);
    if (engine_find_hold(engine))
        return;
    find_drains(engine, orders);
    waits = find_pending(engine, orders);
    if (engine->settings->automatic && orders->len == 0 && !waits)
        find_moves(engine, orders);
}

/* Hosts with moves are looked at more often: a guest that one hurts is to be seen at once. */
static void hurry_looks(Engine *engine)
{
    g_autoptr(GPtrArray) open = executor_list(engine->executor);

    for (guint i = 0; i < engine->model->hosts->len; i++) {
        const char *name = ((ModelHost *)engine->model->hosts->pdata[i])->name;
        gboolean hurries = FALSE;

        for (guint j = 0; j < open->len && !hurries; j++) {
            const MoveRecord *record = open->pdata[j];

            hurries = g_strcmp0(record->from, name) == 0 || g_strcmp0(record->to, name) == 0;
        }
        poller_hurry(engine->poller, i, hurries);
    }
}

void engine_think(Engine *engine)
{
    g_autoptr(GArray) orders = g_array_new(FALSE, FALSE, sizeof(Order));
    g_autoptr(GError) error = NULL;

    if (!engine_follow_store(engine, &error))
        log_warning("%s", error->message);
    g_mutex_lock(&engine->lock);
    think_locked(engine, orders);
    g_mutex_unlock(&engine->lock);
    for (guint i = 0; i < orders->len; i++)
        perform(engine, &g_array_index(orders, Order, i));
    engine_keep_daily(engine, FALSE);
    hurry_looks(engine);
}
