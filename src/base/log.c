#include "base/log.h"

#include <stdatomic.h>
#include <stdio.h>

static atomic_int log_threshold = LOG_LEVEL_INFO;

void log_set_level(LogLevel level)
{
    atomic_store(&log_threshold, (int)level);
}

void log_line(LogLevel level, const char *format, ...)
{
    static const char *const journal_prefix[] = {"<3>", "<4>", "<6>", "<7>"};
    static const char *const names[] = {"error", "warning", "info", "debug"};
    g_autofree char *text = NULL;
    va_list args;

    if ((int)level > atomic_load(&log_threshold))
        return;
    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    if (g_getenv("JOURNAL_STREAM"))
        fprintf(stderr, "%s%s\n", journal_prefix[level], text);
    else
        fprintf(stderr, "vmferry: %s: %s\n", names[level], text);
}
