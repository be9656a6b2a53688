/* Shell scripts, as far as it matters whether they run something again.  Pure. */
#pragma once

#include <glib.h>

/* How the script may run something again ("runs it in a loop"), or NULL: while,
 * until or for stands where a command may begin; it starts itself ($0, or
 * *own_name*, the name of its file; NULL: $0 is something else); a function calls
 * itself; what comes after || is more than an end.  Comments and quoted text do
 * not count. */
const char *shell_text_find_repeat(const char *text, const char *own_name);

typedef enum {
    SHELL_INTERACTIVE, /* reads orders from a terminal, or is told to */
    SHELL_TEXT,        /* -c TEXT */
    SHELL_SCRIPT,      /* a file */
    SHELL_INPUT,       /* reads orders from its standard input */
} ShellKind;

/* What a shell with this command line runs: the text or the file's path is
 * borrowed from *argv* (NULL for the other kinds). */
ShellKind shell_kind(char *const *argv, const char **ret_what);
