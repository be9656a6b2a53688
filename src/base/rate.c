#include "base/rate.h"

#include <string.h>

#include "base/quantity.h"
#include "base/error.h"

static const QuantityUnit units[] = {
    {"", 1},
    {"k", 1e3},
    {"m", 1e6},
    {"g", 1e9},
    {"t", 1e12},
    {"ki", 1024.0},
    {"mi", 1024.0 * 1024},
    {"gi", 1024.0 * 1024 * 1024},
    {"bit", 1 / 8.0},
    {"kbit", 1e3 / 8},
    {"mbit", 1e6 / 8},
    {"gbit", 1e9 / 8},
    {NULL, 0},
};

/* Without what may be said or left out: "1MB/s" and "1MB" are "1m". */
static char *reduce(const char *text)
{
    g_autofree char *lower = g_ascii_strdown(text, -1);

    if (g_str_has_suffix(lower, "/s"))
        lower[strlen(lower) - 2] = '\0';
    if (g_str_has_suffix(lower, "b"))
        lower[strlen(lower) - 1] = '\0';
    return g_steal_pointer(&lower);
}

gboolean rate_parse(const char *text, uint64_t *ret, GError **error)
{
    g_autofree char *reduced = reduce(text);
    double rate;

    if (g_ascii_strcasecmp(text, "unlimited") == 0) {
        *ret = 0;
        return TRUE;
    }
    if (!quantity_parse(reduced, units, &rate) || rate > RATE_LIMIT || (rate > 0 && rate < 1)) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "\"%s\" is not a valid rate: write bytes per second as 100M, 1.5G or 64Ki, "
                  "bits per second as 100mbit or 1gbit",
                  text);
        return FALSE;
    }
    *ret = (uint64_t)rate;
    return TRUE;
}

char *bytes_format(double bytes)
{
    static const char *const names[] = {"B", "kB", "MB", "GB", "TB"};
    guint i = 0;

    while (bytes >= 999.5 && i + 1 < G_N_ELEMENTS(names)) {
        bytes /= 1000;
        i++;
    }
    return g_strdup_printf(i == 0 || bytes >= 99.95 ? "%.0f %s" : "%.1f %s", bytes, names[i]);
}

char *rate_format(double bytes_per_second)
{
    g_autofree char *bytes = bytes_format(bytes_per_second);

    return g_strconcat(bytes, "/s", NULL);
}
