#include "agent/rate.h"

#include <math.h>
#include <string.h>

#include "base/error.h"

#define RATE_MAX 1e13

static const struct {
    const char *unit;
    double factor;
} units[] = {
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
};

static double find_factor(const char *unit)
{
    for (guint i = 0; i < G_N_ELEMENTS(units); i++)
        if (g_ascii_strcasecmp(unit, units[i].unit) == 0)
            return units[i].factor;
    return 0;
}

/* The unit without what may be said or left out: "MB/s" and "MB" are "M". */
static char *reduce_unit(const char *unit)
{
    g_autofree char *lower = g_ascii_strdown(unit, -1);

    if (g_str_has_suffix(lower, "/s"))
        lower[strlen(lower) - 2] = '\0';
    if (g_str_has_suffix(lower, "b"))
        lower[strlen(lower) - 1] = '\0';
    return g_steal_pointer(&lower);
}

gboolean rate_parse(const char *text, uint64_t *ret, GError **error)
{
    g_autofree char *unit = NULL;
    char *end = NULL;
    double value, factor;

    if (g_ascii_strcasecmp(text, "unlimited") == 0) {
        *ret = 0;
        return TRUE;
    }
    /* strtod() would take "inf", "nan" and hexadecimal too. */
    value = g_ascii_isdigit(text[0]) && text[1] != 'x' && text[1] != 'X'
                ? g_ascii_strtod(text, &end)
                : -1;
    unit = end ? reduce_unit(end) : g_strdup("?");
    factor = find_factor(unit);
    if (factor <= 0 || !isfinite(value) || value < 0 || value * factor > RATE_MAX ||
        (value > 0 && value * factor < 1)) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "\"%s\" is no rate: write bytes a second as 100M, 1.5G or 64Ki, "
                  "bits a second as 100mbit or 1gbit",
                  text);
        return FALSE;
    }
    *ret = (uint64_t)(value * factor);
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
