#include "base/quantity.h"

#include <math.h>
#include <string.h>

#include "base/error.h"

static const QuantityUnit times[] = {
    {"", 1}, {"ms", 1}, {"s", 1e3}, {"m", 6e4}, {"min", 6e4}, {"h", 3.6e6}, {NULL, 0},
};

#define KI 1024.0
static const QuantityUnit sizes[] = {
    {"", 1},        {"b", 1},        {"k", 1e3},         {"kb", 1e3},
    {"m", 1e6},     {"mb", 1e6},     {"g", 1e9},         {"gb", 1e9},
    {"t", 1e12},    {"tb", 1e12},    {"ki", KI},         {"kib", KI},
    {"mi", KI *KI}, {"mib", KI *KI}, {"gi", KI *KI *KI}, {"gib", KI *KI *KI},
    {NULL, 0},
};

gboolean quantity_parse(const char *text, const QuantityUnit *units, double *ret)
{
    char *end = NULL;
    double value;

    /* strtod() would take "inf", "nan" and hexadecimal too. */
    if (!g_ascii_isdigit(text[0]) || text[1] == 'x' || text[1] == 'X')
        return FALSE;
    value = g_ascii_strtod(text, &end);
    if (!isfinite(value) || value < 0)
        return FALSE;
    for (; units->unit; units++) {
        if (g_ascii_strcasecmp(end, units->unit) == 0) {
            *ret = value * units->factor;
            return TRUE;
        }
    }
    return FALSE;
}

static gboolean parse(const char *text, const QuantityUnit *units, double *ret, const char *what,
                      const char *how, GError **error)
{
    if (quantity_parse(text, units, ret))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not a valid %s: write %s", text, what, how);
    return FALSE;
}

gboolean time_parse(const char *text, double *ret_ms, GError **error)
{
    return parse(text, times, ret_ms, "time", "500ms, 2s, 1m, or a number of milliseconds", error);
}

gboolean size_parse(const char *text, double *ret_bytes, GError **error)
{
    return parse(text, sizes, ret_bytes, "size", "500M, 64Mi, 1Gi, or a number of bytes", error);
}

char *time_format(guint ms)
{
    if (ms % 3600000 == 0)
        return g_strdup_printf("%u h", ms / 3600000);
    if (ms % 1000 == 0)
        return g_strdup_printf("%u s", ms / 1000);
    return g_strdup_printf("%u ms", ms);
}

char *size_format(uint64_t bytes)
{
    static const char *const units[] = {"", "Ki", "Mi", "Gi"};
    guint i = 0;

    while (i + 1 < G_N_ELEMENTS(units) && bytes > 0 && bytes % 1024 == 0) {
        bytes /= 1024;
        i++;
    }
    return g_strdup_printf("%" G_GUINT64_FORMAT "%s", (guint64)bytes, units[i]);
}
