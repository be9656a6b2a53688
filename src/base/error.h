/*
 * Errors with context
 *
 * Theory of operation: the whole tree uses GError with one domain,
 * VMFERRY_ERROR.  A function that can fail returns FALSE, NULL or -1 and
 * fills its last parameter; it never logs what it returns.  Callers add what
 * they know on the way up with g_prefix_error(), so that the text read at the
 * top goes from the wide to the narrow:
 *
 *     guest web1: attach: PAGEMAP_SCAN: not supported by kernel 6.1 (needs 6.7)
 *
 * The code says what kind of failure it is and decides what a caller does;
 * the text says what a user can do.
 */
#pragma once

#include <glib.h>

#define VMFERRY_ERROR vmferry_error_quark()
GQuark vmferry_error_quark(void);

typedef enum {
    VMFERRY_ERROR_FAILED,       /* anything without a better code */
    VMFERRY_ERROR_INVALID,      /* input breaks its format or limits */
    VMFERRY_ERROR_NOT_FOUND,    /* no such guest, file, process, device */
    VMFERRY_ERROR_EXISTS,       /* there is one already */
    VMFERRY_ERROR_UNSUPPORTED,  /* kernel, QEMU or guest lacks what is needed */
    VMFERRY_ERROR_REFUSED,      /* the peer or a rule says no */
    VMFERRY_ERROR_BUSY,         /* someone else holds it */
    VMFERRY_ERROR_TIMEOUT,      /* no answer in time */
    VMFERRY_ERROR_DISCONNECTED, /* the other side went away */
    VMFERRY_ERROR_CANCELLED,    /* the user asked to stop */
    VMFERRY_ERROR_NO_SPACE,     /* disk or memory is full */
    VMFERRY_ERROR_PERMISSION,   /* not allowed to */
    VMFERRY_ERROR_IN_DOUBT,     /* the outcome of a switchover is not known */
} VmferryErrorCode;

/* Stable name of a code, for JSON and the wire ("not-found"). */
const char *vmferry_error_code_name(VmferryErrorCode code);

/* The code for such a name; VMFERRY_ERROR_FAILED where it is unknown. */
VmferryErrorCode vmferry_error_code_from_name(const char *name);

/* The code that fits an errno value. */
VmferryErrorCode vmferry_error_code_from_errno(int errnum);

/* Fills *error (may be NULL) with a code and a formatted text. */
void error_set(GError **error, VmferryErrorCode code, const char *format, ...) G_GNUC_PRINTF(3, 4);

/* The same with ": strerror(errnum)" behind; the code comes from errnum. */
void error_set_errno(GError **error, int errnum, const char *format, ...) G_GNUC_PRINTF(3, 4);

/* TRUE if *error* is of our domain and has this code. */
gboolean error_is(const GError *error, VmferryErrorCode code);
