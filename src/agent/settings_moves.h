/* The keys of agent.conf that are defaults for moves (private to settings.c). */
#pragma once

#include "agent/settings.h"

gboolean settings_set_bandwidth(AgentSettings *settings, const char *value, GError **error);
gboolean settings_set_max_downtime(AgentSettings *settings, const char *value, GError **error);
gboolean settings_set_downtime_cap(AgentSettings *settings, const char *value, GError **error);
gboolean settings_set_memory_budget(AgentSettings *settings, const char *value, GError **error);
gboolean settings_set_streams(AgentSettings *settings, const char *value, GError **error);
gboolean settings_set_throttle(AgentSettings *settings, const char *value, GError **error);
gboolean settings_set_tracker(AgentSettings *settings, const char *value, GError **error);

/* After the whole file *origin* was read: the times in it must agree. */
gboolean settings_match_file(AgentSettings *settings, GKeyFile *file, const char *origin,
                             GError **error);
