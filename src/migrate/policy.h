/*
 * Pre-copy: another round, or stop now?
 *
 * A pure function of the rounds so far.  The pause that would follow from
 * stopping now is predicted as
 *
 *     left / bandwidth + device time
 *
 * with *left* the bytes found dirty after the last round, the bandwidth as
 * measured and the device time as expected.  The user's target is a promise,
 * not a budget to use up: below it, rounds go on while each makes the pause
 * notably shorter, and end when one does not, because the guest dirties as
 * much in the time of a round as the round carries away.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

typedef struct {
    uint64_t sent_bytes; /* guest bytes this round carried */
    uint64_t left_bytes; /* guest bytes found dirty right after it */
    double ms;
} PolicyRound;

typedef struct {
    const PolicyRound *rounds;
    guint round_count;   /* at least 1 */
    double bytes_per_ms; /* what the path carries, guest bytes */
    double device_ms;    /* device state out, over and in, and the hand-over */
    guint max_downtime_ms;
} PolicyFacts;

typedef enum {
    POLICY_CONTINUE,
    POLICY_STOP,    /* pause the guest and send the rest */
    POLICY_GIVE_UP, /* the target will not be reached */
} PolicyVerdict;

typedef struct {
    PolicyVerdict verdict;
    const char *reason; /* static: "converged", "no-gain", "enough-rounds", "not-converging" */
    double expected_downtime_ms;
} PolicyDecision;

/* The rest takes less than this on the wire: nothing to be gained any more. */
#define POLICY_SMALL_REST_MS 0.5
/* A round that leaves more than this share of what was left before gains nothing. */
#define POLICY_GAIN_SHARE 0.75
/* Rounds once within the target; rounds without a new best before giving up. */
#define POLICY_ROUNDS_WITHIN_TARGET 12
#define POLICY_ROUNDS_WITHOUT_PROGRESS 24

PolicyDecision policy_decide(const PolicyFacts *facts);
