#include "policy/lease.h"

#include <math.h>

#define NS_PER_MS ((uint64_t)1000000)
#define RENEWALS 5 /* in the time of a lease */
/* A lease is so many times the longest time to the next one, which counts half after so long. */
#define LENGTH_SPANS 4
#define HALVES_AFTER_MS 2000.0

void lease_holder_grant(LeaseHolder *holder, LeaseOrigin origin, uint64_t sent_ns, guint length_ms)
{
    uint64_t until = sent_ns + length_ms * NS_PER_MS;

    holder->until_ns[origin] = MAX(holder->until_ns[origin], until);
}

uint64_t lease_holder_deadline(const LeaseHolder *holder)
{
    uint64_t deadline = 0;

    for (guint i = 0; i < LEASE_GRANTORS; i++)
        deadline = MAX(deadline, holder->until_ns[i]);
    return deadline;
}

guint lease_renewal_interval_ms(guint length_ms)
{
    return MAX(length_ms / RENEWALS, 1);
}

LeaseLength lease_length_new(guint shortest_ms, guint longest_ms, uint64_t now_ns)
{
    return (LeaseLength){.shortest_ms = MIN(shortest_ms, longest_ms),
                         .longest_ms = longest_ms,
                         .span_ms = (double)longest_ms / LENGTH_SPANS,
                         .noted_ns = now_ns};
}

static double ms_between(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? (double)(to_ns - from_ns) / (double)NS_PER_MS : 0;
}

void lease_length_note(LeaseLength *length, uint64_t sent_ns, uint64_t now_ns)
{
    if (sent_ns <= length->sent_ns)
        return;
    length->span_ms *= exp2(-ms_between(length->noted_ns, now_ns) / HALVES_AFTER_MS);
    if (length->sent_ns > 0)
        length->span_ms = MAX(length->span_ms, ms_between(length->sent_ns, now_ns));
    length->sent_ns = sent_ns;
    length->noted_ns = now_ns;
}

guint lease_length_choose(const LeaseLength *length)
{
    return (guint)CLAMP(length->span_ms * LENGTH_SPANS, length->shortest_ms, length->longest_ms);
}

/* From the grant on, by the grantor's clock. */
static uint64_t counted_length_ns(guint length_ms)
{
    return length_ms * NS_PER_MS + length_ms * (NS_PER_MS / 100) * LEASE_CLOCK_ERROR_PERCENT +
           LEASE_MARGIN_MS * NS_PER_MS;
}

LeaseGrantor lease_grantor_new(guint length_ms)
{
    return (LeaseGrantor){.length_ms = length_ms};
}

LeaseGrantor lease_grantor_after_restart(guint length_ms, uint64_t now_ns)
{
    LeaseGrantor grantor = lease_grantor_new(length_ms);

    lease_grantor_grant(&grantor, 0, now_ns);
    return grantor;
}

guint lease_grantor_grant(LeaseGrantor *grantor, guint wanted_ms, uint64_t now_ns)
{
    guint length_ms = wanted_ms > 0 ? MIN(wanted_ms, grantor->length_ms) : grantor->length_ms;

    grantor->until_ns = MAX(grantor->until_ns, now_ns + counted_length_ns(length_ms));
    return length_ms;
}

uint64_t lease_grantor_left_ns(const LeaseGrantor *grantor, uint64_t now_ns)
{
    return grantor->until_ns > now_ns ? grantor->until_ns - now_ns : 0;
}
