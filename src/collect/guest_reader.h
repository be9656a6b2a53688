/*
 * Reads what a guest's figures are made from: files of its process
 *
 * Theory of operation: a GuestReader is of one process, named by pid and start time, and keeps what need not
 * be found anew at each look: which threads run vCPUs (the VMM says so), and which tap devices the
 * process has open.  The latter are found from its descriptors of /dev/net/tun, now and then, since cards
 * come and go.  Their counters are in the list of interfaces that was read for all guests at once; those of a
 * process in another network namespace are read in there (/proc/PID/net/dev).
 */
#pragma once

#include "collect/guest_figures.h"

typedef struct GuestReader GuestReader;

GuestReader *guest_reader_new(pid_t pid, uint64_t start_time);
void guest_reader_free(GuestReader *reader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GuestReader, guest_reader_free)

gboolean guest_reader_is_of(const GuestReader *reader, pid_t pid, uint64_t start_time);

/* The threads that run its vCPUs, of pid_t (copied); without any nothing is told of vCPUs. */
void guest_reader_set_threads(GuestReader *reader, const GArray *threads);
gboolean guest_reader_has_threads(const GuestReader *reader);

/* All but the disk.  *links*: of Link, as just read; may be NULL.  FALSE, and *ret* is empty, where there is no
 * such process (any more).  Clear *ret* with guest_reading_clear(). */
gboolean guest_reader_read(GuestReader *reader, const GArray *links, GuestReading *ret);
