/* The end of a process's standard error, as its log has it. */
#pragma once

#include <glib.h>
#include <stddef.h>

/* Picks the last lines worth showing out of a log's tail: QEMU's own messages
 * where there are some (a guest's console may share the log), else the last
 * lines as they are.  Bounded, printable; NULL where there is nothing. */
char *stderr_tail_pick(const char *tail, size_t length);

/* The same for a file; NULL also where it cannot be read. */
char *stderr_tail_read(const char *path);
