/*
 * Protection (docs/protection.md, docs/witness.md), to be checked by spin
 *
 * Theory of operation: P runs a guest, S stands by for it without a VMM, W is the witness.  The model begins
 * where S has said READY, and ends where the guest runs in one place and nothing is left to be done.  As in
 * postcopy.pml each atomic block is one step, between any two of them anything may be killed, stopped or
 * cut off, and a link that breaks loses all, or nothing, of what is under way in each direction.
 *
 * Progress is a number: each step of the guest is a disk write that was acknowledged to it and an output that
 * tells of it.  *heard* is what a client has heard of.  Whoever goes on must have it, in memory and on disk.
 *
 * A lease has two ends, its holder's and its grantor's, and no length: the holder's ends when it is not
 * renewed, at any time; the grantor's after that (policy/lease.h).
 *
 * How it is checked (tests/model/run): as postcopy.pml.  Judge, who comes when nothing else happens, demands
 * that the guest runs, and that its output has left.
 *
 * Macros:
 *    NO_WITNESS  there is none
 *    OVERLAP     failures may come before the one before is repaired (safety only)
 *    OPERATOR    the standby is given up by hand, where it cannot reach the guest's host
 *    QUIET       no command of the guest's user
 *    STATES=n    how far the guest goes
 *    FAILURES=n
 *    MUTANT=n    a rule is broken (run has the list); spin must find an error
 */
#ifndef MUTANT
#define MUTANT 0
#endif
#ifndef FAILURES
#define FAILURES 1
#endif
#ifndef STATES
#define STATES 1
#endif

/* FROZEN: stopped by SIGSTOP. */
mtype:agent = { DOWN, UP, FROZEN };
/* HELD: paused as the last lease ended.  HALTED: its process was stopped for that. */
mtype:vmm = { NONE, PAUSED, RUNNING, HELD, HALTED, DEAD };
/* P's records.  NOTED: protected, by a standby that does not count yet.  ENDING: `unprotect`.  ALONE: S may
 * not take over.  PASSED: output is free.  OURS: whole, and not protected.  LOST: its VMM has ended, and S
 * may go on; FINISHED: has ended, and nobody may; ENDED: S runs it. */
mtype:primary = { NOTED, COUNTS, ENDING, ALONE, PASSED, OURS, LOST, FINISHED, ENDED };
/* S's. */
mtype:standby = { ACCEPTED, STANDS, TAKING, TAKEOVER, LEAVING, GONE };
/* W's. */
mtype:witness = { UNDECIDED, P_ALONE, S_MAY, FORGOTTEN };
/* What an agent is about to do; lost when it is killed. */
mtype:step = { BEGUN, COUNTED, SERVE, CONSENTED, PREPARED, TOLD_COMPLETE, IDLE, CONFIRM, CLAIMED,
               LOST_THERE };
mtype = { START, EPOCH, SEAL, COMPLETE, CONFIRMED, GIVEN_UP };

/* --- what is where ------------------------------------------------------- */

/* P. */
mtype:agent p = UP;
mtype:primary pj = NOTED;
mtype:step pp = BEGUN;
mtype:vmm pq = RUNNING;
bool p_open = 1;      /* durable: no epoch was about to be cut yet, output passes */
bool p_resuming = 0;  /* durable (the deadline's file): the agent is about to let the guest run */
bool p_away = 0;      /* host gone for good */
byte state = 1;       /* how far the guest is */
byte cut = 0, acked = 0; /* the last epoch of this session; what S is known to have */

/* S. */
mtype:agent s = UP;
mtype:standby sj = ACCEPTED;
mtype:step sp = IDLE;
mtype:vmm sq = NONE;
bool s_away = 0;
bool s_blank = 0;     /* its host was restarted: epochs were in memory */
byte staged = 0, epoch = 0; /* 0: none */
byte image = 0;       /* its disks */

/* W. */
bool w_up = 1, w_away = 0;
mtype:witness w = UNDECIDED;

/* Leases, of S and of W: what P counts, and what they count. */
bool held_s = 0, held_w = 0, given_s = 0, given_w = 1;
bool s_granted = 0;   /* since S asked W for its consent */

bool ps = 1, pw = 1, sw = 1, conn = 1;
chan to_s = [2] of { mtype, byte };
chan to_p = [2] of { mtype, byte };

byte heard = 0;
byte failures = FAILURES;
#ifdef QUIET
bool asked = 1;
#else
bool asked = 0;       /* a command of its user was given, or none will be */
#endif
bool unprotected = 0; /* P's VMM ended where S could not go on: as of any guest */

#define NUMBER(vmm) (vmm == RUNNING -> 1 : 0)
inline let_run(vmm) { vmm = RUNNING; assert(NUMBER(pq) + NUMBER(sq) == 1) }

#define ROOM(channel) (len(channel) < 2)
#define LINKED_PS (ps && p == UP && s == UP)
#define W_OF_P (pw && w_up && p == UP)
#define W_OF_S (sw && w_up && s == UP)
#define P_READS (p == UP && nempty(to_p))
#define S_READS (s == UP && nempty(to_s))
#define S_CUT (s == UP && !conn && empty(to_s))

#define SPLIT (pj == COUNTS || pj == ENDING || pj == ALONE)
#ifdef NO_WITNESS
#define NO_LEASES 1
#define BOUND 0
#else
#define NO_LEASES 0
#define BOUND (SPLIT || (MUTANT == 20 && pj == NOTED))
#endif
#define LEASE (held_s || held_w)
#define FREE (pj == PASSED || pj == OURS || (p_open && (pj == NOTED || pj == COUNTS)))

/* What a client hears is in the state of who goes on. */
inline release(what)
{
    heard = (what > heard -> what : heard);
    assert((sj != TAKING && sj != TAKEOVER) || s_blank || epoch >= heard)
}

inline lose()
{
    conn = 0;
    if :: true :: do :: to_s ? _, _ :: empty(to_s) -> break od fi;
    if :: true :: do :: to_p ? _, _ :: empty(to_p) -> break od fi
}

inline clear()
{
    do :: to_s ? _, _ :: empty(to_s) -> break od;
    do :: to_p ? _, _ :: empty(to_p) -> break od
}

/* --- P's agent ----------------------------------------------------------- */

active proctype Primary()
{
    byte n;
end:
    do
    /* The mark goes before START. */
    :: atomic { p == UP && pp == BEGUN && conn && (LEASE || NO_LEASES) ->
        pj = COUNTS; pp = COUNTED }
    :: atomic { p == UP && pp == COUNTED && conn && nfull(to_s) ->
        to_s ! START, 0; pp = SERVE;
#if MUTANT == 14
        pj = NOTED
#endif
        }
    /* It does not get so far; a send that fails may have been received all the same. */
    :: atomic { p == UP && ((pp == BEGUN && (!conn || !W_OF_P)) || (pp == COUNTED && !conn)) ->
        if :: pp == COUNTED && ROOM(to_s) -> to_s ! START, 0 :: true -> skip fi;
        pj = OURS; pp = SERVE; conn = 0 }
    :: atomic { P_READS && to_p ? [CONFIRMED, _] -> to_p ? CONFIRMED, n;
        acked = (n > acked -> n : acked); n = 0 }
    :: atomic { P_READS && to_p ? [GIVEN_UP, _] -> to_p ? GIVEN_UP, _;
        if :: pj == ENDING -> pj = PASSED :: else fi }

    /* Epochs, one at a time.  From the first one on output is held. */
#if MUTANT == 15
#define OPENS 0
#else
#define OPENS (p_open && pj == COUNTS)
#endif
    :: atomic { p == UP && pp == SERVE && (pj == COUNTS || MUTANT == 14) && conn && pq == RUNNING &&
                cut == acked && state > cut && (LEASE || !BOUND) ->
        if :: OPENS -> p_open = 0; pp = PREPARED
           :: else -> pp = PREPARED fi }
    :: atomic { p == UP && pp == PREPARED && (!conn || pq != RUNNING) -> pp = SERVE }
    :: atomic { p == UP && pp == PREPARED && conn && pq == RUNNING && empty(to_s) ->
        cut = state; to_s ! EPOCH, cut; to_s ! SEAL, cut; pp = SERVE }
#if MUTANT == 15
    :: atomic { p_open && acked > 0 -> p_open = 0 }
#endif
    /* Packets of a VMM that stands still, or has ended since, leave as well. */
    :: atomic { p == UP && heard < acked && !FREE -> release(acked) }
#if MUTANT == 1
    :: atomic { p == UP && pp == SERVE && heard < cut -> release(cut) }
#endif
#if MUTANT == 8
    :: atomic { pq == HELD && !LEASE && heard < state -> release(state) }
#endif

    /* Alone: W's record, ours, output. */
#ifndef NO_WITNESS
    :: atomic { W_OF_P && pp == SERVE && (pj == COUNTS || pj == ENDING) && !conn && pq != DEAD &&
                (w == UNDECIDED || w == P_ALONE) ->
        if
        :: true -> pp = CONSENTED
        :: w == UNDECIDED -> skip /* the answer is lost */
        fi;
        w = P_ALONE }
    :: atomic { p == UP && pp == CONSENTED -> pj = (pq == DEAD -> pj : ALONE); pp = SERVE }
#if MUTANT != 31
    /* S is back meanwhile, and may not take over any more. */
    :: atomic { W_OF_P && pp == SERVE && (pj == COUNTS || pj == ENDING) && conn && pq != DEAD &&
                w == P_ALONE -> pj = ALONE }
#endif
#else
    /* `unprotect --force`, by one who has made sure that S does not go on. */
    :: atomic { p == UP && pp == SERVE && (pj == COUNTS || pj == ENDING) && pq != DEAD &&
                (s_away || sj == GONE) ->
        pj = ALONE }
#endif
    :: atomic { p == UP && pj == ALONE && pq != DEAD -> if :: conn -> lose() :: else fi; pj = PASSED }
#if MUTANT == 6
    :: atomic { p == UP && pp == SERVE && pj == COUNTS && !conn && pq == RUNNING -> pj = ALONE }
#endif

    /* `unprotect` and `failover`, of a guest whose standby is there. */
    :: atomic { p == UP && pp == SERVE && pj == COUNTS && conn && pq != DEAD && !asked ->
        asked = 1; pj = ENDING }
#if MUTANT == 19
#define MAY_FAIL_OVER (pj == COUNTS || pj == ENDING)
    :: atomic { p == UP && pp != COUNTED && MAY_FAIL_OVER && conn && pq != DEAD && acked > 0 ->
        pq = DEAD }
#else
    :: atomic { p == UP && pp == SERVE && pj == COUNTS && conn && pq != DEAD && !asked && acked > 0 ->
        asked = 1; pq = DEAD }
#endif
    :: atomic { p == UP && pp == SERVE && pj == ENDING && conn && pq != DEAD && ROOM(to_s) ->
        to_s ! COMPLETE, 0; pp = TOLD_COMPLETE;
#if MUTANT == 11
        pj = PASSED
#endif
        }
    :: atomic { p == UP && pp == TOLD_COMPLETE && (!conn || pj != ENDING) -> pp = SERVE }
    :: atomic { p == UP && pj == PASSED && pp == SERVE && pq == RUNNING && heard == state &&
                (sj == LEAVING || sj == GONE || s_away || w == P_ALONE) ->
        pj = OURS; conn = 0;
        if :: w == P_ALONE && W_OF_P -> w = FORGOTTEN :: true fi }

    /* The VMM has ended. */
    :: atomic { p == UP && pq == DEAD && pj != LOST && pj != FINISHED && pj != ENDED ->
#if MUTANT == 13
        pj = LOST;
#else
        pj = (pj == COUNTS || pj == ENDING || pj == NOTED -> LOST : FINISHED);
#endif
        pp = SERVE; if :: conn -> lose() :: else fi }

    /* The guard's pause is undone: first that it is about to be.  The command to run it is on its way when
     * the lease ends. */
    :: atomic { p == UP && (pq == HELD || pq == HALTED) && (LEASE || !BOUND) && !p_resuming ->
        p_resuming = 1 }
#if MUTANT == 17
    /* SIGCONT, whatever has happened since. */
    :: atomic { p == UP && p_resuming -> p_resuming = 0;
        if :: pq == HELD || pq == HALTED -> let_run(pq) :: else fi }
#else
    :: atomic { p == UP && p_resuming -> p_resuming = 0;
        if :: pq == HELD || (pq == HALTED && (LEASE || !BOUND)) -> let_run(pq) :: else fi }
#endif

    /* A restarted agent. */
    :: atomic { p == DOWN && !p_away -> p = UP; p_resuming = 0; cut = acked; pp = SERVE;
        if
        :: pj == NOTED -> pj = PASSED
        :: else
        fi;
#if MUTANT == 10
        if :: pq == HELD || pq == HALTED -> let_run(pq) :: else fi
#endif
        }
    :: atomic { p == FROZEN && conn -> lose() }
    :: atomic { p == FROZEN -> p = UP }
    od
}

/* --- S's agent ----------------------------------------------------------- */

active proctype Standby()
{
    byte n;
end:
    do
    /* Its record; then the session ends, and it comes itself. */
    :: atomic { S_READS && to_s ? [START, _] -> to_s ? START, _;
        if :: sj == ACCEPTED -> sj = STANDS; conn = 0 :: else fi }
    :: atomic { S_CUT && sj == ACCEPTED -> sj = GONE }
    :: atomic { S_READS && to_s ? [EPOCH, _] && sp == IDLE -> to_s ? EPOCH, staged;
#if MUTANT == 21
        image = staged
#endif
        }
#if MUTANT == 2
    :: atomic { S_READS && to_s ? [SEAL, _] && sp == IDLE && ROOM(to_p) -> to_s ? SEAL, n;
        if :: conn -> to_p ! CONFIRMED, n :: else fi; n = 0; sp = CONFIRM }
    :: atomic { s == UP && sp == CONFIRM -> epoch = staged; sp = IDLE }
#else
    :: atomic { S_READS && to_s ? [SEAL, _] && sp == IDLE -> to_s ? SEAL, n;
        if :: sj == STANDS -> assert(n == staged); epoch = n; sp = CONFIRM :: else fi; n = 0 }
    :: atomic { s == UP && sp == CONFIRM && (!conn || ROOM(to_p)) ->
        if :: conn -> to_p ! CONFIRMED, epoch :: else fi; sp = IDLE }
#endif
    :: atomic { S_READS && to_s ? [COMPLETE, _] && sp == IDLE -> to_s ? COMPLETE, _;
#if MUTANT == 22
        if :: conn && ROOM(to_p) -> to_p ! GIVEN_UP, 0 :: else fi
#else
        if :: sj == STANDS -> sj = LEAVING :: else fi
#endif
        }
    :: atomic { s == UP && sj == LEAVING && conn && pj == ENDING && empty(to_p) -> to_p ! GIVEN_UP, 0 }
    :: atomic { s == UP && sj == LEAVING && LINKED_PS && pj != ENDING -> sj = GONE }

    /* RESUME.  A VMM that has ended is noticed first. */
    :: atomic { sj == STANDS && !s_blank && sp == IDLE && !conn && LINKED_PS && empty(to_s) &&
                (pj == COUNTS || pj == ENDING) && pp == SERVE && pq != DEAD ->
        clear(); conn = 1; cut = acked }
#if MUTANT == 14
    :: atomic { sj == STANDS && sp == IDLE && !conn && LINKED_PS && empty(to_s) &&
                pj == NOTED && pp == SERVE && pq != DEAD ->
        clear(); conn = 1; cut = acked }
#endif
    :: atomic { sj == LEAVING && !conn && LINKED_PS && pj == ENDING && pp == SERVE ->
        clear(); conn = 1 }
    :: atomic { (sj == STANDS || sj == TAKING) && sq == NONE && !conn && LINKED_PS &&
                (pj == PASSED || pj == OURS) && (s_blank || sj == STANDS) && sp != LOST_THERE &&
                empty(to_s) ->
        if :: pj == OURS && epoch == 0 -> sj = GONE /* it may never have counted */
           :: else -> sj = LEAVING fi; sp = IDLE }
    :: atomic { sj == STANDS && sp == IDLE && !conn && LINKED_PS && pj == LOST && empty(to_s) ->
        sp = LOST_THERE }
    /* P's word is enough: it is never said of a guest that had gone on alone. */
    :: atomic { s == UP && sp == LOST_THERE -> sp = IDLE;
        if
        :: (epoch > 0 || MUTANT == 7) && !s_blank &&
           (MUTANT != 32 || !W_OF_S || w != P_ALONE) -> sj = TAKING
        :: else -> sj = GONE
        fi }
    /* Its epochs are gone: P is told, until it says that it goes on without. */
    :: atomic { (sj == STANDS || sj == TAKING) && s_blank && LINKED_PS && pp == SERVE && !conn &&
                pq != DEAD && (pj == COUNTS || pj == ENDING) ->
#if MUTANT == 23
        if :: pj = PASSED :: true fi;
        sj = GONE; if :: W_OF_S && w != P_ALONE -> w = FORGOTTEN :: else fi
#else
        pj = PASSED
#endif
        }
    :: atomic { sj == TAKING && s_blank && LINKED_PS && pj == LOST -> sj = GONE }
#ifdef OPERATOR
    /* `resolve --keep there`: W has no consent on record any more, and keeps P's way to go on. */
    :: atomic { W_OF_S && sj == STANDS && sp == IDLE && !conn && !LINKED_PS && w != P_ALONE && !asked ->
        asked = 1; unprotected = (pq == DEAD -> 1 : unprotected);
#if MUTANT == 24
        w = FORGOTTEN;
#else
        w = UNDECIDED;
#endif
        sj = GONE }
#endif

    /* The gate: our own lease has ended, W's consent, and another look. */
#if MUTANT == 4
#define ENDED_S 1
#else
#define ENDED_S (!given_s)
#endif
#if MUTANT == 3
#define ENDED_W 1
#else
#define ENDED_W (!given_w || w == S_MAY)
#endif
#ifndef NO_WITNESS
    :: atomic { W_OF_S && sj == STANDS && sp == IDLE && !s_blank && !conn && !LINKED_PS &&
                (epoch > 0 || MUTANT == 7) && empty(to_s) && ENDED_S && ENDED_W &&
                (w == UNDECIDED || w == S_MAY) ->
        w = S_MAY; s_granted = 0; sp = CLAIMED }
#if MUTANT == 5
    :: atomic { s == UP && sj == STANDS && sp == IDLE && !s_blank && !conn && !LINKED_PS &&
                epoch > 0 && ENDED_S -> sj = TAKING }
#endif
    /* The link is back while the answer is under way. */
    :: atomic { sj == STANDS && sp == CLAIMED && !conn && LINKED_PS && pp == SERVE && pq != DEAD &&
                (pj == COUNTS || pj == ENDING) ->
        clear(); conn = 1; cut = acked }
    :: atomic { s == UP && sj == STANDS && sp == CLAIMED -> sp = IDLE;
        if
#if MUTANT == 12
        :: true -> sj = TAKING; if :: conn -> lose() :: else fi
#else
        :: !s_granted && ENDED_S -> sj = TAKING; if :: conn -> lose() :: else fi
        :: else
#endif
        fi;
        s_granted = 0 }
#if MUTANT != 25
    :: atomic { W_OF_S && w == S_MAY && sp == IDLE && ((sj == STANDS && conn) || sj == LEAVING) ->
        w = UNDECIDED }
#endif
#endif
    /* Operator: P's host is gone for good. */
#ifdef NO_WITNESS
    :: atomic { s == UP && sj == STANDS && p_away && epoch > 0 && !s_blank && empty(to_s) ->
        sj = TAKING }
#endif

    /* Takeover.  What was committed of the journal comes into the images, then the fresh VMM. */
    :: atomic { s == UP && sj == TAKING && !s_blank && sq == NONE ->
        assert(epoch > 0 && epoch >= heard);
#if MUTANT != 26
        image = (epoch > image -> epoch : image);
#endif
        sq = PAUSED }
    :: atomic { s == UP && sj == TAKING && sq == PAUSED -> sj = TAKEOVER }
    :: atomic { s == UP && sj == TAKEOVER && sq == PAUSED ->
        assert(image == epoch); let_run(sq) }
    :: atomic { W_OF_S && sj == TAKEOVER && sq == RUNNING && w != FORGOTTEN -> w = FORGOTTEN }
    /* The other copy is told. */
#if MUTANT != 27
    :: atomic { sj == TAKEOVER && sq == RUNNING && LINKED_PS && SPLIT ->
        pq = DEAD; pj = ENDED; pp = SERVE; p_resuming = 0 }
#endif
#if MUTANT == 28
    :: atomic { sj == TAKEOVER && sq == RUNNING && LINKED_PS && pj == COUNTS ->
        if :: pq == HELD -> let_run(pq) :: else fi }
#endif

    /* A restarted agent: it may have granted a lease just before. */
    :: atomic { s == DOWN && !s_away -> s = UP; sp = IDLE; staged = epoch;
#if MUTANT != 16
        given_s = (sj == STANDS);
#else
        given_s = 0;
#endif
        if
        :: sj == ACCEPTED -> sj = GONE
        :: sj == TAKING -> sq = NONE
        :: else
        fi }
    od
}

/* --- the guest ----------------------------------------------------------- */

active proctype Guest()
{
end:
    do
    :: atomic { pq == RUNNING && state < STATES -> state++ }
    :: atomic { pq == RUNNING && FREE && heard < state -> release(state) }
    od
}

/* --- leases -------------------------------------------------------------- */

#ifndef NO_WITNESS
#define RENEWS_S (conn && LINKED_PS && (sj == STANDS || sj == LEAVING) && SPLIT)
#define RENEWS_W (W_OF_P && (w == UNDECIDED || w == P_ALONE) && (SPLIT || pj == NOTED))

/* The guard does not need the agent.  While that is about to resume the guest it stops the process: the
 * command may come after it. */
inline expire(lease)
{
    lease = 0;
    if
    :: !LEASE && BOUND ->
        assert(pj != NOTED);
        if
#if MUTANT == 9
        :: pq == RUNNING && p != UP
#elif MUTANT == 18
        :: pq == HELD
#endif
        :: pq == RUNNING && !p_resuming && (p == UP || MUTANT != 9) -> pq = HELD
        :: pq == RUNNING && (p == UP || MUTANT != 9) -> pq = HALTED
#if MUTANT != 18
        :: pq == HELD && p_resuming -> pq = HALTED
        :: pq == HELD && !p_resuming
#endif
        :: pq == HALTED || pq == DEAD
        fi
    :: else
    fi
}

active proctype Leases()
{
end:
    do
    :: atomic { held_s && !RENEWS_S -> expire(held_s) }
    :: atomic { held_w && !RENEWS_W -> expire(held_w) }
#if MUTANT == 29
    /* The grantor counts shorter. */
    :: atomic { given_s && !RENEWS_S -> given_s = 0 }
    :: atomic { given_w && !RENEWS_W -> given_w = 0 }
#else
    :: atomic { given_s && !held_s && !RENEWS_S -> given_s = 0 }
    :: atomic { given_w && !held_w && !RENEWS_W -> given_w = 0 }
#endif
    :: atomic { !held_s && RENEWS_S -> given_s = 1; s_granted = (sp == CLAIMED); held_s = 1 }
    :: atomic { !held_w && RENEWS_W -> given_w = 1; held_w = 1 }
    od
}
#endif

/* --- failures ------------------------------------------------------------ */

#ifdef OVERLAP
#define MAY_FAIL (failures > 0)
#else
/* The first one at any time. */
#define SETTLED (ps && ((pw && sw && w_up) || w_away) && p == UP && s == UP && \
                 w != S_MAY && sj != TAKING && \
                 (pj == OURS || pj == FINISHED || (pj == COUNTS && conn && pq == RUNNING)))
#define MAY_FAIL (failures > 0 && (failures == FAILURES || SETTLED))
#endif

/* Whether S could go on: by the word of P's agent, or by W. */
#define USABLE (!s_blank && !s_away && epoch > 0 && \
                (sj == TAKING || (sj == STANDS && (SPLIT || pj == LOST) && pj != ALONE && \
                                  pp != TOLD_COMPLETE)))
inline note_death(may_go_on) { unprotected = (may_go_on -> unprotected : 1) }

inline kill_primary() { p = DOWN; pp = SERVE; lose();
    /* The command to run it is in its socket. */
    if :: p_resuming && pq == HELD && LEASE -> let_run(pq) :: true fi;
    p_resuming = 0;
    do :: to_p ? _, _ :: empty(to_p) -> break od }

inline kill_standby() { s = DOWN; sp = IDLE; s_granted = 0; lose();
    do :: to_s ? _, _ :: empty(to_s) -> break od }

active proctype Failures()
{
end:
    do
    :: atomic { failures > 0 -> failures = 0 }
    :: atomic { !asked -> asked = 1 }
    :: atomic { MAY_FAIL && ps -> failures--; ps = 0; lose() }
    :: atomic { !ps -> ps = 1 }
    :: atomic { MAY_FAIL && p == UP -> failures--; kill_primary() }
    :: atomic { MAY_FAIL && p == UP -> failures--; p = FROZEN }
    :: atomic { MAY_FAIL && s == UP -> failures--; kill_standby() }
    :: atomic { MAY_FAIL && pq != DEAD && sj != TAKEOVER -> failures--; note_death(USABLE); pq = DEAD }
    /* P's host, restarted or for good. */
    :: atomic { MAY_FAIL && sj != TAKEOVER ->
        if :: failures--; note_death(USABLE)
           :: failures = 0; p_away = 1;
              note_death(USABLE && w != P_ALONE && (w_up || NO_LEASES)) fi;
        kill_primary(); pq = DEAD }
    /* S's host, the same. */
    :: atomic { MAY_FAIL && sj != TAKEOVER && !s_away -> kill_standby(); sq = NONE;
        unprotected = (pq == DEAD -> 1 : unprotected);
        if :: failures--; if :: sj == STANDS || sj == TAKING -> s_blank = 1; epoch = 0; staged = 0
                             :: else fi
           :: failures = 0; s_away = 1 fi }
#ifndef NO_WITNESS
    :: atomic { MAY_FAIL && pw -> failures--; pw = 0 }
    :: atomic { !pw -> pw = 1 }
    :: atomic { MAY_FAIL && sw -> failures--; sw = 0 }
    :: atomic { !sw -> sw = 1 }
    /* P is cut off. */
    :: atomic { MAY_FAIL && ps && pw -> failures--; pw = 0; ps = 0; lose() }
    :: atomic { MAY_FAIL && w_up -> w_up = 0; if :: failures-- :: failures = 0; w_away = 1 fi }
    :: atomic { !w_up && !w_away -> w_up = 1;
#if MUTANT == 30
        given_w = 0
#else
        given_w = 1
#endif
        }
#endif
    od
}

/* --- the end ------------------------------------------------------------- */

#define AT_P (pq == RUNNING && heard == state && sq == NONE && \
              (pj == OURS || (pj == COUNTS && conn && (w == UNDECIDED || w_away))))
#define AT_S (sq == RUNNING && (pj == ENDED || pj == LOST || p_away))

/* When nothing else happens any more. */
active proctype Judge()
{
    atomic {
        timeout;
#ifndef OVERLAP
        assert(AT_P || AT_S || unprotected);
#endif
    }
}
