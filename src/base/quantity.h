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

/* The number times its unit's factor; *units* end with a NULL unit.  FALSE
 * where it is no finite number of 0 or above, or the unit is none of these. */
gboolean quantity_parse(const char *text, const QuantityUnit *units, double *ret);

/* Whole milliseconds from 1 to *limit_ms*; *what* names the value in the error. */
gboolean duration_parse(const char *what, const char *text, guint limit_ms, guint *ret_ms,
                        GError **error);

/* "--deadline is from 1 ms to 1 h" as an error, where *ms* is not; for numbers
 * that came without a unit. */
gboolean duration_check(const char *what, uint64_t ms, guint limit_ms, GError **error);

/* Bytes from *least* to *limit*. */
gboolean size_parse(const char *what, const char *text, uint64_t least, uint64_t limit,
                    uint64_t *ret, GError **error);
gboolean size_check(const char *what, uint64_t bytes, uint64_t least, uint64_t limit,
                    GError **error);
