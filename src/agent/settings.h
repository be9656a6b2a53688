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

#include "client/client.h"
#include "migrate/options.h"

#define SETTINGS_DEFAULT_FILE "/etc/vmferry/agent.conf"
#define SETTINGS_FILE_LIMIT (256u << 10)
/* A quarter of the host's memory. */
#define SETTINGS_STORE_AUTO UINT64_MAX

#define SETTINGS_DEFAULT_ALONE_S 30
/* The link must be known to be broken, and the leases have to be renewed until then. */
#define SETTINGS_LEAST_ALONE_S 3
#define SETTINGS_DEFAULT_PROTECT_AGAIN_S 10

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
    char **allow;           /* peer names; empty: every peer with a certificate of the same CA */
    char *api;              /* "ADDR:PORT" of the API over the network (api_tls.h), or "none" */
    char **api_read;        /* names in certificates: who may read there … */
    char **api_operate;     /* … and who may do something, too; none of these: nobody may */
    guint allow_unconfined; /* set of Confinement that arriving guests may do without */
    uint64_t store_memory;  /* bytes that other hosts' guests may have here (page_stores.h) */
    guint alone_after;      /* seconds without its source until a split guest goes on alone */
    guint
        protect_again; /* seconds until a guest whose standby is gone is protected again; 0: never */
    char *
        metrics_root; /* a control group's folder that is "this host" (collect/); NULL: the machine */
    gboolean launch_ahead; /* a standby has a process that waits (standby_ahead.h) */
    MigrateOptions moves;  /* defaults for moves from here */
    GPtrArray *rules;      /* of SettingsMapRule, in the file's order */
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

/* Splits ADDR:PORT, [V6]:PORT, ADDR (*default_port* then) or :PORT; free *ret_host with g_free(). */
gboolean settings_split_address(const char *address, guint16 default_port, char **ret_host,
                                guint16 *ret_port, GError **error);
