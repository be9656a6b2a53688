/*
 * The collector: what this host and its guests use, look by look
 *
 * Theory of operation: collector_look() reads all that there is to know (host_reader.h, guest_reader.h), sets it
 * against the look before (host_figures.h, guest_figures.h), and puts the LoadReport where
 * collector_get_report() finds it.  One thread looks, every two seconds or so; any thread may ask.
 *
 *     /proc, cgroup, rtnetlink ──► HostReading  ─┐ two of them ──► HostFigures  ─┐
 *     /proc/PID, its VMM       ──► GuestReading ─┘             ──► GuestFigures ─┴─► LoadReport
 *
 * Which guests there are, and which of them may be asked just now, the collector is told at each look
 * (CollectorSources): it knows nothing of roles, records and moves.  A VMM is asked last, when all else is read, so
 * that one that takes its time distorts no figure; one that does not answer at once is left alone for a
 * minute, and a look spends no more than COLLECTOR_ASK_MS on all of them together.
 *
 * Limits: swapped memory of a guest whose memory is shared (a memfd) is not told by the kernel for the process.
 * A card that is no tap device of the host (user mode, macvtap, vhost-user, a card that is passed
 * through) has no figures.
 */
#pragma once

#include "collect/load_report.h"
#include "vmm/vmm.h"

#define COLLECTOR_INTERVAL_MS 2000
#define COLLECTOR_ASK_MS 500

/* A guest, as it is at the moment of a look. */
typedef struct {
    LoadGuestFacts facts;
    pid_t pid; /* 0: it has no process */
    uint64_t start_time;
    Vmm *vmm;       /* may be asked; NULL: must not, something is being done with the guest */
    gpointer owner; /* keeps *vmm* … */
    void (*release)(gpointer owner); /* … until this is called; NULL: nothing need be */
    /* Called once *vmm* has just answered, so that it can be asked for more; NULL: nothing is wanted. */
    void (*learn)(gpointer owner);
} CollectorGuest;

/* Free with it what a CollectorSources.list() allocates. */
void collector_guest_free(CollectorGuest *guest);

typedef struct {
    const char *root; /* of host_reader_new() */
    /* The guests, of CollectorGuest; free with g_ptr_array_unref(). */
    GPtrArray *(*list)(gpointer user);
    void (*read_moves)(gpointer user, MoveCounters *ret);
    gpointer user;
} CollectorSources;

typedef struct Collector Collector;

Collector *collector_new(const CollectorSources *sources);
void collector_free(Collector *collector);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Collector, collector_free)

/* By one thread at a time. */
void collector_look(Collector *collector);

/* What the last look came to, as a new reference; waits for the first one, and is NULL where that has not come
 * within *timeout_ms*. */
LoadReport *collector_get_report(Collector *collector, guint timeout_ms);
