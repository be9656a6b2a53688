/*
 * What the workload says on the guest's console, and its clock
 */
#pragma once

enum { MAX_LINE = 256, MAX_FINDINGS_SHOWN = 100 };

/* A line, cut at MAX_LINE. */
__attribute__((format(printf, 1, 2))) void say(const char *format, ...);

/* Says errno too, and ends the workload. */
_Noreturn void die(const char *what);

/* Of the guest's monotonic clock. */
double now_ms(void);
