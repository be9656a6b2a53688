#include "agent/api_options.h"

#include <string.h>

#include "base/quantity.h"
#include "base/error.h"

#define MAX_RATE ((uint64_t)10000000000000)

const char *const api_migrate_keys[] = {
    "destination",
    "mode",
    "max_downtime_ms",
    "downtime_cap_ms",
    "deadline_ms",
    "bandwidth",
    "verify",
    "tracker",
    "compress",
    "memory_budget_bytes",
    "streams",
    "throttle",
    "segments",
    "reclaim_free",
    "record",
    "trust_images",
    "detach",
    "allow_cpu_mismatch",
    NULL,
};

static gboolean check_mode(const char *mode, GError **error)
{
    if (strcmp(mode, "auto") == 0 || strcmp(mode, "precopy") == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED,
              "mode \"%.32s\" is not available in this version; there are auto and precopy", mode);
    return FALSE;
}

/* The text of an optional key; *ret is left alone where there is none. */
static gboolean read_text(json_t *body, const char *key, const char **ret, GError **error)
{
    return !json_object_get(body, key) || json_get_text(body, key, ret, error);
}

static gboolean read_count(json_t *body, const char *key, uint64_t *ret, GError **error)
{
    return !json_object_get(body, key) || json_get_count(body, key, G_MAXINT64, ret, error);
}

static gboolean read_flag(json_t *body, const char *key, gboolean *ret, GError **error)
{
    json_t *value = json_object_get(body, key);

    if (value && !json_is_boolean(value)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is neither true nor false", key);
        return FALSE;
    }
    *ret = json_is_true(value);
    return TRUE;
}

static gboolean no_such(const char *text, const char *what, GError **error)
{
    error_set(error, VMFERRY_ERROR_INVALID, "\"%.32s\" is no %s", text, what);
    return FALSE;
}

static gboolean read_names(json_t *body, MigrateOptions *ret, GError **error)
{
    const char *mode = "auto", *tracker = NULL, *compress = "auto";
    const char *throttle = NULL, *segments = "auto";

    if (!read_text(body, "mode", &mode, error) || !read_text(body, "tracker", &tracker, error) ||
        !read_text(body, "compress", &compress, error) ||
        !read_text(body, "throttle", &throttle, error) ||
        !read_text(body, "segments", &segments, error) || !check_mode(mode, error))
        return FALSE;
    if (tracker && !tracker_kind_from_name(tracker, &ret->tracker))
        return no_such(tracker, "tracker; there are auto, pagemap-scan and uffd-sync", error);
    if (!packing_mode_from_name(compress, &ret->compress))
        return no_such(compress, "compression; there are auto, none, lz4 and zstd", error);
    if (throttle && !throttle_mode_from_name(throttle, &ret->throttle))
        return no_such(throttle, "throttle; there are auto, cgroup, duty and off", error);
    if (!sent_store_mode_from_name(segments, &ret->segments))
        return no_such(segments,
                       "way to find segments; there are auto, fingerprint, shadow and off", error);
    return TRUE;
}

static gboolean read_duration(json_t *body, const char *key, guint limit, guint *ret,
                              GError **error)
{
    uint64_t ms;

    if (!json_object_get(body, key))
        return TRUE;
    if (!json_get_count(body, key, G_MAXINT64, &ms, error) ||
        !duration_check(key, ms, limit, error))
        return FALSE;
    *ret = (guint)ms;
    return TRUE;
}

static gboolean read_times(json_t *body, MigrateOptions *ret, GError **error)
{
    gboolean has_target = json_object_get(body, "max_downtime_ms") != NULL;
    gboolean has_cap = json_object_get(body, "downtime_cap_ms") != NULL;

    if (!read_duration(body, "max_downtime_ms", MIGRATE_DOWNTIME_LIMIT_MS, &ret->max_downtime_ms,
                       error) ||
        !read_duration(body, "downtime_cap_ms", MIGRATE_DOWNTIME_LIMIT_MS, &ret->downtime_cap_ms,
                       error) ||
        !read_duration(body, "deadline_ms", MIGRATE_DEADLINE_LIMIT_MS, &ret->deadline_ms, error))
        return FALSE;
    return settings_match_downtimes(&ret->max_downtime_ms, has_target, &ret->downtime_cap_ms,
                                    has_cap, error);
}

static gboolean read_limits(json_t *body, MigrateOptions *ret, GError **error)
{
    uint64_t streams = ret->streams;

    if (json_object_get(body, "bandwidth") &&
        !json_get_count(body, "bandwidth", MAX_RATE, &ret->bandwidth_bytes_per_second, error))
        return FALSE;
    if (!read_count(body, "memory_budget_bytes", &ret->memory_budget_bytes, error) ||
        !read_count(body, "streams", &streams, error))
        return FALSE;
    if (json_object_get(body, "memory_budget_bytes") &&
        !size_check("memory_budget_bytes", ret->memory_budget_bytes, MIGRATE_MEMORY_BUDGET_LEAST,
                    MIGRATE_MEMORY_BUDGET_LIMIT, error))
        return FALSE;
    if (json_object_get(body, "streams") && (streams < 1 || streams > MIGRATE_STREAMS_LIMIT)) {
        error_set(error, VMFERRY_ERROR_INVALID, "streams is from 1 to %u", MIGRATE_STREAMS_LIMIT);
        return FALSE;
    }
    ret->streams = (guint)streams;
    return TRUE;
}

static gboolean read_flags(json_t *body, MigrateOptions *ret, GError **error)
{
    gboolean detach;

    if (!read_flag(body, "verify", &ret->verify, error) ||
        !read_flag(body, "reclaim_free", &ret->reclaim_free, error) ||
        !read_flag(body, "trust_images", &ret->trust_images, error) ||
        !read_flag(body, "allow_cpu_mismatch", &ret->allow_cpu_mismatch, error) ||
        !read_flag(body, "record", &ret->record, error) ||
        !read_flag(body, "detach", &detach, error))
        return FALSE;
    if (ret->record && detach) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "\"record\" needs a reader of this answer: not with \"detach\"");
        return FALSE;
    }
    return TRUE;
}

gboolean api_read_migrate_options(const AgentSettings *settings, json_t *body, MigrateOptions *ret,
                                  GError **error)
{
    *ret = (MigrateOptions){
        .max_downtime_ms = settings->max_downtime_ms,
        .downtime_cap_ms = settings->downtime_cap_ms,
        .bandwidth_bytes_per_second = settings->bandwidth,
        .memory_budget_bytes = settings->memory_budget_bytes,
        .streams = settings->streams,
        .tracker = settings->tracker,
        .throttle = settings->throttle,
    };
    return read_names(body, ret, error) && read_times(body, ret, error) &&
           read_limits(body, ret, error) && read_flags(body, ret, error);
}
