/*
 * What the engine must not forget
 *
 * Theory of operation: the rules and promises, what is frozen and drained, the journal of moves (move_record.h) and a
 * minute's means of the hosts' figures, and what guests needed at which hour of the day.  What was written is there to stay when its function returns.  There are two
 * kinds, each a table of functions (store_private.h):
 *
 *   - for one engine (store_sqlite.c): one SQLite database in WAL mode, of which one engine at a time has the lock.
 *     One connection, serialized by a lock here: writes are few.  A database that is damaged, read-only, somebody
 *     else's, or from a newer version is refused when it is opened, with what to do.
 *   - for several engines of one cluster (store_etcd.c): all of it in etcd, but the figures, which each engine has in
 *     a SQLite database of its own.  Here nothing but a write waits for etcd: what is read is a copy, made by
 *     engine_store_refresh().
 *
 * Of several engines one leads (leadership.h), in a *term*: a number that no two have in common.  The journal is
 * written in a term (MoveRecord.lead_term), and refused where that is over: so it has one writer at a time, and
 * whoever reads it in a later term knows all that was ever written in the one before.  What users have said may be
 * written by any engine.  With SQLite the term is always 1.
 *
 * A write that fails (the disk is full, etcd does not answer) returns its error, and engine_store_get_failure() says so
 * until one succeeds again: as long as that is so the engine starts no move, since it could not be written down.
 * A write to etcd that failed may have been done, or be done later, all the same.
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

typedef struct {
    const char *address; /* of etcd, as migrate/etcd.h wants it */
    const char *prefix;  /* of all keys; ends with a slash */
    const char *name;    /* of this engine */
    guint lease_ms;
} StoreEtcdOptions;

/* Does not wait for etcd, which need not be there; *figures*: for those of the past, is taken. */
EngineStore *engine_store_open_etcd(const StoreEtcdOptions *options, EngineStore *figures,
                                    GError **error);

/* NULL-safe. */
void engine_store_close(EngineStore *store);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(EngineStore, engine_store_close)

/* Reads what others have written; *ret_changed*: there is something.  FALSE with *error*: what is known stays as it is. */
gboolean engine_store_refresh(EngineStore *store, gboolean *ret_changed, GError **error);

/* ---- who leads ---- */

typedef struct {
    gint64 term; /* of this engine; 0: it does not lead.  It may be over without its knowledge */
    gboolean is_held; /* it is sure to lead now */
    char *name;    /* of the engine that leads, where there are several and it is known; or NULL */
    guint left_ms; /* until the lease ends, if it is not kept alive; 0: there is none */
    char *problem; /* why it is not known who leads, or NULL */
} StoreLeadership;

void engine_store_get_leadership(EngineStore *store, StoreLeadership *ret);
void store_leadership_clear(StoreLeadership *leadership);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(StoreLeadership, store_leadership_clear)

/* In words: of an engine that does not lead, who does, or why that is not known; free with g_free(). */
char *store_leadership_describe(const StoreLeadership *leadership);

/* TRUE where this engine is sure to lead, in *term*.  FALSE with *error* (VMFERRY_ERROR_BUSY) and who does. */
gboolean engine_store_check_term(EngineStore *store, gint64 term, GError **error);

/* ---- whether it can be written to ---- */

/* Why nothing can be written, or NULL; free with g_free().  With *retry* it is tried once more first. */
char *engine_store_get_failure(EngineStore *store, gboolean retry);

/* For tests, of SQLite: as if the disk had no room left, or had it again. */
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

/* A new one gets its id.  VMFERRY_ERROR_BUSY: the record's term is over. */
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
