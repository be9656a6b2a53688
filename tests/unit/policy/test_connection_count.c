/*
 * How many connections are used, over a modelled line
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "policy/connection_count.h"

#define TICK_MS 100.0

/* A line that carries *capacity*, of which one connection gets *each* at most. */
typedef struct {
    double capacity, each; /* bytes a ms */
    double round_trip_ms, lost_share, limit;
    double supply;   /* that the sender has at most; 0: any */
    double noise;    /* share of the rate, up and down in turns */
    gboolean queues; /* what fills it waits on the way */
    gboolean measures_way;
    /* kept by run() */
    ConnectionCount count;
    double now_ms, carried, used_ms[CONNECTION_COUNT_MOST + 1];
    guint changes, highest;
} Line;

static void begin(Line *line, guint most)
{
    connection_count_init(&line->count, most);
    line->highest = 1;
}

static void tick(Line *line)
{
    guint used = line->count.count;
    double way = MIN(line->capacity, used * line->each);
    double wanted = line->limit > 0 ? MIN(way, line->limit) : way;
    double rate = line->supply > 0 ? MIN(wanted, line->supply) : wanted;
    gboolean full = line->queues && rate >= 0.99 * line->capacity;
    double swing = ((guint)(line->now_ms / 700) % 2 ? 1 : -1) * line->noise;
    ConnectionSample sample;

    line->now_ms += TICK_MS;
    line->carried += rate * (1 + swing) * TICK_MS;
    line->used_ms[used] += TICK_MS;
    sample = (ConnectionSample){
        .now_ms = line->now_ms,
        .carried_bytes = (uint64_t)line->carried,
        .waits = line->supply == 0 || line->supply >= wanted,
        .round_trip_ms = line->round_trip_ms * (full ? 2 : 1) + (full ? 3 : 0),
        .shortest_round_trip_ms = line->round_trip_ms,
        .lost_share = line->lost_share,
        .measures_way = line->measures_way,
        .limit_bytes_per_ms = line->limit,
    };
    if (connection_count_note(&line->count, &sample) != used)
        line->changes++;
    line->highest = MAX(line->highest, line->count.count);
}

static void run(Line *line, double ms)
{
    for (double end = line->now_ms + ms; line->now_ms < end;)
        tick(line);
}

static Line lossy(void)
{
    /* CUBIC at 100 ms and 1 %: some 200 kB/s of 12.5 MB/s. */
    return (Line){.capacity = 12500, .each = 200, .round_trip_ms = 100, .lost_share = 0.01};
}

/* Each carries as much as the first: all that may be are used, soon. */
static void test_losses(void **state)
{
    Line line = lossy();

    begin(&line, CONNECTION_COUNT_MOST);
    run(&line, 1000);
    assert_int_equal(line.count.count, 1);
    run(&line, 14000);
    assert_int_equal(line.count.count, CONNECTION_COUNT_MOST);
    run(&line, 600000);
    assert_int_equal(line.count.count, CONNECTION_COUNT_MOST);
    assert_int_equal(line.changes, 3);
}

static void test_losses_and_noise(void **state)
{
    Line line = lossy();

    line.noise = 0.1;
    begin(&line, CONNECTION_COUNT_MOST);
    run(&line, 40000);
    assert_int_equal(line.count.count, CONNECTION_COUNT_MOST);
}

/* The user's number is never exceeded. */
static void test_most(void **state)
{
    Line line = lossy();

    begin(&line, 3);
    run(&line, 30000);
    assert_int_equal(line.count.count, 3);
    assert_int_equal(line.highest, 3);
}

/* One fills it: tries cost little, and become rare. */
static void test_one_fills_the_line(void **state)
{
    Line line = {.capacity = 12500, .each = 12500, .round_trip_ms = 30};

    begin(&line, CONNECTION_COUNT_MOST);
    run(&line, 600000);
    assert_int_equal(line.count.count, 1);
    assert_int_equal(line.highest, 2);
    /* After 3, 11, 24, 47, 90, 173, 336 s, there and back. */
    assert_in_range(line.changes, 12, 14);
    assert_true(line.used_ms[2] < 0.05 * line.now_ms);
}

/* Three would do, four are the step that brings it. */
static void test_some_fill_it(void **state)
{
    Line line = {.capacity = 3000, .each = 1000, .round_trip_ms = 50, .lost_share = 0.01};

    begin(&line, CONNECTION_COUNT_MOST);
    run(&line, 15000);
    assert_int_equal(line.count.count, 4);
    run(&line, 300000);
    assert_true(line.used_ms[4] > 0.9 * 300000);
}

/* What waits on the way tells that it is full: no try. */
static void test_a_queue_tells(void **state)
{
    Line line = {.capacity = 2500, .each = 2500, .round_trip_ms = 40, .queues = TRUE};

    begin(&line, CONNECTION_COUNT_MOST);
    run(&line, 300000);
    assert_int_equal(line.highest, 1);
}

/* A short clean way is not tried at a rate that a core keeps up with; with losses it is. */
static void test_short_way(void **state)
{
    Line line = {.capacity = 117000, .each = 117000, .round_trip_ms = 0.3};

    begin(&line, CONNECTION_COUNT_MOST);
    run(&line, 300000);
    assert_int_equal(line.highest, 1);
    line.lost_share = 0.01;
    line.each = 20000;
    run(&line, 30000);
    assert_int_equal(line.count.count, 8);
}

/* A core is what limits: several encrypt side by side. */
static void test_fast_short_way(void **state)
{
    Line line = {.capacity = 3e6, .each = 1e6, .round_trip_ms = 0.1};

    begin(&line, CONNECTION_COUNT_MOST);
    run(&line, 30000);
    assert_int_equal(line.count.count, 4);
}

/* Neither with the user's limit reached, nor while there is little to send. */
static void test_nothing_to_gain(void **state)
{
    Line capped = lossy(), idle = lossy();

    capped.limit = 150;
    begin(&capped, CONNECTION_COUNT_MOST);
    run(&capped, 300000);
    assert_int_equal(capped.highest, 1);
    idle.supply = 100;
    begin(&idle, CONNECTION_COUNT_MOST);
    run(&idle, 300000);
    assert_int_equal(idle.highest, 1);
}

/* The limit is of all: with four it is reached, and that is enough. */
static void test_up_to_the_limit(void **state)
{
    Line line = lossy();

    line.limit = 700;
    begin(&line, CONNECTION_COUNT_MOST);
    run(&line, 300000);
    assert_int_equal(line.count.count, 4);
    assert_int_equal(line.highest, 4);
}

/* It goes by what the way carries now. */
static void test_the_way_changes(void **state)
{
    Line line = {.capacity = 12500, .each = 12500, .round_trip_ms = 100};

    begin(&line, CONNECTION_COUNT_MOST);
    run(&line, 60000);
    assert_int_equal(line.count.count, 1);
    line.each = 300; /* losses */
    run(&line, 60000);
    assert_int_equal(line.count.count, 8);
    line.each = 12500; /* none any more: they fill it, and wait in its queue */
    line.queues = TRUE;
    run(&line, 60000);
    assert_int_equal(line.count.count, 1);
}

/* Fewer carry less: back to what it was, though there is a queue. */
static void test_fewer_are_given_up(void **state)
{
    Line line = {.capacity = 1000, .each = 250, .round_trip_ms = 100, .lost_share = 0.01};

    line.queues = TRUE;
    begin(&line, CONNECTION_COUNT_MOST);
    run(&line, 12000);
    assert_int_equal(line.highest, 4);
    run(&line, 300000);
    assert_true(line.used_ms[4] > 0.9 * 300000);
}

/* Others could not be had: it goes on with what there is, and asks more and more rarely. */
static void test_refused(void **state)
{
    Line line = lossy();
    guint asked = 0;

    begin(&line, CONNECTION_COUNT_MOST);
    while (line.now_ms < 300000) {
        tick(&line);
        if (line.count.count > 1) {
            connection_count_note_failure(&line.count, 1);
            asked++;
        }
    }
    assert_int_equal(line.count.count, 1);
    assert_in_range(asked, 3, 6);
}

/* One has ended in a try: what is left is measured anew. */
static void test_fewer_are_left(void **state)
{
    Line line = lossy();

    begin(&line, CONNECTION_COUNT_MOST);
    run(&line, 15000);
    assert_int_equal(line.count.count, 8);
    connection_count_note_failure(&line.count, 5);
    assert_int_equal(line.count.count, 5);
    run(&line, 4000);
    assert_int_equal(line.count.count, 5);
    run(&line, 8000);
    assert_int_equal(line.count.count, 8);
}

static void test_none_is_tried_where_the_way_is_measured(void **state)
{
    Line line = lossy();

    line.each = line.capacity;
    line.measures_way = TRUE;
    begin(&line, 8);
    run(&line, 120e3);
    assert_int_equal(line.highest, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_none_is_tried_where_the_way_is_measured),
        cmocka_unit_test(test_losses),
        cmocka_unit_test(test_losses_and_noise),
        cmocka_unit_test(test_most),
        cmocka_unit_test(test_one_fills_the_line),
        cmocka_unit_test(test_some_fill_it),
        cmocka_unit_test(test_a_queue_tells),
        cmocka_unit_test(test_short_way),
        cmocka_unit_test(test_fast_short_way),
        cmocka_unit_test(test_nothing_to_gain),
        cmocka_unit_test(test_up_to_the_limit),
        cmocka_unit_test(test_the_way_changes),
        cmocka_unit_test(test_fewer_are_given_up),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_fewer_are_left),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
