#include "agent/transactions.h"

#include <inttypes.h>
#include <string.h>

#include "base/name.h"
#include "base/error.h"
#include "base/log.h"
#include "base/lock_guard.h"

#define SECONDS_A_DAY (24 * 60 * 60)

typedef enum { STEP_PENDING, STEP_COMMITTED, STEP_ABORTED, STEP_LOST } Step;

static const char *const step_names[] = {
    [STEP_PENDING] = "pending",
    [STEP_COMMITTED] = "committed",
    [STEP_ABORTED] = "aborted",
    [STEP_LOST] = "lost",
};
G_STATIC_ASSERT(G_N_ELEMENTS(step_names) == STEP_LOST + 1);

typedef struct {
    char *id;
    char *guest; /* NULL: only asked for, never begun; not on disk */
    char *guest_id;
    uint64_t term;
    char *boot_id;
    int64_t updated;
    Step step;
    gboolean settled; /* committed or aborted: may be answered */
    gboolean whole;   /* committed, and all memory is there */
    gboolean alone;   /* committed, and its source may not take it over any more */
} Transaction;

struct TransactionLog {
    StateStore *store;
    char *boot_id;
    GMutex lock;       /* protects all below, and the order of writes */
    GHashTable *by_id; /* of Transaction */
};

static void transaction_free(gpointer data)
{
    Transaction *transaction = data;

    if (!transaction)
        return;
    g_free(transaction->id);
    g_free(transaction->guest);
    g_free(transaction->guest_id);
    g_free(transaction->boot_id);
    g_free(transaction);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Transaction, transaction_free)

static int64_t now_seconds(void)
{
    return g_get_real_time() / G_USEC_PER_SEC;
}

static json_t *to_json(const Transaction *transaction, Step step)
{
    return json_pack("{s:i, s:s, s:s, s:s, s:I, s:s, s:s, s:I, s:b, s:b}", "format", 1,
                     "transaction", transaction->id, "guest", transaction->guest, "guest_id",
                     transaction->guest_id, "term", (json_int_t)transaction->term, "outcome",
                     step_names[step], "boot_id", transaction->boot_id, "updated",
                     (json_int_t)transaction->updated, "whole", transaction->whole, "alone",
                     transaction->alone);
}

static gboolean read_owner(json_t *object, Transaction *transaction, GError **error)
{
    const char *guest_id;

    if (!json_get_text(object, "guest_id", &guest_id, error) ||
        !json_get_count(object, "term", MESSAGE_MAX_TERM, &transaction->term, error))
        return FALSE;
    transaction->guest_id = g_strdup(guest_id);
    if (random_id_is_valid(guest_id) && transaction->term > 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "\"guest_id\" is not of 32 hexadecimal digits, or \"term\" is 0");
    return FALSE;
}

static Transaction *from_json(json_t *object, GError **error)
{
    g_autoptr(Transaction) transaction = g_new0(Transaction, 1);
    const char *id, *guest, *outcome, *boot_id;
    uint64_t updated, format;

    if (!json_get_count(object, "format", 1, &format, error) ||
        !json_get_text(object, "transaction", &id, error) || !transaction_id_check(id, error) ||
        !json_get_text(object, "guest", &guest, error) || !guest_name_check(guest, error) ||
        !read_owner(object, transaction, error) ||
        !json_get_text(object, "outcome", &outcome, error) ||
        !json_get_text(object, "boot_id", &boot_id, error) ||
        !json_get_count(object, "updated", G_MAXINT64, &updated, error))
        return NULL;
    transaction->id = g_strdup(id);
    transaction->guest = g_strdup(guest);
    transaction->boot_id = g_strdup(boot_id);
    transaction->updated = (int64_t)updated;
    transaction->whole = json_flag_or(object, "whole", FALSE);
    transaction->alone = json_flag_or(object, "alone", FALSE);
    for (guint step = 0; step < G_N_ELEMENTS(step_names); step++) {
        if (strcmp(outcome, step_names[step]) == 0) {
            transaction->step = (Step)step;
            transaction->settled = step == STEP_COMMITTED || step == STEP_ABORTED;
            return g_steal_pointer(&transaction);
        }
    }
    error_set(error, VMFERRY_ERROR_INVALID, "\"%.32s\" is not a valid outcome", outcome);
    return NULL;
}

/* With the lock held.  The new step is on record before it holds in memory. */
static gboolean write_step(TransactionLog *log, Transaction *transaction, Step step,
                           gboolean durable, GError **error)
{
    g_autoptr(json_t) record = NULL;

    transaction->updated = now_seconds();
    if (transaction->guest) {
        record = to_json(transaction, step);
        if (!state_store_write(log->store, STORE_TRANSACTION, transaction->id, record, durable,
                               error))
            return FALSE;
    }
    transaction->step = step;
    return TRUE;
}

/* For steps that hold even if the disk is full: a record that still says
 * "pending" leads a restarted agent to the same place. */
static void write_step_anyway(TransactionLog *log, Transaction *transaction, Step step)
{
    g_autoptr(GError) error = NULL;

    if (!write_step(log, transaction, step, FALSE, &error)) {
        log_warning("transaction %s: %s", transaction->id, error->message);
        transaction->step = step;
    }
}

static void forget(TransactionLog *log, Transaction *transaction)
{
    if (transaction->guest)
        state_store_remove(log->store, STORE_TRANSACTION, transaction->id);
    g_hash_table_remove(log->by_id, transaction->id);
}

static gboolean is_too_old(const Transaction *transaction)
{
    return transaction->step != STEP_PENDING &&
           transaction->updated < now_seconds() - (int64_t)TRANSACTION_KEEP_DAYS * SECONDS_A_DAY;
}

/* With the lock held: drops what is too old, and the oldest aborted ones
 * beyond the limit.  Pending and young committed records stay in any case:
 * forgetting one would answer "aborted" for a guest that runs here. */
static void prune(TransactionLog *log)
{
    g_autoptr(GPtrArray) old = g_ptr_array_new();
    Transaction *transaction, *oldest = NULL;
    guint aborted = 0;
    GHashTableIter iter;

    g_hash_table_iter_init(&iter, log->by_id);
    while (g_hash_table_iter_next(&iter, NULL, (gpointer *)&transaction)) {
        if (is_too_old(transaction)) {
            g_ptr_array_add(old, transaction);
        } else if (transaction->step == STEP_ABORTED) {
            aborted++;
            if (!oldest || transaction->updated < oldest->updated)
                oldest = transaction;
        }
    }
    if (aborted > TRANSACTION_KEEP_ABORTED)
        g_ptr_array_add(old, oldest);
    for (guint i = 0; i < old->len; i++)
        forget(log, old->pdata[i]);
}

static gboolean load_one(TransactionLog *log, const char *id, GError **error)
{
    g_autoptr(json_t) object = state_store_read(log->store, STORE_TRANSACTION, id, error);
    g_autoptr(Transaction) transaction = object ? from_json(object, error) : NULL;

    if (!transaction)
        return FALSE;
    if (strcmp(transaction->id, id) != 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "it is of transaction %s", transaction->id);
        return FALSE;
    }
    if (transaction->step == STEP_PENDING && strcmp(transaction->boot_id, log->boot_id) == 0) {
        write_step_anyway(log, transaction, STEP_ABORTED);
        transaction->settled = TRUE; /* its guest's record may say otherwise (reopen) */
    }
    g_hash_table_replace(log->by_id, transaction->id, transaction);
    g_steal_pointer(&transaction);
    return TRUE;
}

static Transaction *add_new(TransactionLog *log, const char *id, Step step)
{
    Transaction *transaction = g_new0(Transaction, 1);

    transaction->id = g_strdup(id);
    transaction->boot_id = g_strdup(log->boot_id);
    transaction->updated = now_seconds();
    transaction->step = step;
    transaction->settled = step == STEP_ABORTED;
    g_hash_table_replace(log->by_id, transaction->id, transaction);
    return transaction;
}

/* The transaction by which this host has come to own the guest with the highest
 * term, or may have; NULL: none that is known. */
static const Transaction *find_owner(TransactionLog *log, const char *guest_id)
{
    const Transaction *transaction, *highest = NULL;
    GHashTableIter iter;

    g_hash_table_iter_init(&iter, log->by_id);
    while (g_hash_table_iter_next(&iter, NULL, (gpointer *)&transaction)) {
        if (g_strcmp0(transaction->guest_id, guest_id) == 0 &&
            (transaction->step == STEP_COMMITTED || transaction->step == STEP_LOST) &&
            (!highest || transaction->term > highest->term))
            highest = transaction;
    }
    return highest;
}

TransactionLog *transaction_log_open(StateStore *store, const char *boot_id, GError **error)
{
    g_autoptr(GPtrArray) ids = state_store_list(store, STORE_TRANSACTION, error);
    TransactionLog *log;

    if (!ids)
        return NULL;
    log = g_new0(TransactionLog, 1);
    log->store = store;
    log->boot_id = g_strdup(boot_id);
    g_mutex_init(&log->lock);
    log->by_id = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, transaction_free);
    for (guint i = 0; i < ids->len; i++) {
        g_autoptr(GError) problem = NULL;

        /* It was begun, and what became of it cannot be read: "aborted" would
         * be a guess.  The file stays, so that the answer stays. */
        if (!load_one(log, ids->pdata[i], &problem)) {
            log_error("the record of transaction %s cannot be used, its outcome is lost: %s",
                      (char *)ids->pdata[i], problem->message);
            add_new(log, ids->pdata[i], STEP_LOST);
        }
    }
    prune(log);
    return log;
}

void transaction_log_close(TransactionLog *log)
{
    if (!log)
        return;
    g_hash_table_unref(log->by_id);
    g_mutex_clear(&log->lock);
    g_free(log->boot_id);
    g_free(log);
}

/* What was pending when the host went down: a commit may have been lost with its page cache. */
static gboolean is_of_lost_host(const TransactionLog *log, const Transaction *transaction)
{
    return transaction->step == STEP_PENDING && strcmp(transaction->boot_id, log->boot_id) != 0;
}

/* With the lock held. */
static gboolean check_term(TransactionLog *log, const TransactionOffer *offer, GError **error)
{
    const Transaction *owner = find_owner(log, offer->guest_id);

    if (!owner || owner->term < offer->term)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED,
              "guest %s has come to host %s with term %" PRIu64 " before and is offered with term "
              "%" PRIu64 ": the copy that is offered is out of date",
              offer->guest, g_get_host_name(), owner->term, offer->term);
    return FALSE;
}

gboolean transaction_log_begin(TransactionLog *log, const TransactionOffer *offer, GError **error)
{
    lock_guard(&log->lock);
    Transaction *transaction;

    if (!transaction_id_check(offer->id, error) || !guest_name_check(offer->guest, error))
        return FALSE;
    transaction = g_hash_table_lookup(log->by_id, offer->id);
    if (transaction) {
        error_set(error, VMFERRY_ERROR_REFUSED, "transaction %s is %s already", offer->id,
                  step_names[transaction->step]);
        return FALSE;
    }
    if (!check_term(log, offer, error))
        return FALSE;
    transaction = add_new(log, offer->id, STEP_PENDING);
    transaction->guest = g_strdup(offer->guest);
    transaction->guest_id = g_strdup(offer->guest_id);
    transaction->term = offer->term;
    if (!write_step(log, transaction, STEP_PENDING, TRUE, error)) {
        g_hash_table_remove(log->by_id, offer->id);
        return FALSE;
    }
    return TRUE;
}

gboolean transaction_log_commit(TransactionLog *log, const char *id, uint64_t term, GError **error)
{
    lock_guard(&log->lock);
    Transaction *transaction = g_hash_table_lookup(log->by_id, id);

    if (!transaction || transaction->step != STEP_PENDING ||
        strcmp(transaction->boot_id, log->boot_id) != 0) {
        error_set(error, VMFERRY_ERROR_REFUSED, "transaction %s is %s, not pending", id,
                  transaction ? step_names[transaction->step] : "unknown");
        return FALSE;
    }
    if (transaction->term != term) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "transaction %s is of term %" PRIu64 ", not of %" PRIu64, id, transaction->term,
                  term);
        return FALSE;
    }
    return write_step(log, transaction, STEP_COMMITTED, FALSE, error);
}

gboolean transaction_log_settle(TransactionLog *log, const char *id)
{
    lock_guard(&log->lock);
    Transaction *transaction = g_hash_table_lookup(log->by_id, id);

    if (!transaction || transaction->step != STEP_COMMITTED)
        return FALSE;
    transaction->settled = TRUE;
    return TRUE;
}

gboolean transaction_log_withdraw(TransactionLog *log, const char *id, GError **error)
{
    lock_guard(&log->lock);
    Transaction *transaction = g_hash_table_lookup(log->by_id, id);

    if (!transaction || transaction->step == STEP_ABORTED)
        return TRUE;
    if (transaction->step == STEP_LOST ||
        (transaction->step == STEP_COMMITTED && transaction->settled)) {
        error_set(error, VMFERRY_ERROR_REFUSED, "transaction %s is %s", id,
                  step_names[transaction->step]);
        return FALSE;
    }
    if (transaction->step == STEP_COMMITTED)
        return write_step(log, transaction, STEP_ABORTED, TRUE, error);
    write_step_anyway(log, transaction, STEP_ABORTED);
    return TRUE;
}

gboolean transaction_log_abort(TransactionLog *log, const char *id)
{
    lock_guard(&log->lock);
    Transaction *transaction = g_hash_table_lookup(log->by_id, id);

    if (!transaction)
        return TRUE;
    if (transaction->step == STEP_PENDING && !is_of_lost_host(log, transaction))
        write_step_anyway(log, transaction, STEP_ABORTED);
    if (transaction->step != STEP_ABORTED)
        return FALSE;
    transaction->settled = TRUE;
    prune(log);
    return TRUE;
}

gboolean transaction_log_reopen(TransactionLog *log, const char *id)
{
    lock_guard(&log->lock);
    Transaction *transaction = g_hash_table_lookup(log->by_id, id);

    if (!transaction)
        return FALSE;
    transaction->settled = FALSE;
    return transaction->step == STEP_COMMITTED;
}

void transaction_log_lose(TransactionLog *log, const char *id)
{
    lock_guard(&log->lock);
    Transaction *transaction = g_hash_table_lookup(log->by_id, id);

    if (transaction && transaction->step == STEP_COMMITTED)
        write_step_anyway(log, transaction, STEP_LOST);
}

static TransactionOutcome get_outcome(TransactionLog *log, const Transaction *transaction)
{
    switch (transaction->step) {
    case STEP_PENDING:
        return is_of_lost_host(log, transaction) ? OUTCOME_LOST : OUTCOME_PENDING;
    case STEP_COMMITTED:
        return transaction->settled ? OUTCOME_COMMITTED : OUTCOME_PENDING;
    case STEP_ABORTED:
        return transaction->settled ? OUTCOME_ABORTED : OUTCOME_PENDING;
    case STEP_LOST:
        return OUTCOME_LOST;
    }
    return OUTCOME_LOST;
}

OutcomeMessage transaction_log_resolve(TransactionLog *log, const ResolveMessage *question)
{
    lock_guard(&log->lock);
    const Transaction *transaction = g_hash_table_lookup(log->by_id, question->transaction);
    const Transaction *owner = find_owner(log, question->guest_id);
    TransactionOutcome outcome = transaction ? get_outcome(log, transaction) : OUTCOME_ABORTED;

    if (outcome == OUTCOME_ABORTED && owner && owner->term >= question->term)
        return (OutcomeMessage){get_outcome(log, owner), owner->term};
    if (transaction)
        return (OutcomeMessage){outcome, transaction->term};
    /* Only in memory: a start that comes late needs a connection to this very
     * process, and strangers' questions must not fill the disk. */
    add_new(log, question->transaction, STEP_ABORTED);
    prune(log);
    return (OutcomeMessage){OUTCOME_ABORTED, 0};
}

gboolean transaction_log_is_committed(TransactionLog *log, const char *id)
{
    lock_guard(&log->lock);
    const Transaction *transaction = g_hash_table_lookup(log->by_id, id);

    return transaction && transaction->step == STEP_COMMITTED;
}

gboolean transaction_log_may_be_committed(TransactionLog *log, const char *id)
{
    lock_guard(&log->lock);
    const Transaction *transaction = g_hash_table_lookup(log->by_id, id);

    return transaction && (transaction->step == STEP_COMMITTED || transaction->step == STEP_LOST ||
                           is_of_lost_host(log, transaction));
}

guint transaction_log_count(TransactionLog *log)
{
    lock_guard(&log->lock);

    return g_hash_table_size(log->by_id);
}

void transaction_log_note_whole(TransactionLog *log, const char *id)
{
    lock_guard(&log->lock);
    Transaction *transaction = g_hash_table_lookup(log->by_id, id);

    if (!transaction || transaction->step != STEP_COMMITTED)
        return;
    transaction->whole = TRUE;
    write_step_anyway(log, transaction, STEP_COMMITTED);
}

gboolean transaction_log_note_alone(TransactionLog *log, const char *id, GError **error)
{
    lock_guard(&log->lock);
    Transaction *transaction = g_hash_table_lookup(log->by_id, id);

    if (!transaction || transaction->step != STEP_COMMITTED) {
        error_set(error, VMFERRY_ERROR_REFUSED, "transaction %s is not committed here", id);
        return FALSE;
    }
    transaction->alone = TRUE;
    if (write_step(log, transaction, STEP_COMMITTED, TRUE, error))
        return TRUE;
    transaction->alone = FALSE;
    return FALSE;
}

gboolean transaction_log_is_alone(TransactionLog *log, const char *id)
{
    lock_guard(&log->lock);
    const Transaction *transaction = g_hash_table_lookup(log->by_id, id);

    return transaction && transaction->alone;
}

gboolean transaction_log_is_superseded(TransactionLog *log, const ResolveMessage *question)
{
    lock_guard(&log->lock);
    const Transaction *transaction = g_hash_table_lookup(log->by_id, question->transaction);

    return transaction && transaction->guest && !transaction->whole && !transaction->alone &&
           strcmp(transaction->guest_id, question->guest_id) == 0 &&
           transaction->term < question->term;
}

gboolean transaction_log_is_whole(TransactionLog *log, const char *id)
{
    lock_guard(&log->lock);
    const Transaction *transaction = g_hash_table_lookup(log->by_id, id);

    return transaction && transaction->whole;
}
