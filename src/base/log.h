/*
 * Logging
 *
 * One line an event on standard error, with a systemd priority prefix where
 * the journal reads it.  Severity follows who can cause a line: what a guest
 * or a peer can cause at will is debug or info; what an operator must act on
 * is warning or error.  Rooms below agent/ log at debug only; they return
 * errors instead.
 */
#pragma once

#include <glib.h>

typedef enum { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG } LogLevel;

/* What is printed from now on; the default is LOG_LEVEL_INFO. */
void log_set_level(LogLevel level);

void log_line(LogLevel level, const char *format, ...) G_GNUC_PRINTF(2, 3);

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)
