/*
 * The way to another host: what was found, and what to do about it
 */
#include <string.h>

#include "base/json.h"
#include "base/rate.h"
#include "cli/check.h"
#include "cli/output.h"
#include "wire/channel.h"

/* Of segments that had to be sent again: what a link of one's own does not lose. */
#define LOSSY_SHARE 0.0005
/* No local network's switches take as long (channel_open.c). */
#define LONG_WAY_MS 5.0
/* While it is full, packets take that many times as long, and at least that much longer. */
#define QUEUE_FACTOR 3.0
#define QUEUE_MS 100.0
#define ETHERNET_MTU 1500u

static double real(json_t *report, const char *key)
{
    return json_number_value(json_object_get(report, key));
}

/* ---- what has failed ---- */

typedef struct {
    const char *stage, *code; /* NULL: any */
    const char *advice;
} Cure;

/* The first one that fits; messages of TLS say themselves what to do. */
static const Cure cures[] = {
    {"address", NULL, "write HOST or HOST:PORT, an IPv6 address with a port as [V6]:PORT"},
    {"connect", "not-found",
     "is the name right?  It must be known to this host's DNS or /etc/hosts; an address will do "
     "where "
     "the other host's certificate carries it"},
    {"connect", "refused",
     "the host is there, and nothing listens at that port: start the agent there (`systemctl "
     "enable "
     "--now vmferry-agent`), see `listen` in its agent.conf, or name its port as HOST:PORT"},
    {"connect", "timeout",
     "is the host up?  Firewalls on the way have to let TCP port 4747 (or the one that the agent "
     "there listens at) through to it"},
    {"connect", NULL, "there is no way to that address from here: look at `ip route get`"},
    {"tls", "timeout",
     "something takes connections there and says nothing: is it an agent's port?  A firewall may "
     "cut what comes after the begin of a connection"},
    {"tls", NULL, "run `vmferry check` on both hosts: it says what their certificates are"},
    {"hello", "unsupported", "update vmferry on the older host; moves need nothing else for it"},
    {"hello", "refused", "name another host, or add this one to `allow` in the agent.conf there"},
    {NULL, "busy", "others measure just now: try again in a moment"},
    {"round-trips", "refused", "name this host in `allow` of the agent.conf there"},
    {NULL, "disconnected", "the connection does not hold: moves over it need --retry-for"},
    {NULL, NULL, NULL},
};

static const char *find_cure(const char *stage, const char *code)
{
    guint i = 0;

    while (cures[i].advice && ((cures[i].stage && strcmp(cures[i].stage, stage) != 0) ||
                               (cures[i].code && strcmp(cures[i].code, code) != 0)))
        i++;
    return cures[i].advice;
}

static const char *describe_stage(const char *stage)
{
    static const struct {
        const char *stage, *topic;
    } topics[] = {
        {"address", "address"}, {"connect", "connection"},     {"tls", "certificates"},
        {"hello", "agent"},     {"round-trips", "round trip"}, {"segments", "packet size"},
        {"rate", "rate"}};

    for (guint i = 0; i < G_N_ELEMENTS(topics); i++)
        if (strcmp(topics[i].stage, stage) == 0)
            return topics[i].topic;
    return "agent here";
}

static void add_failure(Findings *findings, json_t *report, json_t *error)
{
    const char *stage = json_text_or(report, "stage", "");

    findings_add(findings, describe_stage(stage), FINDING_BAD, json_text_or(error, "message", "?"),
                 find_cure(stage, json_text_or(error, "code", "")));
}

/* ---- what was found ---- */

static void add_connection(Findings *findings, json_t *report)
{
    const char *peer = json_text_or(report, "peer", NULL);
    gboolean secure = json_flag_or(report, "secure", FALSE);
    g_autofree char *text = NULL, *name = NULL;

    if (!peer)
        return;
    text = g_strdup_printf("%s reached at %s", json_text_or(report, "destination", "?"),
                           json_text_or(report, "address", "?"));
    findings_add(findings, "connection", FINDING_GOOD, text, NULL);
    name = secure ? g_strdup_printf("the host there is \"%s\", and both trust each other", peer)
                  : g_strdup("not used (--insecure on both hosts)");
    findings_add(findings, "certificates", secure ? FINDING_GOOD : FINDING_NOTE, name,
                 secure ? NULL : "who is on the way can read and change guests that move");
}

static void add_agent(Findings *findings, json_t *report)
{
    const char *software = json_text_or(report, "software", NULL);

    if (software && real(report, "round_trip_ms") > 0)
        findings_add(findings, "agent", FINDING_GOOD, software, NULL);
}

static void add_round_trip(Findings *findings, json_t *report)
{
    double least = real(report, "round_trip_ms"), median = real(report, "median_round_trip_ms");
    double loaded = real(report, "loaded_round_trip_ms");
    gboolean queued = loaded > QUEUE_FACTOR * median && loaded > median + QUEUE_MS;
    g_autofree char *text = NULL;

    if (least <= 0)
        return;
    text = loaded > 0
               ? g_strdup_printf("%.1f ms at least, %.1f ms as a rule, %.1f ms while it is full",
                                 least, median, loaded)
               : g_strdup_printf("%.1f ms at least, %.1f ms as a rule", least, median);
    findings_add(findings, "round trip", queued ? FINDING_NOTE : FINDING_GOOD, text,
                 queued ? "a long queue on the way: a --bandwidth a little below the rate keeps it "
                          "short, and the pause with it"
                        : NULL);
}

static void add_packet_size(Findings *findings, json_t *report)
{
    guint largest = (guint)json_count_or(report, "largest_packet", 0);
    guint mtu = (guint)json_count_or(report, "path_mtu", 0);
    g_autofree char *text = NULL, *advice = NULL;

    if (largest > 0) {
        text = g_strdup_printf("packets of %u bytes get through, larger ones vanish without a word "
                               "(a black hole of the path MTU)",
                               largest);
        advice =
            g_strdup_printf("moves would stand still: let ICMP (\"fragmentation needed\", \"packet "
                            "too big\") through "
                            "the firewalls on the way; or set `mtu %u` on the route to it, on both "
                            "hosts (`ip route "
                            "change ... mtu %u`); or sysctl net.ipv4.tcp_mtu_probing=1 on both",
                            largest, largest);
        findings_add(findings, "packet size", FINDING_BAD, text, advice);
    } else if (mtu > 0) {
        text =
            g_strdup_printf("%u bytes%s", mtu, mtu < ETHERNET_MTU ? " (a tunnel on the way?)" : "");
        findings_add(findings, "packet size", FINDING_GOOD, text, NULL);
    }
}

static void add_rate(Findings *findings, json_t *report)
{
    double rate = real(report, "bytes_per_second");
    g_autofree char *shown = rate_format(rate);
    g_autofree char *bytes = bytes_format((double)json_count_or(report, "bytes", 0));
    g_autofree char *text = NULL;
    gboolean limited = json_flag_or(report, "limited", FALSE);

    if (rate <= 0)
        return;
    text = g_strdup_printf("%s (%s in %.1f s)", shown, bytes, real(report, "ms") / 1000);
    findings_add(findings, "rate", limited ? FINDING_NOTE : FINDING_GOOD, text,
                 limited ? "no more is allowed: `bandwidth` in this host's agent.conf" : NULL);
}

static double get_loss(json_t *report)
{
    double segments = real(report, "segments");

    return segments > 0 ? real(report, "retransmitted") / segments : 0;
}

static void add_loss(Findings *findings, json_t *report)
{
    double loss = get_loss(report);
    g_autofree char *text = NULL;

    if (real(report, "segments") <= 0)
        return;
    text = g_strdup_printf("%.2f %% of the packets were sent again (%.0f of %.0f)", 100 * loss,
                           real(report, "retransmitted"), real(report, "segments"));
    findings_add(
        findings, "loss", loss > LOSSY_SHARE ? FINDING_NOTE : FINDING_GOOD, text,
        loss > LOSSY_SHARE && real(report, "median_round_trip_ms") < LONG_WAY_MS
            ? "on so short a way that is a full queue, a bad cable or duplex mismatch: see "
              "`ethtool -S`"
            : NULL);
}

static gboolean has_bbr(json_t *report)
{
    json_t *list = json_object_get(report, "congestion_controls"), *name;
    size_t i;

    json_array_foreach(list, i, name)
    {
        if (strcmp(json_string_value(name) ? json_string_value(name) : "", "bbr") == 0)
            return TRUE;
    }
    return FALSE;
}

static void add_congestion_control(Findings *findings, json_t *report)
{
    const char *name = json_text_or(report, "congestion_control", "");
    gboolean far = real(report, "median_round_trip_ms") >= LONG_WAY_MS;
    gboolean lacks = far && strcmp(name, "bbr") != 0;

    if (!*name || real(report, "bytes_per_second") <= 0)
        return;
    findings_add(findings, "congestion", lacks ? FINDING_NOTE : FINDING_GOOD, name,
                 !lacks            ? NULL
                 : has_bbr(report) ? "the kernel here has BBR and did not let it be used: see "
                                     "net.ipv4.tcp_allowed_congestion_control"
                                   : "on a long way that loses packets BBR is many times as fast: "
                                     "`modprobe tcp_bbr` on this host (and tcp_bbr in "
                                     "/etc/modules-load.d); the agent takes it by itself then");
}

void check_path(Findings *findings, json_t *report)
{
    json_t *error = json_object_get(report, "error");

    add_connection(findings, report);
    add_agent(findings, report);
    add_round_trip(findings, report);
    add_packet_size(findings, report);
    add_rate(findings, report);
    add_loss(findings, report);
    add_congestion_control(findings, report);
    if (json_is_object(error))
        add_failure(findings, report, error);
}
