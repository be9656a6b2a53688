/*
 * Helper processes: our own program, executed anew
 *
 * Theory of operation: some things must go on when this process dies, or must not hang with it.  A
 * helper does them in a process of its own.  It is this very program (/proc/self/exe) with a name
 * for its only argument: a function that runs before main() knows the name and never returns, in
 * whatever program it is linked into.  So a helper shares no memory with us, keeps nothing open that
 * our death is to close, and no file has to be found or to fit our version.
 *
 * It finds /dev/null as standard input and output, our standard error, and what it is given from
 * HELPER_FIRST_FD on.  It is in a session of its own with all signals blocked: it outlives the
 * signals that end our group, and learns of our end by that of a descriptor.
 *
 *     HELPER_MAIN("vmferry-example", example_main)
 *     …
 *     pid = helper_start("vmferry-example", &fd, 1, error);
 */
#pragma once

#include <glib.h>
#include <sys/types.h>
#include <unistd.h>

#define HELPER_FIRST_FD 3
#define HELPER_MAX_FDS 8

/* Starts one; the descriptors (-1: none) are copied, and close-on-exec may be set on them.  Its
 * parent is this process: end it with helper_wait().  -1 with *error*. */
pid_t helper_start(const char *name, const int *fds, guint count, GError **error);

/* Returns when it has ended, TRUE; or FALSE after *timeout_ms* (-1: never). */
gboolean helper_wait(pid_t pid, int timeout_ms);

/* TRUE where these arguments of a program are those of this helper; makes it bear its name. */
gboolean helper_is(int argc, char *const *argv, const char *name);

/* *function* (without arguments) is what the helper does; it ends where that returns. */
#define HELPER_MAIN(name, function)                                                                \
    __attribute__((constructor)) static void function##_begin(int argc, char **argv)               \
    {                                                                                              \
        if (!helper_is(argc, argv, name))                                                          \
            return;                                                                                \
        function();                                                                                \
        _exit(0);                                                                                  \
    }

/* TRUE where these arguments are those of a helper that takes one argument. */
gboolean helper_is_with_argument(int argc, char *const *argv, const char *name);

/* The same for one that a guard starts (guard/action.h): *function* takes its argument, and returns its exit code. */
#define HELPER_MAIN_WITH_ARGUMENT(name, function)                                                  \
    __attribute__((constructor)) static void function##_begin(int argc, char **argv)               \
    {                                                                                              \
        if (helper_is_with_argument(argc, argv, name))                                             \
            _exit(function(argv[1]));                                                              \
    }
