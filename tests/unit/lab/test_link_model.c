#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "model.h"

#define MS G_GUINT64_CONSTANT(1000000)
#define S (1000 * MS)
/* At 1.5 MB/s a frame of 1500 bytes takes a millisecond. */
#define RATE 1500000
#define FRAME 1500
#define SEED 7

static LinkModel make(const LinkSettings *settings)
{
    LinkModel model;

    link_model_init(&model, SEED, 0);
    link_model_set(&model, 0, settings, NULL, 0);
    return model;
}

static LinkPacket arriving(LinkModel *model, guint64 now_ns)
{
    LinkPacket packet = {0};

    assert_int_equal(link_model_offer(model, now_ns, FRAME, &packet), LINK_ARRIVES);
    return packet;
}

static void test_nothing_set(void **state)
{
    LinkModel model = make(&(LinkSettings){0});

    for (guint64 i = 0; i < 100; i++) {
        LinkPacket packet = arriving(&model, i * 10);

        assert_int_equal(packet.arrives_ns, i * 10);
        assert_false(packet.held || packet.twice);
    }
    assert_int_equal(link_model_waiting(&model, 0), 0);
}

static void test_rate_and_delay(void **state)
{
    LinkModel model = make(&(LinkSettings){.rate = RATE, .delay_ns = 50 * MS});

    /* Ten at once leave one after the other; the next one finds the line idle. */
    for (guint64 i = 1; i <= 10; i++)
        assert_int_equal(arriving(&model, 0).arrives_ns, i * MS + 50 * MS);
    assert_int_equal(link_model_waiting(&model, 0), 10 * FRAME);
    assert_int_equal(link_model_waiting(&model, 4 * MS), 6 * FRAME);
    assert_int_equal(arriving(&model, 100 * MS).arrives_ns, 151 * MS);
}

/* 1500 bytes at 7 MB/s are 214,285.714 ns: what is rounded must not add up. */
static void test_rate_is_exact_in_the_long_run(void **state)
{
    LinkModel model = make(&(LinkSettings){.rate = 7000000});
    guint64 last = 0;

    for (guint i = 0; i < 7000; i++)
        last = arriving(&model, 0).arrives_ns;
    assert_int_equal(last, 1500 * MS);
}

static void test_queue_by_bytes(void **state)
{
    LinkModel model = make(&(LinkSettings){.rate = RATE, .queue_bytes = 10 * FRAME});
    LinkPacket packet;

    for (guint i = 0; i < 10; i++)
        arriving(&model, 0);
    assert_int_equal(link_model_offer(&model, 0, FRAME, &packet), LINK_QUEUE_FULL);
    /* Room comes as the line goes on, to the byte. */
    assert_int_equal(link_model_offer(&model, MS - 1000, FRAME, &packet), LINK_QUEUE_FULL);
    assert_int_equal(arriving(&model, MS).arrives_ns, 11 * MS);
}

static void test_queue_by_time(void **state)
{
    LinkModel model = make(&(LinkSettings){.rate = RATE, .queue_ns = 5 * MS});
    LinkPacket packet;

    for (guint i = 0; i < 6; i++) /* the last one waits for 5 ms */
        arriving(&model, 0);
    assert_int_equal(link_model_offer(&model, 0, FRAME, &packet), LINK_QUEUE_FULL);
    arriving(&model, MS);
}

static guint64 losses(const LinkSettings *settings, guint64 seed, guint direction)
{
    LinkModel model;
    guint64 mask = 0;

    link_model_init(&model, seed, direction);
    link_model_set(&model, 0, settings, NULL, 0);
    for (guint i = 0; i < 64; i++) {
        LinkPacket packet;

        if (link_model_offer(&model, i, FRAME, &packet) == LINK_LOST)
            mask |= G_GUINT64_CONSTANT(1) << i;
    }
    return mask;
}

/* A trial is repeated years later by its seed: these numbers must never change. */
static void test_a_seed_decides(void **state)
{
    LinkSettings quarter = {.loss = 0.25};
    LinkSettings more = {
        .loss = 0.25, .delay_ns = S, .jitter_ns = S, .duplicate = 0.5, .rate = RATE};
    LinkSettings bursts = {.loss = 0.25, .burst = 4};

    assert_int_equal(losses(&quarter, SEED, 0), G_GUINT64_CONSTANT(0x05493d0922429134));
    assert_int_equal(losses(&bursts, SEED, 0), G_GUINT64_CONSTANT(0x00380b001e018000));
    assert_int_equal(losses(&quarter, SEED, 0), losses(&more, SEED, 0));
    assert_int_not_equal(losses(&quarter, SEED, 0), losses(&quarter, SEED, 1));
    assert_int_not_equal(losses(&quarter, SEED, 0), losses(&quarter, SEED + 1, 0));
}

typedef struct {
    guint lost, runs, longest;
} Loss;

static Loss count_loss(const LinkSettings *settings, guint packets)
{
    LinkModel model = make(settings);
    Loss loss = {0};
    guint run = 0;

    for (guint i = 0; i < packets; i++) {
        LinkPacket packet;
        gboolean lost = link_model_offer(&model, i, FRAME, &packet) == LINK_LOST;

        loss.lost += lost;
        loss.runs += lost && run == 0;
        run = lost ? run + 1 : 0;
        loss.longest = MAX(loss.longest, run);
    }
    return loss;
}

/* A million packets: the counts are this seed's, and near what was asked for (five sigma). */
static void test_random_loss(void **state)
{
    Loss loss = count_loss(&(LinkSettings){.loss = 0.005}, 1000000);

    assert_in_range(loss.lost, 5000 - 353, 5000 + 353);
    assert_in_range(loss.runs, loss.lost - 70, loss.lost); /* hardly any beside another */
    assert_int_equal(count_loss(&(LinkSettings){.loss = 1}, 1000).lost, 1000);
    assert_int_equal(count_loss(&(LinkSettings){.loss = 0}, 1000).lost, 0);
}

static void test_loss_in_bursts(void **state)
{
    Loss loss = count_loss(&(LinkSettings){.loss = 0.02, .burst = 8}, 1000000);

    /* 2500 runs of 8 on average, each a geometric number: 20,000 lost with a sigma of 570. */
    assert_in_range(loss.lost, 20000 - 2850, 20000 + 2850);
    assert_true((double)loss.lost / loss.runs > 7.2 && (double)loss.lost / loss.runs < 8.8);
    assert_in_range(loss.longest, 30, 200);
}

/* What is lost on the way was on the line before. */
static void test_the_lost_take_their_share(void **state)
{
    LinkModel model = make(&(LinkSettings){.rate = RATE, .loss = 1});
    LinkPacket packet;

    for (guint i = 0; i < 10; i++)
        assert_int_equal(link_model_offer(&model, 0, FRAME, &packet), LINK_LOST);
    assert_int_equal(link_model_waiting(&model, 0), 10 * FRAME);
}

static void test_jitter_keeps_order(void **state)
{
    LinkModel model = make(&(LinkSettings){.delay_ns = 50 * MS, .jitter_ns = 20 * MS});
    guint64 last = 0, least = G_MAXUINT64, most = 0;
    double total = 0;

    for (guint64 i = 0; i < 10000; i++) {
        guint64 sent = i * 50 * MS; /* far apart, so that none waits for the one before it */
        guint64 took = arriving(&model, sent).arrives_ns - sent;

        least = MIN(least, took);
        most = MAX(most, took);
        total += (double)took;
    }
    assert_in_range(least, 30 * MS, 30 * MS + MS / 10);
    assert_in_range(most, 70 * MS - MS / 10, 70 * MS);
    assert_true(total / 10000 > 49.4 * MS && total / 10000 < 50.6 * MS);
    for (guint64 i = 0; i < 10000; i++) {
        guint64 at = arriving(&model, 600 * S + i * MS).arrives_ns;

        assert_true(at >= last);
        last = at;
    }
}

static void test_reordered_ones_are_overtaken(void **state)
{
    LinkModel model =
        make(&(LinkSettings){.delay_ns = 50 * MS, .reorder = 0.1, .reorder_by_ns = 10 * MS});
    guint held = 0;

    for (guint64 i = 0; i < 10000; i++) {
        LinkPacket packet = arriving(&model, i * MS);

        held += packet.held;
        assert_int_equal(packet.arrives_ns, i * MS + (packet.held ? 60 * MS : 50 * MS));
    }
    assert_in_range(held, 850, 1150);
}

static void test_duplicates(void **state)
{
    LinkModel model = make(&(LinkSettings){.duplicate = 0.1});
    guint twice = 0;

    for (guint64 i = 0; i < 10000; i++)
        twice += arriving(&model, i).twice;
    assert_in_range(twice, 850, 1150);
}

/* One decision says nothing about another. */
static void test_decisions_are_independent(void **state)
{
    LinkModel model =
        make(&(LinkSettings){.loss = 0.5, .reorder = 0.5, .reorder_by_ns = MS, .duplicate = 0.5});
    guint counts[2][2] = {0}, lost = 0;

    for (guint64 i = 0; i < 8000; i++) {
        LinkPacket packet;

        if (link_model_offer(&model, i, FRAME, &packet) == LINK_LOST)
            lost++;
        else
            counts[packet.held][packet.twice]++;
    }
    assert_in_range(lost, 3800, 4200);
    for (guint i = 0; i < 4; i++)
        assert_in_range(counts[i / 2][i % 2], 850, 1150);
}

static void test_mtu_is_of_ip(void **state)
{
    LinkModel model = make(&(LinkSettings){.mtu = 1400, .rate = RATE});
    LinkPacket packet;

    assert_int_equal(link_model_offer(&model, 0, 1415, &packet), LINK_TOO_BIG);
    assert_int_equal(link_model_waiting(&model, 0), 0);
    assert_int_equal(link_model_offer(&model, 0, 1414, &packet), LINK_ARRIVES);
}

static void test_breaks(void **state)
{
    LinkModel model =
        make(&(LinkSettings){.break_from_ns = 10 * S, .break_ns = 5 * S, .break_every_ns = 30 * S});
    LinkPacket packet;

    assert_false(link_model_is_broken(&model, 0));
    for (guint64 start = 10 * S; start < 200 * S; start += 30 * S) {
        assert_false(link_model_is_broken(&model, start - 1));
        assert_true(link_model_is_broken(&model, start));
        assert_true(link_model_is_broken(&model, start + 5 * S - 1));
        assert_false(link_model_is_broken(&model, start + 5 * S));
    }
    assert_int_equal(link_model_offer(&model, 9 * S, FRAME, &packet), LINK_ARRIVES);
    assert_int_equal(link_model_offer(&model, 12 * S, FRAME, &packet), LINK_BROKEN);
    link_model_set(&model, 12 * S, &(LinkSettings){.break_from_ns = 20 * S, .break_ns = S}, NULL,
                   0);
    assert_int_equal(link_model_offer(&model, 12 * S, FRAME, &packet), LINK_ARRIVES);
    assert_true(link_model_is_broken(&model, 20 * S));
    assert_false(link_model_is_broken(&model, 50 * S));
}

/* 1 s of 1.5 MB/s, 1 s of nothing, 2 s of 0.15 MB/s, and again. */
static LinkTrace *make_trace(void)
{
    LinkTrace *trace = link_trace_parse("0 1.5M\n1 0\n2 150k\n4 end\n", NULL);

    assert_non_null(trace);
    return trace;
}

static void test_trace(void **state)
{
    g_autoptr(LinkTrace) trace = make_trace();
    LinkModel model = make(&(LinkSettings){.trace = trace});

    for (guint64 i = 1; i <= 1000; i++)
        assert_int_equal(arriving(&model, 0).arrives_ns, i * MS);
    for (guint64 i = 1; i <= 200; i++) /* each takes 10 ms, after the second without any */
        assert_int_equal(arriving(&model, 0).arrives_ns, 2 * S + i * 10 * MS);
    for (guint64 i = 1; i <= 1000; i++)
        assert_int_equal(arriving(&model, 0).arrives_ns, 4 * S + i * MS);
    assert_int_equal(arriving(&model, 0).arrives_ns, 6 * S + 10 * MS);
    assert_int_equal(link_model_rate(&model, 400 * S), RATE);
    assert_int_equal(link_model_rate(&model, 401 * S), 0);
    link_model_clear(&model);
}

/* Between its steps a trace tells for each amount the first time by which it is carried. */
static void test_trace_work_and_time_agree(void **state)
{
    /* Rates that do not divide a second, and an outage at the end of a pass. */
    g_autoptr(LinkTrace) trace = link_trace_parse("0 7M\n1 0\n2 333333\n3.5 0\n4 end\n", NULL);

    assert_int_equal(link_trace_time(trace, link_trace_work(trace, 4 * S)), 3 * S + S / 2);
    for (guint64 time = 1; time < 20 * S; time += 37 * MS + 13) {
        LinkWork work = link_trace_work(trace, time) + time % 2;
        guint64 first = link_trace_time(trace, work);

        assert_true(link_trace_work(trace, first) >= work);
        assert_true(first == 0 || link_trace_work(trace, first - 1) < work);
    }
    assert_int_equal(link_trace_time(trace, 0), 0);
}

/* A rate that changes counts for what waits: half of the first of three has gone by then. */
static void test_rate_changes_while_packets_wait(void **state)
{
    LinkModel model = make(&(LinkSettings){.rate = RATE, .delay_ns = 50 * MS});
    LinkPacket packets[4];
    LinkPacket *under_way[4];
    LinkSettings settings = {.delay_ns = 50 * MS};

    for (guint i = 0; i < 4; i++) {
        packets[i] = arriving(&model, 0);
        under_way[i] = &packets[i];
    }
    settings.rate = RATE / 10;
    link_model_set(&model, MS + MS / 2, &settings, under_way, 4);
    assert_int_equal(packets[0].arrives_ns, 51 * MS); /* has left the line */
    assert_int_equal(packets[1].arrives_ns, 51 * MS + MS / 2 + 5 * MS);
    assert_int_equal(packets[2].arrives_ns, packets[1].arrives_ns + 10 * MS);
    assert_int_equal(packets[3].arrives_ns, packets[2].arrives_ns + 10 * MS);
    /* The last one is on the line when there is no limit any more; and then there is one again. */
    settings.rate = 0;
    link_model_set(&model, 20 * MS, &settings, under_way, 4);
    assert_int_equal(packets[1].arrives_ns, 51 * MS + MS / 2 + 5 * MS);
    assert_int_equal(packets[2].arrives_ns, 66 * MS + MS / 2); /* has left, too */
    assert_int_equal(packets[3].arrives_ns, 70 * MS);
    assert_int_equal(arriving(&model, 21 * MS).arrives_ns, 71 * MS);
    settings.rate = RATE;
    link_model_set(&model, 22 * MS, &settings, under_way, 4);
    assert_int_equal(packets[3].arrives_ns, 70 * MS);
    assert_int_equal(arriving(&model, 22 * MS).arrives_ns, 73 * MS);
}

static void test_other_changes_leave_a_trace_where_it_is(void **state)
{
    g_autoptr(LinkTrace) trace = make_trace();
    LinkModel model = make(&(LinkSettings){.trace = trace});

    link_model_set(&model, 3 * S, &(LinkSettings){.trace = trace, .delay_ns = MS}, NULL, 0);
    assert_int_equal(link_model_rate(&model, 3 * S), 150000);
    assert_int_equal(arriving(&model, 3 * S).arrives_ns, 3 * S + 11 * MS);
    link_model_clear(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_set),
        cmocka_unit_test(test_rate_and_delay),
        cmocka_unit_test(test_rate_is_exact_in_the_long_run),
        cmocka_unit_test(test_queue_by_bytes),
        cmocka_unit_test(test_queue_by_time),
        cmocka_unit_test(test_a_seed_decides),
        cmocka_unit_test(test_random_loss),
        cmocka_unit_test(test_loss_in_bursts),
        cmocka_unit_test(test_the_lost_take_their_share),
        cmocka_unit_test(test_jitter_keeps_order),
        cmocka_unit_test(test_reordered_ones_are_overtaken),
        cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_decisions_are_independent),
        cmocka_unit_test(test_mtu_is_of_ip),
        cmocka_unit_test(test_breaks),
        cmocka_unit_test(test_trace),
        cmocka_unit_test(test_trace_work_and_time_agree),
        cmocka_unit_test(test_rate_changes_while_packets_wait),
        cmocka_unit_test(test_other_changes_leave_a_trace_where_it_is),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
