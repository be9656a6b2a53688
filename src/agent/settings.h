/*
 * The agent's settings and its configuration file
 *
 * Every setting has a default, a key in agent.conf and (most of them) an
 * option of `vmferry agent`; options win over the file.  man 5
 * vmferry-agent.conf describes the file.  Unknown groups and keys are errors:
 * a misspelt `allow` must not open the door.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "client/client.h"
#include "memory/tracker.h"
#include "throttle/throttle.h"

#define SETTINGS_DEFAULT_FILE "/etc/vmferry/agent.conf"
#define SETTINGS_FILE_LIMIT (256u << 10)

typedef struct {
    char *name; /* the rule's name, its key in the file */
    char *from;
    char *to;
} SettingsMapRule;

typedef struct {
    char *listen;      /* "ADDR:PORT", or "none" */
    char *socket;      /* control socket */
    char *state_dir;   /* what must survive a reboot */
    char *runtime_dir; /* sockets and logs of guests */
    char *pki_dir;
    gboolean insecure;      /* plain text between agents */
    char **allow;           /* peer names; empty: every peer with a certificate of our CA */
    guint allow_unconfined; /* set of Confinement that arriving guests may do without */
    /* Defaults for moves from here; as in MigrateOptions. */
    uint64_t bandwidth; /* bytes a second, 0: no limit */
    guint max_downtime_ms, downtime_cap_ms;
    uint64_t memory_budget_bytes;
    guint streams;
    TrackerKind tracker;
    ThrottleMode throttle;
    GPtrArray *rules; /* of SettingsMapRule, in the file's order */
} AgentSettings;

AgentSettings *agent_settings_new(void);
void agent_settings_free(AgentSettings *settings);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(AgentSettings, agent_settings_free)

/* Reads *path* over what is in *settings*.  A missing file is an error only
 * where it is *required*. */
gboolean agent_settings_load(AgentSettings *settings, const char *path, gboolean required,
                             GError **error);

/* The same from text (*origin* names it in errors). */
gboolean agent_settings_parse(AgentSettings *settings, const char *text, size_t length,
                              const char *origin, GError **error);

/* Brings the pause to aim at and its cap together: where only one of them was
 * *given*, the other gives way to it; an error where both were and the cap is
 * below. */
gboolean settings_match_downtimes(guint *max_ms, gboolean max_given, guint *cap_ms,
                                  gboolean cap_given, GError **error);

/* Splits ADDR:PORT, [V6]:PORT, ADDR or :PORT; free *ret_host with g_free(). */
gboolean settings_split_address(const char *address, char **ret_host, guint16 *ret_port,
                                GError **error);
