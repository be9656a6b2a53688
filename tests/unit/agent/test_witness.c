/*
 * The witness's rules, what it has on the disk, and three hosts in a simulated network: never two
 * that both believe that they may run the guest.
 */
#include "scratch.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/witness.h"
#include "base/error.h"
#include "policy/lease.h"

#define ID "0123456789abcdef0123456789abcdef"
#define GUEST_ID "fedcba9876543210fedcba9876543210"
#define SOURCE "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define DESTINATION "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define WITNESS "cccccccccccccccccccccccccccccccc"
#define STRANGER "dddddddddddddddddddddddddddddddd"
#define LEASE_MS 1000
#define MS ((uint64_t)1000000)
/* What the witness takes a lease to be. */
#define COUNTED_MS (LEASE_MS + LEASE_MS / 100 * LEASE_CLOCK_ERROR_PERCENT + LEASE_MARGIN_MS)

typedef struct {
    char *folder;
    StateStore *store;
    WitnessTable *table;
    uint64_t now; /* nanoseconds */
} Fixture;

static void open_table(Fixture *f)
{
    f->store = state_store_open(f->folder, NULL);
    assert_non_null(f->store);
    f->table = witness_table_open(f->store, WITNESS, f->now, NULL);
    assert_non_null(f->table);
}

static void close_table(Fixture *f)
{
    witness_table_close(f->table);
    state_store_close(f->store);
}

/* As after a crash: nothing but the disk is left. */
static void reopen(Fixture *f)
{
    close_table(f);
    open_table(f);
}

static int set_up(void **state)
{
    Fixture *f = g_new0(Fixture, 1);

    f->folder = scratch_new();
    f->now = 1000 * MS;
    open_table(f);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    Fixture *f = *state;

    close_table(f);
    scratch_remove(f->folder);
    g_free(f);
    return 0;
}

/* ---- asking ---- */

static WitnessRequest make_request(WitnessRequestKind kind, const char *transaction)
{
    return (WitnessRequest){.kind = kind,
                            .transaction = (char *)transaction,
                            .guest = (char *)"web1",
                            .guest_id = (char *)GUEST_ID,
                            .term = 2,
                            .destination = (char *)DESTINATION,
                            .destination_name = (char *)"",
                            .lease_ms = LEASE_MS};
}

/* The code of the refusal, -1 for none; *answer* may be NULL. */
static int ask_as(Fixture *f, const WitnessPeer *peer, const WitnessRequest *request,
                  WitnessAnswer *ret)
{
    g_auto(WitnessAnswer) answer = {0};
    int code;

    witness_table_answer(f->table, peer, request, f->now, &answer);
    code = answer.refusal ? answer.refusal->code : -1;
    assert_true(!answer.refusal || answer.refusal->domain == VMFERRY_ERROR);
    g_clear_error(&answer.refusal);
    if (ret)
        *ret = answer;
    return code;
}

static int ask(Fixture *f, const char *agent, WitnessRequestKind kind, WitnessAnswer *ret)
{
    WitnessPeer peer = {agent, NULL, witness_table_number_connection(f->table)};
    WitnessRequest request = make_request(kind, ID);

    return ask_as(f, &peer, &request, ret);
}

#define assert_done(f, agent, kind) assert_int_equal(ask(f, agent, kind, NULL), -1)
#define assert_refused(f, agent, kind, code) assert_int_equal(ask(f, agent, kind, NULL), code)

static void assert_state(Fixture *f, WitnessState state)
{
    WitnessAnswer answer;

    assert_int_equal(ask(f, SOURCE, WITNESS_ASK, &answer), -1);
    assert_int_equal(answer.state, state);
}

/* Registered, and no lease lives. */
static void begin(Fixture *f)
{
    assert_done(f, SOURCE, WITNESS_REGISTER);
    f->now += COUNTED_MS * MS;
}

/* ---- the rules ---- */

static void test_source_takes_over(void **state)
{
    Fixture *f = *state;
    WitnessAnswer answer;

    begin(f);
    assert_int_equal(ask(f, DESTINATION, WITNESS_RENEW, &answer), -1);
    assert_int_equal(answer.lease_ms, LEASE_MS);
    assert_int_equal(ask(f, SOURCE, WITNESS_CLAIM, &answer), VMFERRY_ERROR_BUSY);
    assert_int_equal(answer.wait_ms, COUNTED_MS);
    assert_int_equal(answer.state, WITNESS_UNDECIDED);
    f->now += COUNTED_MS * MS - 1;
    assert_refused(f, SOURCE, WITNESS_CLAIM, VMFERRY_ERROR_BUSY);
    f->now += 1;
    assert_int_equal(ask(f, SOURCE, WITNESS_CLAIM, &answer), -1);
    assert_int_equal(answer.state, WITNESS_SOURCE_MAY);
    /* From now on the destination gets nothing. */
    assert_int_equal(ask(f, DESTINATION, WITNESS_RENEW, &answer), VMFERRY_ERROR_REFUSED);
    assert_int_equal(answer.lease_ms, 0);
    assert_refused(f, DESTINATION, WITNESS_CLAIM, VMFERRY_ERROR_REFUSED);
    assert_refused(f, DESTINATION, WITNESS_FORGET, VMFERRY_ERROR_REFUSED);
    assert_done(f, SOURCE, WITNESS_CLAIM);
    assert_done(f, SOURCE, WITNESS_FORGET);
    assert_refused(f, SOURCE, WITNESS_CLAIM, VMFERRY_ERROR_NOT_FOUND);
    assert_done(f, SOURCE, WITNESS_FORGET);
}

static void test_given_back(void **state)
{
    Fixture *f = *state;

    begin(f);
    assert_done(f, SOURCE, WITNESS_GIVE_BACK);
    assert_done(f, SOURCE, WITNESS_CLAIM);
    assert_refused(f, DESTINATION, WITNESS_GIVE_BACK, VMFERRY_ERROR_REFUSED);
    assert_done(f, SOURCE, WITNESS_GIVE_BACK);
    assert_state(f, WITNESS_UNDECIDED);
    assert_done(f, DESTINATION, WITNESS_RENEW);
    assert_refused(f, SOURCE, WITNESS_CLAIM, VMFERRY_ERROR_BUSY);
}

static void test_destination_alone(void **state)
{
    Fixture *f = *state;

    begin(f);
    assert_done(f, DESTINATION, WITNESS_CLAIM);
    assert_state(f, WITNESS_DESTINATION_ALONE);
    assert_done(f, DESTINATION, WITNESS_CLAIM);
    assert_done(f, DESTINATION, WITNESS_RENEW);
    f->now += 10 * COUNTED_MS * MS;
    assert_refused(f, SOURCE, WITNESS_CLAIM, VMFERRY_ERROR_REFUSED);
    assert_refused(f, SOURCE, WITNESS_GIVE_BACK, VMFERRY_ERROR_REFUSED);
    assert_refused(f, SOURCE, WITNESS_FORGET, VMFERRY_ERROR_REFUSED);
    reopen(f);
    assert_state(f, WITNESS_DESTINATION_ALONE);
    assert_done(f, DESTINATION, WITNESS_FORGET);
    assert_refused(f, SOURCE, WITNESS_CLAIM, VMFERRY_ERROR_NOT_FOUND);
}

/* A lease may have been granted just before it died, whatever the record says. */
static void test_after_restart(void **state)
{
    Fixture *f = *state;
    WitnessAnswer answer;

    begin(f);
    for (guint claims = 0; claims < 2; claims++) {
        reopen(f);
        f->now += COUNTED_MS * MS - 1;
        assert_int_equal(ask(f, SOURCE, WITNESS_CLAIM, &answer), VMFERRY_ERROR_BUSY);
        assert_int_equal(answer.wait_ms, 1);
        f->now += 1;
        assert_done(f, SOURCE, WITNESS_CLAIM);
        assert_state(f, WITNESS_SOURCE_MAY);
    }
    reopen(f);
    assert_state(f, WITNESS_SOURCE_MAY);
    assert_refused(f, DESTINATION, WITNESS_RENEW, VMFERRY_ERROR_REFUSED);
}

/* ---- who may speak ---- */

static void test_strangers(void **state)
{
    Fixture *f = *state;

    begin(f);
    for (guint kind = WITNESS_RENEW; kind <= WITNESS_ASK; kind++) {
        assert_refused(f, STRANGER, (WitnessRequestKind)kind, VMFERRY_ERROR_NOT_FOUND);
        assert_refused(f, "", (WitnessRequestKind)kind, VMFERRY_ERROR_NOT_FOUND);
    }
    assert_refused(f, STRANGER, WITNESS_REGISTER, VMFERRY_ERROR_EXISTS);
    assert_refused(f, SOURCE, WITNESS_RENEW, VMFERRY_ERROR_REFUSED);
    assert_state(f, WITNESS_UNDECIDED);
}

static void test_certificates(void **state)
{
    Fixture *f = *state;
    WitnessPeer source = {SOURCE, "hosta", 1}, destination = {DESTINATION, "hostb", 1};
    WitnessRequest request = make_request(WITNESS_REGISTER, ID);

    request.destination_name = (char *)"hostb";
    assert_int_equal(ask_as(f, &source, &request, NULL), -1);
    reopen(f);
    request.kind = WITNESS_RENEW;
    assert_int_equal(ask_as(f, &destination, &request, NULL), -1);
    destination.name = "hosta";
    assert_int_equal(ask_as(f, &destination, &request, NULL), VMFERRY_ERROR_REFUSED);
    destination.name = NULL;
    assert_int_equal(ask_as(f, &destination, &request, NULL), VMFERRY_ERROR_REFUSED);
    f->now += 2 * COUNTED_MS * MS;
    request.kind = WITNESS_CLAIM;
    source.name = "hostx";
    assert_int_equal(ask_as(f, &source, &request, NULL), VMFERRY_ERROR_REFUSED);
    source.name = "hosta";
    assert_int_equal(ask_as(f, &source, &request, NULL), -1);
}

/* What was under way on an earlier connection comes to nothing: here the consent would be lost to
 * one who relies on it. */
static void test_earlier_connection(void **state)
{
    Fixture *f = *state;
    WitnessPeer early = {SOURCE, NULL, 0}, late = {SOURCE, NULL, 0};
    WitnessRequest give_back = make_request(WITNESS_GIVE_BACK, ID);
    WitnessRequest claim = make_request(WITNESS_CLAIM, ID);

    begin(f);
    early.connection = witness_table_number_connection(f->table);
    late.connection = witness_table_number_connection(f->table);
    assert_int_equal(ask_as(f, &late, &claim, NULL), -1);
    assert_int_equal(ask_as(f, &early, &give_back, NULL), VMFERRY_ERROR_REFUSED);
    assert_refused(f, DESTINATION, WITNESS_RENEW, VMFERRY_ERROR_REFUSED);
    /* Each side has its own. */
    assert_int_equal(ask_as(f, &late, &give_back, NULL), -1);
    assert_done(f, DESTINATION, WITNESS_RENEW);
    assert_int_equal(ask_as(f, &late, &claim, NULL), VMFERRY_ERROR_BUSY);
}

/* ---- registering ---- */

static void test_register(void **state)
{
    Fixture *f = *state;
    WitnessPeer source = {SOURCE, NULL, 1}, witness = {WITNESS, NULL, 1};
    WitnessRequest request = make_request(WITNESS_REGISTER, ID);

    assert_int_equal(ask_as(f, &witness, &request, NULL), VMFERRY_ERROR_REFUSED);
    request.destination = (char *)WITNESS;
    assert_int_equal(ask_as(f, &source, &request, NULL), VMFERRY_ERROR_REFUSED);
    request.destination = (char *)SOURCE;
    assert_int_equal(ask_as(f, &source, &request, NULL), VMFERRY_ERROR_REFUSED);
    request.destination = (char *)DESTINATION;
    request.guest = (char *)"../x";
    assert_int_equal(ask_as(f, &source, &request, NULL), VMFERRY_ERROR_INVALID);
    assert_int_equal(witness_table_count(f->table), 0);
    request.guest = (char *)"web1";
    assert_int_equal(ask_as(f, &source, &request, NULL), -1);
    /* Again, since the answer was lost; but nothing else by that name. */
    assert_int_equal(ask_as(f, &source, &request, NULL), -1);
    request.term++;
    assert_int_equal(ask_as(f, &source, &request, NULL), VMFERRY_ERROR_EXISTS);
    assert_int_equal(witness_table_count(f->table), 1);
    /* It may have been forgotten by mistake, with a lease that lives. */
    assert_done(f, DESTINATION, WITNESS_RENEW);
    assert_done(f, SOURCE, WITNESS_FORGET);
    assert_done(f, SOURCE, WITNESS_REGISTER);
    assert_refused(f, SOURCE, WITNESS_CLAIM, VMFERRY_ERROR_BUSY);
}

static void test_limits(void **state)
{
    Fixture *f = *state;
    WitnessPeer source = {SOURCE, NULL, 1}, other = {STRANGER, NULL, 1};
    WitnessRequest request;
    char id[33];

    for (guint i = 0; i <= WITNESS_MAX_PER_SOURCE; i++) {
        g_snprintf(id, sizeof id, "%032x", i);
        request = make_request(WITNESS_REGISTER, id);
        assert_int_equal(ask_as(f, &source, &request, NULL),
                         i < WITNESS_MAX_PER_SOURCE ? -1 : VMFERRY_ERROR_NO_SPACE);
    }
    assert_int_equal(ask_as(f, &other, &request, NULL), -1);
}

/* As if nobody had spoken of it for so long, by the wall clock. */
static void age(Fixture *f, int64_t seconds)
{
    g_autofree char *path = g_build_filename(f->folder, "witness", ID ".json", NULL);
    g_autoptr(json_t) object = NULL;

    close_table(f);
    object = json_load_file(path, 0, NULL);
    assert_non_null(object);
    json_object_set_new(object, "touched",
                        json_integer(g_get_real_time() / G_USEC_PER_SEC - seconds));
    assert_int_equal(json_dump_file(object, path, 0), 0);
    open_table(f);
}

/* Once another one is registered, a day and an hour after the witness was started. */
static gboolean stays(Fixture *f, const char *other)
{
    WitnessPeer source = {SOURCE, NULL, 1};
    WitnessRequest request = make_request(WITNESS_REGISTER, other);

    f->now += (uint64_t)25 * 3600 * 1000 * MS;
    assert_int_equal(ask_as(f, &source, &request, NULL), -1);
    return scratch_exists(f->folder, "witness/" ID ".json");
}

#define DAY 86400

static void test_unused_orphans(void **state)
{
    Fixture *f = *state;

    begin(f);
    age(f, DAY / 2);
    assert_true(stays(f, WITNESS));
    age(f, DAY + 60);
    assert_false(stays(f, STRANGER));
}

/* A lease was granted: the guest may have been split, also by what a restarted witness knows. */
static void test_used_orphans(void **state)
{
    Fixture *f = *state;

    begin(f);
    assert_done(f, DESTINATION, WITNESS_RENEW);
    age(f, 29 * DAY);
    assert_true(stays(f, WITNESS));
    age(f, 31 * DAY);
    assert_false(stays(f, STRANGER));
}

/* So it may have been while it was decided. */
static void test_decided_orphans(void **state)
{
    Fixture *f = *state;

    begin(f);
    assert_done(f, SOURCE, WITNESS_CLAIM);
    age(f, 29 * DAY);
    assert_true(stays(f, WITNESS));
}

/* Nobody spoke of it for long: gone, once something new is registered. */
static void test_orphans(void **state)
{
    Fixture *f = *state;
    WitnessPeer source = {SOURCE, NULL, 1};
    WitnessRequest request = make_request(WITNESS_REGISTER, ID);
    g_autofree char *path = g_build_filename(f->folder, "witness", ID ".json", NULL);

    begin(f);
    age(f, 10000 * DAY);
    request.transaction = (char *)STRANGER;
    assert_int_equal(ask_as(f, &source, &request, NULL), -1);
    assert_int_equal(witness_table_count(f->table), 2);
    f->now += (uint64_t)25 * 3600 * 1000 * MS;
    request.transaction = (char *)WITNESS;
    assert_int_equal(ask_as(f, &source, &request, NULL), -1);
    assert_int_equal(witness_table_count(f->table), 2);
    assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
}

/* ---- the disk ---- */

static void test_bad_records(void **state)
{
    static const char *const bad[] = {
        "", "{}", "{\"format\": 1, \"transaction\": \"" ID "\"}",
        "{\"format\": 1, \"transaction\": \"" ID
        "\", \"guest\": \"web1\", \"guest_id\": \"" GUEST_ID
        "\", \"term\": 2, \"source\": \"" SOURCE "\", \"source_name\": \"\", \"destination\": "
        "\"" DESTINATION "\", \"destination_name\": \"\", \"lease_ms\": 1000, \"state\": \"fine\", "
        "\"touched\": 1}"};
    Fixture *f = *state;

    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        scratch_write(f->folder, "witness/" ID ".json", bad[i]);
        reopen(f);
        assert_int_equal(witness_table_count(f->table), 0);
        assert_true(scratch_exists(f->folder, "witness/" ID ".json.bad"));
        assert_refused(f, SOURCE, WITNESS_CLAIM, VMFERRY_ERROR_NOT_FOUND);
    }
}

/* A folder, not empty, where the new record should be made: nothing can be written. */
static void block_writes(Fixture *f, gboolean block)
{
    g_autofree char *path = g_build_filename(f->folder, "witness", ID ".json.new", NULL);
    g_autofree char *inside = g_build_filename(path, "inside", NULL);

    if (!block)
        assert_int_equal(rmdir(inside), 0);
    assert_int_equal(block ? mkdir(path, 0700) : rmdir(path), 0);
    if (block)
        assert_int_equal(mkdir(inside, 0700), 0);
}

static void test_failed_writes(void **state)
{
    Fixture *f = *state;
    WitnessAnswer answer;

    block_writes(f, TRUE);
    assert_true(ask(f, SOURCE, WITNESS_REGISTER, NULL) >= 0);
    assert_int_equal(witness_table_count(f->table), 0);
    block_writes(f, FALSE);
    begin(f);
    block_writes(f, TRUE);
    assert_true(ask(f, SOURCE, WITNESS_CLAIM, &answer) >= 0);
    assert_int_equal(answer.state, WITNESS_UNDECIDED);
    assert_true(ask(f, DESTINATION, WITNESS_CLAIM, &answer) >= 0);
    /* No consent was given: there are leases. */
    assert_done(f, DESTINATION, WITNESS_RENEW);
    block_writes(f, FALSE);
    f->now += COUNTED_MS * MS;
    assert_done(f, SOURCE, WITNESS_CLAIM);
    block_writes(f, TRUE);
    assert_true(ask(f, SOURCE, WITNESS_GIVE_BACK, &answer) >= 0);
    assert_int_equal(answer.state, WITNESS_SOURCE_MAY);
    block_writes(f, FALSE);
}

/* ---- threads ---- */

#define THREADS 4
#define ROUNDS 60

typedef struct {
    Fixture *f;
    uint64_t now;
    guint seed;
    gint *granted, *denied; /* atomic: leases, where the source has no consent and where it has */
} Asker;

/* Each asks anything at all of two transactions, as either side. */
static gpointer ask_anything(gpointer data)
{
    static const char *const ids[] = {ID, GUEST_ID};
    Asker *asker = data;
    GRand *random = g_rand_new_with_seed(asker->seed);

    for (guint i = 0; i < ROUNDS; i++) {
        WitnessRequest request =
            make_request((WitnessRequestKind)g_rand_int_range(random, 0, WITNESS_ASK + 1),
                         ids[g_rand_int_range(random, 0, 2)]);
        WitnessPeer peer = {g_rand_boolean(random) ? SOURCE : DESTINATION, NULL,
                            witness_table_number_connection(asker->f->table)};
        g_auto(WitnessAnswer) answer = {0};

        witness_table_answer(asker->f->table, &peer, &request, asker->now, &answer);
        if (request.kind == WITNESS_RENEW && answer.lease_ms > 0)
            g_atomic_int_inc(answer.state == WITNESS_SOURCE_MAY ? asker->denied : asker->granted);
    }
    g_rand_free(random);
    return NULL;
}

static void test_threads(void **state)
{
    Fixture *f = *state;
    Asker askers[THREADS];
    GThread *threads[THREADS];
    gint granted = 0, denied = 0;

    for (guint i = 0; i < THREADS; i++) {
        askers[i] = (Asker){f, f->now + i * 3 * COUNTED_MS * MS, i + 1, &granted, &denied};
        threads[i] = g_thread_new("asker", ask_anything, &askers[i]);
    }
    for (guint i = 0; i < THREADS; i++)
        g_thread_join(threads[i]);
    assert_true(granted > 0);
    assert_int_equal(denied, 0);
    /* What it has in memory is what it has on the disk. */
    reopen(f);
    assert_in_range(witness_table_count(f->table), 0, 2);
}

/* ---- three hosts ---- */

enum { HOST_S, HOST_D, HOST_W, HOSTS };

typedef struct {
    uint64_t at; /* true time of its arrival; 0: none is under way */
    WitnessRequestKind kind;
    uint64_t connection, sent_ns;
    gboolean done, is_answer;
} Letter;

#define LETTERS 64

typedef enum { NOTHING, COUNTED_FROM_THE_ANSWER, ANY_CONNECTION } Broken;

typedef struct {
    Fixture *f;
    GRand *random;
    uint64_t now; /* true time, which nobody knows */
    double rate[HOSTS];
    uint64_t offset[HOSTS];
    Letter letters[HOSTS][LETTERS]; /* of the source and of the destination, with the witness */
    uint64_t connection[HOSTS];
    gboolean cut[HOSTS]; /* the link to the witness */
    gboolean consent, may_have_consent, taken, alone;
    LeaseHolder holder;
    Broken broken;
} World;

static uint64_t clock_of(const World *world, guint host)
{
    return world->offset[host] + (uint64_t)((double)world->now * world->rate[host]);
}

static gboolean chance(World *world, gint one_in)
{
    return g_rand_int_range(world->random, 0, one_in) == 0;
}

/* Those on one connection arrive in order. */
static void post(World *world, guint host, Letter letter)
{
    /* Mostly quick; what is late is very late. */
    gint slowest = chance(world, 3) ? 3 * LEASE_MS : LEASE_MS / 10;
    Letter *letters = world->letters[host], *free = NULL;
    uint64_t after = 0;

    for (guint i = 0; i < LETTERS; i++) {
        if (letters[i].at == 0)
            free = &letters[i];
        else if (letters[i].connection == letter.connection)
            after = MAX(after, letters[i].at);
    }
    if (!free || world->cut[host] || chance(world, 10))
        return;
    letter.at =
        MAX(after + 1, world->now + (uint64_t)g_rand_int_range(world->random, 1, slowest) * MS);
    *free = letter;
}

/* Sometimes on a new connection; what is under way on the old one may arrive all the same. */
static void send_request(World *world, guint host, WitnessRequestKind kind)
{
    if (world->connection[host] == 0 || chance(world, 30))
        world->connection[host] = witness_table_number_connection(world->f->table);
    post(world, host,
         (Letter){.kind = kind,
                  .connection = world->connection[host],
                  .sent_ns = clock_of(world, host)});
}

static void answer_letter(World *world, guint host, Letter letter)
{
    WitnessPeer peer = {host == HOST_S ? SOURCE : DESTINATION, NULL, letter.connection};
    WitnessRequest request = make_request(letter.kind, ID);

    if (world->broken == ANY_CONNECTION)
        peer.connection = witness_table_number_connection(world->f->table);
    world->f->now = clock_of(world, HOST_W);
    letter.done = ask_as(world->f, &peer, &request, NULL) == -1;
    letter.is_answer = TRUE;
    post(world, host, letter);
}

static void take_answer(World *world, guint host, Letter letter)
{
    if (!letter.done || letter.connection != world->connection[host])
        return; /* nobody reads a connection that was left */
    if (letter.kind == WITNESS_RENEW)
        lease_holder_grant(&world->holder, LEASE_OF_WITNESS,
                           world->broken == COUNTED_FROM_THE_ANSWER ? clock_of(world, HOST_D)
                                                                    : letter.sent_ns,
                           LEASE_MS);
    else if (letter.kind == WITNESS_CLAIM && host == HOST_D)
        world->alone = TRUE;
    else if (letter.kind == WITNESS_CLAIM)
        world->consent = world->may_have_consent;
}

static void deliver(World *world, guint host)
{
    for (;;) {
        Letter *next = NULL, letter;

        for (guint i = 0; i < LETTERS; i++) {
            Letter *one = &world->letters[host][i];

            if (one->at > 0 && one->at <= world->now && (!next || one->at < next->at))
                next = one;
        }
        if (!next)
            return;
        letter = *next;
        next->at = 0;
        if (letter.is_answer)
            take_answer(world, host, letter);
        else
            answer_letter(world, host, letter);
    }
}

/* The source: claims, gives back and claims again; takes over when it has the consent. */
static void act_source(World *world)
{
    if (world->consent && chance(world, 4)) {
        world->taken = TRUE;
    } else if (chance(world, 150)) {
        /* An answer to an earlier claim must not count after this. */
        world->consent = world->may_have_consent = FALSE;
        world->connection[HOST_S] = 0;
        send_request(world, HOST_S, WITNESS_GIVE_BACK);
    } else if (chance(world, 12)) {
        world->may_have_consent = TRUE;
        send_request(world, HOST_S, WITNESS_CLAIM);
    }
}

static void act_destination(World *world)
{
    if (chance(world, 150))
        send_request(world, HOST_D, WITNESS_CLAIM);
    else if (chance(world, 6))
        send_request(world, HOST_D, WITNESS_RENEW);
}

/* All connections end with it; what was under way is lost. */
static void restart_witness(World *world)
{
    world->f->now = clock_of(world, HOST_W);
    reopen(world->f);
    memset(world->letters, 0, sizeof world->letters);
    memset(world->connection, 0, sizeof world->connection);
}

/* FALSE where two hosts have believed that they may run the guest. */
static gboolean run_world(World *world)
{
    for (guint step = 0; step < 1500; step++) {
        world->now += (uint64_t)g_rand_int_range(world->random, 1, 20) * MS;
        if (chance(world, 300))
            restart_witness(world);
        for (guint i = 0; i < HOST_W; i++)
            if (chance(world, 150))
                world->cut[i] = !world->cut[i];
        if (!world->taken)
            act_source(world);
        act_destination(world);
        deliver(world, HOST_S);
        deliver(world, HOST_D);
        if (world->taken &&
            (world->alone || lease_holder_may_run(&world->holder, clock_of(world, HOST_D))))
            return FALSE;
    }
    return TRUE;
}

typedef struct {
    guint failed, taken, alone;
} Worlds;

static Worlds run_worlds(Fixture *f, Broken broken)
{
    Worlds worlds = {0};

    for (guint seed = 1; seed <= 200 && worlds.failed == 0; seed++) {
        World world = {.f = f, .random = g_rand_new_with_seed(seed), .broken = broken};

        for (guint i = 0; i < HOSTS; i++) {
            world.rate[i] = g_rand_double_range(world.random, 0.9955, 1.0045);
            world.offset[i] = (uint64_t)g_rand_int_range(world.random, 1, 1000000) * MS;
        }
        f->now = clock_of(&world, HOST_W);
        reopen(f);
        assert_done(f, SOURCE, WITNESS_REGISTER);
        worlds.failed += !run_world(&world);
        worlds.taken += world.taken;
        worlds.alone += world.alone;
        if (ask(f, SOURCE, WITNESS_FORGET, NULL) != -1)
            assert_done(f, DESTINATION, WITNESS_FORGET);
        g_rand_free(world.random);
    }
    return worlds;
}

static void test_three_hosts(void **state)
{
    Fixture *f = *state;
    Worlds worlds = run_worlds(f, NOTHING);

    assert_int_equal(worlds.failed, 0);
    assert_in_range(worlds.taken, 20, 180);
    assert_in_range(worlds.alone, 20, 180);
    /* The worlds are such that a broken rule is found. */
    assert_true(run_worlds(f, COUNTED_FROM_THE_ANSWER).failed > 0);
    assert_true(run_worlds(f, ANY_CONNECTION).failed > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_source_takes_over, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_given_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_destination_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_after_restart, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_strangers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_certificates, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_earlier_connection, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_register, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_limits, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_orphans, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_unused_orphans, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_used_orphans, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_decided_orphans, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bad_records, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_failed_writes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_threads, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_three_hosts, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
