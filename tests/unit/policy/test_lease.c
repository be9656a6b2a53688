/*
 * Leases, with a simulated network and clocks that differ: whatever is lost, late or restarted, the
 * source never takes over while the destination believes that its guest may run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <glib.h>

#include "policy/lease.h"

#define MS ((uint64_t)1000000)
#define LENGTH_MS 1000

static void test_holder(void **state)
{
    LeaseHolder holder = {0};

    assert_false(lease_holder_may_run(&holder, 1));
    lease_holder_grant(&holder, LEASE_OF_PEER, 100 * MS, LENGTH_MS);
    assert_true(lease_holder_may_run(&holder, 1100 * MS - 1));
    assert_false(lease_holder_may_run(&holder, 1100 * MS));
    /* Either will do, and one that comes late takes nothing away. */
    lease_holder_grant(&holder, LEASE_OF_WITNESS, 500 * MS, LENGTH_MS);
    lease_holder_grant(&holder, LEASE_OF_PEER, 50 * MS, LENGTH_MS);
    lease_holder_grant(&holder, LEASE_OF_WITNESS, 400 * MS, LENGTH_MS);
    assert_int_equal(lease_holder_deadline(&holder), 1500 * MS);
}

static void test_grantor(void **state)
{
    LeaseGrantor grantor = lease_grantor_new(LENGTH_MS);

    assert_true(lease_grantor_has_ended(&grantor, 0));
    lease_grantor_grant(&grantor, 0, 100 * MS);
    assert_int_equal(lease_grantor_left_ns(&grantor, 100 * MS), 1060 * MS);
    assert_false(lease_grantor_has_ended(&grantor, 1160 * MS - 1));
    assert_true(lease_grantor_has_ended(&grantor, 1160 * MS));
    grantor = lease_grantor_after_restart(LENGTH_MS, 100 * MS);
    assert_false(lease_grantor_has_ended(&grantor, 1159 * MS));
    assert_true(lease_grantor_has_ended(&grantor, 1160 * MS));
}

static void test_interval(void **state)
{
    assert_int_equal(lease_renewal_interval_ms(3000), 600);
    assert_int_equal(lease_renewal_interval_ms(1), 1);
}

/* What is granted follows what is asked for, up to the longest; a shorter one ends no longer one. */
static void test_wanted(void **state)
{
    LeaseGrantor grantor = lease_grantor_new(LENGTH_MS);

    assert_int_equal(lease_grantor_grant(&grantor, 200, 100 * MS), 200);
    assert_int_equal(lease_grantor_left_ns(&grantor, 100 * MS), 252 * MS);
    assert_int_equal(lease_grantor_grant(&grantor, 2 * LENGTH_MS, 100 * MS), LENGTH_MS);
    assert_int_equal(lease_grantor_grant(&grantor, 200, 200 * MS), 200);
    assert_int_equal(lease_grantor_left_ns(&grantor, 100 * MS), 1060 * MS);
}

/* So many leases, each asked for right after the one before has come, which takes *span_ms*. */
static uint64_t bring(LeaseLength *length, guint count, guint span_ms, uint64_t now)
{
    for (guint i = 0; i < count; i++) {
        lease_length_note(length, now, now + span_ms * MS);
        now += span_ms * MS;
    }
    return now;
}

static void test_length(void **state)
{
    LeaseLength fixed = lease_length_new(3000, 3000, 0), length = lease_length_new(150, 2000, 0);
    uint64_t now;

    bring(&fixed, 1000, 10, MS);
    assert_int_equal(lease_length_choose(&fixed), 3000);
    /* From the longest down, in some seconds; never below the shortest. */
    assert_int_equal(lease_length_choose(&length), 2000);
    now = bring(&length, 100, 20, MS);
    assert_in_range(lease_length_choose(&length), 900, 1100);
    now = bring(&length, 1000, 15, now);
    assert_int_equal(lease_length_choose(&length), 150);
    /* One that comes late counts at once, and for a while. */
    lease_length_note(&length, now, now + 150 * MS);
    now += 150 * MS;
    assert_in_range(lease_length_choose(&length), 650, 690);
    now = bring(&length, 50, 20, now);
    assert_in_range(lease_length_choose(&length), 450, 500);
    /* A guest that had none for long gets long ones; the answer to an older question says nothing. */
    lease_length_note(&length, now - 5000 * MS, now + 5000 * MS);
    assert_in_range(lease_length_choose(&length), 450, 500);
    lease_length_note(&length, now + 4999 * MS, now + 5000 * MS);
    assert_int_equal(lease_length_choose(&length), 2000);
}

/* ---- three hosts ---- */

#define HOSTS 3
enum { SOURCE, DESTINATION, WITNESS };

typedef struct {
    uint64_t at; /* true time of its arrival; 0: lost, or taken */
    uint64_t sent_ns;
    guint length_ms; /* asked for, and granted */
} Message;

typedef struct {
    GRand *random;
    uint64_t now; /* true time, which nobody knows */
    double rate[HOSTS];
    uint64_t offset[HOSTS];
    gboolean cut[LEASE_GRANTORS]; /* the link of the destination with a grantor */
    Message request[LEASE_GRANTORS], answer[LEASE_GRANTORS];
    LeaseHolder holder;
    LeaseGrantor grantor[LEASE_GRANTORS];
    gboolean consent, taken;
    gboolean count_from_answer, forgets;
} World;

static uint64_t clock_of(const World *world, guint host)
{
    return world->offset[host] + (uint64_t)((double)world->now * world->rate[host]);
}

/* Grantors are the source and the witness. */
static uint64_t clock_of_grantor(const World *world, guint grantor)
{
    return clock_of(world, grantor == LEASE_OF_PEER ? SOURCE : WITNESS);
}

static Message send_message(World *world, guint grantor, uint64_t sent_ns, guint length_ms)
{
    Message message = {.sent_ns = sent_ns, .length_ms = length_ms};

    if (!world->cut[grantor] && g_rand_int_range(world->random, 0, 10) > 0)
        message.at =
            world->now + (uint64_t)g_rand_int_range(world->random, 1, 2 * LENGTH_MS) * MS / 4;
    return message;
}

static gboolean arrives(World *world, Message *message)
{
    if (message->at == 0 || message->at > world->now)
        return FALSE;
    message->at = 0;
    return TRUE;
}

static void renew(World *world, guint grantor)
{
    if (world->request[grantor].at == 0 && g_rand_int_range(world->random, 0, 20) == 0)
        world->request[grantor] =
            send_message(world, grantor, clock_of(world, DESTINATION),
                         (guint)g_rand_int_range(world->random, 0, 2 * LENGTH_MS));
    if (arrives(world, &world->request[grantor]) &&
        !(grantor == LEASE_OF_WITNESS && world->consent) && !world->taken) {
        guint granted_ms =
            lease_grantor_grant(&world->grantor[grantor], world->request[grantor].length_ms,
                                clock_of_grantor(world, grantor));

        world->answer[grantor] =
            send_message(world, grantor, world->request[grantor].sent_ns, granted_ms);
    }
    if (arrives(world, &world->answer[grantor]))
        lease_holder_grant(&world->holder, (LeaseOrigin)grantor,
                           world->count_from_answer ? clock_of(world, DESTINATION)
                                                    : world->answer[grantor].sent_ns,
                           world->answer[grantor].length_ms);
}

static void restart(World *world, guint grantor)
{
    uint64_t now = clock_of_grantor(world, grantor);

    world->grantor[grantor] =
        world->forgets ? lease_grantor_new(LENGTH_MS) : lease_grantor_after_restart(LENGTH_MS, now);
}

/* The source tries all the time; the witness's consent is durable, and may be given back. */
static void try_takeover(World *world)
{
    if (!world->consent &&
        lease_grantor_has_ended(&world->grantor[LEASE_OF_WITNESS], clock_of(world, WITNESS)))
        world->consent = TRUE;
    if (world->consent &&
        !lease_grantor_has_ended(&world->grantor[LEASE_OF_PEER], clock_of(world, SOURCE))) {
        world->consent = g_rand_boolean(world->random);
    } else if (world->consent) {
        world->taken = TRUE;
    }
}

static World make_world(guint seed)
{
    World world = {.random = g_rand_new_with_seed(seed)};

    for (guint i = 0; i < HOSTS; i++) {
        world.rate[i] = g_rand_double_range(world.random, 0.9955, 1.0045);
        world.offset[i] = (uint64_t)g_rand_int_range(world.random, 1, 1000000) * MS;
    }
    for (guint i = 0; i < LEASE_GRANTORS; i++)
        world.grantor[i] = lease_grantor_after_restart(LENGTH_MS, clock_of_grantor(&world, i));
    return world;
}

/* FALSE where two sides have believed that they may run. */
static gboolean run_world(World *world)
{
    for (guint step = 0; step < 4000; step++) {
        world->now += (uint64_t)g_rand_int_range(world->random, 1, 10) * MS;
        for (guint i = 0; i < LEASE_GRANTORS; i++) {
            if (g_rand_int_range(world->random, 0, 300) == 0)
                world->cut[i] = !world->cut[i];
            if (g_rand_int_range(world->random, 0, 500) == 0 && !world->taken)
                restart(world, i);
            renew(world, i);
        }
        if (!world->taken && world->cut[LEASE_OF_PEER])
            try_takeover(world);
        if (world->taken && lease_holder_may_run(&world->holder, clock_of(world, DESTINATION)))
            return FALSE;
    }
    return TRUE;
}

static guint count_failures(gboolean count_from_answer, gboolean forgets, guint *ret_taken)
{
    guint failures = 0;

    *ret_taken = 0;
    for (guint seed = 1; seed <= 300; seed++) {
        World world = make_world(seed);

        world.count_from_answer = count_from_answer;
        world.forgets = forgets;
        failures += !run_world(&world);
        *ret_taken += world.taken;
        g_rand_free(world.random);
    }
    return failures;
}

static void test_never_two(void **state)
{
    guint taken;

    assert_int_equal(count_failures(FALSE, FALSE, &taken), 0);
    /* It was tried: there were take-overs, and worlds without one. */
    assert_in_range(taken, 20, 300);
    /* With a rule broken the same worlds have two sides that run. */
    assert_true(count_failures(TRUE, FALSE, &taken) > 0);
    assert_true(count_failures(FALSE, TRUE, &taken) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_holder),   cmocka_unit_test(test_grantor),
        cmocka_unit_test(test_interval), cmocka_unit_test(test_wanted),
        cmocka_unit_test(test_length),   cmocka_unit_test(test_never_two),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
