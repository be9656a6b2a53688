/*
 * Transactions with etcd over many keys
 *
 * Theory of operation: what POST /v3/kv/txn of etcd's JSON gateway takes and answers (migrate/etcd.h has the way there):
 * where all that is compared holds, the first list of operations is done, otherwise the second one; all of it or
 * nothing, at one revision.  Here the parts are made, and the answers taken apart.
 *
 * What comes is taken for hostile: counts and sizes are limited, and each field is checked.
 *
 * Pure.
 */
#pragma once

#include "base/json.h"

#define ETCD_KEYS_TXN "/v3/kv/txn"
/* Of one answer: as many entries, and of each key and value as many bytes. */
#define ETCD_KEYS_MAX_FOUND 16384u
#define ETCD_KEYS_MAX_KEY_BYTES 1024u
#define ETCD_KEYS_MAX_VALUE_BYTES (512u << 10)

/* ---- what is sent: each is a new reference ---- */

/* The revision at which *key* was made (0: there is no such key). */
json_t *etcd_compare_made(const char *key, gint64 revision);
/* The revision at which it was last written (0: there is no such key). */
json_t *etcd_compare_written(const char *key, gint64 revision);

/* *lease* 0: it stays. */
json_t *etcd_put(const char *key, const char *value, uint64_t lease);
json_t *etcd_delete(const char *key);
json_t *etcd_read(const char *key);
/* All keys that begin with *prefix* and were written at revision *since* or later; the first *limit* (0: all) in the order
 * in which they were written. */
json_t *etcd_read_all(const char *prefix, gint64 since, guint limit);

/* Takes all three; *otherwise* may be NULL. */
json_t *etcd_transaction(json_t *compares, json_t *operations, json_t *otherwise);

/* ---- what comes ---- */

typedef struct {
    char *key, *value; /* texts */
    gint64 made, written;
    uint64_t lease; /* 0: none */
} EtcdFound;

/* Of one reading operation. */
typedef struct {
    GPtrArray *entries; /* of EtcdFound */
    gboolean more;      /* there are more than were asked for */
} EtcdFoundList;

typedef struct {
    gint64 revision;  /* that the cluster has come to; what was written has it */
    gboolean done;    /* what was compared held */
    GPtrArray *reads; /* of EtcdFoundList, one for each operation that reads, in their order */
} EtcdOutcome;

void etcd_outcome_clear(EtcdOutcome *outcome);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(EtcdOutcome, etcd_outcome_clear)

gboolean etcd_outcome_read(json_t *answer, EtcdOutcome *ret, GError **error);

/* That list, or NULL; borrowed. */
const EtcdFoundList *etcd_outcome_list(const EtcdOutcome *outcome, guint number);
/* Its first entry, or NULL. */
const EtcdFound *etcd_outcome_first(const EtcdOutcome *outcome, guint number);
