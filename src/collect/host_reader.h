/*
 * Reads what a host's figures are made from
 *
 * Files of /proc, or, with a *root*, those of that control group of version 2: then "this host" is
 * what is in there, which is how several agents on one machine have a host each.  What such a group does not
 * limit is as for the whole machine: memory without a limit, or without a controller, is the machine's.
 * Limits of groups above it are not looked at.
 */
#pragma once

#include "collect/host_figures.h"

typedef struct HostReader HostReader;

/* *root*: NULL, or the group's folder. */
HostReader *host_reader_new(const char *root);
void host_reader_free(HostReader *reader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(HostReader, host_reader_free)

/* What cannot be read is unknown, and why it is added to *problems* (of text).  All but `moves`; clear
 * *ret* with host_reading_clear(). */
void host_reader_read(HostReader *reader, GPtrArray *problems, HostReading *ret);
