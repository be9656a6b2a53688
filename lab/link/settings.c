#include "settings.h"

#include <string.h>

#include "base/error.h"
#include "base/quantity.h"
#include "base/rate.h"

#define LONGEST_BREAK_MS 86400000
#define LARGEST_QUEUE_BYTES (1e9)
#define LONGEST_BURST 1e6
#define SMALLEST_MTU 68

/* What a line says of a break; it becomes settings as a whole. */
typedef struct {
    gboolean given;
    guint64 length_ns, after_ns, every_ns;
    const char *detail; /* a word that needs "break" beside it */
} Break;

typedef struct {
    LinkSettings settings;
    Break outage;
} Change;

typedef gboolean (*Setter)(Change *change, const char *name, const char *value, GError **error);

static gboolean parse_time(const char *value, double most_ms, guint64 *ret_ns, GError **error)
{
    double ms;

    if (!time_parse(value, &ms, error))
        return FALSE;
    if (ms > most_ms) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is more than the most, %.0f s", value,
                  most_ms / 1000);
        return FALSE;
    }
    *ret_ns = (guint64)(ms * 1e6 + 0.5);
    return TRUE;
}

static gboolean parse_share(const char *value, double *ret, GError **error)
{
    static const QuantityUnit units[] = {{"", 1}, {"%", 0.01}, {NULL, 0}};

    if (quantity_parse(value, units, ret) && *ret <= 1)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not a share: write 0.5%% or 0.005", value);
    return FALSE;
}

static gboolean parse_number(const char *value, double least, double most, double *ret,
                             GError **error)
{
    static const QuantityUnit units[] = {{"", 1}, {NULL, 0}};

    if (quantity_parse(value, units, ret) && (*ret == 0 || (*ret >= least && *ret <= most)))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not 0 or a number from %.0f to %.0f", value,
              least, most);
    return FALSE;
}

static gboolean set_rate(Change *change, const char *name, const char *value, GError **error)
{
    if (!rate_parse(value, &change->settings.rate, error))
        return FALSE;
    link_trace_unref(change->settings.trace);
    change->settings.trace = NULL;
    return TRUE;
}

static gboolean set_trace(Change *change, const char *name, const char *value, GError **error)
{
    LinkTrace *trace = link_trace_load(value, error);

    if (!trace)
        return FALSE;
    link_trace_unref(change->settings.trace);
    change->settings.trace = trace;
    change->settings.rate = 0;
    return TRUE;
}

static gboolean set_time(Change *change, const char *name, const char *value, GError **error)
{
    LinkSettings *settings = &change->settings;
    guint64 *which = strcmp(name, "delay") == 0        ? &settings->delay_ns
                     : strcmp(name, "jitter") == 0     ? &settings->jitter_ns
                     : strcmp(name, "reorder-by") == 0 ? &settings->reorder_by_ns
                                                       : &settings->queue_ns;

    return parse_time(value, LINK_LONGEST_DELAY_MS, which, error);
}

static gboolean set_share(Change *change, const char *name, const char *value, GError **error)
{
    LinkSettings *settings = &change->settings;
    double *which = strcmp(name, "loss") == 0      ? &settings->loss
                    : strcmp(name, "reorder") == 0 ? &settings->reorder
                                                   : &settings->duplicate;

    return parse_share(value, which, error);
}

static gboolean set_burst(Change *change, const char *name, const char *value, GError **error)
{
    return parse_number(value, 1, LONGEST_BURST, &change->settings.burst, error);
}

static gboolean set_queue(Change *change, const char *name, const char *value, GError **error)
{
    double bytes;

    if (!size_parse(value, &bytes, error))
        return FALSE;
    if (bytes > LARGEST_QUEUE_BYTES) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is more than the most, 1G", value);
        return FALSE;
    }
    change->settings.queue_bytes = (guint64)bytes;
    return TRUE;
}

static gboolean set_mtu(Change *change, const char *name, const char *value, GError **error)
{
    double mtu;

    if (!parse_number(value, SMALLEST_MTU, LINK_LARGEST_MTU, &mtu, error))
        return FALSE;
    change->settings.mtu = (guint)mtu;
    return TRUE;
}

static gboolean set_frag_needed(Change *change, const char *name, const char *value, GError **error)
{
    gboolean on = strcmp(value, "on") == 0;

    if (!on && strcmp(value, "off") != 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is neither on nor off", value);
        return FALSE;
    }
    change->settings.frag_needed = on;
    return TRUE;
}

static gboolean set_break(Change *change, const char *name, const char *value, GError **error)
{
    Break *outage = &change->outage;
    guint64 *which = &outage->length_ns;

    if (strcmp(name, "break") == 0) {
        outage->given = TRUE;
    } else {
        outage->detail = name;
        which = strcmp(name, "break-after") == 0 ? &outage->after_ns : &outage->every_ns;
    }
    return parse_time(value, LONGEST_BREAK_MS, which, error);
}

static const struct {
    const char *name;
    Setter set;
} setters[] = {
    {"rate", set_rate},
    {"trace", set_trace},
    {"delay", set_time},
    {"jitter", set_time},
    {"loss", set_share},
    {"burst", set_burst},
    {"reorder", set_share},
    {"reorder-by", set_time},
    {"duplicate", set_share},
    {"queue", set_queue},
    {"queue-time", set_time},
    {"mtu", set_mtu},
    {"frag-needed", set_frag_needed},
    {"break", set_break},
    {"break-after", set_break},
    {"break-every", set_break},
};

static gboolean set_one(Change *change, const char *name, const char *value, GError **error)
{
    for (guint i = 0; i < G_N_ELEMENTS(setters); i++) {
        if (strcmp(setters[i].name, name) != 0)
            continue;
        if (!value) {
            error_set(error, VMFERRY_ERROR_INVALID, "%s: no value", name);
            return FALSE;
        }
        if (setters[i].set(change, name, value, error))
            return TRUE;
        g_prefix_error(error, "%s: ", name);
        return FALSE;
    }
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not a setting of a link", name);
    return FALSE;
}

static gboolean take_break(Change *change, guint64 now_ns, GError **error)
{
    const Break *outage = &change->outage;

    if (!outage->given) {
        if (outage->detail)
            error_set(error, VMFERRY_ERROR_INVALID, "%s without break", outage->detail);
        return !outage->detail;
    }
    if (outage->every_ns > 0 && outage->every_ns <= outage->length_ns) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "break-every is not longer than break: nothing would ever arrive");
        return FALSE;
    }
    change->settings.break_from_ns = now_ns + outage->after_ns;
    change->settings.break_ns = outage->length_ns;
    change->settings.break_every_ns = outage->every_ns;
    return TRUE;
}

static gboolean check(const LinkSettings *settings, GError **error)
{
    const char *problem = NULL;

    if (settings->jitter_ns > settings->delay_ns)
        problem = "jitter is more than the delay: packets would arrive before they were sent";
    else if (settings->burst > 1 && settings->loss < 1 &&
             settings->loss > settings->burst / (settings->burst + 1))
        problem = "so much loss does not come in bursts that short";
    else if (settings->reorder > 0 && settings->reorder_by_ns == 0)
        problem = "reorder without reorder-by";
    if (problem)
        error_set(error, VMFERRY_ERROR_INVALID, "%s", problem);
    return !problem;
}

void link_settings_init(LinkSettings *settings)
{
    *settings = (LinkSettings){.queue_ns = LINK_NS_PER_S / 10};
}

gboolean link_settings_apply(LinkSettings *settings, char *const *words, guint64 now_ns,
                             GError **error)
{
    Change change = {0};
    gboolean good = TRUE;

    link_settings_copy(&change.settings, settings);
    while (good && *words) {
        good = set_one(&change, words[0], words[1], error);
        words += good ? 2 : 0;
    }
    good = good && take_break(&change, now_ns, error) && check(&change.settings, error);
    if (good)
        link_settings_copy(settings, &change.settings);
    link_settings_clear(&change.settings);
    return good;
}
