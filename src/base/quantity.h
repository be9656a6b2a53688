/*
 * Amounts as users write them
 *
 * A number with an optional unit, case ignored; fractions may be written.
 *
 *     times    300 (milliseconds)  500ms  2s  1.5s  1m (or min)  1h
 *     sizes    100M  1.5G  800K (powers of 1000)  64Ki  100Mi  1Gi (powers of
 *              1024); a "B" may follow, as in 64MiB; no unit: bytes
 *
 * Rates are in rate.h.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

typedef struct {
    const char *unit; /* lower case */
    double factor;
} QuantityUnit;

/* The number times its unit's factor; *units* end with a NULL unit.  FALSE where *text* is not a
 * finite number of 0 or above, or its unit is none of these. */
gboolean quantity_parse(const char *text, const QuantityUnit *units, double *ret);

/* An amount that may be larger than any integer; the caller checks its limits.  The error shows how
 * one is written. */
gboolean time_parse(const char *text, double *ret_ms, GError **error);
gboolean size_parse(const char *text, double *ret_bytes, GError **error);

/* "1 h", "1500 ms": the largest unit that gives a whole number.  Free with g_free(). */
char *time_format(guint ms);

/* "64Ki", "1Gi", "1000": as it may be typed.  Free with g_free(). */
char *size_format(uint64_t bytes);
