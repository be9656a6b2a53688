/* The kinds of stores; see store.h. */
#pragma once

#include "engine/store.h"

/* Each as the function of store.h that has its name. */
typedef struct {
    void (*close)(EngineStore *store);
    gboolean (*refresh)(EngineStore *store, gboolean *ret_changed, GError **error);
    void (*get_leadership)(EngineStore *store, StoreLeadership *ret);
    char *(*get_failure)(EngineStore *store, gboolean retry);
    gboolean (*add_rule)(EngineStore *store, Rule *rule, GError **error);
    gboolean (*remove_rule)(EngineStore *store, const char *id, GError **error);
    GPtrArray *(*list_rules)(EngineStore *store, GError **error);
    gboolean (*set_sla)(EngineStore *store, const char *guest, const ClusterSla *sla,
                        GError **error);
    GHashTable *(*list_slas)(EngineStore *store, GError **error);
    gboolean (*set_frozen)(EngineStore *store, const char *guest, const char *reason,
                           GError **error);
    GHashTable *(*list_frozen)(EngineStore *store, GError **error);
    gboolean (*set_drained)(EngineStore *store, const char *host, gboolean drained, GError **error);
    GHashTable *(*list_drained)(EngineStore *store, GError **error);
    gboolean (*write_move)(EngineStore *store, MoveRecord *record, GError **error);
    GPtrArray *(*list_moves)(EngineStore *store, gboolean only_open, guint limit, GError **error);
    MoveRecord *(*find_move)(EngineStore *store, gint64 id, GError **error);
    gboolean (*count_hits)(EngineStore *store, guint *ret_hits, guint *ret_all, GError **error);
    gboolean (*add_history)(EngineStore *store, const char *host, const HistoryPoint *point,
                            GError **error);
    GArray *(*read_history)(EngineStore *store, const char *host, gint64 since_s, GError **error);
    gboolean (*write_daily)(EngineStore *store, GHashTable *daily, GError **error);
    GHashTable *(*read_daily)(EngineStore *store, GError **error);
    gboolean (*prune)(EngineStore *store, gint64 now_s, GError **error);
} EngineStoreOps;

struct EngineStore {
    const EngineStoreOps *ops;
};
