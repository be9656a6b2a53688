/*
 * The two sides of guests whose witness is etcd, behind a relay that loses questions and answers, and
 * lets questions through long after nobody waits for them any more
 *
 * Theory of operation: each guest has a source that claims, keeps a consent for a while and gives it back,
 * and a destination that renews, and stands still for a while.  What must never be: a source has a
 * consent while its destination has a lease.  The order of things is that of one lock, and of one clock.
 */
#include "etcd_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/lock_guard.h"
#include "base/name.h"
#include "migrate/witness_open.h"
#include "policy/lease.h"

#define GUESTS 8
#define LASTS_MS 15000
#define SOURCE "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define DESTINATION "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define LEASE_MS WITNESS_MIN_LEASE_MS
#define ASK_MS 300
#define REQUEST_BYTES 16384
#define NS_PER_MS ((uint64_t)1000000)

static void sleep_ms(guint ms)
{
    clock_sleep_ns(ms * NS_PER_MS);
}

/* ---- the relay ---- */

typedef struct {
    int fd;
    guint port;
    gboolean honest; /* while transactions are registered */
    atomic_bool ending;
    GThreadPool *pool;
} Relay;

static Relay relay;

/* All of it, with its body; its length, 0: none. */
static size_t read_request(int fd, char *text)
{
    size_t length = 0, body = 0;
    char *end = NULL;

    while (length < REQUEST_BYTES && (!end || length < (size_t)(end - text) + 4 + body)) {
        ssize_t more = recv(fd, text + length, REQUEST_BYTES - length, 0);
        const char *field;

        if (more <= 0)
            return 0;
        length += (size_t)more;
        text[length] = '\0';
        end = strstr(text, "\r\n\r\n");
        field = strstr(text, "Content-Length: ");
        body = field ? strtoul(field + strlen("Content-Length: "), NULL, 10) : 0;
    }
    return length;
}

static int connect_to_etcd(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                  .sin_port = htons((uint16_t)etcd_server_port())};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        fd_close(&fd);
    return fd;
}

/* One question on each connection: it ends with its answer. */
static void pass_on(int client, const char *request, size_t length, gboolean answers)
{
    autofd int fd = connect_to_etcd();
    char bytes[4096];
    ssize_t got;

    if (fd < 0 || send(fd, request, length, MSG_NOSIGNAL) < 0)
        return;
    while ((got = recv(fd, bytes, sizeof bytes, 0)) > 0)
        if (answers && send(client, bytes, (size_t)got, MSG_NOSIGNAL) < 0)
            return;
}

static void close_after_answer(char *request)
{
    static const char was[] = "Accept: */*\r\n", is[] = "Connection:close\r\n";
    char *at = strstr(request, was);

    assert_non_null(at);
    memmove(at + strlen(is), at + strlen(was), strlen(at + strlen(was)) + 1);
    memcpy(at, is, strlen(is));
}

static void relay_one(gpointer data, gpointer unused)
{
    autofd int client = GPOINTER_TO_INT(data) - 1;
    g_autofree char *request = g_malloc0(REQUEST_BYTES + 64);
    int fate = relay.honest ? 99 : g_random_int_range(0, 100);

    if (read_request(client, request) == 0)
        return;
    close_after_answer(request);
    if (fate < 10)
        return;
    if (fate < 25)
        sleep_ms((guint)g_random_int_range(1, 3 * LEASE_MS));
    pass_on(client, request, strlen(request), fate >= 35);
}

static gpointer accept_all(gpointer unused)
{
    while (!atomic_load(&relay.ending)) {
        int fd = accept4(relay.fd, NULL, NULL, SOCK_CLOEXEC);

        if (fd >= 0)
            g_thread_pool_push(relay.pool, GINT_TO_POINTER(fd + 1), NULL);
    }
    return NULL;
}

/* ---- a guest ---- */

typedef struct {
    char *transaction;
    Witness *witnesses[2]; /* source, destination */
    GMutex lock;           /* protects all below */
    LeaseHolder holder;
    gboolean has_consent;
    guint consents, leases, doubled;
} TestGuest;

static atomic_bool ending;

static gboolean get_channel(ChannelOptions *ret, gpointer user, GError **error)
{
    *ret = (ChannelOptions){.agent = user};
    return TRUE;
}

static Witness *make_witness(const char *us)
{
    g_autofree char *address =
        g_strdup_printf("etcd://127.0.0.1:%u,127.0.0.1:%u", relay.port, relay.port);
    WitnessClientOptions options = {
        .address = address, .get_channel = get_channel, .user = (gpointer)us};

    return witness_new(&options);
}

static void note_consent(TestGuest *guest)
{
    lock_guard(&guest->lock);

    guest->consents++;
    guest->has_consent = TRUE;
    if (lease_holder_may_run(&guest->holder, clock_boot_ns()))
        guest->doubled++;
}

static void note_lease(TestGuest *guest, const WitnessReply *reply)
{
    lock_guard(&guest->lock);

    guest->leases++;
    lease_holder_grant(&guest->holder, LEASE_OF_WITNESS, reply->sent_ns, reply->lease_ms);
    if (guest->has_consent && lease_holder_may_run(&guest->holder, clock_boot_ns()))
        guest->doubled++;
}

/* From when it asks that on it has none. */
static void give_back(TestGuest *guest)
{
    g_mutex_lock(&guest->lock);
    guest->has_consent = FALSE;
    g_mutex_unlock(&guest->lock);
    /* Not always a second time: what seems lost may come late. */
    for (gint tries = g_random_int_range(1, 3); tries > 0; tries--)
        if (witness_ask(guest->witnesses[0], WITNESS_GIVE_BACK, guest->transaction, ASK_MS, NULL,
                        NULL))
            return;
}

static gpointer source_thread(gpointer data)
{
    TestGuest *guest = data;

    while (!atomic_load(&ending)) {
        if (!witness_ask(guest->witnesses[0], WITNESS_CLAIM, guest->transaction, ASK_MS, NULL,
                         NULL)) {
            sleep_ms(20);
            continue;
        }
        note_consent(guest);
        sleep_ms((guint)g_random_int_range(1, LEASE_MS));
        give_back(guest);
        sleep_ms((guint)g_random_int_range(1, LEASE_MS / 2));
    }
    return NULL;
}

static gpointer destination_thread(gpointer data)
{
    TestGuest *guest = data;
    WitnessRequest request = {.kind = WITNESS_RENEW, .transaction = guest->transaction};

    while (!atomic_load(&ending)) {
        WitnessReply reply;

        request.lease_ms = (guint)g_random_int_range(0, 3) * LEASE_MS;
        if (witness_call(guest->witnesses[1], &request, ASK_MS, &reply, NULL))
            note_lease(guest, &reply);
        sleep_ms(g_random_int_range(0, 6) == 0 ? (guint)g_random_int_range(1, 4 * LEASE_MS)
                                               : LEASE_MS / 4);
    }
    return NULL;
}

static void register_guest(TestGuest *guest)
{
    WitnessRequest request = {.kind = WITNESS_REGISTER,
                              .transaction = guest->transaction,
                              .guest = (char *)"web1",
                              .guest_id = guest->transaction,
                              .term = 2,
                              .destination = (char *)DESTINATION,
                              .lease_ms = 2 * LEASE_MS};
    g_autoptr(GError) error = NULL;

    if (!witness_call(guest->witnesses[0], &request, 20000, NULL, &error))
        fail_msg("%s", error->message);
}

static void make_guest(TestGuest *guest)
{
    g_mutex_init(&guest->lock);
    guest->transaction = random_id_new();
    guest->witnesses[0] = make_witness(SOURCE);
    guest->witnesses[1] = make_witness(DESTINATION);
    register_guest(guest);
}

static void clear_guest(TestGuest *guest)
{
    witness_free(guest->witnesses[0]);
    witness_free(guest->witnesses[1]);
    g_mutex_clear(&guest->lock);
    g_free(guest->transaction);
}

static void start_relay(void)
{
    relay.fd = listen_somewhere(&relay.port);
    relay.honest = TRUE;
    relay.pool = g_thread_pool_new(relay_one, NULL, -1, FALSE, NULL);
}

static void end_relay(GThread *thread)
{
    atomic_store(&relay.ending, TRUE);
    shutdown(relay.fd, SHUT_RDWR);
    g_thread_join(thread);
    g_thread_pool_free(relay.pool, FALSE, TRUE);
    fd_close(&relay.fd);
}

static void test_never_both(void **state)
{
    TestGuest guests[GUESTS] = {0};
    GThread *threads[2 * GUESTS], *accepting;
    guint consents = 0, leases = 0, doubled = 0;

    etcd_server_need();
    start_relay();
    accepting = g_thread_new("relay", accept_all, NULL);
    for (guint i = 0; i < GUESTS; i++)
        make_guest(&guests[i]);
    relay.honest = FALSE;
    for (guint i = 0; i < GUESTS; i++) {
        witness_attend(guests[i].witnesses[0], guests[i].transaction, LEASE_MS);
        threads[2 * i] = g_thread_new("source", source_thread, &guests[i]);
        threads[2 * i + 1] = g_thread_new("destination", destination_thread, &guests[i]);
    }
    sleep_ms(LASTS_MS);
    atomic_store(&ending, TRUE);
    for (guint i = 0; i < 2 * GUESTS; i++)
        g_thread_join(threads[i]);
    for (guint i = 0; i < GUESTS; i++) {
        consents += guests[i].consents;
        leases += guests[i].leases;
        doubled += guests[i].doubled;
        clear_guest(&guests[i]);
    }
    end_relay(accepting);
    print_message("%u consents, %u leases\n", consents, leases);
    assert_int_equal(doubled, 0);
    assert_true(consents > 0 && leases > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_never_both)};

    return cmocka_run_group_tests(tests, etcd_server_set_up, etcd_server_tear_down);
}
