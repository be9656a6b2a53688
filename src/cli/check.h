/*
 * What `vmferry check` finds
 *
 * Every finding is one line for users and one object for programs: what was
 * examined, whether it works, what was found, and what to change.
 */
#pragma once

#include <glib.h>
#include <jansson.h>

#include "agent/settings.h"

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

/* The list, and the conclusion from it. */
void findings_print(Findings *findings, const char *verdict);

/* "findings": […], "moves_possible": … */
json_t *findings_to_json(Findings *findings);

/* TRUE where nothing is bad. */
gboolean findings_are_good(Findings *findings);

/* Of the way to another host: "path_usable" in place of "moves_possible", and *report* besides
 * (taken). */
json_t *findings_to_path_json(Findings *findings, json_t *report);

/* The probes. */
void check_kernel(Findings *findings);
void check_qemu(Findings *findings);
/* Whether libvirt's guests can be adopted.  Starts threads. */
void check_libvirt(Findings *findings);

/* How this host proves to others who it is.  *agent*: what its agent says of
 * itself, NULL where none answers; *named*: the settings' directory counts,
 * whatever the agent uses. */
void check_pki(Findings *findings, const AgentSettings *settings, gboolean named, json_t *agent);

/* What an agent's answer to POST /v1/check says of the way. */
void check_path(Findings *findings, json_t *report);
