#include "agent/witness.h"

#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/lock_guard.h"
#include "base/log.h"
#include "base/name.h"
#include "policy/lease.h"

#define RECORD_FORMAT 1
#define MAX_NAME_BYTES 255
#define SECONDS_A_DAY (24 * 60 * 60)
#define NS_A_DAY ((uint64_t)SECONDS_A_DAY * 1000000000)
#define NS_PER_MS ((uint64_t)1000000)

typedef enum { ROLE_SOURCE, ROLE_DESTINATION, ROLES } Role;

static const char *const role_names[ROLES] = {
    [ROLE_SOURCE] = "source",
    [ROLE_DESTINATION] = "destination",
};

typedef struct {
    char *agent;
    char *name;          /* of its certificate; "": not checked */
    uint64_t connection; /* the last one that spoke for it; 0: none yet */
} Party;

typedef struct {
    char *transaction, *guest, *guest_id;
    uint64_t term;
    Party parties[ROLES];
    WitnessState state;
    gboolean renewed; /* it has granted a lease, some time: the guest has begun to run by it */
    int64_t touched;  /* wall-clock seconds, on record: within a day of when it was last of use */
    uint64_t used_ns;
    LeaseGrantor lease;
    gboolean writing; /* it is being written, without the lock */
} Record;

struct WitnessTable {
    StateStore *store;
    char *agent_id;
    GMutex lock; /* protects all below */
    GCond written;
    GHashTable *by_transaction; /* of Record */
    uint64_t connections;
};

static void record_free(gpointer data)
{
    Record *record = data;

    if (!record)
        return;
    for (guint role = 0; role < ROLES; role++) {
        g_free(record->parties[role].agent);
        g_free(record->parties[role].name);
    }
    g_free(record->transaction);
    g_free(record->guest);
    g_free(record->guest_id);
    g_free(record);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Record, record_free)

static int64_t now_seconds(void)
{
    return g_get_real_time() / G_USEC_PER_SEC;
}

/* ---- on the disk ---- */

static json_t *to_json(const Record *record, WitnessState state)
{
    const Party *source = &record->parties[ROLE_SOURCE];
    const Party *destination = &record->parties[ROLE_DESTINATION];

    return json_pack("{s:i, s:s, s:s, s:s, s:I, s:s, s:s, s:s, s:s, s:i, s:s, s:b, s:I}", "format",
                     RECORD_FORMAT, "transaction", record->transaction, "guest", record->guest,
                     "guest_id", record->guest_id, "term", (json_int_t)record->term, "source",
                     source->agent, "source_name", source->name, "destination", destination->agent,
                     "destination_name", destination->name, "lease_ms",
                     (int)record->lease.length_ms, "state", witness_state_name(state), "renewed",
                     record->renewed, "touched", (json_int_t)record->touched);
}

static gboolean read_party(json_t *object, const char *key, const char *name_key, Party *ret,
                           GError **error)
{
    const char *agent, *name;

    if (!json_get_text(object, key, &agent, error) ||
        !json_get_text(object, name_key, &name, error))
        return FALSE;
    if (!random_id_is_valid(agent) || strlen(name) > MAX_NAME_BYTES) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" or \"%s\" is not valid", key, name_key);
        return FALSE;
    }
    *ret = (Party){.agent = g_strdup(agent), .name = g_strdup(name)};
    return TRUE;
}

static gboolean read_guest(json_t *object, Record *record, GError **error)
{
    const char *transaction, *guest, *guest_id;

    if (!json_get_text(object, "transaction", &transaction, error) ||
        !transaction_id_check(transaction, error) ||
        !json_get_text(object, "guest", &guest, error) || !guest_name_check(guest, error) ||
        !json_get_text(object, "guest_id", &guest_id, error) ||
        !json_get_count(object, "term", MESSAGE_MAX_TERM, &record->term, error))
        return FALSE;
    record->transaction = g_strdup(transaction);
    record->guest = g_strdup(guest);
    record->guest_id = g_strdup(guest_id);
    return TRUE;
}

static gboolean read_state(json_t *object, Record *record, GError **error)
{
    uint64_t touched;
    const char *state;

    if (!json_get_text(object, "state", &state, error) ||
        !json_get_count(object, "touched", G_MAXINT64, &touched, error))
        return FALSE;
    record->touched = (int64_t)touched;
    /* Of one that was written before this was told it is not known. */
    record->renewed = json_flag_or(object, "renewed", TRUE);
    if (witness_state_from_name(state, &record->state))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"state\" is \"%.32s\", which is none", state);
    return FALSE;
}

static Record *from_json(json_t *object, uint64_t now_ns, GError **error)
{
    g_autoptr(Record) record = g_new0(Record, 1);
    uint64_t format, lease_ms;

    if (!json_get_count(object, "format", RECORD_FORMAT, &format, error) ||
        !read_guest(object, record, error) ||
        !read_party(object, "source", "source_name", &record->parties[ROLE_SOURCE], error) ||
        !read_party(object, "destination", "destination_name", &record->parties[ROLE_DESTINATION],
                    error) ||
        !json_get_count(object, "lease_ms", WITNESS_MAX_LEASE_MS, &lease_ms, error) ||
        !read_state(object, record, error))
        return NULL;
    record->used_ns = now_ns;
    record->lease = lease_grantor_after_restart((guint)lease_ms, now_ns);
    return g_steal_pointer(&record);
}

/* With the lock held, given up meanwhile.  The new state is on record before it holds in memory; of
 * one that could not be written it is not known which one a restarted witness finds, and either is
 * safe: nothing was said of it, and no lease of before the restart is forgotten. */
static gboolean write_record(WitnessTable *table, Record *record, WitnessState state,
                             gboolean durable, GError **error)
{
    g_autoptr(json_t) object = NULL;
    gboolean done;

    record->touched = now_seconds();
    record->writing = TRUE;
    object = to_json(record, state);
    g_mutex_unlock(&table->lock);
    done =
        state_store_write(table->store, STORE_WITNESS, record->transaction, object, durable, error);
    g_mutex_lock(&table->lock);
    record->writing = FALSE;
    g_cond_broadcast(&table->written);
    if (done)
        record->state = state;
    return done;
}

/* With the lock held; the record is not being written. */
static void forget(WitnessTable *table, Record *record)
{
    state_store_remove(table->store, STORE_WITNESS, record->transaction);
    g_hash_table_remove(table->by_transaction, record->transaction);
}

static gboolean load_one(WitnessTable *table, const char *transaction, uint64_t now_ns,
                         GError **error)
{
    g_autoptr(json_t) object = state_store_read(table->store, STORE_WITNESS, transaction, error);
    g_autoptr(Record) record = object ? from_json(object, now_ns, error) : NULL;

    if (!record)
        return FALSE;
    if (strcmp(record->transaction, transaction) != 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "it is of transaction %s", record->transaction);
        return FALSE;
    }
    g_hash_table_replace(table->by_transaction, record->transaction, record);
    g_steal_pointer(&record);
    return TRUE;
}

WitnessTable *witness_table_open(StateStore *store, const char *agent_id, uint64_t now_ns,
                                 GError **error)
{
    g_autoptr(GPtrArray) transactions = state_store_list(store, STORE_WITNESS, error);
    WitnessTable *table;

    if (!transactions)
        return NULL;
    table = g_new0(WitnessTable, 1);
    table->store = store;
    table->agent_id = g_strdup(agent_id);
    g_mutex_init(&table->lock);
    g_cond_init(&table->written);
    table->by_transaction = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, record_free);
    for (guint i = 0; i < transactions->len; i++) {
        g_autoptr(GError) problem = NULL;

        if (!load_one(table, transactions->pdata[i], now_ns, &problem))
            state_store_reject(store, STORE_WITNESS, transactions->pdata[i], problem);
    }
    return table;
}

void witness_table_close(WitnessTable *table)
{
    if (!table)
        return;
    g_hash_table_unref(table->by_transaction);
    g_cond_clear(&table->written);
    g_mutex_clear(&table->lock);
    g_free(table->agent_id);
    g_free(table);
}

uint64_t witness_table_number_connection(WitnessTable *table)
{
    lock_guard(&table->lock);

    return ++table->connections;
}

guint witness_table_count(WitnessTable *table)
{
    lock_guard(&table->lock);

    return g_hash_table_size(table->by_transaction);
}

/* ---- who may speak ---- */

/* With the lock held: once nobody writes it.  NULL: there is none (any more). */
static Record *await_record(WitnessTable *table, const char *transaction)
{
    Record *record;

    while ((record = g_hash_table_lookup(table->by_transaction, transaction)) && record->writing)
        g_cond_wait(&table->written, &table->lock);
    return record;
}

static gboolean has_name(const Party *party, const WitnessPeer *peer)
{
    return !*party->name || g_strcmp0(party->name, peer->name) == 0;
}

/* Strangers learn nothing: to them there is no such transaction. */
static gboolean find_role(const Record *record, const WitnessPeer *peer, Role *ret, GError **error)
{
    for (guint role = 0; record && role < ROLES; role++) {
        if (g_strcmp0(record->parties[role].agent, peer->agent) != 0)
            continue;
        *ret = (Role)role;
        if (has_name(&record->parties[role], peer))
            return TRUE;
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "the %s of guest %s was \"%s\" by its certificate, and is \"%s\" now",
                  role_names[role], record->guest, record->parties[role].name,
                  peer->name ? peer->name : "");
        return FALSE;
    }
    error_set(error, VMFERRY_ERROR_NOT_FOUND, "this witness knows of no such transaction");
    return FALSE;
}

static gboolean is_latest(Record *record, Role role, const WitnessPeer *peer, GError **error)
{
    Party *party = &record->parties[role];

    if (peer->connection < party->connection) {
        error_set(error, VMFERRY_ERROR_REFUSED, "a later connection speaks for the %s of guest %s",
                  role_names[role], record->guest);
        return FALSE;
    }
    party->connection = peer->connection;
    return TRUE;
}

/* ---- registering ---- */

/* Leases follow registering within seconds, unless it has come to nothing. */
static int get_days(const Record *record)
{
    gboolean unused = record->state == WITNESS_UNDECIDED && !record->renewed;

    return unused ? WITNESS_KEEP_UNUSED_DAYS : WITNESS_KEEP_DAYS;
}

static gboolean is_orphan(const Record *record, uint64_t now_ns)
{
    int64_t limit = now_seconds() - (int64_t)get_days(record) * SECONDS_A_DAY;

    /* Neither clock is trusted alone: one begins anew with us, the other may be set. */
    return !record->writing && record->touched < limit && now_ns > record->used_ns + NS_A_DAY;
}

/* With the lock held. */
static void prune(WitnessTable *table, uint64_t now_ns)
{
    g_autoptr(GPtrArray) old = g_ptr_array_new();
    GHashTableIter iter;
    Record *record;

    g_hash_table_iter_init(&iter, table->by_transaction);
    while (g_hash_table_iter_next(&iter, NULL, (gpointer *)&record))
        if (is_orphan(record, now_ns))
            g_ptr_array_add(old, record);
    for (guint i = 0; i < old->len; i++) {
        record = old->pdata[i];
        log_info("witness: nobody has spoken of transaction %s (guest %s) for %d days",
                 record->transaction, record->guest, get_days(record));
        forget(table, record);
    }
}

static guint count_of(WitnessTable *table, const char *source)
{
    GHashTableIter iter;
    Record *record;
    guint count = 0;

    g_hash_table_iter_init(&iter, table->by_transaction);
    while (g_hash_table_iter_next(&iter, NULL, (gpointer *)&record))
        count += strcmp(record->parties[ROLE_SOURCE].agent, source) == 0;
    return count;
}

static gboolean check_third(WitnessTable *table, const WitnessPeer *peer,
                            const WitnessRequest *request, GError **error)
{
    const char *source = peer->agent ? peer->agent : "";

    if (!random_id_is_valid(source)) {
        error_set(error, VMFERRY_ERROR_INVALID, "a source of guests has to name its agent's id");
        return FALSE;
    }
    if (strcmp(source, request->destination) != 0 && strcmp(source, table->agent_id) != 0 &&
        strcmp(request->destination, table->agent_id) != 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED,
              "a witness has to be a third host, neither source nor destination of guest %s",
              request->guest);
    return FALSE;
}

static gboolean check_room(WitnessTable *table, const char *source, uint64_t now_ns, GError **error)
{
    prune(table, now_ns);
    if (g_hash_table_size(table->by_transaction) < WITNESS_MAX_TRANSACTIONS &&
        count_of(table, source) < WITNESS_MAX_PER_SOURCE)
        return TRUE;
    error_set(error, VMFERRY_ERROR_NO_SPACE,
              "this witness has as many transactions as it takes (%d, and %d of one source)",
              WITNESS_MAX_TRANSACTIONS, WITNESS_MAX_PER_SOURCE);
    return FALSE;
}

static Record *make_record(const WitnessPeer *peer, const WitnessRequest *request, uint64_t now_ns)
{
    Record *record = g_new0(Record, 1);

    record->transaction = g_strdup(request->transaction);
    record->guest = g_strdup(request->guest);
    record->guest_id = g_strdup(request->guest_id);
    record->term = request->term;
    record->parties[ROLE_SOURCE] =
        (Party){g_strdup(peer->agent), g_strdup(peer->name ? peer->name : ""), peer->connection};
    record->parties[ROLE_DESTINATION] =
        (Party){g_strdup(request->destination), g_strdup(request->destination_name), 0};
    record->used_ns = now_ns;
    /* It may be registered anew, after it was forgotten. */
    record->lease = lease_grantor_after_restart(request->lease_ms, now_ns);
    return record;
}

/* Asked for again, since the answer was lost. */
static gboolean is_same(const Record *record, const WitnessRequest *request)
{
    const Party *destination = &record->parties[ROLE_DESTINATION];

    return record->state == WITNESS_UNDECIDED && record->term == request->term &&
           record->lease.length_ms == request->lease_ms &&
           strcmp(record->guest_id, request->guest_id) == 0 &&
           strcmp(destination->agent, request->destination) == 0 &&
           strcmp(destination->name, request->destination_name) == 0;
}

static gboolean add_record(WitnessTable *table, const WitnessPeer *peer,
                           const WitnessRequest *request, uint64_t now_ns, GError **error)
{
    Record *record;

    if (!guest_name_check(request->guest, error) || !check_third(table, peer, request, error) ||
        !check_room(table, peer->agent, now_ns, error))
        return FALSE;
    record = make_record(peer, request, now_ns);
    g_hash_table_replace(table->by_transaction, record->transaction, record);
    if (write_record(table, record, WITNESS_UNDECIDED, TRUE, error))
        return TRUE;
    forget(table, record);
    return FALSE;
}

/* With the lock held. */
static gboolean register_transaction(WitnessTable *table, const WitnessPeer *peer,
                                     const WitnessRequest *request, uint64_t now_ns, GError **error)
{
    Record *record = await_record(table, request->transaction);
    Role role;

    if (!record)
        return add_record(table, peer, request, now_ns, error);
    if (!find_role(record, peer, &role, NULL) || role != ROLE_SOURCE || !is_same(record, request)) {
        error_set(error, VMFERRY_ERROR_EXISTS, "transaction %s is registered already",
                  request->transaction);
        return FALSE;
    }
    return is_latest(record, role, peer, error);
}

/* ---- the requests, each with the lock held ---- */

typedef struct {
    WitnessTable *table;
    Record *record; /* NULL once it is forgotten */
    Role role;
    uint64_t now_ns;
    guint wanted_ms; /* of RENEW */
    WitnessAnswer *answer;
} Request;

static gboolean only_for(const Request *request, Role role, GError **error)
{
    if (request->role == role)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED, "only the %s may ask for that", role_names[role]);
    return FALSE;
}

static gboolean decide(Request *request, WitnessState state, GError **error)
{
    Record *record = request->record;

    if (record->state == state)
        return TRUE;
    if (!write_record(request->table, record, state, TRUE, error))
        return FALSE;
    log_info("witness: transaction %s (guest %s): %s", record->transaction, record->guest,
             witness_state_name(state));
    return TRUE;
}

/* Either way the lease counts: on record it only keeps the record for longer. */
static void note_renewed(const Request *request)
{
    Record *record = request->record;
    g_autoptr(GError) problem = NULL;

    if (record->renewed)
        return;
    record->renewed = TRUE;
    if (!write_record(request->table, record, record->state, FALSE, &problem))
        log_warning("witness: %s", problem->message);
}

static gboolean renew(Request *request, GError **error)
{
    Record *record = request->record;

    if (!only_for(request, ROLE_DESTINATION, error))
        return FALSE;
    if (record->state == WITNESS_SOURCE_MAY) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "the source of guest %s may take over: there are no leases any more",
                  record->guest);
        return FALSE;
    }
    request->answer->lease_ms =
        lease_grantor_grant(&record->lease, request->wanted_ms, request->now_ns);
    note_renewed(request);
    return TRUE;
}

static guint get_wait_ms(const Request *request)
{
    uint64_t left = lease_grantor_left_ns(&request->record->lease, request->now_ns);

    return (guint)((left + NS_PER_MS - 1) / NS_PER_MS);
}

static gboolean claim_for_source(Request *request, GError **error)
{
    Record *record = request->record;

    if (record->state == WITNESS_DESTINATION_ALONE) {
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "the destination of guest %s has gone on alone: the copy here is out of date",
                  record->guest);
        return FALSE;
    }
    request->answer->wait_ms = get_wait_ms(request);
    if (request->answer->wait_ms > 0) {
        error_set(error, VMFERRY_ERROR_BUSY,
                  "guest %s may still run at its destination: its lease, or one of before this "
                  "witness was restarted, ends in %u ms",
                  record->guest, request->answer->wait_ms);
        return FALSE;
    }
    return decide(request, WITNESS_SOURCE_MAY, error);
}

static gboolean claim_for_destination(Request *request, GError **error)
{
    if (request->record->state != WITNESS_SOURCE_MAY)
        return decide(request, WITNESS_DESTINATION_ALONE, error);
    error_set(error, VMFERRY_ERROR_REFUSED, "the source of guest %s may take over",
              request->record->guest);
    return FALSE;
}

static gboolean claim(Request *request, GError **error)
{
    return request->role == ROLE_SOURCE ? claim_for_source(request, error)
                                        : claim_for_destination(request, error);
}

static gboolean give_back(Request *request, GError **error)
{
    if (!only_for(request, ROLE_SOURCE, error))
        return FALSE;
    if (request->record->state != WITNESS_DESTINATION_ALONE)
        return decide(request, WITNESS_UNDECIDED, error);
    error_set(error, VMFERRY_ERROR_REFUSED, "the destination of guest %s has gone on alone",
              request->record->guest);
    return FALSE;
}

/* What is decided is forgotten by whom it was decided for. */
static gboolean forget_request(Request *request, GError **error)
{
    WitnessState state = request->record->state;

    if ((state == WITNESS_SOURCE_MAY && !only_for(request, ROLE_SOURCE, error)) ||
        (state == WITNESS_DESTINATION_ALONE && !only_for(request, ROLE_DESTINATION, error)))
        return FALSE;
    forget(request->table, request->record);
    request->record = NULL;
    return TRUE;
}

static gboolean ask(Request *request, GError **error)
{
    request->answer->wait_ms = request->role == ROLE_SOURCE ? get_wait_ms(request) : 0;
    return TRUE;
}

/* Once a day the record says that it is still of use. */
static void touch(WitnessTable *table, Record *record, uint64_t now_ns)
{
    g_autoptr(GError) problem = NULL;

    record->used_ns = now_ns;
    if (record->touched >= now_seconds() - SECONDS_A_DAY)
        return;
    if (!write_record(table, record, record->state, FALSE, &problem))
        log_warning("witness: %s", problem->message);
}

static gboolean answer_request(Request *request, WitnessRequestKind kind, GError **error)
{
    static gboolean (*const answers[])(Request * request, GError * *error) = {
        [WITNESS_RENEW] = renew,           [WITNESS_CLAIM] = claim, [WITNESS_GIVE_BACK] = give_back,
        [WITNESS_FORGET] = forget_request, [WITNESS_ASK] = ask,
    };
    gboolean done = answers[kind](request, error);

    if (request->record) {
        request->answer->state = request->record->state;
        touch(request->table, request->record, request->now_ns);
    }
    return done;
}

void witness_table_answer(WitnessTable *table, const WitnessPeer *peer,
                          const WitnessRequest *request, uint64_t now_ns, WitnessAnswer *ret)
{
    lock_guard(&table->lock);
    Request known = {
        .table = table, .now_ns = now_ns, .wanted_ms = request->lease_ms, .answer = ret};

    *ret = (WitnessAnswer){.number = request->number};
    if (request->kind == WITNESS_REGISTER) {
        register_transaction(table, peer, request, now_ns, &ret->refusal);
        return;
    }
    known.record = await_record(table, request->transaction);
    if (!known.record && request->kind == WITNESS_FORGET)
        return;
    if (find_role(known.record, peer, &known.role, &ret->refusal) &&
        is_latest(known.record, known.role, peer, &ret->refusal))
        answer_request(&known, request->kind, &ret->refusal);
}

/* ---- a connection ---- */

static gboolean answer_frame(WitnessTable *table, const WitnessPeer *peer, Channel *channel,
                             const Frame *frame, GError **error)
{
    uint64_t now_ns = clock_boot_ns();
    g_auto(WitnessRequest) request = {0};
    g_auto(WitnessAnswer) answer = {0};
    g_autofree char *text = NULL;

    if (frame->type != FRAME_WITNESS_REQUEST) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s sent an unexpected %s frame",
                  channel_get_peer_name(channel), frame_type_name(frame->type));
        return FALSE;
    }
    if (!witness_request_decode((const char *)frame->payload, frame->length, &request, error))
        return FALSE;
    witness_table_answer(table, peer, &request, now_ns, &answer);
    text = witness_answer_encode(&answer);
    return channel_send_bytes(channel, FRAME_WITNESS_ANSWER, text, strlen(text), error);
}

gboolean witness_serve(WitnessTable *table, Channel *channel, const HelloMessage *hello,
                       GError **error)
{
    WitnessPeer peer = {
        .agent = hello->agent,
        .name = channel_is_secure(channel) ? channel_get_peer_name(channel) : NULL,
        .connection = witness_table_number_connection(table),
    };
    Frame frame;

    while (channel_receive(channel, -1, &frame, error))
        if (!answer_frame(table, &peer, channel, &frame, error))
            return FALSE;
    return FALSE;
}
