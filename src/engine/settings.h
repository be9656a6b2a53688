/*
 * The engine's settings and its configuration file
 *
 * Every setting has a default and a key in engine.conf; those that name places also have an option of `vmferry
 * engine`, which wins.  man 5 vmferry-engine.conf describes the file.  Unknown groups and keys are errors, and
 * so are values that are left empty: a limit that was not understood is none.
 */
#pragma once

#include <glib.h>

#include "policy/cluster_placement.h"

#define ENGINE_DEFAULT_FILE "/etc/vmferry/engine.conf"
#define ENGINE_DEFAULT_LISTEN "127.0.0.1:4750"
#define ENGINE_DEFAULT_PORT 4750
#define ENGINE_DEFAULT_ETCD_PREFIX "/vmferry/engine/"
#define ENGINE_DEFAULT_ETCD_LEASE_MS 10000
#define ENGINE_DEFAULT_STORE "/var/lib/vmferry/engine.db"
#define ENGINE_SETTINGS_LIMIT (256u << 10)
#define ENGINE_MAX_HOSTS 1024u

typedef struct {
    char *name;    /* unique: what users call it */
    char *address; /* of its agent's API: HOST[:PORT], or unix:PATH */
    char *moves;   /* HOST[:PORT] by which other agents reach it; NULL: as its agent says */
} EngineHostSetting;

typedef struct {
    char *name;   /* of this engine */
    char *listen; /* ADDR:PORT */
    char *store;
    char *etcd; /* of several engines, as migrate/etcd.h wants it; NULL: this is the only one */
    char *etcd_prefix; /* of its keys; ends with a slash */
    double etcd_lease_ms;
    char *pki_dir;
    char *token_file; /* NULL: no token */
    char **allow; /* names in certificates of those who may change things; empty: any of the CA */
    char **names; /* by which browsers may reach it, besides those of its certificate */
    GPtrArray *hosts;   /* of EngineHostSetting */
    gboolean automatic; /* it moves guests by itself */
    guint interval_ms;  /* from one look at a host to the next */
    double reading_ms;  /* looks of so long make a reading, their mean */
    double judge_ms;    /* so long after a move it is seen whether it has helped */

    ClusterThresholds thresholds;
    ClusterLimits limits;   /* but what time and users decide: frozen, quiet */
    GArray *quiet_hours;    /* of ClusterQuietHours */
    double memory_reserve;  /* share of a host's memory that guests may not take */
    double bandwidth_share; /* of a link, the most that a move may take */
} EngineSettings;

EngineSettings *engine_settings_new(void);
void engine_settings_free(EngineSettings *settings);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(EngineSettings, engine_settings_free)

/* Reads *path* over what is in *settings*.  A missing file is an error only where it is *required*. */
gboolean engine_settings_load(EngineSettings *settings, const char *path, gboolean required,
                              GError **error);
/* The same from text (*origin* names it in errors). */
gboolean engine_settings_parse(EngineSettings *settings, const char *text, size_t length,
                               const char *origin, GError **error);

/* "http://HOST[:PORT]" of etcd's members with commas or spaces between them, or "etcd://HOST[:PORT],…". */
gboolean engine_settings_set_etcd(EngineSettings *settings, const char *list, GError **error);

/* "[NAME=]ADDRESS" with commas or spaces between them, in place of those that were set before. */
gboolean engine_settings_set_hosts(EngineSettings *settings, const char *list, GError **error);
