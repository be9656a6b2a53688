#include "bare_guest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/page.h"

#define WAIT_MS 60000

BareGuestStatistics bare_guest_read(GuestMemory *memory, guint region)
{
    const PageSpan span = {BARE_GUEST_STATISTICS / PAGE_BYTES, 1};
    uint8_t page[PAGE_BYTES];
    BareGuestStatistics statistics;

    assert_true(guest_memory_read(memory, region, &span, 1, page, NULL));
    memcpy(&statistics, page, sizeof statistics);
    return statistics;
}

BareGuestStatistics bare_guest_await(GuestMemory *memory, guint region, uint64_t ticks,
                                     uint64_t rounds)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)WAIT_MS * 1000;

    for (;;) {
        BareGuestStatistics statistics = bare_guest_read(memory, region);

        if (statistics.ticks >= ticks && statistics.rounds >= rounds)
            return statistics;
        if (g_get_monotonic_time() > deadline)
            fail_msg("%" G_GUINT64_FORMAT " ticks, %" G_GUINT64_FORMAT " rounds", statistics.ticks,
                     statistics.rounds);
        usleep(5000);
    }
}

void bare_guest_expect_sound(const BareGuestStatistics *statistics)
{
    assert_int_equal(statistics->wrong, 0);
    assert_int_equal(statistics->broken, 0);
}
