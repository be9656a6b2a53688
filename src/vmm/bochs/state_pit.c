/*
 * The interval timer
 *
 * The neutral state says when a count was loaded, Bochs has what the counter is at, and in how many of
 * its clocks something changes.  Its clock is brought forward by Bochs when its timer, which is
 * among the virtual ones, fires.
 */
#include "vmm/bochs/form_private.h"

#include "base/error.h"

#define HZ 1193182u       /* of the neutral state */
#define BOCHS_HZ 1193181u /* of Bochs */
#define MICROSECONDS 1000000u
#define NANOSECONDS 1000000000u
#define TIMER 3u /* among the virtual ones; state_clock.c */

typedef unsigned __int128 Wide;

/* Of a channel. */
static const BochsField channel_fields[] = {
    BOCHS_DECIMAL("mode", "mode"),
    BOCHS_FLAG("bcd", "bcd_mode", 0),
    BOCHS_FLAG("gate", "GATE", 0),
    BOCHS_DECIMAL("access", "rw_mode"),
    BOCHS_DECIMAL("latched_count", "outlatch"),
    BOCHS_DECIMAL("status", "status_latch"),
    BOCHS_FLAG("status_latched", "status_latched", 0),
    BOCHS_FLAG("count_latched", "count_LSB_latched", 0),
    BOCHS_FLAG("count_latched", "count_MSB_latched", 1),
    BOCHS_END,
};

/* Where a counter is. */
typedef struct {
    guint mode;
    uint64_t count;   /* 1 to 10000h, that it counts from */
    uint64_t current; /* 0 to FFFFh */
    gboolean out;
    uint64_t next; /* clocks to the next change; 0: none */
    gboolean odd, reload;
} Counter;

/* A square wave: up for the first half, the longer one; counts down by 2.  In the last clock of a half
 * Bochs notes that the count is to be loaded again. */
static void place_square(Counter *counter, uint64_t clocks)
{
    uint64_t position = clocks % counter->count, high = (counter->count + 1) / 2;

    counter->out = position < high;
    counter->odd = counter->count & 1;
    if (!counter->out)
        position -= high;
    counter->current = (counter->count & ~(uint64_t)1) - 2 * position;
    counter->next = counter->current / 2 - (counter->out && counter->odd ? 0 : 1);
    counter->reload = counter->next == 0;
    counter->next = MAX(counter->next, 1);
}

/* Down to 1, where OUT is low for a clock. */
static void place_rate(Counter *counter, uint64_t clocks)
{
    counter->current = counter->count - clocks % counter->count;
    counter->out = counter->current != 1;
    counter->next = counter->out ? counter->current - 1 : 1;
    counter->reload = !counter->out;
}

/* Once, and then on from FFFFh. */
static void place_once(Counter *counter, uint64_t clocks)
{
    gboolean ended = clocks >= counter->count;

    counter->current = (counter->count - clocks) & 0xffff;
    counter->out = counter->mode == 0 ? ended : TRUE;
    counter->next = ended ? 0 : counter->count - clocks;
    counter->reload = counter->mode == 4 && !ended;
}

static void place(Counter *counter, uint64_t clocks)
{
    if (counter->mode == 2)
        place_rate(counter, clocks);
    else if (counter->mode == 3)
        place_square(counter, clocks);
    else
        place_once(counter, clocks);
}

/* ---- to Bochs ---- */

static void set(BochsNode *pit, guint channel, const char *name, BochsNodeKind kind, uint64_t value)
{
    g_autofree char *path = g_strdup_printf("counter.%u.%s", channel, name);

    bochs_tree_set(pit, path, kind, value);
}

/* 1 LSB, 2 MSB, 3 LSB then MSB, 4 MSB of these; Bochs counts from 0. */
static uint64_t access_step(const StateNode *channel, const char *name)
{
    uint64_t step = state_number_or(channel, name, 1);

    return step > 0 ? (step - 1) & 3 : 0;
}

static void write_counter(const StateNode *channel, const Counter *counter, guint number,
                          BochsNode *to)
{
    g_autofree char *under = g_strdup_printf("counter.%u", number);

    bochs_fields_write(channel_fields, channel, to, under);
    set(to, number, "inlatch", BOCHS_NODE_DECIMAL, counter->count & 0xffff);
    set(to, number, "read_state", BOCHS_NODE_DECIMAL, access_step(channel, "read_state"));
    set(to, number, "write_state", BOCHS_NODE_DECIMAL, access_step(channel, "write_state"));
    set(to, number, "count", BOCHS_NODE_DECIMAL, counter->current);
    set(to, number, "count_binary", BOCHS_NODE_DECIMAL, counter->current);
    set(to, number, "OUTpin", BOCHS_NODE_BOOLEAN, counter->out);
    set(to, number, "next_change_time", BOCHS_NODE_DECIMAL, counter->next);
    set(to, number, "count_written", BOCHS_NODE_BOOLEAN, TRUE);
    set(to, number, "null_count", BOCHS_NODE_BOOLEAN, FALSE);
    set(to, number, "triggerGATE", BOCHS_NODE_BOOLEAN, FALSE);
    set(to, number, "first_pass", BOCHS_NODE_BOOLEAN, counter->mode != 3 && counter->reload);
    set(to, number, "state_bit_1", BOCHS_NODE_BOOLEAN, counter->odd);
    set(to, number, "state_bit_2", BOCHS_NODE_BOOLEAN, counter->mode == 3 && counter->reload);
}

static gboolean read_channel(const StateNode *channel, guint number, Counter *ret, GError **error)
{
    uint64_t count = state_number_or(channel, "count", 0);
    int64_t since = 0;

    *ret = (Counter){.mode = (guint)state_number_or(channel, "mode", 0)};
    if (ret->mode > 5 || count > 0x10000 || !state_get_time(channel, "since_load", &since)) {
        error_set(error, VMFERRY_ERROR_INVALID, "8254, channel %u: not a state", number);
        return FALSE;
    }
    ret->count = count ? count : 0x10000;
    place(ret, since > 0 ? (uint64_t)((Wide)since * HZ / NANOSECONDS) : 0);
    /* A counter whose gate is shut stands still. */
    if (!state_number_or(channel, "gate", 0))
        ret->next = 0;
    return TRUE;
}

gboolean bochs_pit_write(const StateNode *pit, const BochsClock *clock, BochsForm *wanted,
                         GError **error)
{
    BochsNode *to = bochs_form_get(wanted, "pit");
    uint64_t first = 0;

    for (guint i = 0; i < 3; i++) {
        g_autofree char *path = g_strdup_printf("channels[%u]", i);
        const StateNode *channel = state_find(pit, path);
        Counter counter;

        if (!channel || !read_channel(channel, i, &counter, error))
            return FALSE;
        write_counter(channel, &counter, i, to);
        if (counter.next && (!first || counter.next < first))
            first = counter.next;
    }
    bochs_tree_set(to, "irq_enabled", BOCHS_NODE_BOOLEAN, !state_number_or(pit, "irq_disabled", 0));
    bochs_tree_set(to, "last_usec", BOCHS_NODE_DECIMAL, bochs_clock_usec(clock));
    bochs_tree_set(to, "last_next_event_time", BOCHS_NODE_DECIMAL, first);
    bochs_tree_set(to, "total_ticks", BOCHS_NODE_DECIMAL, 0);
    bochs_tree_set(to, "total_usec", BOCHS_NODE_DECIMAL, 0);
    bochs_clock_arm_virtual(clock, wanted, TIMER,
                            first ? MAX(1, first * MICROSECONDS / BOCHS_HZ) : 0);
    return TRUE;
}

/* ---- from Bochs ---- */

/* Clocks since its count was loaded, as far as that can be told: within a period. */
static uint64_t clocks_since_load(const Counter *counter)
{
    uint64_t high = (counter->count + 1) / 2, from = counter->count & ~(uint64_t)1, done;

    if (counter->mode == 3) {
        done = from > counter->current ? (from - counter->current) / 2 : 0;
        return counter->out ? done : high + done;
    }
    if (counter->mode == 0 && counter->out)
        return counter->count + ((0x10000 - counter->current) & 0xffff);
    return counter->count > counter->current ? counter->count - counter->current : 0;
}

static gboolean read_counter(const BochsNode *from, guint number, Counter *ret, GError **error)
{
    g_autofree char *mode_path = g_strdup_printf("counter.%u.mode", number);
    g_autofree char *count_path = g_strdup_printf("counter.%u.inlatch", number);
    g_autofree char *current_path = g_strdup_printf("counter.%u.count_binary", number);
    g_autofree char *out_path = g_strdup_printf("counter.%u.OUTpin", number);
    uint64_t mode, count, current, out;

    if (!bochs_tree_get(from, mode_path, &mode, error) ||
        !bochs_tree_get(from, count_path, &count, error) ||
        !bochs_tree_get(from, current_path, &current, error) ||
        !bochs_tree_get(from, out_path, &out, error))
        return FALSE;
    *ret = (Counter){.mode = mode & 7,
                     .count = count & 0xffff ? count & 0xffff : 0x10000,
                     .current = current & 0xffff,
                     .out = out != 0};
    if (ret->current == 0 && ret->mode != 0 && ret->mode != 3)
        ret->current = ret->count;
    return TRUE;
}

/* How many of the counter's clocks have passed that it has not been told of. */
static gboolean read_behind(const BochsNode *from, const BochsClock *clock, uint64_t *ret,
                            GError **error)
{
    uint64_t last, now = bochs_clock_usec(clock);

    if (!bochs_tree_get(from, "last_usec", &last, error))
        return FALSE;
    *ret = now > last ? (uint64_t)((Wide)(now - last) * BOCHS_HZ / MICROSECONDS) : 0;
    return TRUE;
}

static gboolean read_steps(const BochsNode *from, const char *under, StateNode *channel,
                           GError **error)
{
    static const char *const names[] = {"read_state", "write_state"};

    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = bochs_path(under, names[i]);
        uint64_t step;

        if (!bochs_tree_get(from, path, &step, error))
            return FALSE;
        /* 0 is of a channel that was never programmed. */
        if (step > 0 || state_number_or(channel, names[i], 1) != 0)
            state_set_number(channel, names[i], (step & 3) + 1);
    }
    return TRUE;
}

static gboolean read_one(const BochsNode *from, guint number, uint64_t behind, StateNode *pit,
                         GError **error)
{
    g_autofree char *path = g_strdup_printf("channels[%u]", number);
    StateNode *channel = state_set_group(pit, path);
    g_autofree char *under = g_strdup_printf("counter.%u", number);
    Counter counter;
    uint64_t clocks, gate;

    if (!read_counter(from, number, &counter, error) ||
        !bochs_fields_read(channel_fields, from, under, channel, error) ||
        !read_steps(from, under, channel, error))
        return FALSE;
    gate = state_number_or(channel, "gate", 0);
    clocks = clocks_since_load(&counter) + (gate ? behind : 0);
    state_set_number(channel, "count", counter.count);
    /* It has a meaning only in a state that is refused. */
    state_set_number(channel, "write_latch", state_number_or(channel, "write_latch", 0));
    /* Rounded up: it is that clock, not the one before. */
    state_set_time(channel, "since_load", (int64_t)(((Wide)clocks * NANOSECONDS + HZ - 1) / HZ));
    place(&counter, clocks);
    if (number == 0 && gate && counter.next)
        state_set_time(pit, "until_transition", (int64_t)((Wide)counter.next * NANOSECONDS / HZ));
    return TRUE;
}

gboolean bochs_pit_read(const BochsForm *shown, const BochsClock *clock, StateNode *state,
                        GError **error)
{
    const BochsNode *from = bochs_form_find(shown, "pit");
    StateNode *pit = bochs_state_device(state, "intel,8254", "io:40");
    uint64_t behind, enabled;

    if (!read_behind(from, clock, &behind, error) ||
        !bochs_tree_get(from, "irq_enabled", &enabled, error))
        return FALSE;
    state_set_number(pit, "irq_disabled", !enabled);
    (void)state_remove(pit, "until_transition");
    for (guint i = 0; i < 3; i++)
        if (!read_one(from, i, behind, pit, error))
            return FALSE;
    return TRUE;
}
