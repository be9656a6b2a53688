#include <math.h>

#include "base/error.h"
#include "policy/cluster_placement.h"

#define MINUTE_MS 60000.0
#define LONGEST_COOL_DOWN_MS (24 * 60 * MINUTE_MS)
#define MOST_RETURNS 16

static const struct {
    const char *name, *text;
} whys[] = {
    [CLUSTER_WHY_NOTHING] = {"ok", "it can go there"},
    [CLUSTER_WHY_FROZEN] = {"frozen", "the engine is frozen"},
    [CLUSTER_WHY_QUIET_HOURS] = {"quiet-hours", "these are quiet hours"},
    [CLUSTER_WHY_CLUSTER_MOVES] = {"cluster-moves",
                                   "as many moves as allowed are under way in the cluster"},
    [CLUSTER_WHY_SOURCE_UNUSABLE] = {"source-unusable",
                                     "the figures of its host are old or make no sense"},
    [CLUSTER_WHY_SOURCE_MOVES] = {"source-moves",
                                  "as many moves as allowed are under way at its host"},
    [CLUSTER_WHY_SOURCE_HOUR] = {"source-hour",
                                 "its host has had as many moves as allowed in an hour"},
    [CLUSTER_WHY_PINNED] = {"pinned", "a rule says that it never moves"},
    [CLUSTER_WHY_IN_MOTION] = {"in-motion", "it is moving already"},
    [CLUSTER_WHY_NOT_MOVABLE] = {"not-movable", "its agent says that it cannot be moved"},
    [CLUSTER_WHY_COOL_DOWN] = {"cool-down", "it moved a short while ago"},
    [CLUSTER_WHY_GUEST_UNKNOWN] = {"guest-unknown", "what it needs is not known"},
    [CLUSTER_WHY_THERE_ALREADY] = {"there-already", "it is there already"},
    [CLUSTER_WHY_DESTINATION_UNUSABLE] = {"destination-unusable",
                                          "the destination's figures are old or make no sense"},
    [CLUSTER_WHY_DRAINED] = {"drained", "the destination is drained"},
    [CLUSTER_WHY_NOT_ACCEPTING] = {"not-accepting", "the destination takes no guests"},
    [CLUSTER_WHY_DESTINATION_MOVES] = {"destination-moves",
                                       "as many moves as allowed are under way at the destination"},
    [CLUSTER_WHY_DESTINATION_HOUR] =
        {"destination-hour", "the destination has had as many moves as allowed in an hour"},
    [CLUSTER_WHY_DESTINATION_HOT] = {"destination-hot", "the destination is a hot spot itself"},
    [CLUSTER_WHY_NOT_A_DESTINATION] = {"not-a-destination", "the destination cannot run it"},
    [CLUSTER_WHY_RULE] = {"rule", "a strict rule forbids it"},
    [CLUSTER_WHY_MEMORY] = {"memory", "the destination has not enough memory"},
    [CLUSTER_WHY_CPU] = {"cpu", "the destination's CPUs would be too busy with it"},
    [CLUSTER_WHY_LINK] = {"link", "the destination's link would be too busy with it"},
    [CLUSTER_WHY_NO_GAIN] = {"no-gain", "it would not gain enough"},
    [CLUSTER_WHY_OUTBIDDEN] = {"outbidden", "another move gains more"},
};
G_STATIC_ASSERT(G_N_ELEMENTS(whys) == CLUSTER_WHYS);

const char *cluster_why_name(ClusterWhy why)
{
    return why < CLUSTER_WHYS ? whys[why].name : "unknown";
}

const char *cluster_why_text(ClusterWhy why)
{
    return why < CLUSTER_WHYS ? whys[why].text : "for an unknown reason";
}

ClusterLimits cluster_limits_default(void)
{
    return (ClusterLimits){.moves_per_host = 1,
                           .moves_per_host_hour = 20,
                           .moves = 8,
                           .cool_down_ms = 15 * MINUTE_MS,
                           .plan_ms = 2 * MINUTE_MS,
                           .least_profit = 1,
                           .destination_cpu = 0.8,
                           .destination_link = 0.6,
                           .memory_overcommit = 1,
                           .ahead_ms = 60 * MINUTE_MS};
}

gboolean cluster_limits_check(const ClusterLimits *limits, GError **error)
{
    const struct {
        const char *name;
        double value, least, most;
    } fields[] = {
        {"moves-per-host", limits->moves_per_host, 1, 1000},
        {"moves-per-host-hour", limits->moves_per_host_hour, 0, 100000},
        {"moves", limits->moves, 0, 100000},
        {"cool-down", limits->cool_down_ms, 1000, LONGEST_COOL_DOWN_MS},
        {"plan-time", limits->plan_ms, 1000, 60 * MINUTE_MS},
        {"least-profit", limits->least_profit, 0.01, 1000},
        {"destination-cpu", limits->destination_cpu, 0.01, 1},
        {"destination-link", limits->destination_link, 0.01, 1},
        {"memory-overcommit", limits->memory_overcommit, 0.1, 16},
        {"ahead", limits->ahead_ms, 0, LONGEST_COOL_DOWN_MS / 2},
    };

    for (guint i = 0; i < G_N_ELEMENTS(fields); i++)
        if (!(fields[i].value >= fields[i].least && fields[i].value <= fields[i].most)) {
            error_set(error, VMFERRY_ERROR_INVALID, "limit %s: takes a number from %g to %g",
                      fields[i].name, fields[i].least, fields[i].most);
            return FALSE;
        }
    return TRUE;
}

gboolean cluster_is_quiet(const ClusterQuietHours *hours, guint n, guint minute_of_day)
{
    for (guint i = 0; i < n; i++) {
        gboolean after = minute_of_day >= hours[i].from_minute;
        gboolean before = minute_of_day < hours[i].to_minute;

        if (hours[i].from_minute <= hours[i].to_minute ? after && before : after || before)
            return TRUE;
    }
    return FALSE;
}

double cluster_cool_down_ends_ms(const ClusterGuest *guest, const ClusterLimits *limits)
{
    double length = ldexp(limits->cool_down_ms, (int)MIN(guest->returns, MOST_RETURNS));

    return guest->moved_at_ms < 0 ? 0 : guest->moved_at_ms + MIN(length, LONGEST_COOL_DOWN_MS);
}
