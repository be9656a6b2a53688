/* A move's report: its exit code, and its text for users. */
#pragma once

#include <jansson.h>

#include "cli/cli.h"

/* "reason" of a report that was made up because the agent went away. */
#define REPORT_REASON_AGENT_LOST "agent-lost"

/* The exit code of `vmferry migrate`. */
CliExit report_get_exit(json_t *report);

/* The exit code of `vmferry cancel`: done where nothing has moved. */
CliExit report_get_cancel_exit(json_t *report);

/* What came of a `vmferry cancel`, by its report and that one's "kind".  Free with g_free(). */
char *report_describe_cancel(json_t *report, const char *guest);

/* A report for a move that has no other: it never began, or its agent went
 * away.  Free with json_decref(). */
json_t *report_make(const char *guest, const char *destination, const char *reason,
                    const char *error);

/* What made a guest hard to move, one sentence each without its subject: "was
 * slowed for 1.2 s, …".  Free with g_strfreev(). */
char **report_describe_guest(json_t *report);

/* For users. */
void report_print(json_t *report, const char *guest);
