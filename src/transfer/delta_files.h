/*
 * What the files of a delta store hold (delta_store.h)
 *
 *     head        magic, version, the transaction, name and pages of each region
 *     committed   magic, version, the epoch, its runs, its device state, its note
 *
 * A *run* says where pages of a region have their content: all are zero, or they lie in the file of
 * contents, one after the other from a place on.  Places count from DELTA_PLACE_FIRST on.
 *
 * The files are read by the host that wrote them and by no other: numbers are the machine's own.
 *
 * Pure functions; any number of threads.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "transfer/page_source.h"

#define DELTA_MAX_STATE_BYTES (64u << 20)
#define DELTA_MAX_NOTE_BYTES (1u << 20)
/* Of all regions together: a place is a number of 32 bits. */
#define DELTA_MAX_PAGES (UINT64_C(1) << 30)
/* Of one epoch. */
#define DELTA_MAX_RUNS (1u << 26)
#define DELTA_MAX_RECORD_BYTES                                                                     \
    (4096 + DELTA_MAX_RUNS * sizeof(DeltaRun) + DELTA_MAX_STATE_BYTES + DELTA_MAX_NOTE_BYTES)

enum { DELTA_PLACE_NONE, DELTA_PLACE_ZERO, DELTA_PLACE_FIRST };

typedef struct {
    uint32_t region;
    uint32_t place; /* of the first page, or DELTA_PLACE_ZERO: of all */
    uint64_t first, count;
} DeltaRun;

typedef struct {
    char *transaction;
    PageRegions regions;
} DeltaHead;

/* NULL-safe. */
void delta_head_free(DeltaHead *head);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DeltaHead, delta_head_free)

/* A copy of what it is given; INVALID where a text is too long, or regions are too many, empty or
 * too large. */
DeltaHead *delta_head_new(const char *transaction, const PageRegions *regions, GError **error);

GByteArray *delta_head_encode(const DeltaHead *head);
/* INVALID where it is damaged. */
DeltaHead *delta_head_decode(const void *data, size_t length, GError **error);

typedef struct {
    uint64_t epoch;
    GArray *runs;  /* of DeltaRun; a later one says more than an earlier one */
    GBytes *state; /* may be empty */
    GBytes *note;  /* the same */
} DeltaRecord;

/* NULL-safe. */
void delta_record_free(DeltaRecord *record);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DeltaRecord, delta_record_free)

GByteArray *delta_record_encode(const DeltaRecord *record);
/* *places*: they are below this number.  INVALID where it is damaged. */
DeltaRecord *delta_record_decode(const void *data, size_t length, const PageRegions *regions,
                                 uint64_t places, GError **error);
