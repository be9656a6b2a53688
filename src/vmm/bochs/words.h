/* A command line's words (command_line.h) on one host. */
#pragma once

#include <glib.h>

/* With the map rules applied (of VmmMapRule, NULL: none), and paths that are relative made absolute by *folder* (NULL:
 * they stay).  Free with g_strfreev(). */
char **bochs_words_resolve(char *const *words, const GPtrArray *rules, const char *folder);
