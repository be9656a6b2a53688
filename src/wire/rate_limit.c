#include "wire/rate_limit.h"

#define NS_PER_S 1000000000ULL
#define BURST_NS (RATE_LIMIT_BURST_MS * 1000000ULL)
#define PIECES_PER_BURST 4
#define MIN_PIECE 512u
#define MAX_PIECE (256u << 10)

void rate_limit_init(RateLimit *limit, uint64_t bytes_per_second, uint64_t now_ns)
{
    *limit = (RateLimit){.bytes_per_second = bytes_per_second, .paid_at_ns = now_ns};
}

size_t rate_limit_piece(const RateLimit *limit)
{
    uint64_t per_burst = limit->bytes_per_second / (1000 / RATE_LIMIT_BURST_MS);

    if (limit->bytes_per_second == 0)
        return MAX_PIECE;
    return (size_t)CLAMP(per_burst / PIECES_PER_BURST, MIN_PIECE, MAX_PIECE);
}

/* Credit older than the burst is forgotten. */
static uint64_t paid_at(const RateLimit *limit, uint64_t now_ns)
{
    return now_ns > BURST_NS ? MAX(limit->paid_at_ns, now_ns - BURST_NS) : limit->paid_at_ns;
}

uint64_t rate_limit_delay_ns(const RateLimit *limit, size_t bytes, uint64_t now_ns)
{
    uint64_t ready_at;

    if (limit->bytes_per_second == 0)
        return 0;
    ready_at = paid_at(limit, now_ns) + bytes * NS_PER_S / limit->bytes_per_second;
    /* A piece that is larger than the whole burst (only at a few kB/s) waits
     * for a full bucket and goes into debt. */
    if (bytes * NS_PER_S / limit->bytes_per_second > BURST_NS)
        ready_at = paid_at(limit, now_ns) + BURST_NS;
    return ready_at > now_ns ? ready_at - now_ns : 0;
}

void rate_limit_charge(RateLimit *limit, size_t bytes, uint64_t now_ns)
{
    uint64_t work = bytes * NS_PER_S + limit->remainder;

    if (limit->bytes_per_second == 0)
        return;
    limit->paid_at_ns = paid_at(limit, now_ns) + work / limit->bytes_per_second;
    limit->remainder = work % limit->bytes_per_second;
}
