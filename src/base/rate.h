/*
 * Rates as users write them
 *
 * A number with an optional unit, case ignored:
 *
 *     100M  1.5G  800K      bytes a second, powers of 1000 ("B" or "B/s" may follow)
 *     64Ki  100Mi  1Gi      bytes a second, powers of 1024
 *     100mbit  1gbit        bits a second, as network users count
 *     1250000               bytes a second
 *     0  unlimited          no limit
 */
#pragma once

#include <glib.h>
#include <stdint.h>

/* Bytes a second; 0 for no limit. */
gboolean rate_parse(const char *text, uint64_t *ret, GError **error);

/* "12.5 MB/s"; free with g_free(). */
char *rate_format(double bytes_per_second);

/* "117.4 MB" (powers of 1000); free with g_free(). */
char *bytes_format(double bytes);
