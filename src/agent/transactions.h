/*
 * The destination's ownership records
 *
 * Theory of operation: a move has a transaction.  Its destination writes down
 * what became of it, because where the answer to START is lost only that record
 * decides which of two hosts owns the guest.
 *
 *     begin ──► PENDING ──commit──► COMMITTED ──settle──► answered to the source
 *                  │                    │  │
 *              withdraw             withdraw  lose (after a restart)
 *                  ▼                    ▼  └──► LOST
 *               ABORTED ◄───────────────┘
 *                  └──abort──► answered to the source
 *
 * Rules:
 *  - One lock covers every step, so a question answered "aborted" and a commit
 *    of the same transaction cannot both happen.
 *  - begin is durable: after a crash of the whole host the record is there.
 *    Commit needs only the page cache, for a record that still reads "pending"
 *    after a reboot is answered "lost": it cannot be known.
 *  - A transaction that this host never heard of is "aborted", and is remembered
 *    as that, so that it cannot begin later.
 *  - "Committed" is answered only when the guest was seen to be here (settled).
 *    Before, the answer is "pending": an agent that was killed in between may
 *    have to say "lost" instead.
 *  - A commit is withdrawn only before it is settled, for a guest that certainly
 *    has not run.
 *  - "Aborted" of a transaction that has a VMM here is answered only when that is
 *    gone (abort); before, the answer is "pending".
 *  - Pending records of this boot are aborted when the agent starts: the
 *    connection that could have committed them is gone.
 *
 * An ownership record is what a committed transaction is, too: this host has come
 * to own the guest (by its id) with that term (record.h).  A lost one counts as
 * well, for it may have: no guest comes here with a term that is not higher.
 *
 * Limits: aborted records are kept up to TRANSACTION_KEEP_ABORTED: an unknown
 * transaction is answered the same.  Committed and lost ones are kept for
 * TRANSACTION_KEEP_DAYS, far longer than a guest can be left in doubt: a source
 * that asked later would get "aborted" and run a second copy.
 */
#pragma once

#include <glib.h>

#include "agent/store.h"
#include "wire/messages.h"

#define TRANSACTION_KEEP_ABORTED 1024
#define TRANSACTION_KEEP_DAYS 3650

typedef struct TransactionLog TransactionLog;

/* Reads the records there are.  *store* must outlive the log. */
TransactionLog *transaction_log_open(StateStore *store, const char *boot_id, GError **error);
void transaction_log_close(TransactionLog *log);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TransactionLog, transaction_log_close)

typedef struct {
    const char *id; /* of the transaction */
    const char *guest, *guest_id;
    uint64_t term; /* with which this host would own the guest */
} TransactionOffer;

/* VMFERRY_ERROR_REFUSED where it was ended (also by a question) before, and where
 * this host knows of an owner of the guest with that term or a higher one: then
 * the source's copy is out of date. */
gboolean transaction_log_begin(TransactionLog *log, const TransactionOffer *offer, GError **error);

/* VMFERRY_ERROR_REFUSED unless it is pending, and was begun with this term. */
gboolean transaction_log_commit(TransactionLog *log, const char *id, uint64_t term, GError **error);

/* The guest of a committed transaction runs: from now on that may be answered.  FALSE where it is not
 * committed (any more). */
gboolean transaction_log_settle(TransactionLog *log, const char *id);

/* Will never be run here; says nothing yet (see abort).  VMFERRY_ERROR_REFUSED
 * where it was settled before or is lost.  A commit that cannot be taken back on
 * the disk stays. */
gboolean transaction_log_withdraw(TransactionLog *log, const char *id, GError **error);

/* Not moved, and nothing of it is here any more.  FALSE where it was committed before (there is no
 * way back) or is lost, which one of an earlier boot that is not known to be committed is, too. */
gboolean transaction_log_abort(TransactionLog *log, const char *id);

/* After a restart: the guest of this transaction must be settled before its
 * outcome is answered.  FALSE where it is not committed. */
gboolean transaction_log_reopen(TransactionLog *log, const char *id);

/* After a restart: committed, but the guest is gone and may or may not have
 * run. */
void transaction_log_lose(TransactionLog *log, const char *id);

/* The answer to a source that asks.  Where the transaction is aborted, but this host has come to
 * own the guest with the term asked about, or a higher one, by another transaction, the answer is
 * about that one: the asking source's copy is out of date. */
OutcomeMessage transaction_log_resolve(TransactionLog *log, const ResolveMessage *question);

/* TRUE where its guest has certainly come to be here. */
gboolean transaction_log_is_committed(TransactionLog *log, const char *id);

/* FALSE where this transaction's guest certainly never came to be here. */
gboolean transaction_log_may_be_committed(TransactionLog *log, const char *id);

/* All memory of a committed transaction's guest has come (it may run before that); whether that is
 * known. */
void transaction_log_note_whole(TransactionLog *log, const char *id);
gboolean transaction_log_is_whole(TransactionLog *log, const char *id);

/* Its source will not take it over any more (docs/witness.md): that is on the disk when this returns
 * TRUE; whether it is on record. */
gboolean transaction_log_note_alone(TransactionLog *log, const char *id, GError **error);
gboolean transaction_log_is_alone(TransactionLog *log, const char *id);

/* TRUE where this host had the guest by this transaction, for certain not alone, and is told that
 * its source has it with a higher term. */
gboolean transaction_log_is_superseded(TransactionLog *log, const ResolveMessage *question);

/* How many are remembered. */
guint transaction_log_count(TransactionLog *log);
