#include "migrate/move_rate.h"

#include "base/lock_guard.h"

struct MoveRate {
    GMutex lock; /* protects all below; held while the session is told */
    uint64_t bytes_per_second;
    Session *session; /* borrowed */
};

MoveRate *move_rate_new(uint64_t bytes_per_second)
{
    MoveRate *rate = g_new0(MoveRate, 1);

    g_mutex_init(&rate->lock);
    rate->bytes_per_second = bytes_per_second;
    return rate;
}

void move_rate_free(MoveRate *rate)
{
    if (!rate)
        return;
    g_mutex_clear(&rate->lock);
    g_free(rate);
}

uint64_t move_rate_get(MoveRate *rate)
{
    lock_guard(&rate->lock);

    return rate->bytes_per_second;
}

uint64_t move_rate_set(MoveRate *rate, uint64_t bytes_per_second)
{
    lock_guard(&rate->lock);
    uint64_t before = rate->bytes_per_second;

    rate->bytes_per_second = bytes_per_second;
    if (rate->session && bytes_per_second != before)
        session_set_rate(rate->session, bytes_per_second);
    return before;
}

void move_rate_attach(MoveRate *rate, Session *session)
{
    lock_guard(&rate->lock);

    rate->session = session;
    if (session)
        session_set_rate(session, rate->bytes_per_second);
}
