/*
 * Governing one move: what it may cost while it runs
 *
 * Theory of operation: asked about twice a second with what both hosts' figures say, it answers how fast the move may
 * be, and whether it goes on at all:
 *
 *     rate = the least of its cap, and of what the hosts' guests leave free of either link, by the moves there
 *
 * It falls at once, and rises by a quarter a second.  The command is made smaller by what the move was measured to
 * take beyond it, so that it stays within 5 % of its cap.  Where no link's speed is known nothing but yielding slows it.
 *
 * It yields, at the next question, where a guest on either host misses its SLA that met it before the
 * move began: down to a trickle.  Where that helps, it was the move; it comes back after a while, at half the
 * rate, and waits longer each time.  Where it does not help for 10 s, something else hurts that guest, and the move goes on.
 *
 * It is called off where it does more harm than good: harm is the guest-seconds that it has hurt and is expected to,
 * good the guest-seconds that its relief is expected to be worth; while it yields it is judged by the rate at which it
 * is to come back.  Also where what it was for has been gone for 30 s and more than half is
 * to be done yet, and where it takes several times as long as was expected.  Never once its point of no return is near
 * (`can_stop`).
 *
 * Pure; one ClusterGovernor a move.  Times in ms of one clock, rates in bytes/s.
 */
#pragma once

#include <glib.h>

/* A host's link: what guests use of it, without moves. */
typedef struct {
    double link, guests; /* CLUSTER_UNKNOWN: then the cap alone counts */
    guint moves;         /* that share it, this one included */
} ClusterGovernLink;

typedef struct {
    double now_ms;
    ClusterGovernLink source, destination;
    double measured; /* what the move has taken since the rate fell last; CLUSTER_UNKNOWN */
    guint hurt;      /* guests on either host that miss their SLA and met it when the move began */
    double left_bytes;     /* to be sent yet; CLUSTER_UNKNOWN */
    gboolean still_needed; /* what triggered it is still there */
    gboolean can_stop;     /* not once the guest is paused, or runs at the destination */
} ClusterGovernInput;

typedef enum {
    CLUSTER_GOVERN_GO,
    CLUSTER_GOVERN_YIELD,   /* goes on at a trickle */
    CLUSTER_GOVERN_CALL_OFF /* for good: cancel it */
} ClusterGovernVerdict;

typedef struct {
    ClusterGovernVerdict verdict;
    double rate;     /* to be set, bytes/s; the trickle while it yields */
    const char *why; /* static, a sentence */
} ClusterGovernOutput;

typedef struct {
    double cap;         /* never more than that */
    double trickle;     /* while it yields */
    double expected_ms; /* that the move was expected to take */
    double good_s;      /* guest-seconds of SLA that it is expected to save */
    double started_ms, asked_ms;
    double needed_ms;  /* when what triggered it was there last */
    double rate;       /* as answered last */
    double correction; /* what is asked for, of what is wanted */
    double harm_s;     /* guest-seconds so far */
    gboolean yielding;
    double yielded_ms; /* since when */
    double clean_ms;   /* since when nobody is hurt; CLUSTER_UNKNOWN */
    double wait_ms;    /* after which it comes back */
    double ceiling;    /* of the rate, after it has yielded; rises */
    guint not_ours;    /* hurt by something else */
} ClusterGovernor;

/* *cap*: not above 0 where it is not known. */
ClusterGovernor cluster_governor_new(double cap, double expected_ms, double good_s, double now_ms);
/* With what a move begins, which is in the links' `moves` already. */
double cluster_govern_first_rate(double cap, const ClusterGovernLink *source,
                                 const ClusterGovernLink *destination);

ClusterGovernOutput cluster_govern(ClusterGovernor *governor, const ClusterGovernInput *input);
