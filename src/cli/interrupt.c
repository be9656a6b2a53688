#include "cli/interrupt.h"

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "client/client.h"

typedef struct {
    CommonOptions common; /* a copy: the verb may have returned */
    char *path;
} Watch;

static void fill_set(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
}

void interrupt_block(void)
{
    sigset_t set;

    fill_set(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

/* The answer comes when the move has ended, and shows what the stream shows. */
static gpointer cancel_thread(gpointer data)
{
    Watch *watch = data;
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) answer = cli_call(&watch->common, "POST", watch->path, NULL, &error);

    if (!answer)
        fprintf(stderr, "%s: cancel: %s\n", g_get_prgname(), error->message);
    return NULL;
}

static gpointer signal_thread(gpointer data)
{
    sigset_t set;
    int number;

    fill_set(&set);
    if (sigwait(&set, &number) != 0)
        return NULL;
    fprintf(stderr, "\nCancelling; again to leave without waiting.\n");
    g_thread_unref(g_thread_new("cancel", cancel_thread, data));
    if (sigwait(&set, &number) == 0) {
        fprintf(stderr, "\nLeft; see `vmferry list` for how it ends.\n");
        _exit(EXIT_ATTENTION);
    }
    return NULL;
}

void interrupt_watch(const CommonOptions *common, const char *guest)
{
    Watch *watch = g_new0(Watch, 1);

    watch->common.socket = g_strdup(common->socket);
    watch->common.host = g_strdup(common->host);
    watch->common.pki = g_strdup(common->pki);
    watch->path = cli_guest_path(guest, "/cancel");
    g_thread_unref(g_thread_new("signals", signal_thread, watch));
}
