/*
 * What the engine must not forget
 *
 * Theory of operation: one SQLite database in WAL mode, of which one engine at a time has the lock.  It holds
 * the rules and promises, what is frozen and drained, the journal of moves (move_record.h), a minute's means of the
 * hosts' figures, and what guests needed at which hour of the day.  One connection, serialized by a lock here: writes are few, and each is on the disk
 * when its function returns.
 *
 * A database that is damaged, read-only, somebody else's, or from a newer version is refused when it is opened,
 * with what to do.  A write that fails later (the disk is full) returns its error, and engine_store_get_failure()
 * says so until one succeeds again: as long as that is so the engine starts no move, since it could not be
 * written down.
 *
 * May be used from any thread.
 */
#pragma once

#include "engine/daily.h"
#include "engine/move_record.h"
#include "engine/rules.h"

/* 2: the table "daily" */
#define ENGINE_STORE_VERSION 2
/* Of the journal and of the figures; older ones go. */
#define ENGINE_STORE_KEPT_DAYS 30

typedef struct EngineStore EngineStore;

EngineStore *engine_store_open(const char *path, GError **error);
void engine_store_close(EngineStore *store);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(EngineStore, engine_store_close)

/* Why nothing can be written, or NULL; free with g_free().  With *retry* it is tried once more first. */
char *engine_store_get_failure(EngineStore *store, gboolean retry);

/* For tests: as if the disk had no room left, or had it again. */
void engine_store_limit_pages(EngineStore *store, gboolean full);

/* ---- what users have said ---- */

gboolean engine_store_add_rule(EngineStore *store, Rule *rule,
                               GError **error); /* gives it its id */
gboolean engine_store_remove_rule(EngineStore *store, const char *id, GError **error);
GPtrArray *engine_store_list_rules(EngineStore *store, GError **error); /* of Rule */

gboolean engine_store_set_sla(EngineStore *store, const char *guest, const ClusterSla *sla,
                              GError **error);
GHashTable *engine_store_list_slas(EngineStore *store, GError **error); /* guest → ClusterSla */

/* *guest* "": all of them.  *reason* NULL: not any more. */
gboolean engine_store_set_frozen(EngineStore *store, const char *guest, const char *reason,
                                 GError **error);
GHashTable *engine_store_list_frozen(EngineStore *store, GError **error); /* guest → reason */

gboolean engine_store_set_drained(EngineStore *store, const char *host, gboolean drained,
                                  GError **error);
GHashTable *engine_store_list_drained(EngineStore *store, GError **error); /* a set of names */

/* ---- the journal ---- */

/* A new one gets its id. */
gboolean engine_store_write_move(EngineStore *store, MoveRecord *record, GError **error);

/* Of MoveRecord, the newest first; *only_open*: those that are not settled. */
GPtrArray *engine_store_list_moves(EngineStore *store, gboolean only_open, guint limit,
                                   GError **error);

/* NULL with *error* (VMFERRY_ERROR_NOT_FOUND). */
MoveRecord *engine_store_find_move(EngineStore *store, gint64 id, GError **error);

/* Of the moves whose forecast was looked at later. */
gboolean engine_store_count_hits(EngineStore *store, guint *ret_hits, guint *ret_all,
                                 GError **error);

/* ---- figures of the past ---- */

typedef struct {
    gint64 time_s;                         /* wall clock */
    double cpu, memory, network, pressure; /* shares, but network: bytes/s; CLUSTER_UNKNOWN */
} HistoryPoint;

gboolean engine_store_add_history(EngineStore *store, const char *host, const HistoryPoint *point,
                                  GError **error);
GArray *engine_store_read_history(EngineStore *store, const char *host, gint64 since_s,
                                  GError **error); /* of HistoryPoint, the oldest first */

/* What was at this time of the day: *daily* has a Daily for each guest's id.  All are written, or none. */
gboolean engine_store_write_daily(EngineStore *store, GHashTable *daily, GError **error);
GHashTable *engine_store_read_daily(EngineStore *store, GError **error); /* guest's id → Daily */

/* Forgets what is older than ENGINE_STORE_KEPT_DAYS. */
gboolean engine_store_prune(EngineStore *store, gint64 now_s, GError **error);
