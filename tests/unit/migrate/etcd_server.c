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
    pid_t pid; /* 0: there is none */
    char *directory, *program, *token;
    guint client_port, peer_port;
    char *address;
} Server;

static Server server;

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

static void run_server(void)
{
    g_autofree char *client = g_strdup_printf("http://127.0.0.1:%u", server.client_port);
    g_autofree char *peer = g_strdup_printf("http://127.0.0.1:%u", server.peer_port);
    g_autofree char *cluster = g_strdup_printf("default=%s", peer);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execl(server.program, "etcd", "--data-dir", server.directory, "--listen-client-urls", client,
          "--advertise-client-urls", client, "--listen-peer-urls", peer,
          "--initial-advertise-peer-urls", peer, "--initial-cluster", cluster,
          "--initial-cluster-token", server.token, "--logger", "zap", "--log-level", "error", NULL);
    _exit(127);
}

void etcd_server_start(void)
{
    g_autoptr(GError) error = NULL;

    server.pid = fork();
    assert_true(server.pid >= 0);
    if (server.pid == 0)
        run_server();
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

void etcd_server_kill(void)
{
    if (server.pid <= 0)
        return;
    kill(server.pid, SIGKILL);
    waitpid(server.pid, NULL, 0);
    server.pid = 0;
}

int etcd_server_set_up(void **state)
{
    server.program = g_find_program_in_path("etcd");
    if (!server.program)
        return 0;
    server.directory = g_dir_make_tmp("vmferry-etcd-XXXXXX", NULL);
    server.token = random_id_new();
    server.client_port = find_port();
    server.peer_port = find_port();
    server.address = g_strdup_printf("etcd://127.0.0.1:%u", server.client_port);
    etcd_server_start();
    return 0;
}

int etcd_server_tear_down(void **state)
{
    etcd_server_kill();
    if (server.directory) {
        const char *const arguments[] = {"rm", "-rf", server.directory, NULL};

        g_spawn_sync(NULL, (char **)arguments, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL,
                     NULL, NULL);
    }
    g_free(server.directory);
    g_free(server.program);
    g_free(server.token);
    g_free(server.address);
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
    return server.client_port;
}
