#include "policy/lease.h"

#define NS_PER_MS ((uint64_t)1000000)
#define RENEWALS 4 /* in the time of a lease */

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

    lease_grantor_grant(&grantor, now_ns);
    return grantor;
}

void lease_grantor_grant(LeaseGrantor *grantor, uint64_t now_ns)
{
    grantor->until_ns = MAX(grantor->until_ns, now_ns + counted_length_ns(grantor->length_ms));
}

uint64_t lease_grantor_left_ns(const LeaseGrantor *grantor, uint64_t now_ns)
{
    return grantor->until_ns > now_ns ? grantor->until_ns - now_ns : 0;
}
