#include "migrate/takeover_gate.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/lock_guard.h"
#include "policy/lease.h"

#define NS_PER_MS ((uint64_t)1000000)
/* A lease may be much shorter than the longest. */
#define ATTENDED_MS 500
/* Where nothing says how long to wait. */
#define TRY_AGAIN_MS 250

struct TakeoverGate {
    Witness *witness;
    char *transaction;
    GMutex calls; /* held for a question to the witness */

    GMutex lock; /* protects all below */
    LeaseGrantor lease;
    uint64_t grants;
    gboolean may_have_consent; /* on record at the witness */
    gboolean taken;
};

TakeoverGate *takeover_gate_new(Witness *witness, const char *transaction, guint lease_ms,
                                gboolean restarted)
{
    TakeoverGate *gate = g_new0(TakeoverGate, 1);

    gate->witness = witness;
    gate->transaction = g_strdup(transaction);
    g_mutex_init(&gate->calls);
    g_mutex_init(&gate->lock);
    gate->lease = restarted ? lease_grantor_after_restart(lease_ms, clock_boot_ns())
                            : lease_grantor_new(lease_ms);
    gate->may_have_consent = restarted;
    if (witness)
        witness_attend(witness, transaction, MIN(lease_ms, ATTENDED_MS));
    return gate;
}

void takeover_gate_free(TakeoverGate *gate)
{
    if (!gate)
        return;
    g_mutex_clear(&gate->calls);
    g_mutex_clear(&gate->lock);
    g_free(gate->transaction);
    g_free(gate);
}

guint takeover_gate_grant(TakeoverGate *gate, guint wanted_ms)
{
    lock_guard(&gate->lock);

    if (gate->taken)
        return 0;
    gate->grants++;
    return lease_grantor_grant(&gate->lease, wanted_ms, clock_boot_ns());
}

static guint get_left_ms(const TakeoverGate *gate)
{
    uint64_t left = lease_grantor_left_ns(&gate->lease, clock_boot_ns());

    return (guint)((left + NS_PER_MS - 1) / NS_PER_MS);
}

guint takeover_gate_get_left_ms(TakeoverGate *gate)
{
    lock_guard(&gate->lock);

    return get_left_ms(gate);
}

void takeover_gate_take(TakeoverGate *gate)
{
    lock_guard(&gate->lock);

    gate->taken = TRUE;
}

static void note_consent(TakeoverGate *gate, gboolean may_have)
{
    lock_guard(&gate->lock);

    gate->may_have_consent = may_have;
}

/* ---- settling ---- */

/* With *calls* held.  From here on there is no consent, whatever becomes of the answer; but it may be
 * on record. */
static gboolean give_back(TakeoverGate *gate, int timeout_ms, GError **error)
{
    g_autoptr(GError) failure = NULL;
    WitnessReply reply;

    if (!witness_ask(gate->witness, WITNESS_GIVE_BACK, gate->transaction, timeout_ms, &reply,
                     &failure) &&
        !(reply.answered && (reply.state == WITNESS_DESTINATION_ALONE ||
                             error_is(failure, VMFERRY_ERROR_NOT_FOUND)))) {
        g_propagate_error(error, g_steal_pointer(&failure));
        return FALSE;
    }
    note_consent(gate, FALSE);
    return TRUE;
}

gboolean takeover_gate_settle(TakeoverGate *gate, int timeout_ms, GError **error)
{
    gboolean needed;
    lock_guard(&gate->calls);

    g_mutex_lock(&gate->lock);
    needed = gate->may_have_consent && !gate->taken;
    g_mutex_unlock(&gate->lock);
    return !needed || !gate->witness || give_back(gate, timeout_ms, error);
}

/* ---- taking over ---- */

/* TRUE where our own lease has ended, and the claim may be made: *ret_grants* so far. */
static gboolean begin_claim(TakeoverGate *gate, uint64_t *ret_grants, guint *ret_wait_ms)
{
    lock_guard(&gate->lock);

    *ret_grants = gate->grants;
    *ret_wait_ms = get_left_ms(gate);
    if (*ret_wait_ms > 0)
        return FALSE;
    gate->may_have_consent = TRUE;
    return TRUE;
}

/* The last look. */
static gboolean pass(TakeoverGate *gate, uint64_t grants)
{
    lock_guard(&gate->lock);

    gate->taken = gate->grants == grants && lease_grantor_has_ended(&gate->lease, clock_boot_ns());
    return gate->taken;
}

static TakeoverDecision judge_refusal(TakeoverGate *gate, const WitnessReply *reply,
                                      const GError *refusal, guint *ret_wait_ms)
{
    gboolean unknown = error_is(refusal, VMFERRY_ERROR_NOT_FOUND);

    *ret_wait_ms = reply->wait_ms > 0 ? reply->wait_ms : TRY_AGAIN_MS;
    if (!reply->answered)
        return TAKEOVER_LATER;
    if (unknown || reply->state != WITNESS_SOURCE_MAY)
        note_consent(gate, FALSE);
    return unknown || reply->state == WITNESS_DESTINATION_ALONE ? TAKEOVER_DENIED : TAKEOVER_LATER;
}

/* With *calls* held, by one whose own lease has ended. */
static TakeoverDecision claim(TakeoverGate *gate, uint64_t grants, int timeout_ms,
                              guint *ret_wait_ms, GError **error)
{
    g_autoptr(GError) refusal = NULL;
    TakeoverDecision decision;
    WitnessReply reply;

    if (witness_ask(gate->witness, WITNESS_CLAIM, gate->transaction, timeout_ms, &reply,
                    &refusal)) {
        if (pass(gate, grants))
            return TAKEOVER_TAKEN;
        *ret_wait_ms = TRY_AGAIN_MS;
        give_back(gate, timeout_ms, NULL);
        error_set(error, VMFERRY_ERROR_BUSY, "the destination is back");
        return TAKEOVER_LATER;
    }
    decision = judge_refusal(gate, &reply, refusal, ret_wait_ms);
    g_propagate_error(error, g_steal_pointer(&refusal));
    return decision;
}

static gboolean is_taken(TakeoverGate *gate)
{
    lock_guard(&gate->lock);

    return gate->taken;
}

TakeoverDecision takeover_gate_try(TakeoverGate *gate, int timeout_ms, guint *ret_wait_ms,
                                   GError **error)
{
    uint64_t grants;
    lock_guard(&gate->calls);

    *ret_wait_ms = 0;
    if (is_taken(gate))
        return TAKEOVER_TAKEN;
    if (!gate->witness) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "there is no witness who could tell that the destination does not run the guest");
        return TAKEOVER_DENIED;
    }
    if (begin_claim(gate, &grants, ret_wait_ms))
        return claim(gate, grants, timeout_ms, ret_wait_ms, error);
    error_set(error, VMFERRY_ERROR_BUSY, "the destination may still run the guest for %u ms",
              *ret_wait_ms);
    return TAKEOVER_LATER;
}
