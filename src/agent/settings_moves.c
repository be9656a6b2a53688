#include "agent/settings_moves.h"

#include <string.h>

#include "base/quantity.h"
#include "base/rate.h"
#include "base/error.h"
#include "migrate/report.h"

gboolean settings_set_bandwidth(AgentSettings *settings, const char *value, GError **error)
{
    return rate_parse(value, &settings->bandwidth, error);
}

gboolean settings_set_max_downtime(AgentSettings *settings, const char *value, GError **error)
{
    return duration_parse("the downtime", value, MIGRATE_DOWNTIME_LIMIT_MS,
                          &settings->max_downtime_ms, error);
}

gboolean settings_set_downtime_cap(AgentSettings *settings, const char *value, GError **error)
{
    return duration_parse("the downtime", value, MIGRATE_DOWNTIME_LIMIT_MS,
                          &settings->downtime_cap_ms, error);
}

gboolean settings_set_memory_budget(AgentSettings *settings, const char *value, GError **error)
{
    if (strcmp(value, "auto") == 0) {
        settings->memory_budget_bytes = 0;
        return TRUE;
    }
    return size_parse("the budget", value, MIGRATE_MEMORY_BUDGET_LEAST, MIGRATE_MEMORY_BUDGET_LIMIT,
                      &settings->memory_budget_bytes, error);
}

gboolean settings_set_streams(AgentSettings *settings, const char *value, GError **error)
{
    guint64 number = 0;

    if (strcmp(value, "auto") != 0 &&
        !g_ascii_string_to_unsigned(value, 10, 1, MIGRATE_STREAMS_LIMIT, &number, NULL)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is neither auto nor a number from 1 to %u",
                  value, MIGRATE_STREAMS_LIMIT);
        return FALSE;
    }
    settings->streams = (guint)number;
    return TRUE;
}

gboolean settings_set_throttle(AgentSettings *settings, const char *value, GError **error)
{
    if (throttle_mode_from_name(value, &settings->throttle))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is no throttle: use auto, cgroup, duty or off",
              value);
    return FALSE;
}

gboolean settings_set_tracker(AgentSettings *settings, const char *value, GError **error)
{
    if (tracker_kind_from_name(value, &settings->tracker))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "\"%s\" is no tracker: use auto, pagemap-scan or uffd-sync", value);
    return FALSE;
}

gboolean settings_match_downtimes(guint *max_ms, gboolean max_given, guint *cap_ms,
                                  gboolean cap_given, GError **error)
{
    if (*cap_ms >= *max_ms)
        return TRUE;
    if (max_given && cap_given) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "the downtime cap of %u ms is below the downtime to aim at, %u ms: raise the one "
                  "or lower the other",
                  *cap_ms, *max_ms);
        return FALSE;
    }
    if (cap_given)
        *max_ms = *cap_ms;
    else
        *cap_ms = *max_ms;
    return TRUE;
}

gboolean settings_match_file(AgentSettings *settings, GKeyFile *file, const char *origin,
                             GError **error)
{
    if (settings_match_downtimes(&settings->max_downtime_ms,
                                 g_key_file_has_key(file, "agent", "max-downtime", NULL),
                                 &settings->downtime_cap_ms,
                                 g_key_file_has_key(file, "agent", "downtime-cap", NULL), error))
        return TRUE;
    g_prefix_error(error, "%s: [agent]: ", origin);
    return FALSE;
}
