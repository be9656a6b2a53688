/*
 * A few keys in etcd
 *
 * Theory of operation: etcd 3.4 or later, through the JSON gateway that each of its members has on its
 * client port (POST /v3/kv/txn).  Each etcd_commit() is one transaction, all of it or nothing: where each key that
 * is compared was last written at the revision that the caller knows, the writes are done; otherwise
 * nothing is, and the keys come as they are.  Revisions are never used twice in a cluster, so whoever
 * has to know that nobody has written since, or that something sent earlier and not answered cannot
 * come through any more, compares.  All is by the cluster's majority (linearizable), reads too.
 *
 * The members of *address* are tried one by one, beginning with the one that answered last, until one
 * has answered or the time is over; each has its share of what is left of it.  A transaction may so be
 * done although nobody has answered, also some time later.
 *
 * What comes is taken for hostile: sizes are limited, and each field is checked.
 *
 * Threads: one at a time.  The connection is kept.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "base/json.h"

#define ETCD_SCHEME "etcd://"
#define ETCD_DEFAULT_PORT 2379
#define ETCD_MAX_ENDPOINTS 8
#define ETCD_MAX_KEYS 2
#define ETCD_MAX_VALUE_BYTES 4096
#define ETCD_MAX_ANSWER_BYTES 32768

/* TRUE where *address* is to be one, right or wrong. */
gboolean etcd_is_address(const char *address);
/* etcd://HOST[:PORT][,HOST[:PORT]...] */
gboolean etcd_address_check(const char *address, GError **error);

typedef struct Etcd Etcd;

/* Connects to nobody yet. */
Etcd *etcd_new(const char *address, GError **error);
/* NULL-safe. */
void etcd_free(Etcd *etcd);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Etcd, etcd_free)

typedef struct {
    const char *key;
    gboolean is_compared;
    uint64_t revision; /* that it must have; 0: it must not be there */
    gboolean is_written;
    const char *value; /* NULL: deleted */
} EtcdKey;

/* What was found of a key. */
typedef struct {
    uint64_t revision; /* 0: it is not there */
    char *value;       /* NULL: it is not there */
    size_t length;
} EtcdEntry;

typedef struct {
    uint64_t cluster;  /* its id */
    uint64_t revision; /* that it has come to; what was written has it */
    gboolean written;  /* otherwise the keys are in *entries*, in their order */
    EtcdEntry entries[ETCD_MAX_KEYS];
} EtcdAnswer;

void etcd_answer_clear(EtcdAnswer *answer);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(EtcdAnswer, etcd_answer_clear)

/* One transaction, until *end_ns* (clock_now_ns()).  *ret_sent_ns*: clock_boot_ns() before what was
 * answered was sent.  FALSE: nobody has answered. */
gboolean etcd_commit(Etcd *etcd, const EtcdKey *keys, guint count, uint64_t end_ns,
                     uint64_t *ret_sent_ns, EtcdAnswer *ret, GError **error);

/* Any request that the gateway knows (*path* "/v3/lease/grant"), asked and timed in the same way.  The answer,
 * of at most *limit* bytes; free with json_decref().  NULL with *error*: nobody has answered. */
json_t *etcd_request(Etcd *etcd, const char *path, json_t *body, size_t limit, uint64_t end_ns,
                     uint64_t *ret_sent_ns, GError **error);

/* Of an answer: 64-bit numbers are texts in it, and those that are 0 are left out. */
gboolean etcd_get_number(json_t *object, const char *key, uint64_t max, uint64_t *ret,
                         GError **error);
/* Bytes, none where the key is missing; only as they are encoded canonically.  NULL with *error*: otherwise, or more than
 * *limit*.  Free with g_free(). */
guchar *etcd_get_bytes(json_t *object, const char *key, size_t limit, size_t *ret_length,
                       GError **error);

/* The two halves of etcd_commit(), without a network.  Free with g_free(). */
char *etcd_transaction_encode(const EtcdKey *keys, guint count);
gboolean etcd_answer_decode(const char *text, size_t length, const EtcdKey *keys, guint count,
                            EtcdAnswer *ret, GError **error);
