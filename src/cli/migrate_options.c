#include "cli/migrate_options.h"

#include <string.h>

#include "base/quantity.h"
#include "base/rate.h"
#include "memory/tracker.h"
#include "migrate/report.h"

void migrate_arguments_clear(MigrateArguments *words)
{
    char **const texts[] = {
        &words->mode,     &words->bandwidth,     &words->compress,     &words->tracker,
        &words->throttle, &words->segments,      &words->max_downtime, &words->downtime_cap,
        &words->deadline, &words->memory_budget, &words->streams,      &words->record,
    };

    for (guint i = 0; i < G_N_ELEMENTS(texts); i++)
        g_clear_pointer(texts[i], g_free);
    common_options_clear(&words->common);
}

static gboolean check_mode(const char *mode)
{
    if (!mode || strcmp(mode, "auto") == 0 || strcmp(mode, "precopy") == 0)
        return TRUE;
    if (strcmp(mode, "postcopy") == 0 || strcmp(mode, "hybrid") == 0)
        cli_usage_error("--mode %s is not available in this version; use auto or precopy", mode);
    else
        cli_usage_error("\"%s\" is no mode; use auto or precopy", mode);
    return FALSE;
}

/* ---- words that are one of a few ---- */

static gboolean is_compression(const char *text)
{
    PackingMode mode;

    return packing_mode_from_name(text, &mode);
}

static gboolean is_tracker(const char *text)
{
    TrackerKind kind;

    return tracker_kind_from_name(text, &kind);
}

static gboolean is_throttle(const char *text)
{
    ThrottleMode mode;

    return throttle_mode_from_name(text, &mode);
}

static gboolean is_segments(const char *text)
{
    SentStoreMode mode;

    return sent_store_mode_from_name(text, &mode);
}

static gboolean add_names(json_t *request, const MigrateArguments *words)
{
    const struct {
        const char *key, *text;
        gboolean (*is_one)(const char *text);
        const char *what;
    } names[] = {
        {"compress", words->compress, is_compression, "compression; use auto, none, lz4 or zstd"},
        {"tracker", words->tracker, is_tracker, "tracker; use auto, pagemap-scan or uffd-sync"},
        {"throttle", words->throttle, is_throttle, "throttle; use auto, cgroup, duty or off"},
        {"segments", words->segments, is_segments,
         "way to find segments; use auto, fingerprint, shadow or off"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        if (!names[i].text)
            continue;
        if (!names[i].is_one(names[i].text)) {
            cli_usage_error("\"%s\" is no %s", names[i].text, names[i].what);
            return FALSE;
        }
        json_object_set_new(request, names[i].key, json_string(names[i].text));
    }
    return TRUE;
}

/* ---- times and amounts ---- */

static gboolean add_times(json_t *request, const MigrateArguments *words)
{
    const struct {
        const char *key, *option, *text;
        guint limit;
    } times[] = {
        {"max_downtime_ms", "--max-downtime", words->max_downtime, MIGRATE_DOWNTIME_LIMIT_MS},
        {"downtime_cap_ms", "--downtime-cap", words->downtime_cap, MIGRATE_DOWNTIME_LIMIT_MS},
        {"deadline_ms", "--deadline", words->deadline, MIGRATE_DEADLINE_LIMIT_MS},
    };
    guint ms[G_N_ELEMENTS(times)];

    for (guint i = 0; i < G_N_ELEMENTS(times); i++) {
        g_autoptr(GError) error = NULL;

        if (!times[i].text)
            continue;
        if (!duration_parse(times[i].option, times[i].text, times[i].limit, &ms[i], &error)) {
            cli_usage_error("%s", error->message);
            return FALSE;
        }
        json_object_set_new(request, times[i].key, json_integer(ms[i]));
    }
    if (words->max_downtime && words->downtime_cap && ms[1] < ms[0]) {
        cli_usage_error("--downtime-cap %s is below --max-downtime %s: it is from %u ms here",
                        words->downtime_cap, words->max_downtime, ms[0]);
        return FALSE;
    }
    return TRUE;
}

static gboolean add_amounts(json_t *request, const MigrateArguments *words)
{
    g_autoptr(GError) error = NULL;
    uint64_t rate, budget;
    guint64 streams;

    if (words->bandwidth) {
        if (!rate_parse(words->bandwidth, &rate, &error)) {
            cli_usage_error("--bandwidth: %s", error->message);
            return FALSE;
        }
        json_object_set_new(request, "bandwidth", json_integer((json_int_t)rate));
    }
    if (words->memory_budget) {
        if (!size_parse("--memory-budget", words->memory_budget, MIGRATE_MEMORY_BUDGET_LEAST,
                        MIGRATE_MEMORY_BUDGET_LIMIT, &budget, &error)) {
            cli_usage_error("%s", error->message);
            return FALSE;
        }
        json_object_set_new(request, "memory_budget_bytes", json_integer((json_int_t)budget));
    }
    if (words->streams) {
        if (!g_ascii_string_to_unsigned(words->streams, 10, 1, MIGRATE_STREAMS_LIMIT, &streams,
                                        NULL)) {
            cli_usage_error("--streams %s: from 1 to %u streams are possible", words->streams,
                            MIGRATE_STREAMS_LIMIT);
            return FALSE;
        }
        json_object_set_new(request, "streams", json_integer((json_int_t)streams));
    }
    return TRUE;
}

json_t *migrate_arguments_to_request(const MigrateArguments *words, const char *destination)
{
    g_autoptr(json_t) request = json_pack("{s:s, s:b, s:b}", "destination", destination, "verify",
                                          words->verify, "detach", words->detach);

    if (!check_mode(words->mode) || !add_names(request, words) || !add_times(request, words) ||
        !add_amounts(request, words))
        return NULL;
    if (words->record && words->detach) {
        cli_usage_error("--record writes while the move goes on: not with --detach");
        return NULL;
    }
    if (words->trust_images)
        json_object_set_new(request, "trust_images", json_true());
    if (words->allow_cpu_mismatch)
        json_object_set_new(request, "allow_cpu_mismatch", json_true());
    if (words->reclaim_free)
        json_object_set_new(request, "reclaim_free", json_true());
    if (words->record)
        json_object_set_new(request, "record", json_true());
    return g_steal_pointer(&request);
}
