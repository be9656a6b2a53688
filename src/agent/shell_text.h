/* Shell scripts, as far as it matters whether they run something again.  Pure. */
#pragma once

#include <glib.h>

/* TRUE where while, until or for stands where a command may begin; comments and
 * quoted text do not count. */
gboolean shell_text_has_loop(const char *text);

typedef enum {
    SHELL_INTERACTIVE, /* reads orders from a terminal, or is told to */
    SHELL_TEXT,        /* -c TEXT */
    SHELL_SCRIPT,      /* a file */
    SHELL_INPUT,       /* reads orders from its standard input */
} ShellKind;

/* What a shell with this command line runs: the text or the file's path is
 * borrowed from *argv* (NULL for the other kinds). */
ShellKind shell_kind(char *const *argv, const char **ret_what);
