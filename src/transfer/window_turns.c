#include "transfer/window_turns.h"

#include "base/clock.h"
#include "base/lock_guard.h"
#include "page/pack_window.h"

struct WindowTurns {
    uint64_t taken; /* the last one */
    GMutex lock;    /* protects all below */
    GCond ended;
    uint64_t over;      /* the last turn that is */
    PackWindow *window; /* whose turn it is has it without the lock */
};

WindowTurns *window_turns_new(guint log)
{
    WindowTurns *turns = g_new0(WindowTurns, 1);

    g_mutex_init(&turns->lock);
    g_cond_init(&turns->ended);
    turns->window = pack_window_new(log);
    return turns;
}

void window_turns_free(WindowTurns *turns)
{
    if (!turns)
        return;
    pack_window_free(turns->window);
    g_cond_clear(&turns->ended);
    g_mutex_clear(&turns->lock);
    g_free(turns);
}

uint64_t window_turns_take(WindowTurns *turns)
{
    return ++turns->taken;
}

static void await_turn(WindowTurns *turns, uint64_t turn)
{
    lock_guard(&turns->lock);

    while (turns->over + 1 < turn)
        g_cond_wait(&turns->ended, &turns->lock);
}

static void end_turn(WindowTurns *turns, uint64_t turn)
{
    lock_guard(&turns->lock);

    turns->over = turn;
    g_cond_broadcast(&turns->ended);
}

size_t window_turns_pack(WindowTurns *turns, uint64_t turn, int level, const void *in,
                         size_t length, void *out, gboolean *ret_begins, double *ret_ms)
{
    uint64_t start;
    size_t packed;

    await_turn(turns, turn);
    start = clock_now_ns();
    packed = pack_window_pack(turns->window, level, in, length, out, ret_begins);
    *ret_ms = clock_ns_to_ms(clock_now_ns() - start);
    end_turn(turns, turn);
    return packed;
}

void window_turns_pass(WindowTurns *turns, uint64_t turn)
{
    await_turn(turns, turn);
    end_turn(turns, turn);
}
