/*
 * Fault points
 *
 * A fault point is a named place where a test can make the program fail.  The
 * environment variable VMFERRY_FAULT holds a comma-separated list of
 * NAME=ACTION[@N], where ACTION is
 *
 *     kill       the process ends as by SIGKILL
 *     fail       the function that holds the point returns an error
 *     sleep:MS   the thread waits that many milliseconds
 *     stop       the process stops itself (SIGSTOP)
 *
 * and @N means "the Nth time only" (the default is every time).  Without the
 * variable a point costs one load.  All points are listed in fault.c, so that
 * a test can prove that it hits each of them (`vmferry agent --list-faults`).
 */
#pragma once

#include <glib.h>

/* Acts as the environment says.  Returns TRUE where the caller must fail; then
 * *error* (may be NULL) is set. */
gboolean fault_point(const char *name, GError **error);

/* NULL-terminated list of all points. */
const char *const *fault_list_points(void);
