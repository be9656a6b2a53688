/*
 * Orders to the workload: TCP, one a line (workload.c says which)
 *
 * A client that does not read what it asked for loses its connection.
 */
#pragma once

#include "settings.h"

/* Listens on port 7000: from now on clients can connect. */
void orders_open(void);

/* Serves them for ever.  *settings* are those in force; *wake_fd* is
 * readable when a check, disk check or free has ended. */
_Noreturn void orders_serve(const Settings *settings, int wake_fd);
