/*
 * The state directory
 *
 * Theory of operation: one JSON file a record, in one folder a kind of record (guests/NAME.json,
 * transactions/ID.json, departed/NAME.json, made-files/TRANSACTION.json, witness/TRANSACTION.json).
 * A record is replaced in one step, so that a reader after a crash finds the old or the new one.  One
 * agent at a time owns the directory, by a lock file.
 *
 * Records are read with suspicion: a file that is too long, no JSON, or named
 * by no valid name is moved aside as FILE.bad and reported, never trusted and
 * never lost.
 *
 * May be used from any thread; two writers of one record must agree among
 * themselves (a guest has one owner at a time).
 */
#pragma once

#include <glib.h>

#include "base/json.h"

#define STORE_RECORD_LIMIT (1u << 20)

typedef enum {
    STORE_GUEST,
    STORE_TRANSACTION,
    STORE_DEPARTURE,
    STORE_MADE_FILES,
    STORE_WITNESS
} StoreKind;

typedef struct StateStore StateStore;

/* Makes the directory where it is missing, and takes the lock.
 * VMFERRY_ERROR_BUSY: another agent has it. */
StateStore *state_store_open(const char *directory, GError **error);
void state_store_close(StateStore *store);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StateStore, state_store_close)

const char *state_store_get_directory(StateStore *store);

/* *durable*: on the disk, not only in the page cache, when this returns.
 * VMFERRY_ERROR_NO_SPACE says what to do. */
gboolean state_store_write(StateStore *store, StoreKind kind, const char *key, json_t *record,
                           gboolean durable, GError **error);
void state_store_remove(StateStore *store, StoreKind kind, const char *key);

/* One record, or NULL; free with json_decref(). */
json_t *state_store_read(StateStore *store, StoreKind kind, const char *key, GError **error);

/* Moves a record aside that a caller found to be wrong. */
void state_store_reject(StateStore *store, StoreKind kind, const char *key, const GError *why);

/* Whether one that was rejected is there still: whoever settles what it was about removes it. */
gboolean state_store_has_rejected(StateStore *store, StoreKind kind);

/* The keys there are; free with g_ptr_array_unref(). */
GPtrArray *state_store_list(StateStore *store, StoreKind kind, GError **error);
