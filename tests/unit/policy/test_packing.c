#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "base/error.h"
#include "policy/packing.h"

#define MIB (1u << 20)

/* A simulated path and machine: a window of batches sent with what is chosen. */
typedef struct {
    double path;                   /* bytes a ms */
    double ratio[PACKING_METHODS]; /* packed by raw */
    double speed[PACKING_METHODS]; /* raw bytes a ms */
    double better[PACKING_STEPS];  /* what a step makes of its method's ratio; 0: the same */
    double slower[PACKING_STEPS];  /* and of its speed */
    gboolean limited;              /* by the user */
} World;

static guint step_of(PackWay way)
{
    if (way.linked)
        return way.level == 18 ? 7 : way.level == 9 ? 6 : 5;
    return way.level == 6 ? 4 : way.level == 3 ? 3 : 0;
}

static double factor(const double *factors, PackWay way)
{
    return factors[step_of(way)] > 0 ? factors[step_of(way)] : 1;
}

static uint64_t packed_bytes(const World *world, PackWay way)
{
    return (uint64_t)(MIB * world->ratio[way.method] * factor(world->better, way));
}

static double pack_ms(const World *world, PackWay way)
{
    return way.method == PACK_NONE ? 0
                                   : MIB / world->speed[way.method] / factor(world->slower, way);
}

static double window(Packing *packing, const World *world)
{
    double raw = 0, elapsed = 0;

    for (guint i = 0; i < PACKING_WINDOW_BATCHES; i++) {
        PackingChoice choice = packing_choose(packing);
        PackingSample sample = {.way = choice.way,
                                .raw_bytes = MIB,
                                .packed_bytes = packed_bytes(world, choice.way),
                                .pack_ms = pack_ms(world, choice.way)};

        if (choice.baseline.method != PACK_NONE)
            sample.compared = (PackComparison){
                .bytes = sample.packed_bytes,
                .baseline_bytes = packed_bytes(world, choice.baseline),
                .ms = sample.pack_ms,
                .baseline_ms = pack_ms(world, choice.baseline),
            };
        /* Packing and sending overlap; the slower one decides. */
        raw += MIB;
        elapsed += MAX(sample.pack_ms, (double)sample.packed_bytes / world->path);
        sample.link_busy = sample.pack_ms < (double)sample.packed_bytes / world->path;
        if (sample.link_busy)
            packing->link_bytes_per_ms = world->path;
        else
            packing->link_bytes_per_ms =
                MAX(packing->link_bytes_per_ms, (double)sample.packed_bytes / sample.pack_ms);
        sample.link_bytes_per_ms = packing->link_bytes_per_ms;
        sample.link_limited = world->limited;
        packing_note(packing, &sample);
    }
    return raw / elapsed;
}

static const PackMethod methods[PACKING_STEPS] = {PACK_NONE, PACK_LZ4,  PACK_ZSTD, PACK_ZSTD,
                                                  PACK_ZSTD, PACK_ZSTD, PACK_ZSTD, PACK_ZSTD};

static PackMethod settled_after(Packing *packing, const World *world, int windows)
{
    for (int i = 0; i < windows; i++)
        window(packing, world);
    return methods[packing->settled];
}

static PackMethod now(const Packing *packing)
{
    return methods[packing->now];
}

static const World gigabit = {117e3, {1, 0.5, 0.35}, {0, 600e3, 300e3}};

static void test_slow_path(void **state)
{
    Packing packing = packing_make(PACKING_AUTO, TRUE, TRUE, 1);
    World slow = gigabit, fast = gigabit;

    assert_int_equal(settled_after(&packing, &gigabit, 12), PACK_ZSTD);
    slow.speed[PACK_ZSTD] = 60e3; /* a busy machine: zstd would be the bottleneck */
    packing = packing_make(PACKING_AUTO, TRUE, TRUE, 1);
    assert_int_equal(settled_after(&packing, &slow, 40), PACK_LZ4);
    fast.path = 1.2e6; /* the link got fast: that is found out */
    assert_int_equal(settled_after(&packing, &fast, 80), PACK_NONE);
}

static void test_fast_path(void **state)
{
    Packing packing = packing_make(PACKING_AUTO, TRUE, TRUE, 4);
    World fast = gigabit;

    fast.path = 1e6;
    for (int i = 0; i < 50; i++) {
        window(&packing, &fast);
        assert_int_equal(now(&packing), PACK_NONE);
    }
}

/* While the path is not known, everything is packed, as well as can be. */
static void test_unknown_path(void **state)
{
    Packing packing = packing_make(PACKING_AUTO, TRUE, TRUE, 1);
    Packing random = packing;
    PackingSample sample = {.way = {PACK_ZSTD, 1}, .raw_bytes = MIB, .packed_bytes = MIB / 2};

    assert_int_equal(now(&packing), PACK_ZSTD);
    sample.pack_ms = 2;
    for (guint i = 0; i < PACKING_WINDOW_BATCHES; i++)
        packing_note(&packing, &sample);
    assert_int_equal(now(&packing), PACK_ZSTD);
    sample.packed_bytes = MIB;
    for (guint i = 0; i < PACKING_WINDOW_BATCHES; i++)
        packing_note(&random, &sample);
    assert_int_equal(now(&random), PACK_NONE);
}

/* Random data: tried now and then only, and zstd not at all. */
static void test_incompressible(void **state)
{
    Packing packing = packing_make(PACKING_AUTO, TRUE, TRUE, 1);
    World random = {117e3, {1, 1, 1}, {0, 900e3, 500e3}};
    guint tried = 0;

    for (int i = 0; i < 300; i++) {
        tried += now(&packing) == PACK_LZ4;
        assert_true(now(&packing) != PACK_ZSTD || i == 0);
        window(&packing, &random);
    }
    assert_in_range(tried, 3, 9);
}

/* Where packing takes all the time and gains nothing, it does not flap. */
static void test_slow_packer(void **state)
{
    Packing packing = packing_make(PACKING_AUTO, TRUE, FALSE, 1);
    World world = {117e3, {1, 0.5, 1}, {0, 60e3, 1}};
    guint packed = 0;

    for (int i = 0; i < 300; i++) {
        packed += now(&packing) == PACK_LZ4;
        window(&packing, &world);
    }
    assert_in_range(packed, 1, 9);
}

/* Packing limits, but still carries more than none would: kept. */
static void test_packer_limits(void **state)
{
    Packing packing = packing_make(PACKING_AUTO, TRUE, FALSE, 1);
    World world = {117e3, {1, 0.5, 1}, {0, 200e3, 1}};
    double carried = 0;

    settled_after(&packing, &world, 10);
    for (int i = 0; i < 100; i++)
        carried += window(&packing, &world) / 100;
    assert_true(carried > 170e3);
}

static void test_modes(void **state)
{
    Packing never = packing_make(PACKING_NONE, TRUE, TRUE, 1);
    Packing always = packing_make(PACKING_LZ4, TRUE, TRUE, 1);
    Packing unable = packing_make(PACKING_ZSTD, TRUE, FALSE, 1);
    PackingMode mode;

    assert_int_equal(settled_after(&never, &gigabit, 10), PACK_NONE);
    assert_int_equal(settled_after(&always, &gigabit, 10), PACK_LZ4);
    assert_int_equal(settled_after(&unable, &gigabit, 10), PACK_NONE); /* the peer has no zstd */
    assert_int_equal(always.totals.raw_bytes[PACK_LZ4], 40 * MIB);
    assert_int_equal(always.totals.packed_bytes[PACK_LZ4], 20 * MIB);
    assert_true(packing_mode_from_name("zstd", &mode) && mode == PACKING_ZSTD);
    assert_false(packing_mode_from_name("zip", &mode));
    assert_string_equal(packing_mode_name(PACKING_AUTO), "auto");
}

/* A slow path leaves time for the dearer levels, as far as they make less. */
static void test_levels(void **state)
{
    World slow = {
        11e3, {1, 0.5, 0.3}, {0, 600e3, 300e3}, {[3] = 0.9, [4] = 0.8}, {[3] = 0.6, [4] = 0.2}};
    Packing packing = packing_make(PACKING_AUTO, TRUE, TRUE, 1);
    Packing same = packing, only = packing_make(PACKING_ZSTD, TRUE, TRUE, 1);
    PackingChoice choice;

    settled_after(&packing, &slow, 20);
    choice = packing_choose(&packing);
    assert_int_equal(choice.way.method, PACK_ZSTD);
    assert_int_equal(choice.way.level, 6);
    settled_after(&only, &slow, 20);
    assert_int_equal(packing_choose(&only).way.level, 6);
    slow.better[3] = slow.better[4] = 0.99; /* not worth the CPU */
    settled_after(&same, &slow, 20);
    assert_int_equal(same.settled, 2);
    slow.path = 117e3; /* no time for them */
    slow.better[3] = slow.better[4] = 0;
    settled_after(&packing, &slow, 40);
    assert_int_equal(packing.settled, 2);
}

static const World levels_pay = {
    11e3, {1, 0.5, 0.3}, {0, 600e3, 300e3}, {[3] = 0.9, [4] = 0.8}, {[3] = 0.6, [4] = 0.2}};

/* Data that all steps pack worse is no reason to leave the best of them. */
static void test_harder_data(void **state)
{
    World hard = levels_pay;
    Packing packing = packing_make(PACKING_AUTO, TRUE, TRUE, 1);

    settled_after(&packing, &levels_pay, 20);
    assert_int_equal(packing.settled, 4);
    hard.ratio[PACK_LZ4] = 0.9;
    hard.ratio[PACK_ZSTD] = 0.75;
    for (int i = 0; i < 12; i++) {
        window(&packing, i % 4 < 2 ? &hard : &levels_pay);
        assert_int_equal(packing.settled, 4);
    }
}

/* Each trial falls on data that all steps pack worse. */
static void test_trial_on_other_data(void **state)
{
    World hard = levels_pay;
    Packing packing = packing_make(PACKING_AUTO, TRUE, TRUE, 1);

    hard.ratio[PACK_LZ4] = 0.9;
    hard.ratio[PACK_ZSTD] = 0.75;
    for (int i = 0; i < 20; i++)
        window(&packing, packing.now != packing.settled ? &hard : &levels_pay);
    assert_int_equal(packing.settled, 4);
}

/* A trial that did not pay says nothing of later data. */
static void test_trial_after_other_data(void **state)
{
    World same = levels_pay;
    Packing packing = packing_make(PACKING_AUTO, TRUE, TRUE, 1);

    same.ratio[PACK_ZSTD] = 0.75;
    same.better[3] = same.better[4] = 1;
    settled_after(&packing, &same, 10);
    assert_int_equal(packing.settled, 2);
    settled_after(&packing, &levels_pay, PACKING_FIRST_PAUSE);
    assert_true(packing.settled > 2);
}

/* A few pages now and then say nothing of what the data is like. */
static void test_little_data(void **state)
{
    Packing packing = packing_make(PACKING_AUTO, TRUE, TRUE, 1);
    double ratio;

    settled_after(&packing, &levels_pay, 20);
    assert_int_equal(packing.settled, 4);
    ratio = packing.steps[4].ratio;
    for (int i = 0; i < 100; i++) {
        PackingSample sample = {.raw_bytes = 4096,
                                .packed_bytes = 4000,
                                .pack_ms = 0.1,
                                .link_bytes_per_ms = levels_pay.path};

        sample.way = packing_choose(&packing).way;
        packing_note(&packing, &sample);
        assert_int_equal(packing.settled, 4);
    }
    assert_true(packing.steps[4].ratio == ratio);
}

/* A trial is of four batches, also where many are on their way, and of none that shrank. */
static void test_trials_are_short(void **state)
{
    Packing packing = packing_make(PACKING_AUTO, TRUE, TRUE, 1);
    World starved = {117e3, {1, 0.5, 0.4}, {0, 300e3, 150e3}};
    guint tried = 0, step;

    settled_after(&packing, &starved, 1);
    for (int i = 0; i < 100 && packing.now == packing.settled; i++)
        window(&packing, &starved);
    step = packing.now;
    assert_int_not_equal(step, packing.settled);
    for (int i = 0; i < 50; i++)
        tried += packing_choose(&packing).way.method == now(&packing);
    assert_int_equal(tried, PACKING_WINDOW_BATCHES);
    for (guint i = 0; i < PACKING_WINDOW_BATCHES; i++) {
        PackingSample sample = {.way = {.method = now(&packing)},
                                .skipped = TRUE,
                                .raw_bytes = MIB,
                                .packed_bytes = MIB,
                                .link_bytes_per_ms = 117e3};

        assert_int_equal(packing.now, step);
        packing_note(&packing, &sample);
    }
    assert_int_not_equal(packing.now, step);
}

/* ---- linked ---- */

/* 20 Mbit/s, and a core that has nothing else to do. */
static const World slow_link = {2400,
                                {1, 0.5, 0.34},
                                {0, 900e3, 1300e3},
                                {[5] = 0.88, [6] = 0.83, [7] = 0.77},
                                {[5] = 0.25, [6] = 0.065, [7] = 0.007}};

static Packing make_linking(PackingMode mode)
{
    Packing packing = packing_make(mode, TRUE, TRUE, 2);

    packing_allow_links(&packing, TRUE);
    return packing;
}

static int level_after(Packing *packing, const World *world, int windows)
{
    settled_after(packing, world, windows);
    return packing_get_way(packing).linked ? packing_get_way(packing).level : 0;
}

/* Soon linked; the dear step once the link has shown what it carries, and only where there is time. */
static void test_linked(void **state)
{
    Packing packing = make_linking(PACKING_AUTO), slower = packing,
            only = make_linking(PACKING_ZSTD);
    World world = slow_link;

    assert_int_equal(level_after(&packing, &world, 3), 9);
    assert_int_equal(level_after(&packing, &world, 60), 9);
    world.path = 600; /* 5 Mbit/s */
    assert_int_equal(level_after(&packing, &world, 60), 18);
    assert_int_equal(packing.totals.packed_bytes[PACK_ZSTD] > packing.totals.linked_packed_bytes,
                     1);
    assert_in_range(packing.totals.linked_raw_bytes, 118 * 4 * MIB, 122 * 4 * MIB);
    assert_int_equal(level_after(&only, &world, 60), 18);
    world.path = 12000; /* 100 Mbit/s */
    assert_int_equal(level_after(&slower, &world, 60), 9);
}

/* A peer that does not take them, no zstd, a mode without. */
static void test_not_linked(void **state)
{
    Packing without = packing_make(PACKING_AUTO, TRUE, TRUE, 2);
    Packing no_zstd = packing_make(PACKING_AUTO, TRUE, FALSE, 2);
    Packing lz4 = make_linking(PACKING_LZ4), none = make_linking(PACKING_NONE);

    packing_allow_links(&no_zstd, TRUE);
    assert_int_equal(level_after(&without, &slow_link, 60), 0);
    assert_int_equal(level_after(&no_zstd, &slow_link, 60), 0);
    assert_int_equal(level_after(&lz4, &slow_link, 60), 0);
    assert_int_equal(level_after(&none, &slow_link, 60), 0);
}

/* Not any more at once, and again soon. */
static void test_links_forbidden(void **state)
{
    Packing packing = make_linking(PACKING_AUTO);

    assert_int_equal(level_after(&packing, &slow_link, 10), 9);
    packing_allow_links(&packing, FALSE);
    assert_false(packing_choose(&packing).way.linked);
    assert_int_equal(level_after(&packing, &slow_link, 60), 0);
    packing_allow_links(&packing, TRUE);
    assert_int_equal(level_after(&packing, &slow_link, 2), 9);
}

/* A limit may be lifted at any time. */
static void test_not_linked_at_the_limit(void **state)
{
    Packing packing = make_linking(PACKING_AUTO);
    World limited = slow_link;

    limited.limited = TRUE;
    assert_int_equal(level_after(&packing, &limited, 60), 0);
    assert_int_equal(level_after(&packing, &slow_link, 10), 9);
    assert_int_equal(level_after(&packing, &limited, 1), 0);
}

/* A link that becomes fast, or slow, is followed. */
static void test_links_follow_path(void **state)
{
    Packing packing = make_linking(PACKING_AUTO);
    World world = slow_link;

    world.path = 117e3;
    assert_int_equal(level_after(&packing, &world, 20), 0);
    world.path = 5000;
    assert_int_not_equal(level_after(&packing, &world, 20), 0);
    world.path = 117e3;
    assert_int_equal(level_after(&packing, &world, 80), 0);
}

/* Changes of level are rare: each forgets what was before. */
static void test_links_are_kept(void **state)
{
    Packing packing = make_linking(PACKING_AUTO);
    World hard = slow_link;
    guint changes = 0;
    int level = 0;

    hard.ratio[PACK_ZSTD] = 0.7;
    hard.speed[PACK_ZSTD] = 300e3;
    for (int i = 0; i < 400; i++) {
        int now = level_after(&packing, i % 5 < 2 ? &hard : &slow_link, 1);

        changes += now != level;
        level = now;
    }
    assert_in_range(changes, 1, 8);
}

/* Too slow for the link: cheaper at once, and blocks by all workers where even that is too slow. */
static void test_links_too_slow(void **state)
{
    Packing packing = make_linking(PACKING_AUTO);
    World world = slow_link;

    world.path = 12000;
    assert_int_equal(level_after(&packing, &world, 10), 9);
    world.slower[6] = 0.01;
    assert_int_equal(level_after(&packing, &world, 2), 3);
    world.slower[5] = 0.01;
    assert_int_equal(level_after(&packing, &world, 3), 0);
    assert_int_equal(level_after(&packing, &slow_link, PACKING_LINKED_PAUSE - 10), 0);
    assert_int_not_equal(level_after(&packing, &slow_link, 20), 0); /* tried again */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slow_path),
        cmocka_unit_test(test_fast_path),
        cmocka_unit_test(test_unknown_path),
        cmocka_unit_test(test_incompressible),
        cmocka_unit_test(test_slow_packer),
        cmocka_unit_test(test_packer_limits),
        cmocka_unit_test(test_modes),
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_harder_data),
        cmocka_unit_test(test_trial_on_other_data),
        cmocka_unit_test(test_trial_after_other_data),
        cmocka_unit_test(test_little_data),
        cmocka_unit_test(test_trials_are_short),
        cmocka_unit_test(test_linked),
        cmocka_unit_test(test_not_linked),
        cmocka_unit_test(test_links_forbidden),
        cmocka_unit_test(test_not_linked_at_the_limit),
        cmocka_unit_test(test_links_follow_path),
        cmocka_unit_test(test_links_are_kept),
        cmocka_unit_test(test_links_too_slow),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
