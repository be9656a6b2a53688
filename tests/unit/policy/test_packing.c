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
} World;

static double factor(const double *factors, int level)
{
    guint step = level == 6 ? 4 : level == 3 ? 3 : 0;

    return factors[step] > 0 ? factors[step] : 1;
}

static uint64_t packed_bytes(const World *world, PackWay way)
{
    return (uint64_t)(MIB * world->ratio[way.method] * factor(world->better, way.level));
}

static double pack_ms(const World *world, PackWay way)
{
    return way.method == PACK_NONE
               ? 0
               : MIB / world->speed[way.method] / factor(world->slower, way.level);
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
        packing_note(packing, &sample);
    }
    return raw / elapsed;
}

static const PackMethod methods[PACKING_STEPS] = {PACK_NONE, PACK_LZ4, PACK_ZSTD, PACK_ZSTD,
                                                  PACK_ZSTD};

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
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
