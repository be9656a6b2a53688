/*
 * Leases: for how long a guest may run
 *
 * Theory of operation: a *holder* lets its guest run only while at least one of its *grantors* has
 * promised that nobody else will.  A promise is for a length of time, and no clock is shared: both
 * sides count by a clock of their own (clock_boot_ns(), which goes on while the host sleeps), and
 * the one that would be hurt counts shorter:
 *
 *     holder   sends at t0 ──► request ──► grantor, at g1      holder's lease ends at t0 + length
 *              grantor's answer ◄────────                      grantor's, at g1 + length + margin
 *
 * The holder counts from when it *sent* the request, which was before g1, however long the answer
 * took.  The grantor takes the lease to be longer by the largest difference of two clocks' rates
 * (LEASE_CLOCK_ERROR_PERCENT; quartz is a hundred times better) and by LEASE_MARGIN_MS, the time that
 * a holder's last instructions may take.  So when a grantor says "ended", the holder has stopped.
 *
 * Limits: a host whose clock stands still (a virtual machine that its hypervisor has paused) is not
 * covered: its lease stands still, too.
 *
 * Pure: all times are given, in nanoseconds of the caller's own clock.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#define LEASE_CLOCK_ERROR_PERCENT 1
#define LEASE_MARGIN_MS 50
#define LEASE_DEFAULT_MS 3000
/* What a holder's pause, a grantor's look at its clock and a busy host take is then still little of it. */
#define LEASE_SHORTEST_MS 150

/* ---- the side that runs ---- */

typedef enum { LEASE_OF_PEER, LEASE_OF_WITNESS, LEASE_GRANTORS } LeaseOrigin;

typedef struct {
    uint64_t until_ns[LEASE_GRANTORS]; /* 0: none */
} LeaseHolder;

/* A grantor has answered a request that was sent at *sent_ns*.  An answer that comes late, or out of
 * order, does no harm. */
void lease_holder_grant(LeaseHolder *holder, LeaseOrigin origin, uint64_t sent_ns, guint length_ms);

/* When the last lease ends: the guest must not run from then on.  0: there never was one. */
uint64_t lease_holder_deadline(const LeaseHolder *holder);

static inline gboolean lease_holder_may_run(const LeaseHolder *holder, uint64_t now_ns)
{
    return now_ns < lease_holder_deadline(holder);
}

/* How long after a request the next one is sent: three may be lost. */
guint lease_renewal_interval_ms(guint length_ms);

/* ---- how long a lease the holder asks for ----
 *
 * A short lease is a short wait until a guest goes on elsewhere; one that is shorter than what a host
 * that is busy, or a path, at times takes to bring the next one stops a guest that could run.  So
 * the holder asks for a few times the longest that it has lately had to do with one lease. */

typedef struct {
    guint shortest_ms, longest_ms; /* the same: it is always that */
    uint64_t sent_ns;              /* when the lease that ends last was asked for */
    double span_ms;                /* the longest from there to the next one; halves by and by */
    uint64_t noted_ns;
} LeaseLength;

/* Nothing is known yet: the longest. */
LeaseLength lease_length_new(guint shortest_ms, guint longest_ms, uint64_t now_ns);

/* A lease has come now that was asked for at *sent_ns*. */
void lease_length_note(LeaseLength *length, uint64_t sent_ns, uint64_t now_ns);

/* For how long the next one is to be. */
guint lease_length_choose(const LeaseLength *length);

/* ---- the side that promises ---- */

typedef struct {
    guint length_ms;   /* the longest that it grants */
    uint64_t until_ns; /* when the last lease has certainly ended */
} LeaseGrantor;

/* Nothing was granted by this grantor before. */
LeaseGrantor lease_grantor_new(guint length_ms);

/* A grantor that does not know what it granted before: it takes it for certain that it granted the
 * longest lease just now. */
LeaseGrantor lease_grantor_after_restart(guint length_ms, uint64_t now_ns);

/* The promise from now on, for *wanted_ms* (0: the longest); the answer is sent after this.  Returns for how
 * long it is: not for more than the longest. */
guint lease_grantor_grant(LeaseGrantor *grantor, guint wanted_ms, uint64_t now_ns);

/* How long until the holder has certainly stopped; 0: it has. */
uint64_t lease_grantor_left_ns(const LeaseGrantor *grantor, uint64_t now_ns);

static inline gboolean lease_grantor_has_ended(const LeaseGrantor *grantor, uint64_t now_ns)
{
    return lease_grantor_left_ns(grantor, now_ns) == 0;
}
