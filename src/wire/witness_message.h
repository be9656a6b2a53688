/*
 * What is said to a witness, and what it answers
 *
 * JSON in a WITNESS_REQUEST and a WITNESS_ANSWER frame (docs/protocol.md, "Witness"; docs/witness.md has
 * the rules).  One request is under way at a time on a connection; the answer repeats its number.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

/* What a witness has on record of a transaction. */
typedef enum {
    WITNESS_UNDECIDED,
    WITNESS_DESTINATION_ALONE, /* it goes on without the source */
    WITNESS_SOURCE_MAY,        /* the source may take over */
} WitnessState;

/* "undecided", "destination-alone", "source-may-take-over" */
const char *witness_state_name(WitnessState state);
gboolean witness_state_from_name(const char *name, WitnessState *ret);

typedef enum {
    WITNESS_REGISTER,  /* source: there is this transaction */
    WITNESS_RENEW,     /* destination: a lease */
    WITNESS_CLAIM,     /* source: may I take over?  destination: may I go on alone? */
    WITNESS_GIVE_BACK, /* source: I do not take over */
    WITNESS_FORGET,    /* either: it is over */
    WITNESS_ASK,       /* either: how does it stand? */
} WitnessRequestKind;

/* "register", "renew", "claim", "give-back", "forget", "ask" */
const char *witness_request_kind_name(WitnessRequestKind kind);
gboolean witness_request_kind_from_name(const char *name, WitnessRequestKind *ret);

#define WITNESS_MAX_NUMBER ((uint64_t)1 << 53)
#define WITNESS_MIN_LEASE_MS 1000
#define WITNESS_MAX_LEASE_MS 60000
#define WITNESS_FRAME_BYTES 8192u /* of either frame, at most */

typedef struct {
    uint64_t number;
    WitnessRequestKind kind;
    char *transaction; /* 32 lower-case hex digits */
    /* Of REGISTER only, otherwise NULL and 0; *lease_ms* of RENEW, too. */
    char *guest;            /* its name, for messages */
    char *guest_id;         /* 32 hex digits */
    uint64_t term;          /* with which the destination is to own it */
    char *destination;      /* its agent's lasting id, 32 hex digits */
    char *destination_name; /* of its certificate; "": not checked */
    guint lease_ms; /* the longest lease: WITNESS_MIN_LEASE_MS to WITNESS_MAX_LEASE_MS; of RENEW:
                               for how long; 0, or more than that: the longest */
} WitnessRequest;

void witness_request_clear(WitnessRequest *request);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(WitnessRequest, witness_request_clear)
/* Free with g_free(). */
char *witness_request_encode(const WitnessRequest *request);
gboolean witness_request_decode(const char *text, size_t length, WitnessRequest *ret,
                                GError **error);

/* A refusal has a reason: then the rest is as it would be without the request. */
typedef struct {
    uint64_t number;
    GError *refusal; /* NULL: done */
    WitnessState state;
    guint lease_ms; /* RENEW: for how long, counted from when the request was sent; 0: no lease */
    guint wait_ms;  /* CLAIM that came too early (BUSY): how long until it may be granted */
} WitnessAnswer;

void witness_answer_clear(WitnessAnswer *answer);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(WitnessAnswer, witness_answer_clear)
/* Free with g_free(). */
char *witness_answer_encode(const WitnessAnswer *answer);
gboolean witness_answer_decode(const char *text, size_t length, WitnessAnswer *ret, GError **error);
