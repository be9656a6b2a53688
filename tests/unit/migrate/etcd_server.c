#include "etcd_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/name.h"
#include "migrate/witness_etcd.h"

#define START_TRIES 200
#define NS_PER_MS ((uint64_t)1000000)

typedef struct {
    pid_t pid; /* 0: it does not run */
    char *directory, *name, *client, *peer;
    guint client_port;
} Member;

static struct {
    char *program; /* NULL: there is none */
    char *directory, *token, *cluster, *address;
    guint count;
    Member members[ETCD_SERVER_MEMBERS];
} server;

int listen_somewhere(guint *ret_port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t length = sizeof address;

    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 4), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    *ret_port = ntohs(address.sin_port);
    return fd;
}

static guint find_port(void)
{
    guint port;
    autofd int fd = listen_somewhere(&port);

    return port;
}

static void run_member(const Member *member)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execl(server.program, "etcd", "--name", member->name, "--data-dir", member->directory,
          "--listen-client-urls", member->client, "--advertise-client-urls", member->client,
          "--listen-peer-urls", member->peer, "--initial-advertise-peer-urls", member->peer,
          "--initial-cluster", server.cluster, "--initial-cluster-token", server.token, "--logger",
          "zap", "--log-level", "fatal", NULL);
    _exit(127);
}

void etcd_server_start(guint number)
{
    Member *member = &server.members[number];

    member->pid = fork();
    assert_true(member->pid >= 0);
    if (member->pid == 0)
        run_member(member);
}

void etcd_server_kill(guint number)
{
    Member *member = &server.members[number];

    if (member->pid <= 0)
        return;
    kill(member->pid, SIGKILL);
    waitpid(member->pid, NULL, 0);
    member->pid = 0;
}

void etcd_server_await(void)
{
    g_autoptr(GError) error = NULL;

    for (guint i = 0; i < START_TRIES; i++) {
        g_autofree char *id = NULL;

        g_clear_error(&error);
        id = witness_etcd_find_id(server.address, 1000, &error);
        if (id)
            return;
        clock_sleep_ns(50 * NS_PER_MS);
    }
    fail_msg("%s", error->message);
}

static void make_member(Member *member, guint number)
{
    member->client_port = find_port();
    member->name = g_strdup_printf("m%u", number);
    member->directory = g_build_filename(server.directory, member->name, NULL);
    member->client = g_strdup_printf("http://127.0.0.1:%u", member->client_port);
    member->peer = g_strdup_printf("http://127.0.0.1:%u", find_port());
}

static void name_members(void)
{
    GString *cluster = g_string_new(NULL), *address = g_string_new("etcd://");

    for (guint i = 0; i < server.count; i++) {
        const Member *member = &server.members[i];

        g_string_append_printf(cluster, "%s%s=%s", i > 0 ? "," : "", member->name, member->peer);
        g_string_append_printf(address, "%s127.0.0.1:%u", i > 0 ? "," : "", member->client_port);
    }
    server.cluster = g_string_free(cluster, FALSE);
    server.address = g_string_free(address, FALSE);
}

static int set_up(guint count)
{
    server.program = g_find_program_in_path("etcd");
    if (!server.program)
        return 0;
    server.count = count;
    server.directory = g_dir_make_tmp("vmferry-etcd-XXXXXX", NULL);
    server.token = random_id_new();
    for (guint i = 0; i < count; i++)
        make_member(&server.members[i], i);
    name_members();
    for (guint i = 0; i < count; i++)
        etcd_server_start(i);
    etcd_server_await();
    return 0;
}

int etcd_server_set_up(void **state)
{
    return set_up(1);
}

int etcd_server_set_up_three(void **state)
{
    return set_up(ETCD_SERVER_MEMBERS);
}

static void clear_member(Member *member)
{
    g_free(member->directory);
    g_free(member->name);
    g_free(member->client);
    g_free(member->peer);
    *member = (Member){0};
}

int etcd_server_tear_down(void **state)
{
    const char *const remove[] = {"rm", "-rf", server.directory, NULL};

    for (guint i = 0; i < server.count; i++) {
        etcd_server_kill(i);
        clear_member(&server.members[i]);
    }
    if (server.directory)
        g_spawn_sync(NULL, (char **)remove, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL,
                     NULL);
    g_clear_pointer(&server.directory, g_free);
    g_clear_pointer(&server.program, g_free);
    g_clear_pointer(&server.token, g_free);
    g_clear_pointer(&server.cluster, g_free);
    g_clear_pointer(&server.address, g_free);
    server.count = 0;
    return 0;
}

gboolean etcd_server_is_there(void)
{
    return server.program != NULL;
}

void etcd_server_need(void)
{
    if (server.program)
        return;
    print_message("there is no etcd on this machine (scripts/bootstrap check installs it)\n");
    skip();
}

const char *etcd_server_address(void)
{
    return server.address;
}

guint etcd_server_port(void)
{
    return server.members[0].client_port;
}
