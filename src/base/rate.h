/*
 * Rates as users write them
 *
 * A number with an optional unit, case ignored:
 *
 *     100M  1.5G  800K      bytes per second, powers of 1000 ("B" or "B/s" may follow)
 *     64Ki  100Mi  1Gi      bytes per second, powers of 1024
 *     100mbit  1gbit        bits per second, as network users count
 *     1250000               bytes per second
 *     0  unlimited          no limit
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#define RATE_LIMIT UINT64_C(10000000000000)

/* Bytes per second, at most RATE_LIMIT; 0 for no limit. */
gboolean rate_parse(const char *text, uint64_t *ret, GError **error);

/* "12.5 MB/s"; free with g_free(). */
char *rate_format(double bytes_per_second);

/* "117.4 MB" (powers of 1000); free with g_free(). */
char *bytes_format(double bytes);
