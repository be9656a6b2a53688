/*
 * What a look at a host came to: figures for GET /v1/load, counters for GET /v1/metrics
 *
 * A LoadReport does not change once it is made; whoever has a reference may read it from any thread.  Both
 * forms are made from the same readings, so that they cannot differ.
 */
#pragma once

#include "base/json.h"
#include "collect/guest_figures.h"
#include "collect/host_figures.h"

/* What whoever manages a guest says of it. */
typedef struct {
    char *name, *id;
    char *role, *state;
    uint64_t term;
    guint vcpus;           /* 0: not known */
    uint64_t memory_bytes; /* 0: not known */
} LoadGuestFacts;

void load_guest_facts_clear(LoadGuestFacts *facts);

typedef struct {
    LoadGuestFacts facts;
    GuestReading reading;
    GuestFigures figures;
} LoadGuest;

typedef struct {
    gatomicrefcount references;
    double wall; /* seconds since 1970 */
    HostReading host;
    HostFigures figures;
    GPtrArray *problems; /* of text: what cannot be told, and why */
    GPtrArray *guests;   /* of LoadGuest */
} LoadReport;

/* An empty one; free with load_report_unref(). */
LoadReport *load_report_new(void);
LoadReport *load_report_ref(LoadReport *report);
void load_report_unref(LoadReport *report);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(LoadReport, load_report_unref)

/* A new entry of report->guests, with everything unknown; it belongs to the report. */
LoadGuest *load_report_add_guest(LoadReport *report);

/* docs/api.md, GET /v1/load, without what says whose it is.  Unknown figures are null. */
json_t *load_report_to_json(const LoadReport *report);

/* Adds `vmferry_host_…` and `vmferry_guest_…` in the text format of Prometheus; what is unknown has no sample. */
void load_report_write_metrics(const LoadReport *report, GString *text);
