#include "migrate/witness_etcd.h"

#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/lock_guard.h"
#include "base/log.h"
#include "base/name.h"
#include "base/thread.h"
#include "migrate/etcd.h"
#include "migrate/witness_record.h"
#include "policy/lease.h"

#define NS_PER_MS ((uint64_t)1000000)
#define KEY_PREFIX "/vmferry/witness/"
/* So often is a transaction begun anew of which the other side has changed something meanwhile. */
#define ROUNDS 5

typedef enum { KEY_STATE, KEY_LEASE, KEYS } Key;

/* What is known of one transaction. */
typedef struct {
    char *transaction;
    char *names[KEYS];
    uint64_t revisions[KEYS]; /* 0: it is not there */
    WitnessRecord record;     /* where there is one */
    guint lease_ms;
    uint64_t seen_ns;          /* since when the lease is known to have this revision */
    uint64_t covered_until_ns; /* what we were granted so far ends then; 0: it is not known */
} Known;

typedef struct {
    Witness base;
    char *address, *agent;
    gboolean (*get_channel)(ChannelOptions *ret, gpointer user, GError **error);
    gpointer user;

    GMutex lock; /* held for a call; protects all below */
    Etcd *etcd;
    char *us;          /* our agent's id */
    uint64_t revision; /* the cluster has come to */
    Known known;

    GThread *thread; /* that attends; NULL: none */
    char *attended;
    guint interval_ms;
    GMutex thread_lock; /* protects *stopping* */
    GCond stop;
    gboolean stopping;
} WitnessEtcd;

/* What becomes of one attempt. */
typedef enum { STEP_DONE, STEP_REFUSED, STEP_UNANSWERED, STEP_AGAIN } Step;

typedef struct {
    WitnessEtcd *witness;
    Known *known;
    const WitnessRequest *request;
    uint64_t end_ns;
    WitnessRole role;
    WitnessReply *reply;
} Question;

/* ---- what is known ---- */

static void known_clear(Known *known)
{
    witness_record_clear(&known->record);
    for (guint i = 0; i < KEYS; i++)
        g_free(known->names[i]);
    g_free(known->transaction);
    *known = (Known){0};
}

static void choose_transaction(Known *known, const char *transaction)
{
    if (g_strcmp0(known->transaction, transaction) == 0)
        return;
    known_clear(known);
    known->transaction = g_strdup(transaction);
    known->names[KEY_STATE] = g_strconcat(KEY_PREFIX, transaction, "/state", NULL);
    known->names[KEY_LEASE] = g_strconcat(KEY_PREFIX, transaction, "/lease", NULL);
}

/* It was so before the answer came: counted from now on it ends later than for whom it was granted. */
static void note_lease(Known *known, uint64_t revision, guint lease_ms)
{
    if (known->revisions[KEY_LEASE] == revision)
        return;
    known->revisions[KEY_LEASE] = revision;
    known->lease_ms = lease_ms;
    known->seen_ns = clock_boot_ns();
}

static gboolean decode(const EtcdEntry *entries, const char *transaction, WitnessRecord *ret,
                       guint *ret_lease_ms, GError **error)
{
    const EtcdEntry *state = &entries[KEY_STATE], *lease = &entries[KEY_LEASE];

    if (lease->revision > 0)
        return witness_record_decode(state->value, state->length, transaction, ret, error) &&
               witness_lease_decode(lease->value, lease->length, ret_lease_ms, error);
    error_set(error, VMFERRY_ERROR_INVALID, "its record is there, and its lease is not");
    return FALSE;
}

static gboolean take_entries(Known *known, const EtcdEntry *entries, GError **error)
{
    g_auto(WitnessRecord) record = {0};
    guint lease_ms = 0;

    if (entries[KEY_STATE].revision > 0 &&
        !decode(entries, known->transaction, &record, &lease_ms, error))
        return FALSE;
    witness_record_clear(&known->record);
    known->record = record;
    record = (WitnessRecord){0};
    known->revisions[KEY_STATE] = entries[KEY_STATE].revision;
    note_lease(known, lease_ms > 0 ? entries[KEY_LEASE].revision : 0, lease_ms);
    return TRUE;
}

/* ---- asking ---- */

static char *format_id(uint64_t cluster)
{
    return g_strdup_printf("%032" PRIx64, cluster);
}

/* Another cluster, or this one as it was once, has not heard what we rely on. */
static gboolean check_cluster(WitnessEtcd *witness, const EtcdAnswer *answer, GError **error)
{
    g_autofree char *id = format_id(answer->cluster);

    if (witness->agent && strcmp(witness->agent, id) != 0)
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "another cluster than the one that is the witness, or its data are new");
    else if (answer->revision < witness->revision)
        error_set(error, VMFERRY_ERROR_REFUSED, "it has gone back to what it was once");
    else {
        witness->revision = answer->revision;
        return TRUE;
    }
    return FALSE;
}

/* STEP_DONE: written, at *witness->revision*.  STEP_AGAIN: not, and all is known as it is. */
static Step commit(Question *question, const EtcdKey *keys, GError **error)
{
    WitnessEtcd *witness = question->witness;
    g_auto(EtcdAnswer) answer = {0};

    if (!etcd_commit(witness->etcd, keys, KEYS, question->end_ns, &question->reply->sent_ns,
                     &answer, error) ||
        !check_cluster(witness, &answer, error))
        return STEP_UNANSWERED;
    if (answer.written)
        return STEP_DONE;
    return take_entries(question->known, answer.entries, error) ? STEP_AGAIN : STEP_UNANSWERED;
}

static gboolean read_all(Question *question, GError **error)
{
    const EtcdKey keys[KEYS] = {{.key = question->known->names[KEY_STATE]},
                                {.key = question->known->names[KEY_LEASE]}};

    return commit(question, keys, error) == STEP_AGAIN;
}

/* Both are as we know them, and nothing is written yet. */
static void compare_all(const Known *known, EtcdKey *keys)
{
    for (guint i = 0; i < KEYS; i++)
        keys[i] =
            (EtcdKey){.key = known->names[i], .is_compared = TRUE, .revision = known->revisions[i]};
}

static Step write_state(Question *question, WitnessState state, gboolean of_this_lease,
                        GError **error)
{
    Known *known = question->known;
    g_autofree char *value = witness_record_encode(&known->record, known->transaction, state);
    EtcdKey keys[KEYS];
    Step step;

    compare_all(known, keys);
    keys[KEY_LEASE].is_compared = of_this_lease;
    keys[KEY_STATE].is_written = TRUE;
    keys[KEY_STATE].value = value;
    step = commit(question, keys, error);
    if (step == STEP_DONE) {
        known->record.state = state;
        known->revisions[KEY_STATE] = question->witness->revision;
    }
    return step;
}

/* ---- registering ---- */

static gboolean check_registration(const WitnessEtcd *witness, const WitnessRequest *request,
                                   GError **error)
{
    if (!guest_name_check(request->guest, error))
        return FALSE;
    if (!random_id_is_valid(witness->us) || !random_id_is_valid(request->destination))
        error_set(error, VMFERRY_ERROR_INVALID, "source and destination have to name their ids");
    else if (strcmp(witness->us, request->destination) == 0)
        error_set(error, VMFERRY_ERROR_REFUSED, "source and destination of guest %s are the same",
                  request->guest);
    else if (request->lease_ms < WITNESS_MIN_LEASE_MS || request->lease_ms > WITNESS_MAX_LEASE_MS)
        error_set(error, VMFERRY_ERROR_INVALID, "a lease is between %d and %d ms",
                  WITNESS_MIN_LEASE_MS, WITNESS_MAX_LEASE_MS);
    else
        return TRUE;
    return FALSE;
}

static WitnessRecord make_record(const char *source, const WitnessRequest *request)
{
    return (WitnessRecord){
        .guest = g_strdup(request->guest),
        .guest_id = g_strdup(request->guest_id),
        .term = request->term,
        .parties = {g_strdup(source), g_strdup(request->destination)},
        .destination_name = g_strdup(request->destination_name ? request->destination_name : ""),
        .lease_ms = request->lease_ms,
        .state = WITNESS_UNDECIDED,
    };
}

/* Asked for again, since the answer was lost. */
static gboolean is_same(const WitnessRecord *record, const char *source,
                        const WitnessRequest *request)
{
    g_auto(WitnessRecord) wanted = make_record(source, request);

    return record->state == WITNESS_UNDECIDED && record->term == wanted.term &&
           record->lease_ms == wanted.lease_ms && strcmp(record->guest_id, wanted.guest_id) == 0 &&
           strcmp(record->parties[WITNESS_ROLE_SOURCE], source) == 0 &&
           strcmp(record->parties[WITNESS_ROLE_DESTINATION],
                  wanted.parties[WITNESS_ROLE_DESTINATION]) == 0 &&
           strcmp(record->destination_name, wanted.destination_name) == 0;
}

/* It may be registered anew, after it was forgotten: a lease is taken to have been granted just now. */
static Step write_new(Question *question, const WitnessRecord *record, GError **error)
{
    Known *known = question->known;
    g_autofree char *value = witness_record_encode(record, known->transaction, WITNESS_UNDECIDED);
    g_autofree char *lease = witness_lease_encode(record->lease_ms);
    EtcdKey keys[KEYS];

    if (!value) {
        error_set(error, VMFERRY_ERROR_INVALID, "the name of the destination is no UTF-8");
        return STEP_REFUSED;
    }
    compare_all(known, keys);
    keys[KEY_LEASE].is_compared = FALSE;
    keys[KEY_STATE].value = value;
    keys[KEY_LEASE].value = lease;
    keys[KEY_STATE].is_written = keys[KEY_LEASE].is_written = TRUE;
    return commit(question, keys, error);
}

static Step add_record(Question *question, GError **error)
{
    Known *known = question->known;
    g_auto(WitnessRecord) record = make_record(question->witness->us, question->request);
    Step step = write_new(question, &record, error);

    if (step != STEP_DONE)
        return step;
    known->revisions[KEY_STATE] = question->witness->revision;
    note_lease(known, question->witness->revision, record.lease_ms);
    witness_record_clear(&known->record);
    known->record = record;
    record = (WitnessRecord){0};
    return STEP_DONE;
}

static Step register_transaction(Question *question, GError **error)
{
    const Known *known = question->known;

    if (!check_registration(question->witness, question->request, error))
        return STEP_REFUSED;
    if (known->revisions[KEY_STATE] == 0)
        return add_record(question, error);
    if (is_same(&known->record, question->witness->us, question->request))
        return STEP_DONE;
    error_set(error, VMFERRY_ERROR_EXISTS, "transaction %s is registered already",
              known->transaction);
    return STEP_REFUSED;
}

/* ---- the other questions, of a record that is known ---- */

static gboolean only_for(const Question *question, WitnessRole role, GError **error)
{
    if (question->role == role)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED, "only the %s may ask for that",
              role == WITNESS_ROLE_SOURCE ? "source" : "destination");
    return FALSE;
}

static Step refuse_for_source(const Question *question, GError **error)
{
    error_set(error, VMFERRY_ERROR_REFUSED, "the source of guest %s may take over",
              question->known->record.guest);
    return STEP_REFUSED;
}

static Step refuse_for_destination(const Question *question, GError **error)
{
    error_set(error, VMFERRY_ERROR_REFUSED,
              "the destination of guest %s has gone on alone: the copy here is out of date",
              question->known->record.guest);
    return STEP_REFUSED;
}

/* Whoever reads this lease may have seen none of those before, which may last for longer.  What an agent
 * of before this one was granted is taken to have been granted just now. */
static guint cover(Known *known, guint lease_ms)
{
    uint64_t now_ns = clock_boot_ns();

    if (known->covered_until_ns == 0)
        known->covered_until_ns = now_ns + known->record.lease_ms * NS_PER_MS;
    known->covered_until_ns = MAX(known->covered_until_ns, now_ns + lease_ms * NS_PER_MS);
    return (guint)((known->covered_until_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS);
}

static Step renew(Question *question, GError **error)
{
    Known *known = question->known;
    guint wanted_ms = question->request->lease_ms, longest_ms = known->record.lease_ms;
    guint lease_ms = wanted_ms > 0 ? MIN(wanted_ms, longest_ms) : longest_ms, covering_ms;
    g_autofree char *value = NULL;
    EtcdKey keys[KEYS];
    Step step;

    if (!only_for(question, WITNESS_ROLE_DESTINATION, error))
        return STEP_REFUSED;
    if (known->record.state == WITNESS_SOURCE_MAY)
        return refuse_for_source(question, error);
    covering_ms = cover(known, lease_ms);
    value = witness_lease_encode(covering_ms);
    compare_all(known, keys);
    keys[KEY_LEASE].is_written = TRUE;
    keys[KEY_LEASE].value = value;
    step = commit(question, keys, error);
    if (step == STEP_DONE) {
        question->reply->lease_ms = lease_ms;
        /* It counts from its question, which another member may have got long after the first one was asked. */
        known->covered_until_ns =
            MAX(known->covered_until_ns, question->reply->sent_ns + lease_ms * NS_PER_MS);
        note_lease(known, question->witness->revision, covering_ms);
    }
    return step;
}

static guint get_wait_ms(const Known *known)
{
    LeaseGrantor lease = lease_grantor_after_restart(known->lease_ms, known->seen_ns);
    uint64_t left = lease_grantor_left_ns(&lease, clock_boot_ns());

    return (guint)((left + NS_PER_MS - 1) / NS_PER_MS);
}

/* A consent that is on record is written anew: what had been sent to give it back comes too late. */
static Step claim_for_source(Question *question, GError **error)
{
    const Known *known = question->known;
    guint wait_ms = get_wait_ms(known);

    if (known->record.state == WITNESS_DESTINATION_ALONE)
        return refuse_for_destination(question, error);
    if (known->record.state == WITNESS_SOURCE_MAY || wait_ms == 0)
        return write_state(question, WITNESS_SOURCE_MAY, TRUE, error);
    question->reply->wait_ms = wait_ms;
    error_set(error, VMFERRY_ERROR_BUSY,
              "guest %s may still run at its destination: its lease ends in %u ms",
              known->record.guest, wait_ms);
    return STEP_REFUSED;
}

static Step claim(Question *question, GError **error)
{
    WitnessState state = question->known->record.state;

    if (question->role == WITNESS_ROLE_SOURCE)
        return claim_for_source(question, error);
    if (state == WITNESS_SOURCE_MAY)
        return refuse_for_source(question, error);
    return state == WITNESS_DESTINATION_ALONE
               ? STEP_DONE
               : write_state(question, WITNESS_DESTINATION_ALONE, FALSE, error);
}

/* Written also where there is none: a claim that is under way comes too late. */
static Step give_back(Question *question, GError **error)
{
    if (!only_for(question, WITNESS_ROLE_SOURCE, error))
        return STEP_REFUSED;
    if (question->known->record.state == WITNESS_DESTINATION_ALONE)
        return refuse_for_destination(question, error);
    return write_state(question, WITNESS_UNDECIDED, FALSE, error);
}

/* What is decided is forgotten by whom it was decided for. */
static Step forget(Question *question, GError **error)
{
    WitnessState state = question->known->record.state;
    EtcdKey keys[KEYS];
    Step step;

    if ((state == WITNESS_SOURCE_MAY && !only_for(question, WITNESS_ROLE_SOURCE, error)) ||
        (state == WITNESS_DESTINATION_ALONE &&
         !only_for(question, WITNESS_ROLE_DESTINATION, error)))
        return STEP_REFUSED;
    compare_all(question->known, keys);
    keys[KEY_LEASE].is_compared = FALSE;
    keys[KEY_STATE].is_written = keys[KEY_LEASE].is_written = TRUE;
    step = commit(question, keys, error);
    if (step == STEP_DONE)
        question->known->revisions[KEY_STATE] = 0;
    return step;
}

static Step ask(Question *question, GError **error)
{
    const Known *known = question->known;

    if (question->role == WITNESS_ROLE_SOURCE && known->record.state == WITNESS_UNDECIDED)
        question->reply->wait_ms = get_wait_ms(known);
    return STEP_DONE;
}

/* ---- a question ---- */

/* Strangers learn nothing: to them there is no such transaction. */
static gboolean find_role(Question *question, GError **error)
{
    const Known *known = question->known;

    for (guint role = 0; known->revisions[KEY_STATE] > 0 && role < WITNESS_ROLES; role++)
        if (g_strcmp0(known->record.parties[role], question->witness->us) == 0) {
            question->role = (WitnessRole)role;
            return TRUE;
        }
    error_set(error, VMFERRY_ERROR_NOT_FOUND, "this witness knows of no such transaction");
    return FALSE;
}

static Step attempt(Question *question, GError **error)
{
    static Step (*const steps[])(Question * question, GError * *error) = {
        [WITNESS_RENEW] = renew,   [WITNESS_CLAIM] = claim, [WITNESS_GIVE_BACK] = give_back,
        [WITNESS_FORGET] = forget, [WITNESS_ASK] = ask,
    };
    WitnessRequestKind kind = question->request->kind;

    question->reply->wait_ms = 0;
    if (kind == WITNESS_REGISTER)
        return register_transaction(question, error);
    if (kind == WITNESS_FORGET && question->known->revisions[KEY_STATE] == 0)
        return STEP_DONE;
    return find_role(question, error) ? steps[kind](question, error) : STEP_REFUSED;
}

/* A renewal relies on what is known: where that has changed, nothing is written.  All else, and each
 * refusal, is by what was read just now. */
static gboolean may_skip_reading(const Question *question)
{
    const Known *known = question->known;

    return question->request->kind == WITNESS_RENEW && known->revisions[KEY_STATE] > 0 &&
           known->record.state != WITNESS_SOURCE_MAY;
}

static Step run(Question *question, GError **error)
{
    if (!may_skip_reading(question) && !read_all(question, error))
        return STEP_UNANSWERED;
    for (guint round = 0; round < ROUNDS; round++) {
        Step step = attempt(question, error);

        if (step != STEP_AGAIN)
            return step;
    }
    error_set(error, VMFERRY_ERROR_BUSY, "its record is changed all the time");
    return STEP_UNANSWERED;
}

/* With the lock held; not before it is needed, since nobody could be told. */
static gboolean prepare(WitnessEtcd *witness, GError **error)
{
    ChannelOptions options = {0};

    if (!witness->us) {
        if (!witness->get_channel(&options, witness->user, error))
            return FALSE;
        witness->us = g_strdup(options.agent ? options.agent : "");
    }
    if (!witness->etcd)
        witness->etcd = etcd_new(witness->address, error);
    return witness->etcd != NULL;
}

static gboolean finish(Question *question, Step step)
{
    WitnessReply *reply = question->reply;

    if (step == STEP_UNANSWERED) {
        *reply = (WitnessReply){0};
        return FALSE;
    }
    reply->answered = TRUE;
    if (question->known->revisions[KEY_STATE] > 0)
        reply->state = question->known->record.state;
    return step == STEP_DONE;
}

static gboolean call(Witness *base, const WitnessRequest *request, int timeout_ms,
                     WitnessReply *ret, GError **error)
{
    WitnessEtcd *witness = (WitnessEtcd *)base;
    lock_guard(&witness->lock);
    Question question = {
        .witness = witness,
        .known = &witness->known,
        .request = request,
        .end_ns = clock_now_ns() + (uint64_t)timeout_ms * NS_PER_MS,
        .reply = ret,
    };

    *ret = (WitnessReply){0};
    choose_transaction(&witness->known, request->transaction);
    if (finish(&question, prepare(witness, error) ? run(&question, error) : STEP_UNANSWERED))
        return TRUE;
    g_prefix_error(error, "witness %s: ", witness->address);
    return FALSE;
}

/* ---- attending ---- */

/* FALSE: it is to end. */
static gboolean pause_attending(WitnessEtcd *witness)
{
    gint64 end = g_get_monotonic_time() + (gint64)witness->interval_ms * 1000;
    lock_guard(&witness->thread_lock);

    while (!witness->stopping && g_cond_wait_until(&witness->stop, &witness->thread_lock, end))
        ;
    return !witness->stopping;
}

static gpointer attend_thread(gpointer data)
{
    WitnessEtcd *witness = data;

    do
        witness_ask(&witness->base, WITNESS_ASK, witness->attended, (int)witness->interval_ms, NULL,
                    NULL);
    while (pause_attending(witness));
    return NULL;
}

/* Without its thread the source counts from its first claim on: later, and no less safe. */
static void attend(Witness *base, const char *transaction, guint lease_ms)
{
    WitnessEtcd *witness = (WitnessEtcd *)base;
    g_autoptr(GError) error = NULL;
    lock_guard(&witness->lock);

    if (witness->thread)
        return;
    witness->attended = g_strdup(transaction);
    witness->interval_ms = lease_renewal_interval_ms(lease_ms);
    witness->thread = thread_start("witness", attend_thread, witness, &error);
    if (witness->thread)
        return;
    g_clear_pointer(&witness->attended, g_free);
    log_warning("witness %s: nobody looks at its leases: %s", witness->address, error->message);
}

static void stop_attending(WitnessEtcd *witness)
{
    if (!witness->thread)
        return;
    g_mutex_lock(&witness->thread_lock);
    witness->stopping = TRUE;
    g_cond_signal(&witness->stop);
    g_mutex_unlock(&witness->thread_lock);
    g_thread_join(witness->thread);
}

/* ---- making it ---- */

static void witness_etcd_free(Witness *base)
{
    WitnessEtcd *witness = (WitnessEtcd *)base;

    stop_attending(witness);
    etcd_free(witness->etcd);
    known_clear(&witness->known);
    g_mutex_clear(&witness->lock);
    g_mutex_clear(&witness->thread_lock);
    g_cond_clear(&witness->stop);
    g_free(witness->attended);
    g_free(witness->us);
    g_free(witness->address);
    g_free(witness->agent);
    g_free(witness);
}

Witness *witness_etcd_new(const WitnessClientOptions *options)
{
    static const WitnessOps ops = {.call = call, .attend = attend, .free = witness_etcd_free};
    WitnessEtcd *witness = g_new0(WitnessEtcd, 1);

    witness->base.ops = &ops;
    witness->address = g_strdup(options->address);
    witness->agent = g_strdup(options->agent);
    witness->get_channel = options->get_channel;
    witness->user = options->user;
    g_mutex_init(&witness->lock);
    g_mutex_init(&witness->thread_lock);
    g_cond_init(&witness->stop);
    return &witness->base;
}

char *witness_etcd_find_id(const char *address, int timeout_ms, GError **error)
{
    const EtcdKey key = {.key = KEY_PREFIX};
    uint64_t end_ns = clock_now_ns() + (uint64_t)timeout_ms * NS_PER_MS, sent_ns;
    g_autoptr(Etcd) etcd = etcd_new(address, error);
    g_auto(EtcdAnswer) answer = {0};

    if (etcd && etcd_commit(etcd, &key, 1, end_ns, &sent_ns, &answer, error))
        return format_id(answer.cluster);
    g_prefix_error(error, "%s: ", address);
    return NULL;
}
