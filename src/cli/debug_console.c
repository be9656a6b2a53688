#include "cli/debug_console.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"

#define PROMPT "<bochs> "
#define PIECE 4096u
#define MAX_LINE 4096u
#define WAIT_MS 50 /* between two looks for signals, and two interrupts */

struct DebugConsole {
    int signals;
    GString *input; /* that was read and is not yet a line */
    gboolean input_ended, ending, terminal;
};

DebugConsole *debug_console_new(GError **error)
{
    DebugConsole *console;
    sigset_t set;
    int fd;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    /* Nobody reads any more: then it ends, with all that is to be cleaned up. */
    (void)signal(SIGPIPE, SIG_IGN);
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0) {
        error_set_errno(error, errno, "signalfd");
        return NULL;
    }
    console = g_new0(DebugConsole, 1);
    console->signals = fd;
    console->input = g_string_new(NULL);
    console->terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    return console;
}

void debug_console_free(DebugConsole *console)
{
    if (!console)
        return;
    fd_close(&console->signals);
    g_string_free(console->input, TRUE);
    g_free(console);
}

/* TRUE for Ctrl-C; all others are noted. */
static gboolean take_signal(DebugConsole *console)
{
    struct signalfd_siginfo info;
    gboolean interrupted = FALSE;

    while (read(console->signals, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo == SIGINT)
            interrupted = TRUE;
        else
            console->ending = TRUE;
    }
    return interrupted;
}

gboolean debug_console_wants_end(DebugConsole *console)
{
    return take_signal(console) || console->ending;
}

/* ---- one command ---- */

static gboolean is_end(const char *command)
{
    static const char *const words[] = {"q", "quit", "exit", NULL};

    return g_strv_contains(words, command);
}

/* What goes wrong with the command alone is told, and it goes on. */
static gboolean tell(GError *failure, GError **error)
{
    if (!error_is(failure, VMFERRY_ERROR_INVALID)) {
        g_propagate_error(error, failure);
        return FALSE;
    }
    fprintf(stderr, "%s\n", failure->message);
    g_error_free(failure);
    return TRUE;
}

static gboolean run(DebugConsole *console, VmmDebugger *debugger, const char *command,
                    GError **error)
{
    gboolean interrupting = FALSE;
    GError *failure = NULL;
    g_autofree char *answer = NULL;

    if (!vmm_debugger_send(debugger, command, &failure))
        return tell(failure, error);
    while (!vmm_debugger_await(debugger, WAIT_MS, &answer, &failure)) {
        if (!error_is(failure, VMFERRY_ERROR_TIMEOUT))
            return tell(failure, error);
        g_clear_error(&failure);
        interrupting |= take_signal(console) || console->ending;
        if (interrupting)
            vmm_debugger_interrupt(debugger);
    }
    if (fputs(answer, stdout) < 0 || fflush(stdout) != 0)
        console->ending = TRUE;
    return TRUE;
}

/* ---- lines ---- */

/* The first line of what was read; NULL: it is not all there.  Free with g_free(). */
static char *take_line(DebugConsole *console)
{
    char *end = memchr(console->input->str, '\n', console->input->len);
    gsize length = end ? (gsize)(end - console->input->str) : console->input->len;
    char *line;

    if (!end && !(console->input_ended && length > 0) && length < MAX_LINE)
        return NULL;
    line = g_strndup(console->input->str, length);
    g_string_erase(console->input, 0, (gssize)(length + (end ? 1 : 0)));
    return line;
}

static void read_input(DebugConsole *console)
{
    char piece[PIECE];
    ssize_t got = read(STDIN_FILENO, piece, sizeof piece);

    if (got > 0)
        g_string_append_len(console->input, piece, got);
    else if (got == 0 || errno != EINTR)
        console->input_ended = TRUE;
}

static void show_prompt(const DebugConsole *console)
{
    if (!console->terminal)
        return;
    fputs(PROMPT, stdout);
    fflush(stdout);
}

/* NULL: there is none any more. */
static char *await_line(DebugConsole *console)
{
    char *line;

    show_prompt(console);
    while (!(line = take_line(console)) && !console->input_ended && !console->ending) {
        struct pollfd waits[] = {{.fd = STDIN_FILENO, .events = POLLIN},
                                 {.fd = console->signals, .events = POLLIN}};

        if (poll(waits, G_N_ELEMENTS(waits), -1) < 0 && errno != EINTR)
            return NULL;
        if (waits[0].revents)
            read_input(console);
        if (take_signal(console) && console->terminal) {
            putchar('\n');
            show_prompt(console);
        }
    }
    return line;
}

gboolean debug_console_talk(DebugConsole *console, VmmDebugger *debugger, GError **error)
{
    for (;;) {
        g_autofree char *line = await_line(console);

        if (!line || is_end(g_strstrip(line)))
            return TRUE;
        if (*line && !run(console, debugger, line, error))
            return FALSE;
    }
}

gboolean debug_console_execute(DebugConsole *console, VmmDebugger *debugger, const char *commands,
                               GError **error)
{
    g_auto(GStrv) words = g_strsplit_set(commands, ";\n", -1);

    for (guint i = 0; words[i] && !console->ending; i++) {
        const char *command = g_strstrip(words[i]);

        if (is_end(command))
            return TRUE;
        if (*command && !run(console, debugger, command, error))
            return FALSE;
    }
    return TRUE;
}
