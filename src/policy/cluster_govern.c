#include "policy/cluster_govern.h"

#include <math.h>

#include "policy/cluster.h"

/* Of a link that guests and moves may take together. */
#define FULL_LINK 0.95
/* A share of the cap, and at least so much: enough that the connection and the guest's tracking live on. */
#define TRICKLE_SHARE 0.02
#define LEAST_TRICKLE 1e6
/* Where no link's speed is known: more than there is. */
#define UNKNOWN_CAP 12.5e9
#define RISE_PER_S 1.25
/* Headers and a sender's bursts take no more beyond the command. */
#define LEAST_CORRECTION 0.8
/* A rate that rises from so low takes no minutes to be worth anything. */
#define FIRST_RISE_SHARE 0.1
/* Yielding has to help within this time, else it was not the move. */
#define HELPS_WITHIN_MS 10000
#define FIRST_WAIT_MS 5000
#define LONGEST_WAIT_MS 120000
/* Of the time expected, beyond which a move has gone wrong. */
#define MOST_TIMES 5
#define LEAST_LONG_MS 60000
#define MOSTLY_DONE 0.5
/* One reading is below a threshold now and then, the more where a move takes CPUs from guests. */
#define GONE_FOR_MS 30000

static double trickle_of(double cap)
{
    return MIN(cap, MAX(cap * TRICKLE_SHARE, LEAST_TRICKLE));
}

ClusterGovernor cluster_governor_new(double cap, double expected_ms, double good_s, double now_ms)
{
    gboolean known = cap > 0;

    cap = known ? cap : UNKNOWN_CAP;
    return (ClusterGovernor){.cap = cap,
                             .trickle = known ? trickle_of(cap) : LEAST_TRICKLE,
                             .expected_ms = expected_ms,
                             .good_s = good_s,
                             .started_ms = now_ms,
                             .asked_ms = now_ms,
                             .needed_ms = now_ms,
                             .correction = 1,
                             .clean_ms = now_ms,
                             .wait_ms = FIRST_WAIT_MS,
                             .ceiling = cap};
}

static double share_of(const ClusterGovernLink *link)
{
    if (!(link->link > 0) || !(link->guests >= 0))
        return INFINITY;
    return MAX(link->link * FULL_LINK - link->guests, 0) / MAX(link->moves, 1);
}

double cluster_govern_first_rate(double cap, const ClusterGovernLink *source,
                                 const ClusterGovernLink *destination)
{
    return MAX(MIN(cap, MIN(share_of(source), share_of(destination))), trickle_of(cap));
}

/* ---- how fast ---- */

/* What it was measured to take beyond what was asked for is taken off, and given back by and by. */
static void correct(ClusterGovernor *governor, double measured)
{
    double asked = governor->rate * governor->correction;

    if (!(measured >= 0) || !(asked > 0))
        return;
    if (measured > governor->rate)
        governor->correction =
            MAX(governor->correction * governor->rate / measured, LEAST_CORRECTION);
    else
        governor->correction = MIN(governor->correction * 1.02, 1);
}

static double choose_rate(ClusterGovernor *governor, const ClusterGovernInput *input,
                          double seconds)
{
    double least = governor->trickle;
    double free = MIN(share_of(&input->source), share_of(&input->destination));
    double wanted, rise;

    governor->ceiling = MIN(governor->ceiling * pow(RISE_PER_S, seconds), governor->cap);
    wanted = MAX(MIN(MIN(governor->cap, free), governor->ceiling), least);
    rise = MAX(governor->rate, governor->cap * FIRST_RISE_SHARE) * pow(RISE_PER_S, seconds);
    /* The first answer is not a rise. */
    if (governor->rate > 0)
        wanted = MIN(wanted, MAX(rise, least));
    return wanted;
}

/* ---- whether it hurts ---- */

static void begin_yielding(ClusterGovernor *governor, double now_ms)
{
    if (governor->yielded_ms > 0)
        governor->wait_ms = MIN(governor->wait_ms * 2, LONGEST_WAIT_MS);
    governor->yielding = TRUE;
    governor->yielded_ms = now_ms;
    governor->ceiling = MAX(governor->rate / 2, governor->trickle);
}

static void weigh_harm(ClusterGovernor *governor, const ClusterGovernInput *input, double seconds)
{
    /* Guests that something else hurts may be well again, and then be hurt by us. */
    governor->not_ours = MIN(governor->not_ours, input->hurt);
    if (input->hurt > governor->not_ours) {
        guint ours = input->hurt - governor->not_ours;

        governor->harm_s += ours * seconds;
        governor->clean_ms = CLUSTER_UNKNOWN;
        if (!governor->yielding) {
            begin_yielding(governor, input->now_ms);
        } else if (input->now_ms - governor->yielded_ms >= HELPS_WITHIN_MS) {
            governor->not_ours = input->hurt;
            governor->harm_s = MAX(governor->harm_s - ours * HELPS_WITHIN_MS / 1000.0, 0);
            governor->yielding = FALSE;
            governor->clean_ms = input->now_ms;
        }
        return;
    }
    if (governor->clean_ms < 0)
        governor->clean_ms = input->now_ms;
    if (governor->yielding && input->now_ms - governor->clean_ms >= governor->wait_ms)
        governor->yielding = FALSE;
}

/* ---- whether it goes on ---- */

static double time_left_s(const ClusterGovernor *governor, const ClusterGovernInput *input)
{
    double rate = governor->yielding ? governor->ceiling : governor->rate;

    return input->left_bytes >= 0 && rate > 0 ? input->left_bytes / rate : 0;
}

static const char *why_call_off(const ClusterGovernor *governor, const ClusterGovernInput *input)
{
    double gone = input->now_ms - governor->started_ms, left_s = time_left_s(governor, input);
    double share_hurt = gone > 0 ? governor->harm_s * 1000 / gone : 0;

    if (!input->can_stop)
        return NULL;
    if (governor->harm_s > 0 && governor->harm_s + share_hurt * left_s > governor->good_s)
        return "it does more harm to other guests than it is worth";
    if (input->now_ms - governor->needed_ms >= GONE_FOR_MS &&
        left_s * 1000 > MOSTLY_DONE * (gone + left_s * 1000) && input->left_bytes >= 0)
        return "what it was for is gone, and most of it is still to be done";
    if (governor->expected_ms > 0 && gone > MAX(governor->expected_ms * MOST_TIMES, LEAST_LONG_MS))
        return "it takes much longer than was expected";
    return NULL;
}

ClusterGovernOutput cluster_govern(ClusterGovernor *governor, const ClusterGovernInput *input)
{
    double seconds = CLAMP((input->now_ms - governor->asked_ms) / 1000, 0, 10);
    ClusterGovernOutput output = {.verdict = CLUSTER_GOVERN_GO, .why = "nobody is hurt by it"};
    const char *off;

    governor->asked_ms = MAX(input->now_ms, governor->asked_ms);
    if (input->still_needed)
        governor->needed_ms = input->now_ms;
    correct(governor, input->measured);
    weigh_harm(governor, input, seconds);
    governor->rate = governor->yielding ? governor->trickle : choose_rate(governor, input, seconds);
    output.rate = governor->rate * governor->correction;
    if (governor->yielding) {
        output.verdict = CLUSTER_GOVERN_YIELD;
        output.why = "a guest misses its SLA since it began";
    }
    off = why_call_off(governor, input);
    if (off) {
        output.verdict = CLUSTER_GOVERN_CALL_OFF;
        output.why = off;
    }
    return output;
}
