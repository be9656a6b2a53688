/*
 * Post-copy: what switching over now would cost the guest
 *
 * Theory of operation: after the switchover the pending pages are pushed, hottest groups first, and
 * a page that the guest touches before it is there makes it wait for a fault's answer, F ms.  While
 * the guest touches missing pages at x / F per ms of its running, it loses x / (1 + x) of its time.
 * As a bucket of like pages is pushed, x falls from x1 (these and all colder ones are missing) to
 * x0 (the colder ones are), in even steps, so that the mean share lost is
 *
 *     1 - ln((1 + x1) / (1 + x0)) / (x1 - x0)
 *
 * of the time that pushing them takes.  Pages that are only read are at the destination since the
 * first round, and count for nothing here; so do pages that are not written any more.
 *
 * In post-copy a page is sent as if it had never been, since what the destination had of it is
 * gone: whole, or packed by itself.
 *
 * It is an upper limit: all of the guest's writing is taken for that of one thread, and pages that
 * faults have fetched are not taken off.
 */
#pragma once

#include "policy/convergence.h"

typedef struct {
    double push_ms; /* until the last page is there */
    double lost_ms; /* of the guest's time, in it */
} PostcopyForecast;

PostcopyForecast postcopy_model_forecast(const ConvergenceGroup *groups, guint count,
                                         double bytes_per_ms);

/* F: how long a thread waits for a page over such a link while others are pushed. */
double postcopy_model_fault_ms(double bytes_per_ms);
