#include "engine/leadership.h"

#include "policy/lease.h"

#define NS_PER_MS ((uint64_t)1000000)
#define LOOKS_A_LEASE 5u
#define LONGEST_INTERVAL_MS 2000u

/* What etcd counts as a whole is less here. */
static uint64_t end_of(guint length_ms, uint64_t sent_ns)
{
    guint lost_ms = length_ms * LEASE_CLOCK_ERROR_PERCENT / 100 + LEASE_MARGIN_MS;

    return length_ms > lost_ms ? sent_ns + (length_ms - lost_ms) * NS_PER_MS : 0;
}

void leadership_note_granted(Leadership *leadership, uint64_t lease, guint length_ms,
                             uint64_t sent_ns)
{
    *leadership = (Leadership){
        .lease = lease, .length_ms = length_ms, .until_ns = end_of(length_ms, sent_ns)};
}

void leadership_note_kept(Leadership *leadership, guint left_ms, uint64_t sent_ns)
{
    if (left_ms == 0)
        *leadership = (Leadership){0};
    else
        leadership->until_ns = MAX(leadership->until_ns, end_of(left_ms, sent_ns));
}

void leadership_note_key(Leadership *leadership, gint64 made, uint64_t lease)
{
    leadership->term = lease > 0 && lease == leadership->lease ? made : 0;
}

gboolean leadership_is_held(const Leadership *leadership, uint64_t now_ns)
{
    return leadership_left_ms(leadership, now_ns) > 0;
}

guint leadership_left_ms(const Leadership *leadership, uint64_t now_ns)
{
    if (leadership->term == 0 || now_ns >= leadership->until_ns)
        return 0;
    return (guint)((leadership->until_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS);
}

guint leadership_interval_ms(guint length_ms)
{
    return MIN(length_ms / LOOKS_A_LEASE, LONGEST_INTERVAL_MS);
}
