/*
 * Post-copy's transactions (docs/postcopy-transactions.md), to be checked by spin
 *
 * Theory of operation: the model begins where the guest has been paused at its source and ends
 * where it runs in one place and nobody needs the other any more.  What an agent knows is either
 * durable (its journal, files) or lost when it is killed; each atomic block is one step, and
 * between any two steps anything may be killed, and any link may break.  A link that breaks
 * loses all, or nothing, of what is under way in each direction; both ends notice only after
 * they have read what has arrived.
 *
 * How it is checked (tests/model/run):
 *  - "never two copies" and all other rules of safety are assertions;
 *  - asking again that changes nothing is left out, and the number of failures is limited, so there
 *    is no cycle (checked by pan -l) and each run ends: in Judge, who demands that the guest runs.
 *
 * Macros:
 *    FULL        safety level full; otherwise network
 *    OVERLAP     failures may come before the one before is repaired (safety only in FULL)
 *    VMM_DEATH   in network: a VMM may die while the guest is split
 *    MUTANT=n    a rule is broken (run has the list); spin must find an error
 */
#ifndef MUTANT
#define MUTANT 0
#endif
#ifndef FAILURES
#define FAILURES 2
#endif
#ifndef PAGES
#define PAGES 1
#endif

/* --- what is where ------------------------------------------------------- */

/* Of VMMs.  HELD: paused by the rules of leases. */
mtype:vmm = { NONE, PAUSED, RUNNING, HELD, DEAD };
/* The source's journal. */
mtype:source = { PAUSING, SWITCHING_OVER, IN_DOUBT, POSTCOPY_SOURCE, TAKEOVER, OURS, GONE };
/* The destination's. */
mtype:dest = { PENDING, ABORTED, COMMITTED, COMPLETED, LOST };
/* What an agent is about to do; lost when it is killed. */
mtype:step = { DOWN, BEGUN, AWAIT, READIED, JOURNALED, DISARMED, SENT, TOLD, ASK, PUSH, ALL_THERE,
               END, LOADED, STARTING, UNGUARDED, ARMED, TAKING_BACK, ENDING, RUNS, SERVE, DONE };
mtype = { PREPARE, READY, START, STARTED, PAGE, WANT, COMPLETE, ENDED,
          EPOCH_PREPARE, EPOCH_COMMIT, EPOCH_ACK, QUESTION, IS_COMMITTED, IS_ABORTED, IS_LOST,
          IS_GIVEN_UP, IS_OUTSTANDING, IS_COMPLETE };

/* The source's host. */
mtype:source sj = PAUSING;
mtype:step sp = BEGUN;
mtype:vmm sq = PAUSED;   /* the guest as it was before the switchover */
mtype:vmm nq = NONE;     /* FULL: the fresh one that is started from the last committed epoch */
bool s_guard = 1;        /* resumes the guest if the agent dies */
bool s_act = 0;          /* it is about to do so */
bool s_away = 0;         /* host gone for good */
byte s_left = 0;         /* bitmap: pages not sent in this connection */
byte s_term = 1;
byte s_staged = 0, s_epoch = 0; /* FULL: epochs, as files that outlive the agent */

/* The destination's. */
mtype:dest dj = PENDING;
mtype:step dp = BEGUN;
mtype:vmm dq = PAUSED;
mtype:vmm d_guard = DEAD; /* what the guard makes of the VMM if the agent dies; NONE: leaves it */
bool d_act = 0;
bool d_away = 0;
bool settled = 0;         /* seen to run; found out anew after a restart */
bool d_free = 0;          /* durable: outputs need nobody's ACK any more */
byte bits = 0;            /* the file with the outstanding pages */
byte wanted = 0;          /* asked for in this connection */

/* A page at the destination: its content, or why there is none. */
#define ABSENT 0    /* outstanding: its content is at the source */
#define OLD 1       /* as pre-copy has sent it, changed since */
#define RIGHT 2     /* as at the pause */
#define TOO_NEW 3   /* of a source that runs again */
#define WRITTEN 4   /* by the guest, here */
#define DISCARDED 5 /* by the guest: reads as zero */
byte page[PAGES] = OLD;
byte version = RIGHT; /* of the source's memory */

/* A page that a thread of the destination has received.  *hand*: 0 nothing, 1 to be put in place,
 * 2 put in place, its bit to be cleared (under a lock). */
byte hand = 0, hand_page = 0, hand_version = 0;

/* The session, and questions on connections of their own. */
bool link = 1, conn = 1;
chan to_d = [2] of { mtype, byte, byte };
chan to_s = [2] of { mtype, byte };
mtype question = 0;

byte failures = FAILURES;
bool ran = 0;        /* at the destination */
bool split_lost = 0; /* a VMM died where the level promises nothing */

#ifdef FULL
/* The witness, who is the store, too. */
bool w_up = 1, w_away = 0, link_s = 1, link_d = 1;
byte w_holder = 0; /* durable: 0 undecided, 1 the destination goes on alone, 2 the source may */
bool lease_s = 0, lease_w = 0;
#if MUTANT == 17
#define STORED OLD
#else
#define STORED RIGHT
#endif
/* The guest's progress: each step makes an output.  *out*: the last one that has left the host. */
#ifndef STATES
#define STATES 1
#endif
byte state = 0, cut = 0, sent = 0, acked = 0, out = 0;
#define MAY_RUN (lease_s || lease_w)
#else
#define MAY_RUN 1
#endif

#define NUMBER(vmm) (vmm == RUNNING -> 1 : 0)
#define COPIES (NUMBER(sq) + NUMBER(nq) + NUMBER(dq))
inline let_run(vmm) { vmm = RUNNING; assert(COPIES == 1) }
inline run_there() { let_run(dq); ran = 1 }

#define MAY_TAKE_OVER ((sj == POSTCOPY_SOURCE || sj == IN_DOUBT) && sq == PAUSED && link_s && w_up)
#if MUTANT == 9
#define IS_ALL_THERE (bits == 0 || (sp == PUSH && s_left == 0))
#else
#define IS_ALL_THERE (bits == 0)
#endif
#define ROOM(channel) (len(channel) < 2)
#define LINKED(p) (link && p != DOWN)
#define S_READS (sp != DOWN && nempty(to_s))
#define S_CUT (sp != DOWN && !conn && empty(to_s))
#define D_CUT (dp != DOWN && !conn && empty(to_d))

/* What is lost on the way: all or nothing. */
inline lose()
{
    conn = 0;
    if :: true :: do :: to_d ? _, _, _ :: empty(to_d) -> break od fi;
    if :: true :: do :: to_s ? _, _ :: empty(to_s) -> break od fi;
    question = 0
}

inline clear()
{
    do :: to_d ? _, _, _ :: empty(to_d) -> break od;
    do :: to_s ? _, _ :: empty(to_s) -> break od
}

/* --- the source's agent -------------------------------------------------- */

inline keep_here(new_term)
{
    /* What has run there is not forgotten, but by an operator. */
    assert(!ran || new_term != 1);
    let_run(sq);
    version = TOO_NEW;
    s_guard = 0;
    s_term = new_term;
    sj = OURS;
    sp = DONE;
    s_left = 0
}

/* Resume first, then the record: a guest that runs with "switching over" on record is ours. */
active proctype Source()
{
    byte n;
end:
    do
    /* PREPARE goes with the device state and OUTSTANDING. */
    :: atomic { sp == BEGUN && conn && nfull(to_d) ->
        to_d ! PREPARE, 0, 0; s_left = (1 << PAGES) - 1; sp = AWAIT }
    :: atomic { S_READS && to_s ? [READY, _] && sp == AWAIT -> to_s ? READY, _; sp = READIED }
#if MUTANT == 2
    :: atomic { sp == READIED && conn && nfull(to_d) -> to_d ! START, 0, 0; sp = JOURNALED }
    :: atomic { sp == JOURNALED -> sj = SWITCHING_OVER; s_guard = 0; sp = SENT }
#else
    :: atomic { sp == READIED && conn -> sj = SWITCHING_OVER; sp = JOURNALED }
#if MUTANT == 20
    :: atomic { sp == JOURNALED && conn -> sp = DISARMED }
#else
    :: atomic { sp == JOURNALED && conn -> s_guard = 0; sp = DISARMED }
#endif
    /* A send that fails may have been received all the same. */
    :: atomic { sp == DISARMED && (!conn || ROOM(to_d)) ->
        if :: conn -> to_d ! START, 0, 0 :: else fi;
#ifdef FULL
        lease_s = 1;
#endif
        sp = SENT }
#endif
    :: atomic { S_CUT && (sp == BEGUN || sp == AWAIT || sp == READIED ||
                          (sp == JOURNALED && MUTANT != 2)) ->
        keep_here(1) }
    :: atomic { S_READS && to_s ? [STARTED, _] && sp == SENT -> to_s ? STARTED, _; sp = TOLD }
    :: atomic { S_CUT && (sp == SENT || sp == PUSH) ->
#if MUTANT == 3
        if :: sp == SENT -> keep_here(1) :: true -> sp = ASK fi
#elif MUTANT == 4
        if :: sp == PUSH -> keep_here(3) :: true -> sp = ASK fi
#else
        sp = ASK
#endif
        }
#if MUTANT == 10
    :: atomic { sp == TOLD -> sp = ALL_THERE }
#else
    :: atomic { sp == TOLD -> sj = POSTCOPY_SOURCE; sp = PUSH }
#endif
    /* Late: of a session that has ended. */
    :: atomic { S_READS && !conn &&
                ((sp == ASK && question != IS_OUTSTANDING) || sp == DONE || sp == END) ->
        to_s ? _, _ }

    /* Pages: wanted ones from PREPARE on, the others once the guest runs there. */
    :: atomic { S_READS && to_s ? [WANT, _] && sp != BEGUN && sp != DONE && sp != ASK &&
                nfull(to_d) ->
        to_s ? WANT, n;
        if :: conn && sq == PAUSED -> to_d ! PAGE, n, version :: else fi;
        s_left = s_left & ~(1 << n); n = 0 }
    :: atomic { sp == PUSH && conn && sq == PAUSED && (s_left & 1) && nfull(to_d) ->
        to_d ! PAGE, 0, version; s_left = s_left & ~1 }
    :: atomic { sp == PUSH && conn && sq == PAUSED && (s_left & 2) && nfull(to_d) ->
        to_d ! PAGE, 1, version; s_left = s_left & ~2 }
    :: atomic { S_READS && to_s ? [COMPLETE, _] && sp == PUSH ->
        to_s ? COMPLETE, _; sp = ALL_THERE }
    :: atomic { sp == ALL_THERE -> sj = GONE; sp = END }
    :: atomic { sp == END && (!conn || ROOM(to_d)) -> sq = DEAD;
#ifdef FULL
        if :: conn -> to_d ! ENDED, 0, 0 :: else fi;
#endif
        sp = DONE }

    /* Recovery: RESOLVE, and RESUME where the destination is known to own the guest. */
    :: atomic { sp == ASK && (sj == SWITCHING_OVER || sj == IN_DOUBT || sj == POSTCOPY_SOURCE) &&
                question == 0 && LINKED(dp) && empty(to_s) -> question = QUESTION }
    :: atomic { sp == ASK && question == IS_ABORTED -> question = 0; keep_here(1) }
    :: atomic { sp == ASK && question == IS_COMMITTED -> question = 0; sj = POSTCOPY_SOURCE }
    :: atomic { sp == ASK && question == IS_OUTSTANDING ->
        question = 0; sj = POSTCOPY_SOURCE; s_left = bits; sp = PUSH }
    :: atomic { sp == ASK && question == IS_COMPLETE -> question = 0; sp = ALL_THERE }
    :: atomic { sp == ASK && question == IS_LOST -> question = 0; sj = IN_DOUBT; sp = DONE }
    /* Unreachable for too long. */
    :: atomic { sp == ASK && !LINKED(dp) && sj != IN_DOUBT && sj != TAKEOVER ->
        sj = IN_DOUBT }
#ifndef FULL
    /* `vmferry resolve --keep here`, by one who has made sure that it does not run there. */
    :: atomic { sp != DOWN && sj == IN_DOUBT && sq == PAUSED && dj != PENDING &&
                (dq == DEAD || dq == NONE) && (dj == LOST || d_away) -> keep_here(s_term + 2) }
#endif

#ifdef FULL
    /* Epochs: content is staged beside the last committed one. */
    :: atomic { S_READS && to_s ? [EPOCH_PREPARE, _] && sp == PUSH ->
        to_s ? EPOCH_PREPARE, s_staged }
#if MUTANT == 12
    :: atomic { S_READS && to_s ? [EPOCH_COMMIT, _] && sp == PUSH && nfull(to_d) ->
        to_s ? EPOCH_COMMIT, n; if :: conn -> to_d ! EPOCH_ACK, n, 0 :: else fi; n = 0; sp = ARMED }
    :: atomic { sp == ARMED -> s_epoch = s_staged; sp = PUSH }
#else
    /* The record first, then ACK: two steps. */
    :: atomic { S_READS && to_s ? [EPOCH_COMMIT, _] && sp == PUSH ->
        to_s ? EPOCH_COMMIT, n; assert(n == s_staged); s_epoch = n; n = 0; sp = ARMED }
    :: atomic { sp == ARMED && nfull(to_d) ->
        if :: conn -> to_d ! EPOCH_ACK, s_epoch, 0 :: else fi; sp = PUSH }
#endif
    /* Takeover: by the destination's own word, or with the witness's consent, which is given back
     * where it turns out not to be needed. */
    :: atomic { sp == ASK && MAY_TAKE_OVER && w_holder == 0 &&
#if MUTANT != 13
                !lease_s && !lease_w &&
#endif
                !LINKED(dp) -> w_holder = 2 }
    :: atomic { sp == ASK && MAY_TAKE_OVER && w_holder == 2 &&
#if MUTANT != 18
                !lease_s &&
#endif
                !LINKED(dp) -> sj = TAKEOVER; s_term = s_term + 2; question = 0 }
    :: atomic { (sp == PUSH || sj == GONE || (sp == ASK && sj != TAKEOVER && LINKED(dp))) &&
                link_s && w_up && w_holder == 2 ->
        w_holder = 0 }
#if MUTANT == 14
    :: atomic { sp == ASK && sj == POSTCOPY_SOURCE && sq == PAUSED && !lease_s && !LINKED(dp) ->
        sj = TAKEOVER; s_term = s_term + 2 }
#endif
    :: atomic { sp == ASK && question == IS_GIVEN_UP && sq == PAUSED ->
        question = 0; sj = TAKEOVER; s_term = s_term + 2 }
    :: atomic { sp == ASK && sj == TAKEOVER && nq == NONE ->
        /* No output of a forgotten state. */
        assert(s_epoch >= out);
        nq = PAUSED }
    :: atomic { sp == ASK && sj == TAKEOVER && nq == PAUSED -> let_run(nq) }
    :: atomic { sp == ASK && sj == TAKEOVER && nq == RUNNING -> sj = OURS; sp = DONE }
#endif

    /* A restarted agent. */
    :: atomic { sp == DOWN && !s_away && !s_act ->
        if
        :: sj == PAUSING -> if :: sq == RUNNING -> sj = OURS; sp = DONE
                               :: sq == PAUSED -> keep_here(1)
                               :: else -> sp = DONE fi
        :: sj == SWITCHING_OVER || sj == IN_DOUBT ->
            if :: sq == RUNNING -> s_term = 3; sj = OURS; sp = DONE :: else -> sp = ASK fi
        :: sj == POSTCOPY_SOURCE || sj == TAKEOVER -> sp = ASK
        :: sj == OURS -> sp = DONE
        :: sj == GONE -> sp = END
        fi }
    od
}

/* --- the destination's agent --------------------------------------------- */

inline give_up() { dj = ABORTED; d_guard = NONE; dp = ENDING }

active proctype Destination()
{
    byte n, v;
end:
    do
    /* Pages that are outstanding are dropped before the device state is loaded. */
    :: atomic { dp == BEGUN && to_d ? [PREPARE, _, _] -> to_d ? PREPARE, _, _;
        n = 0;
        do :: n < PAGES ->
#if MUTANT != 5
              page[n] = ABSENT; bits = bits | (1 << n);
#endif
              n++
           :: else -> break od; n = 0; dp = LOADED }
    :: atomic { dp == LOADED && conn && nfull(to_s) -> to_s ! READY, 0; dp = AWAIT }
    :: atomic { dp == AWAIT && to_d ? [START, _, _] -> to_d ? START, _, _; dp = STARTING }
    :: atomic { D_CUT && (dp == BEGUN || dp == LOADED || dp == AWAIT) -> give_up() }
    /* Then it closes. */
    :: atomic { dp == ENDING -> dq = DEAD; hand = 0; hand_version = 0; conn = 0; dp = DONE }
    :: atomic { dp == STARTING -> d_guard = NONE; dp = UNGUARDED }
#if MUTANT == 1
    :: atomic { dp == UNGUARDED -> run_there(); dp = JOURNALED }
    :: atomic { dp == JOURNALED -> dj = COMMITTED; d_guard = RUNNING; dp = RUNS }
#else
    :: atomic { dp == UNGUARDED -> dj = COMMITTED; dp = JOURNALED }
    :: atomic { dp == JOURNALED ->
#ifndef FULL
        d_guard = RUNNING;
#endif
        dp = ARMED }
    :: atomic { dp == ARMED && dq == PAUSED && MAY_RUN -> run_there(); dp = RUNS }
#ifndef FULL
    /* It certainly does not run. */
    :: atomic { dp == ARMED && dq == PAUSED -> d_guard = NONE; dp = TAKING_BACK }
    :: atomic { dp == TAKING_BACK -> dj = ABORTED; dp = ENDING }
#endif
#endif
    :: atomic { dp == RUNS && (!conn || ROOM(to_s)) -> settled = 1;
        if :: conn -> to_s ! STARTED, 0 :: else fi; dp = SERVE }

    /* Receives; *hand* is a thread of a session, which may go on after its session has ended. */
    :: atomic { dp != DOWN && to_d ? [PAGE, _, _] && hand == 0 ->
        to_d ? PAGE, n, v;
        if :: dq != DEAD -> hand = 1; hand_page = n; hand_version = v
           :: else fi; n = 0; v = 0 }
    :: atomic { dp != DOWN && hand == 1 ->
        if
        :: !((bits >> hand_page) & 1) -> hand = 0; hand_version = 0
#if MUTANT == 19
        :: (bits >> hand_page) & 1 -> bits = bits & ~(1 << hand_page); hand = 2
#elif MUTANT == 7
        :: (bits >> hand_page) & 1 ->
            assert(page[hand_page] == ABSENT); page[hand_page] = hand_version; hand = 2
#else
        /* EEXIST: it is there already. */
        :: ((bits >> hand_page) & 1) && page[hand_page] != ABSENT &&
           page[hand_page] != DISCARDED -> hand = 2
        :: ((bits >> hand_page) & 1) &&
           (page[hand_page] == ABSENT || page[hand_page] == DISCARDED) ->
            assert(page[hand_page] == ABSENT && hand_version == RIGHT);
            page[hand_page] = hand_version; hand = 2
#endif
        fi }
#if MUTANT == 19
    :: atomic { dp != DOWN && hand == 2 ->
        page[hand_page] = hand_version; hand = 0; hand_version = 0 }
#else
    :: atomic { dp != DOWN && hand == 2 ->
        bits = bits & ~(1 << hand_page); hand = 0; hand_version = 0 }
#endif
    :: atomic { dp == SERVE && dj == COMMITTED && dq != DEAD && IS_ALL_THERE && hand == 0 ->
        dj = COMPLETED; dp = ALL_THERE }
    :: atomic { dp == ALL_THERE && (!conn || ROOM(to_s)) ->
        if :: conn -> to_s ! COMPLETE, 0 :: else fi; dp = SERVE }
    :: atomic { dp == DONE && nempty(to_d) -> to_d ? _, _, _ }

    /* Questions.  "Pending" is no answer here. */
    :: atomic { question == QUESTION && dp == DONE && dj == ABORTED && dq == DEAD ->
        question = IS_ABORTED }
    :: atomic { question == QUESTION && dp == SERVE && settled && sj != POSTCOPY_SOURCE &&
                (dq != DEAD || dj == COMPLETED) ->
        question = IS_COMMITTED }
    :: atomic { question == QUESTION && dp == SERVE && dj == COMPLETED && sj == POSTCOPY_SOURCE ->
        question = IS_COMPLETE }
    /* A RESUME ends the session before; what was not answered in that is asked and sent anew. */
    :: atomic { question == QUESTION && dp == SERVE && dj == COMMITTED && dq != DEAD &&
                sj == POSTCOPY_SOURCE && (hand == 0 || MUTANT == 7) ->
        clear(); conn = 1; wanted = 0;
#ifdef FULL
        cut = acked; sent = acked;
#endif
        question = IS_OUTSTANDING }
    :: atomic { question == QUESTION && dp == DONE && dj == LOST ->
#ifdef FULL
        if :: d_free -> question = IS_LOST :: else -> question = IS_GIVEN_UP fi
#else
        question = IS_LOST
#endif
        }
    :: atomic { (dp == ARMED || dp == SERVE) && dq == DEAD && dj == COMMITTED && hand != 2 ->
        dj = LOST; hand = 0; hand_version = 0; conn = 0; dp = DONE }

#ifdef FULL
    /* Epochs. */
    :: atomic { dp == SERVE && dj == COMMITTED && conn && !d_free && dq == RUNNING &&
                cut == acked && state > cut && nfull(to_s) ->
        cut = state; to_s ! EPOCH_PREPARE, cut }
    :: atomic { dp == SERVE && dj == COMMITTED && conn && cut > sent && nfull(to_s) ->
        to_s ! EPOCH_COMMIT, cut; sent = cut }
    :: atomic { dp != DOWN && to_d ? [EPOCH_ACK, _, _] -> to_d ? EPOCH_ACK, n, _;
        if :: n > acked -> acked = n :: else fi; n = 0 }
    :: atomic { dp == SERVE && out < acked && dq != DEAD -> out = acked }
#if MUTANT == 11
    :: atomic { dp == SERVE && dq == RUNNING && out < cut -> out = cut }
#endif
    :: atomic { dp == SERVE && d_free && out < state && dq != DEAD -> out = state }
    /* The source keeps nothing any more. */
    :: atomic { dp == SERVE && dj == COMPLETED && to_d ? [ENDED, _, _] ->
        to_d ? ENDED, _, _; d_free = 1 }
#if MUTANT == 16
    :: atomic { dp == SERVE && dj == COMPLETED && !d_free -> d_free = 1 }
#endif
    :: atomic { dp == SERVE && dj == COMPLETED && !d_free && sj == GONE && LINKED(sp) ->
        d_free = 1 }
    /* Alone, by the witness's consent: first its record, then ours. */
    :: atomic { dp == SERVE && !d_free && !conn && link_d && w_up && w_holder == 0 && dq != DEAD &&
                (s_away || sq == DEAD
#ifdef OVERLAP
                 || true
#endif
                 ) -> w_holder = 1 }
    :: atomic { dp == SERVE && !d_free && w_holder == 1 && link_d && w_up -> d_free = 1 }
#if MUTANT == 15
    :: atomic { dp == SERVE && !d_free && !conn && dq == RUNNING -> d_free = 1 }
#endif
    /* The store's pages. */
    :: atomic { dp == SERVE && d_free && hand == 0 && bits != 0 && link_d && w_up && dq != DEAD ->
        if :: bits & 1 -> hand_page = 0 :: bits & 2 -> hand_page = 1 fi;
        hand = 1; hand_version = STORED }
    /* Somebody else owns it with a higher term. */
    :: atomic { dp != DOWN && (dj == COMMITTED || dj == COMPLETED) &&
                s_term > 2 && LINKED(sp) ->
        dj = LOST; dq = DEAD; hand = 0; hand_version = 0; dp = DONE }
#endif

    /* A restarted agent. */
    :: atomic { dp == DOWN && !d_away && !d_act ->
        hand = 0; hand_version = 0; wanted = 0;
#ifdef FULL
        cut = acked; sent = acked;
#endif
        if
        :: dj == PENDING -> give_up()
        :: dj == ABORTED -> dp = ENDING
        :: dj == LOST -> dp = DONE
        :: (dj == COMMITTED || dj == COMPLETED) && dq == PAUSED -> dp = ARMED
        :: dj == COMMITTED && dq == DEAD -> dj = LOST; dp = DONE
        :: else -> settled = 1; dp = SERVE
        fi }
    od
}

/* --- the guest, at the destination --------------------------------------- */

#define WAITS(n) (conn && (dp == LOADED || (dp == SERVE && dq == RUNNING)) && page[n] == ABSENT && \
                  (bits & (1 << n)) && !(wanted & (1 << n)))

active proctype Guest()
{
end:
    do
    /* What is not there and not waited for reads as zero. */
    :: atomic { dq == RUNNING && dp == SERVE &&
                (page[0] == OLD || (page[0] == ABSENT && !(bits & 1))) -> assert(false) }
#ifdef FULL
    :: atomic { dq == RUNNING && state < STATES -> state++ }
#else
    /* What becomes of pages is the same at both levels, and is left out in FULL but for pushed ones
     * and those of the store. */
    :: atomic { WAITS(0) && nfull(to_s) -> wanted = wanted | 1; to_s ! WANT, 0 }
    :: atomic { dq == RUNNING && page[0] == RIGHT -> page[0] = WRITTEN }
    /* Discarding waits for the agent, who clears the bit first. */
    :: atomic { dq == RUNNING && (page[0] == ABSENT || page[0] == RIGHT) && dp == SERVE &&
                hand != 2 ->
#if MUTANT != 6
        bits = bits & ~1;
#endif
        page[0] = DISCARDED }
#if PAGES > 1
    :: atomic { WAITS(1) && nfull(to_s) -> wanted = wanted | 2; to_s ! WANT, 1 }
    :: atomic { dq == RUNNING && page[1] == RIGHT -> page[1] = WRITTEN }
#endif
#endif
    od
}

/* --- leases -------------------------------------------------------------- */

#ifdef FULL
/* With each ACK and each question. */
#define RENEWS_S (LINKED(sp) && dp != DOWN && \
                  (sj == SWITCHING_OVER || sj == IN_DOUBT || sj == POSTCOPY_SOURCE))
#define RENEWS_W (link_d && w_up && dp != DOWN && w_holder != 2)
/* Time: a lease that is not renewed ends, and with the last one the guard holds the guest. */
active proctype Lease()
{
end:
    do
    :: atomic { lease_s && !RENEWS_S -> lease_s = 0;
        if :: !lease_w && !d_free && dq == RUNNING -> dq = HELD :: else fi }
    :: atomic { lease_w && !RENEWS_W -> lease_w = 0;
        if :: !lease_s && !d_free && dq == RUNNING -> dq = HELD :: else fi }
    :: atomic { !lease_s && RENEWS_S && (dj == COMMITTED || dj == COMPLETED) -> lease_s = 1 }
    :: atomic { !lease_w && RENEWS_W && (dj == COMMITTED || dj == COMPLETED) -> lease_w = 1 }
    :: atomic { dq == HELD && MAY_RUN && dp == SERVE && dj != LOST -> run_there() }
    /* Nobody can take over any more: it needs no lease. */
    :: atomic { dq == HELD && d_free && dp == SERVE -> run_there() }
    od
}
#endif

/* --- guards, who act when their agent has died --------------------------- */

active proctype Guards()
{
end:
    do
    :: atomic { s_act -> s_act = 0; if :: sq == PAUSED ->
        let_run(sq); version = TOO_NEW :: else fi }
    :: atomic { d_act -> d_act = 0;
        if :: d_guard == DEAD -> dq = DEAD
           :: d_guard == RUNNING && dq == PAUSED -> run_there()
           :: else fi }
    od
}

/* --- failures ------------------------------------------------------------ */

#ifdef FULL
/* A consent that is not needed is given back first. */
#define LINKS (link && link_s && link_d && w_up && w_holder != 2)
#else
#define LINKS (link)
#endif
#ifdef OVERLAP
#define MAY_FAIL (failures > 0)
#else
#define MAY_FAIL (failures > 0 && LINKS && sp != DOWN && dp != DOWN)
#endif
#define SPLIT (dj == COMMITTED)

inline kill_source()
{
    sp = DOWN; s_left = 0; lose();
    do :: to_s ? _, _ :: empty(to_s) -> break od;
    if :: s_guard && sj != GONE -> s_act = 1; s_guard = 0 :: else fi
}

inline kill_destination()
{
    dp = DOWN; settled = 0; lose();
#if MUTANT == 8
    /* The last descriptor is closed: what is missing reads as zero. */
    if :: page[0] == ABSENT && dj == COMMITTED -> page[0] = OLD :: else fi;
#endif
    do :: to_d ? _, _, _ :: empty(to_d) -> break od;
    hand = 0; hand_version = 0; wanted = 0;
    if :: d_guard != NONE -> d_act = 1 :: else fi
}

active proctype Failures()
{
end:
    do
    :: atomic { failures > 0 -> failures = 0 }
    :: atomic { MAY_FAIL && link -> failures--; link = 0; lose() }
    :: atomic { !link -> link = 1 }
#ifndef FULL
    :: atomic { MAY_FAIL && link && conn -> failures--; lose() }
#endif
    :: atomic { MAY_FAIL && sp != DOWN -> failures--; kill_source() }
    :: atomic { MAY_FAIL && dp != DOWN -> failures--; kill_destination() }
#ifdef VMM_DEATH
    :: atomic { MAY_FAIL && SPLIT && (dq == RUNNING || dq == PAUSED) ->
        failures--; dq = DEAD; split_lost = 1 }
    :: atomic { MAY_FAIL && SPLIT && sq == PAUSED -> failures--; sq = DEAD; split_lost = 1; lose() }
    :: atomic { MAY_FAIL && SPLIT ->
        failures = 0; kill_destination(); d_act = 0; d_away = 1; dq = DEAD;
        split_lost = 1 }
#endif
#ifdef FULL
    :: atomic { MAY_FAIL && link_s -> failures--; link_s = 0 }
    :: atomic { !link_s -> link_s = 1 }
    :: atomic { MAY_FAIL && link_d -> failures--; link_d = 0 }
    :: atomic { !link_d -> link_d = 1 }
    /* The destination's host, cut off. */
    :: atomic { MAY_FAIL && link_d && link -> failures--; link_d = 0; link = 0; lose() }
    :: atomic { MAY_FAIL && w_up -> failures--; w_up = 0 }
    :: atomic { !w_up && !w_away -> w_up = 1 }
    /* For good: the last failure. */
    :: atomic { MAY_FAIL && w_up -> failures = 0; w_up = 0; w_away = 1 }
    :: atomic { MAY_FAIL && SPLIT && !d_free -> failures = 0; dq = DEAD }
    :: atomic { MAY_FAIL && SPLIT && !d_free ->
        failures = 0; kill_destination(); d_act = 0; d_away = 1; dq = DEAD }
    :: atomic { MAY_FAIL && SPLIT && sq == PAUSED -> failures = 0; sq = DEAD; lose() }
    :: atomic { MAY_FAIL && SPLIT && sq == PAUSED ->
        failures = 0; kill_source(); s_act = 0; s_away = 1; sq = DEAD }
#endif
    od
}

/* --- the end ------------------------------------------------------------- */

#define AT_SOURCE (sq == RUNNING && sj == OURS && dq == DEAD && dj == ABORTED)
#define AT_DESTINATION (dq == RUNNING && dj == COMPLETED && bits == 0 && page[0] > OLD && \
                        settled && ((sj == GONE && sq == DEAD) || s_away))

/* When nothing else happens any more. */
active proctype Judge()
{
    atomic {
        timeout;
#ifdef FULL
#ifndef OVERLAP
        assert(AT_SOURCE || (AT_DESTINATION && out == state) || (nq == RUNNING && sj == OURS) ||
               (dq == RUNNING && sq == DEAD && out == state));
#endif
#else
        /* The guest runs; or the level promises nothing, and an operator may run it at the source,
         * or it waits, whole but for what died with the source. */
        assert(AT_SOURCE || AT_DESTINATION ||
               (split_lost && ((sq == RUNNING && sj == OURS && s_term == 3) || sq == DEAD)));
#endif
    }
}
