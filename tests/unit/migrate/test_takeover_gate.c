/* The source's gate, with a witness that is a fake. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "migrate/takeover_gate.h"
#include "policy/lease.h"

#define MS ((uint64_t)1000000)
#define LEASE_MS 200
#define TIMEOUT_MS 10
#define ID "0123456789abcdef0123456789abcdef"

typedef struct {
    Witness base;
    VmferryErrorCode refuses; /* CLAIM; FAILED: it does not */
    gboolean silent;          /* it does what is asked, and nobody hears of it */
    WitnessState state;
    guint wait_ms;
    guint claims, given_back;
    TakeoverGate *grants_meanwhile; /* during a CLAIM */
} Fake;

static gboolean do_claim(Fake *fake, GError **error)
{
    fake->claims++;
    if (fake->grants_meanwhile)
        takeover_gate_grant(fake->grants_meanwhile, 0);
    if (fake->refuses != VMFERRY_ERROR_FAILED) {
        error_set(error, fake->refuses, "no");
        return FALSE;
    }
    fake->state = WITNESS_SOURCE_MAY;
    return TRUE;
}

static gboolean fake_call(Witness *witness, const WitnessRequest *request, int timeout_ms,
                          WitnessReply *ret, GError **error)
{
    Fake *fake = (Fake *)witness;
    gboolean done = TRUE;

    assert_string_equal(request->transaction, ID);
    if (request->kind == WITNESS_CLAIM) {
        done = do_claim(fake, fake->silent ? NULL : error);
    } else {
        assert_int_equal(request->kind, WITNESS_GIVE_BACK);
        fake->given_back++;
        fake->state = WITNESS_UNDECIDED;
    }
    *ret = (WitnessReply){0};
    if (fake->silent) {
        error_set(error, VMFERRY_ERROR_TIMEOUT, "no answer");
        return FALSE;
    }
    *ret = (WitnessReply){.answered = TRUE, .state = fake->state, .wait_ms = fake->wait_ms};
    return done;
}

static const WitnessOps fake_ops = {.call = fake_call};

#define FAKE                                                                                       \
    {                                                                                              \
        .base = {.ops = &fake_ops }                                                                \
    }

static TakeoverDecision try(TakeoverGate *gate, guint *ret_wait_ms)
{
    g_autoptr(GError) error = NULL;
    TakeoverDecision decision = takeover_gate_try(gate, TIMEOUT_MS, ret_wait_ms, &error);

    assert_true((decision == TAKEOVER_TAKEN) == (error == NULL));
    return decision;
}

static void test_own_lease_first(void **state)
{
    Fake fake = FAKE;
    g_autoptr(TakeoverGate) gate = takeover_gate_new(&fake.base, ID, LEASE_MS, FALSE);
    uint64_t granted = clock_boot_ns();
    guint wait_ms;

    assert_int_equal(takeover_gate_grant(gate, 0), LEASE_MS);
    while (try(gate, &wait_ms) == TAKEOVER_LATER) {
        assert_int_equal(fake.claims, 0);
        assert_in_range(wait_ms, 1, LEASE_MS + 2 + LEASE_MARGIN_MS);
        clock_sleep_ns(wait_ms * MS);
    }
    assert_true(clock_boot_ns() >= granted + (LEASE_MS + 2 + LEASE_MARGIN_MS) * MS);
    assert_int_equal(fake.claims, 1);
    /* For good. */
    assert_int_equal(takeover_gate_grant(gate, 0), 0);
    assert_int_equal(try(gate, &wait_ms), TAKEOVER_TAKEN);
    assert_true(takeover_gate_settle(gate, TIMEOUT_MS, NULL));
    assert_int_equal(fake.given_back, 0);
}

static void test_after_restart(void **state)
{
    Fake fake = FAKE;
    g_autoptr(TakeoverGate) gate = takeover_gate_new(&fake.base, ID, LEASE_MS, TRUE);
    guint wait_ms;

    assert_int_equal(try(gate, &wait_ms), TAKEOVER_LATER);
    assert_true(wait_ms > LEASE_MS / 2);
    /* A consent of before may be on record. */
    assert_true(takeover_gate_settle(gate, TIMEOUT_MS, NULL));
    assert_true(takeover_gate_settle(gate, TIMEOUT_MS, NULL));
    assert_int_equal(fake.given_back, 1);
}

static void test_back_meanwhile(void **state)
{
    Fake fake = FAKE;
    g_autoptr(TakeoverGate) gate = takeover_gate_new(&fake.base, ID, LEASE_MS, FALSE);
    guint wait_ms;

    fake.grants_meanwhile = gate;
    assert_int_equal(try(gate, &wait_ms), TAKEOVER_LATER);
    assert_int_equal(fake.claims, 1);
    assert_int_equal(fake.given_back, 1);
    assert_int_equal(fake.state, WITNESS_UNDECIDED);
    assert_int_equal(takeover_gate_grant(gate, 0), LEASE_MS);
    assert_int_equal(try(gate, &wait_ms), TAKEOVER_LATER);
    assert_int_equal(fake.claims, 1);
}

/* A claim that was not answered may be on record: it is no consent, and is given back. */
static void test_silence(void **state)
{
    Fake fake = FAKE;
    g_autoptr(TakeoverGate) gate = takeover_gate_new(&fake.base, ID, LEASE_MS, FALSE);
    guint wait_ms;

    assert_true(takeover_gate_settle(gate, TIMEOUT_MS, NULL));
    assert_int_equal(fake.given_back, 0);
    fake.silent = TRUE;
    assert_int_equal(try(gate, &wait_ms), TAKEOVER_LATER);
    assert_true(wait_ms > 0);
    assert_false(takeover_gate_settle(gate, TIMEOUT_MS, NULL));
    fake.silent = FALSE;
    assert_true(takeover_gate_settle(gate, TIMEOUT_MS, NULL));
    assert_int_equal(fake.given_back, 2);
}

static void test_refusals(void **state)
{
    static const struct {
        VmferryErrorCode code;
        WitnessState state;
        TakeoverDecision decision;
    } rows[] = {
        {VMFERRY_ERROR_BUSY, WITNESS_UNDECIDED, TAKEOVER_LATER},
        {VMFERRY_ERROR_REFUSED, WITNESS_DESTINATION_ALONE, TAKEOVER_DENIED},
        {VMFERRY_ERROR_NOT_FOUND, WITNESS_UNDECIDED, TAKEOVER_DENIED},
        {VMFERRY_ERROR_NO_SPACE, WITNESS_UNDECIDED, TAKEOVER_LATER},
        {VMFERRY_ERROR_REFUSED, WITNESS_UNDECIDED, TAKEOVER_LATER}, /* an earlier connection */
    };

    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        Fake fake = FAKE;
        g_autoptr(TakeoverGate) gate = takeover_gate_new(&fake.base, ID, LEASE_MS, FALSE);
        guint wait_ms;

        fake.refuses = rows[i].code;
        fake.state = rows[i].state;
        fake.wait_ms = rows[i].code == VMFERRY_ERROR_BUSY ? 77 : 0;
        assert_int_equal(try(gate, &wait_ms), rows[i].decision);
        assert_true(fake.wait_ms == 0 || wait_ms == 77);
        assert_int_equal(takeover_gate_grant(gate, 0), LEASE_MS);
    }
}

static void test_without_a_witness(void **state)
{
    g_autoptr(TakeoverGate) gate = takeover_gate_new(NULL, ID, LEASE_MS, TRUE);
    guint wait_ms;

    assert_int_equal(try(gate, &wait_ms), TAKEOVER_DENIED);
    assert_true(takeover_gate_settle(gate, TIMEOUT_MS, NULL));
    assert_int_equal(takeover_gate_grant(gate, 0), LEASE_MS);
    takeover_gate_take(gate);
    assert_int_equal(try(gate, &wait_ms), TAKEOVER_TAKEN);
    assert_int_equal(takeover_gate_grant(gate, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own_lease_first), cmocka_unit_test(test_after_restart),
        cmocka_unit_test(test_back_meanwhile),  cmocka_unit_test(test_silence),
        cmocka_unit_test(test_refusals),        cmocka_unit_test(test_without_a_witness),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
