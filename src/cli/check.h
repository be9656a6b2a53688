/*
 * What `vmferry check` finds
 *
 * Every finding is one line for people and one object for programs: what was
 * looked at, whether it works, what was found, and what to change.
 */
#pragma once

#include <glib.h>
#include <jansson.h>

typedef enum {
    FINDING_GOOD,
    FINDING_NOTE, /* not there, and moves are possible without it */
    FINDING_BAD,  /* no move is possible */
} FindingGrade;

typedef struct Findings Findings;

Findings *findings_new(void);
void findings_free(Findings *findings);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Findings, findings_free)

/* *advice* may be NULL. */
void findings_add(Findings *findings, const char *topic, FindingGrade grade, const char *detail,
                  const char *advice);

void findings_print(Findings *findings);

/* "findings": […], "moves_possible": … */
json_t *findings_to_json(Findings *findings);

/* TRUE where nothing is bad. */
gboolean findings_are_good(Findings *findings);

/* The probes. */
void check_kernel(Findings *findings);
void check_qemu(Findings *findings);
void check_pki(Findings *findings, const char *directory);
