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

/* "1 h", "1500 ms": the largest unit that gives a whole number. */
static char *format_duration(guint ms)
{
    if (ms % 3600000 == 0)
        return g_strdup_printf("%u h", ms / 3600000);
    if (ms % 1000 == 0)
        return g_strdup_printf("%u s", ms / 1000);
    return g_strdup_printf("%u ms", ms);
}

gboolean duration_check(const char *what, uint64_t ms, guint limit_ms, GError **error)
{
    g_autofree char *limit = NULL;

    if (ms >= 1 && ms <= limit_ms)
        return TRUE;
    limit = format_duration(limit_ms);
    error_set(error, VMFERRY_ERROR_INVALID, "%s is from 1 ms to %s", what, limit);
    return FALSE;
}

gboolean duration_parse(const char *what, const char *text, guint limit_ms, guint *ret_ms,
                        GError **error)
{
    double ms;

    if (!quantity_parse(text, times, &ms)) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "%s: \"%s\" is no time: write 500ms, 2s, 1m, or a number of milliseconds", what,
                  text);
        return FALSE;
    }
    /* Compared before it becomes an integer, which not every number fits. */
    if (!duration_check(what, ms > limit_ms ? (uint64_t)limit_ms + 1 : (uint64_t)ms, limit_ms,
                        error))
        return FALSE;
    *ret_ms = (guint)ms;
    return TRUE;
}

/* "64Ki", "1Gi", "1000": as it may be typed. */
static char *format_size(uint64_t bytes)
{
    static const char *const units[] = {"", "Ki", "Mi", "Gi"};
    guint i = 0;

    while (i + 1 < G_N_ELEMENTS(units) && bytes > 0 && bytes % 1024 == 0) {
        bytes /= 1024;
        i++;
    }
    return g_strdup_printf("%" G_GUINT64_FORMAT "%s", (guint64)bytes, units[i]);
}

gboolean size_check(const char *what, uint64_t bytes, uint64_t least, uint64_t limit,
                    GError **error)
{
    g_autofree char *from = NULL, *to = NULL;

    if (bytes >= least && bytes <= limit)
        return TRUE;
    from = format_size(least);
    to = format_size(limit);
    error_set(error, VMFERRY_ERROR_INVALID, "%s is from %s to %s bytes", what, from, to);
    return FALSE;
}

gboolean size_parse(const char *what, const char *text, uint64_t least, uint64_t limit,
                    uint64_t *ret, GError **error)
{
    double bytes;

    if (!quantity_parse(text, sizes, &bytes)) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "%s: \"%s\" is no size: write 500M, 64Mi, 1Gi, or a number of bytes", what, text);
        return FALSE;
    }
    if (!size_check(what, bytes > (double)limit ? limit + 1 : (uint64_t)bytes, least, limit, error))
        return FALSE;
    *ret = (uint64_t)bytes;
    return TRUE;
}
