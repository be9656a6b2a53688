/*
 * What is kept of a transaction by a witness that only keeps it (witness_etcd.h)
 *
 * Two texts of JSON, a record and a lease (docs/witness.md, section 6).  What is read is taken for hostile.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "wire/witness_message.h"

#define WITNESS_RECORD_MAX_BYTES 4096

typedef enum { WITNESS_ROLE_SOURCE, WITNESS_ROLE_DESTINATION, WITNESS_ROLES } WitnessRole;

typedef struct {
    char *guest, *guest_id;
    uint64_t term;
    char *parties[WITNESS_ROLES]; /* their agents' ids */
    char *destination_name;       /* of its certificate; "": not checked */
    guint lease_ms;               /* the longest */
    WitnessState state;
} WitnessRecord;

void witness_record_clear(WitnessRecord *record);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(WitnessRecord, witness_record_clear)

/* With *state* instead of its own.  NULL: a text in it is no UTF-8.  Free with g_free(). */
char *witness_record_encode(const WitnessRecord *record, const char *transaction,
                            WitnessState state);
/* It has to be of *transaction*.  *ret* is to be cleared in any case. */
gboolean witness_record_decode(const char *text, size_t length, const char *transaction,
                               WitnessRecord *ret, GError **error);

/* Free with g_free(). */
char *witness_lease_encode(guint lease_ms);
gboolean witness_lease_decode(const char *text, size_t length, guint *ret, GError **error);
