/*
 * What the workload says on the guest's console, and its clock
 */
#pragma once

#include <stdarg.h>
#include <stddef.h>

enum { MAX_LINE = 256, MAX_FINDINGS_SHOWN = 100 };

/* Makes a line of at most *size* bytes, its end included and no NUL; returns its length. */
int format_line(char *line, size_t size, const char *format, va_list args);

/* A line, cut at MAX_LINE. */
__attribute__((format(printf, 1, 2))) void say(const char *format, ...);

/* Says errno too, and ends the workload. */
_Noreturn void die(const char *what);

/* Of the guest's monotonic clock. */
double now_ms(void);
