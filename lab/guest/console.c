#define _GNU_SOURCE
#include "console.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int format_line(char *line, size_t size, const char *format, va_list args)
{
    int n = vsnprintf(line, size - 1, format, args);

    if (n > (int)size - 2)
        n = size - 2;
    line[n++] = '\n';
    return n;
}

void say(const char *format, ...)
{
    char line[MAX_LINE];
    va_list args;

    va_start(args, format);
    int n = format_line(line, sizeof(line), format, args);
    va_end(args);
    if (write(STDOUT_FILENO, line, n) < 0)
        return;
}

_Noreturn void die(const char *what)
{
    say("lab: FATAL %s: %s", what, strerror(errno));
    exit(1);
}

double now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}
