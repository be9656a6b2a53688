#include "pair_guest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/page.h"

#define WAIT_MS 60000
#define BYTES_OF_CPU 0x400u
#define SHARED_AT 0x800u
#define START_AT 0x804u

PairGuestStatistics pair_guest_read(GuestMemory *memory, guint region)
{
    const PageSpan span = {PAIR_GUEST_STATISTICS / PAGE_BYTES, 1};
    uint8_t page[PAGE_BYTES];
    PairGuestStatistics statistics;

    assert_true(guest_memory_read(memory, region, &span, 1, page, NULL));
    for (guint i = 0; i < G_N_ELEMENTS(statistics.cpus); i++)
        memcpy(&statistics.cpus[i], page + BYTES_OF_CPU * i, sizeof statistics.cpus[i]);
    memcpy(&statistics.shared, page + SHARED_AT, sizeof statistics.shared);
    return statistics;
}

void pair_guest_start(GuestMemory *memory, guint region)
{
    static const uint8_t yes[4] = {1};
    const GuestPiece piece = {PAIR_GUEST_STATISTICS + START_AT, sizeof yes, yes};

    assert_true(guest_memory_write_pieces(memory, region, &piece, 1, NULL));
}

static gboolean has_done(const PairGuestCpu *cpu, const PairGuestCpu *before, uint64_t ticks,
                         uint64_t rounds)
{
    return cpu->ticks >= before->ticks + ticks && cpu->rounds >= before->rounds + rounds;
}

PairGuestStatistics pair_guest_await(GuestMemory *memory, guint region, guint cpus,
                                     const PairGuestStatistics *before, uint64_t ticks,
                                     uint64_t rounds)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)WAIT_MS * 1000;

    for (;;) {
        PairGuestStatistics now = pair_guest_read(memory, region);
        guint done = 0;

        while (done < cpus && has_done(&now.cpus[done], &before->cpus[done], ticks, rounds))
            done++;
        if (done == cpus)
            return now;
        if (g_get_monotonic_time() > deadline)
            fail_msg("processor %u: %" G_GUINT64_FORMAT " ticks, %" G_GUINT64_FORMAT
                     " rounds, %" G_GUINT64_FORMAT " signals, before %" G_GUINT64_FORMAT
                     ", %" G_GUINT64_FORMAT,
                     done, now.cpus[done].ticks, now.cpus[done].rounds, now.cpus[done].signals,
                     before->cpus[done].ticks, before->cpus[done].rounds);
        usleep(5000);
    }
}

/* Each counts the rounds of both before its own. */
void pair_guest_expect_sound(const PairGuestStatistics *statistics)
{
    uint64_t rounds = 0;

    for (guint i = 0; i < G_N_ELEMENTS(statistics->cpus); i++) {
        assert_int_equal(statistics->cpus[i].wrong, 0);
        assert_int_equal(statistics->cpus[i].broken, 0);
        rounds += statistics->cpus[i].rounds;
    }
    assert_in_range(statistics->shared, rounds, rounds + 2);
    assert_int_equal(statistics->cpus[0].signals, 0);
}
