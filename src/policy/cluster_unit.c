/* Units: what moves as one, and what binds it. */
#include <math.h>

#include "policy/cluster_model.h"

/* The marks of a host, for the unit of the moment: mark − n. */
enum { MARK_FORBIDDEN = 1, MARK_ALLOWED, MARKS };

#define GUESSED_BYTES_PER_MS 100e3
/* A move takes half of what a link has free, and sends a tenth of the memory twice. */
#define GUESSED_LINK_SHARE 0.5
#define GUESSED_BYTES 1.1
#define GUESSED_PAUSE_MS 300

static gboolean is_near(const ClusterModel *model, guint guest, guint host)
{
    return model->host[guest] == host || model->to[guest] == host;
}

static guint where(const ClusterModel *model, guint guest)
{
    return model->to[guest] != CLUSTER_NONE ? model->to[guest] : model->host[guest];
}

static gboolean is_member(const ClusterUnit *unit, guint guest)
{
    for (guint i = 0; i < unit->n; i++)
        if (unit->guests[i] == guest)
            return TRUE;
    return FALSE;
}

/* ---- what may leave ---- */

static ClusterWhy guest_may_leave(const ClusterModel *model, guint g)
{
    const ClusterGuest *guest = &model->view->guests[g];

    if (model->to[g] != CLUSTER_NONE || guest->mobility == CLUSTER_IN_MOTION)
        return CLUSTER_WHY_IN_MOTION;
    if (guest->mobility == CLUSTER_PINNED)
        return CLUSTER_WHY_PINNED;
    if (guest->mobility != CLUSTER_CAN_MOVE)
        return CLUSTER_WHY_NOT_MOVABLE;
    if (!model->ordered && model->view->now_ms < cluster_cool_down_ends_ms(guest, model->limits))
        return CLUSTER_WHY_COOL_DOWN;
    return model->needs[g].known ? CLUSTER_WHY_NOTHING : CLUSTER_WHY_GUEST_UNKNOWN;
}

static void gather(const ClusterModel *model, guint guest, ClusterUnit *unit, gboolean *ret_fits)
{
    guint root = model->together[guest], n_elsewhere = 0;

    *ret_fits = TRUE;
    for (guint i = model->first_member[root]; i < model->first_member[root + 1]; i++) {
        guint other = model->members[i];

        if (model->to[other] != CLUSTER_NONE || model->host[other] != unit->host) {
            if (unit->only_to != CLUSTER_NONE && unit->only_to != where(model, other))
                n_elsewhere++;
            unit->only_to = where(model, other);
        } else if (unit->n < CLUSTER_UNIT_MOST) {
            unit->guests[unit->n++] = other;
        } else {
            *ret_fits = FALSE;
        }
    }
    /* On several other hosts: no move makes that good. */
    if (n_elsewhere > 0)
        *ret_fits = FALSE;
}

/* ---- rules ---- */

/* The hosts where others of a strict rule are; a host in MARK_ALLOWED is bound to by all rules of hosts. */
static void mark_apart(ClusterModel *model, const ClusterUnit *unit, const ClusterRule *rule)
{
    for (guint i = 0; i < rule->n_guests; i++) {
        guint other = rule->guests[i];

        if (other >= model->view->n_guests || is_member(unit, other))
            continue;
        model->marks[model->host[other]] = model->mark + MARK_FORBIDDEN;
        if (model->to[other] != CLUSTER_NONE)
            model->marks[model->to[other]] = model->mark + MARK_FORBIDDEN;
    }
}

static void mark_rules(ClusterModel *model, ClusterUnit *unit)
{
    const ClusterView *view = model->view;

    model->mark += MARKS;
    for (guint m = 0; m < unit->n; m++) {
        guint g = unit->guests[m];

        for (guint i = model->first_rule[g]; i < model->first_rule[g + 1]; i++) {
            const ClusterRule *rule = &view->rules[model->rules_of[i]];

            unit->has_rules = TRUE;
            if (rule->strict && rule->kind == CLUSTER_RULE_APART)
                mark_apart(model, unit, rule);
        }
    }
}

gboolean cluster_unit_begin(ClusterModel *model, guint guest, ClusterUnit *ret, ClusterWhy *ret_why)
{
    gboolean fits;

    *ret =
        (ClusterUnit){.host = model->host[guest], .only_to = CLUSTER_NONE, .need = {.known = TRUE}};
    gather(model, guest, ret, &fits);
    for (guint i = 0; i < ret->n; i++) {
        *ret_why = guest_may_leave(model, ret->guests[i]);
        if (*ret_why != CLUSTER_WHY_NOTHING)
            return FALSE;
        cluster_need_add(&ret->need, &model->needs[ret->guests[i]]);
    }
    if (ret->n == 0) {
        *ret_why = guest_may_leave(model, guest);
        return FALSE;
    }
    *ret_why = CLUSTER_WHY_RULE;
    if (!fits)
        return FALSE;
    mark_rules(model, ret);
    *ret_why = CLUSTER_WHY_NOTHING;
    return TRUE;
}

static gboolean names_host(const guint *hosts, guint n, guint host)
{
    for (guint i = 0; i < n; i++)
        if (hosts[i] == host)
            return TRUE;
    return FALSE;
}

/* Sorted. */
static gboolean is_destination(const ClusterGuest *guest, guint host)
{
    guint low = 0, high = guest->n_destinations;

    if (!guest->destinations)
        return TRUE;
    while (low < high) {
        guint middle = (low + high) / 2;

        if (guest->destinations[middle] < host)
            low = middle + 1;
        else
            high = middle;
    }
    return low < guest->n_destinations && guest->destinations[low] == host;
}

/* Of guest *g*, as its unit is at *to*. */
static gboolean is_rule_kept(const ClusterModel *model, const ClusterUnit *unit, guint r, guint to)
{
    const ClusterRule *rule = &model->view->rules[r];

    if (rule->kind == CLUSTER_RULE_HOSTS)
        return names_host(rule->hosts, rule->n_hosts, to);
    for (guint i = 0; i < rule->n_guests; i++) {
        guint other = rule->guests[i];

        if (other >= model->view->n_guests || is_member(unit, other))
            continue;
        if (rule->kind == CLUSTER_RULE_APART ? is_near(model, other, to)
                                             : where(model, other) != to)
            return FALSE;
    }
    /* Two of the unit itself, which has to be together: then it is broken anywhere. */
    return TRUE;
}

static ClusterWhy check_rules(const ClusterModel *model, const ClusterUnit *unit, guint to,
                              guint *ret_rule)
{
    const ClusterView *view = model->view;

    if (!unit->has_rules)
        return CLUSTER_WHY_NOTHING;
    for (guint m = 0; m < unit->n; m++) {
        guint g = unit->guests[m];

        for (guint i = model->first_rule[g]; i < model->first_rule[g + 1]; i++) {
            guint r = model->rules_of[i];
            const ClusterRule *rule = &view->rules[r];

            if (!rule->strict)
                continue;
            if (rule->kind == CLUSTER_RULE_APART
                    ? model->marks[to] == model->mark + MARK_FORBIDDEN &&
                          !is_rule_kept(model, unit, r, to)
                    : !is_rule_kept(model, unit, r, to)) {
                if (ret_rule)
                    *ret_rule = r;
                return CLUSTER_WHY_RULE;
            }
        }
    }
    return CLUSTER_WHY_NOTHING;
}

gint cluster_unit_broken(const ClusterModel *model, const ClusterUnit *unit, guint to)
{
    gint more = 0;

    if (!unit->has_rules)
        return 0;
    for (guint m = 0; m < unit->n; m++) {
        guint g = unit->guests[m];

        for (guint i = model->first_rule[g]; i < model->first_rule[g + 1]; i++) {
            guint r = model->rules_of[i];

            if (model->view->rules[r].strict)
                continue;
            more += is_rule_kept(model, unit, r, unit->host) ? 1 : 0;
            more -= is_rule_kept(model, unit, r, to) ? 1 : 0;
        }
    }
    return more;
}

/* ---- what takes it ---- */

static ClusterWhy check_host(const ClusterModel *model, const ClusterUnit *unit, guint to)
{
    const ClusterHost *host = &model->view->hosts[to];
    const ClusterHostLoad *load = &model->loads[to];
    const ClusterLimits *limits = model->limits;

    if (to == unit->host)
        return CLUSTER_WHY_THERE_ALREADY;
    if (!load->known)
        return CLUSTER_WHY_DESTINATION_UNUSABLE;
    if (host->drained)
        return CLUSTER_WHY_DRAINED;
    if (!host->accepts)
        return CLUSTER_WHY_NOT_ACCEPTING;
    if (model->ordered)
        return CLUSTER_WHY_NOTHING;
    if (model->hot[to])
        return CLUSTER_WHY_DESTINATION_HOT;
    if (load->moves >= limits->moves_per_host)
        return CLUSTER_WHY_DESTINATION_MOVES;
    if (limits->moves_per_host_hour > 0 &&
        load->moves_lately + unit->n > limits->moves_per_host_hour)
        return CLUSTER_WHY_DESTINATION_HOUR;
    return CLUSTER_WHY_NOTHING;
}

static ClusterWhy check_room(const ClusterModel *model, const ClusterUnit *unit, guint to,
                             guint without)
{
    const ClusterHost *host = &model->view->hosts[to];
    const ClusterHostLoad *load = &model->loads[to];
    double usable = host->memory_bytes - host->memory_reserve_bytes;
    const ClusterNeed *less = without != CLUSTER_NONE ? &model->needs[without] : NULL;
    ClusterLoad after;

    if (load->all.memory + unit->need.memory > usable * model->limits->memory_overcommit ||
        unit->need.resident > load->memory_free)
        return CLUSTER_WHY_MEMORY;
    after = cluster_model_expected(model, to, less, &unit->need);
    if (after.cpu > model->cpu_share)
        return CLUSTER_WHY_CPU;
    return after.link > model->link_share ? CLUSTER_WHY_LINK : CLUSTER_WHY_NOTHING;
}

ClusterWhy cluster_unit_check(const ClusterModel *model, const ClusterUnit *unit, guint to,
                              guint without, guint *ret_rule)
{
    ClusterWhy why = check_host(model, unit, to);

    for (guint i = 0; i < unit->n && why == CLUSTER_WHY_NOTHING; i++)
        if (!is_destination(&model->view->guests[unit->guests[i]], to))
            why = CLUSTER_WHY_NOT_A_DESTINATION;
    if (why == CLUSTER_WHY_NOTHING && unit->only_to != CLUSTER_NONE && unit->only_to != to)
        why = CLUSTER_WHY_RULE;
    if (why == CLUSTER_WHY_NOTHING)
        why = check_rules(model, unit, to, ret_rule);
    return why == CLUSTER_WHY_NOTHING ? check_room(model, unit, to, without) : why;
}

/* ---- what it costs ---- */

static double free_link(const ClusterModel *model, guint h)
{
    double link = model->view->hosts[h].link_bytes_per_s;

    return link > 0 ? MAX(link - model->loads[h].all.link, link / 20) / 1000 : GUESSED_BYTES_PER_MS;
}

static ClusterCost guest_price(const ClusterModel *model, guint g, guint to)
{
    const ClusterGuest *guest = &model->view->guests[g];
    double rate = MIN(free_link(model, model->host[g]), free_link(model, to)) * GUESSED_LINK_SHARE;
    ClusterCost cost = {.bytes = guest->move_bytes,
                        .ms = guest->move_ms,
                        .pause_ms = guest->move_pause_ms,
                        .guessed = !(guest->move_ms >= 0)};

    if (!(cost.bytes >= 0))
        cost.bytes = model->needs[g].resident * GUESSED_BYTES;
    if (!(cost.ms >= 0))
        cost.ms = cost.bytes / rate;
    if (!(cost.pause_ms >= 0))
        cost.pause_ms = GUESSED_PAUSE_MS;
    return cost;
}

ClusterCost cluster_unit_price(const ClusterModel *model, const ClusterUnit *unit, guint to)
{
    ClusterCost sum = {0};

    for (guint i = 0; i < unit->n; i++) {
        ClusterCost cost = guest_price(model, unit->guests[i], to);

        sum.ms += cost.ms;
        sum.bytes += cost.bytes;
        sum.pause_ms += cost.pause_ms;
        sum.guessed = sum.guessed || cost.guessed;
    }
    return sum;
}
