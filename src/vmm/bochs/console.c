#include "vmm/bochs/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"

#define MAX_COMMAND 200
#define PIECE 65536u

struct BochsConsole {
    int input, output;
    GString *text;     /* read, and not yet told */
    gboolean overflow; /* some of it was dropped */
    guint64 prompt;    /* number of the last prompt that came, or is outstanding; 0: any */
    gboolean running;
    gboolean runs_machine; /* the command that is under way is `c` */
    gsize echo;            /* bytes of the command, as Bochs repeats it, that have not come */
};

static void set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags >= 0)
        (void)fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

BochsConsole *bochs_console_new(int input, int output)
{
    BochsConsole *console = g_new0(BochsConsole, 1);

    set_nonblocking(input);
    set_nonblocking(output);
    console->input = input;
    console->output = output;
    console->text = g_string_new(NULL);
    console->prompt = 1;
    console->running = TRUE;
    return console;
}

BochsConsole *bochs_console_new_again(int input, int output)
{
    BochsConsole *console = bochs_console_new(input, output);

    console->prompt = 0;
    return console;
}

void bochs_console_free(BochsConsole *console)
{
    if (!console)
        return;
    fd_close(&console->input);
    fd_close(&console->output);
    g_string_free(console->text, TRUE);
    g_free(console);
}

gboolean bochs_console_is_running(const BochsConsole *console)
{
    return console->running;
}

guint64 bochs_console_get_prompt(const BochsConsole *console)
{
    return console->running ? 0 : console->prompt;
}

gboolean bochs_console_runs_machine(const BochsConsole *console)
{
    return console->running && console->runs_machine;
}

void bochs_console_set_runs_machine(BochsConsole *console)
{
    console->runs_machine = TRUE;
}

/* ---- reading ---- */

static int left_ms(gint64 deadline)
{
    gint64 left = deadline - g_get_monotonic_time();

    return left <= 0 ? 0 : (int)((left + 999) / 1000);
}

/* FALSE with *error* at the deadline, too. */
static gboolean wait_for(int fd, short events, gint64 deadline, GError **error)
{
    for (;;) {
        struct pollfd wanted = {.fd = fd, .events = events};
        int ready = poll(&wanted, 1, left_ms(deadline));

        if (ready > 0)
            return TRUE;
        if (ready == 0) {
            error_set(error, VMFERRY_ERROR_TIMEOUT, "Bochs's debugger does not answer");
            return FALSE;
        }
        if (errno != EINTR) {
            error_set_errno(error, errno, "wait for Bochs");
            return FALSE;
        }
    }
}

/* Reads what is there; the caller has waited for it. */
static gboolean read_piece(BochsConsole *console, GError **error)
{
    g_autofree char *piece = g_malloc(PIECE);
    ssize_t got = read(console->output, piece, PIECE);

    if (got > 0) {
        g_string_append_len(console->text, piece, got);
        console->echo -= MIN(console->echo, (gsize)got);
        return TRUE;
    }
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return TRUE;
    error_set(error, VMFERRY_ERROR_DISCONNECTED, "Bochs has closed its debugger's console");
    return FALSE;
}

/* Drops all but what the end of a prompt may be in. */
static void limit_text(BochsConsole *console)
{
    const gsize keep = 64;

    if (console->text->len <= BOCHS_ANSWER_MAX)
        return;
    g_string_erase(console->text, 0, (gssize)(console->text->len - keep));
    console->overflow = TRUE;
}

/* One of any number; 0 where there is none. */
static guint64 find_any_prompt(const GString *text, gsize *ret_length)
{
    static const char begin[] = "<bochs:";
    const char *at = g_strrstr_len(text->str, (gssize)text->len, begin);
    char *end = NULL;
    guint64 number = 0;

    if (at && (at == text->str || at[-1] == '\n') && g_ascii_isdigit(at[strlen(begin)]))
        number = g_ascii_strtoull(at + strlen(begin), &end, 10);
    if (number == 0 || number == G_MAXUINT64 || strcmp(end, "> ") != 0)
        return 0;
    *ret_length = (gsize)(at - text->str);
    return number;
}

/* The prompt is the last thing that a waiting Bochs has written, at the start of a line. */
static gboolean ends_with_prompt(BochsConsole *console, gsize *ret_length)
{
    char prompt[40];
    int length =
        g_snprintf(prompt, sizeof prompt, "\n<bochs:%" G_GUINT64_FORMAT "> ", console->prompt);
    const GString *text = console->text;

    if (console->prompt == 0)
        return (console->prompt = find_any_prompt(text, ret_length)) != 0;
    if (text->len < (gsize)length ||
        memcmp(text->str + text->len - length, prompt, (size_t)length) != 0)
        return FALSE;
    *ret_length = text->len - (gsize)length + 1;
    return TRUE;
}

static gboolean take_answer(BochsConsole *console, gsize length, char **ret, GError **error)
{
    gboolean overflow = console->overflow;

    if (ret && !overflow)
        *ret = g_strndup(console->text->str, length);
    g_string_truncate(console->text, 0);
    console->overflow = FALSE;
    console->running = FALSE;
    console->runs_machine = FALSE;
    if (overflow)
        error_set(error, VMFERRY_ERROR_INVALID, "Bochs's answer is too long");
    return !overflow;
}

gboolean bochs_console_await_prompt(BochsConsole *console, int timeout_ms, char **ret,
                                    GError **error)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    gsize length;

    if (ret)
        *ret = NULL;
    if (!console->running)
        return TRUE;
    while (!ends_with_prompt(console, &length)) {
        if (!wait_for(console->output, POLLIN, deadline, error) || !read_piece(console, error))
            return FALSE;
        limit_text(console);
    }
    return take_answer(console, length, ret, error);
}

gboolean bochs_console_await_echo(BochsConsole *console, int timeout_ms, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)timeout_ms * 1000;

    while (console->running && console->echo > 0)
        if (!wait_for(console->output, POLLIN, deadline, error) || !read_piece(console, error))
            return FALSE;
    return TRUE;
}

/* ---- writing ---- */

static gboolean check_command(const char *command, GError **error)
{
    gsize length = strlen(command);

    for (const char *at = command; *at; at++)
        if (!g_ascii_isprint(*at))
            length = 0;
    if (length > 0 && length <= MAX_COMMAND)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "not a command for Bochs");
    return FALSE;
}

static gboolean write_line(BochsConsole *console, const char *command, GError **error)
{
    g_autofree char *line = g_strconcat(command, "\n", NULL);
    gint64 deadline = g_get_monotonic_time() + (gint64)BOCHS_COMMAND_MS * 1000;
    size_t left = strlen(line);

    for (const char *at = line; left > 0;) {
        ssize_t done;

        if (!wait_for(console->input, POLLOUT, deadline, error))
            return FALSE;
        done = write(console->input, at, left);
        if (done < 0 && errno != EAGAIN && errno != EINTR) {
            error_set_errno(error, errno, "write to Bochs's debugger");
            return FALSE;
        }
        if (done > 0) {
            at += done;
            left -= (size_t)done;
        }
    }
    return TRUE;
}

gboolean bochs_console_send(BochsConsole *console, const char *command, GError **error)
{
    if (!check_command(command, error))
        return FALSE;
    if (console->running) {
        error_set(error, VMFERRY_ERROR_BUSY, "Bochs is not at its debugger's prompt");
        return FALSE;
    }
    g_string_truncate(console->text, 0);
    console->prompt++;
    console->running = TRUE;
    console->echo = strlen(command) + 1;
    if (!write_line(console, command, error))
        return FALSE;
    console->runs_machine = strcmp(command, "c") == 0;
    return TRUE;
}

/* Without the command that is repeated. */
static char *strip_echo(const char *answer, const char *command)
{
    size_t length = strlen(command);

    if (strncmp(answer, command, length) == 0 && answer[length] == '\n')
        answer += length + 1;
    return g_strdup(answer);
}

char *bochs_console_run(BochsConsole *console, const char *command, int timeout_ms, GError **error)
{
    g_autofree char *answer = NULL;

    if (!bochs_console_send(console, command, error) ||
        !bochs_console_await_prompt(console, timeout_ms, &answer, error)) {
        g_prefix_error(error, "%s: ", command);
        return NULL;
    }
    return strip_echo(answer ? answer : "", command);
}

/* ---- a process that was there before ---- */

static gboolean drop(int fd)
{
    g_autofree char *piece = g_malloc(PIECE);
    gboolean some = FALSE;

    while (read(fd, piece, PIECE) > 0)
        some = TRUE;
    return some;
}

gboolean bochs_console_has_unread(const BochsConsole *console)
{
    int count = 0;

    return ioctl(console->input, FIONREAD, &count) == 0 && count > 0;
}

void bochs_console_drop_input(BochsConsole *console)
{
    (void)drop(console->input);
}

gboolean bochs_console_drop_output(BochsConsole *console)
{
    g_string_truncate(console->text, 0);
    return drop(console->output);
}

/* Of a line that was dropped in part the line editor has the rest: it forgets that at ^U. */
#define FORGET_LINE "\x15"

/* An answer that nobody else has asked for. */
static gboolean has_answer(BochsConsole *console, const char *answer, gsize *ret_length)
{
    return strstr(console->text->str, answer) && ends_with_prompt(console, ret_length);
}

gboolean bochs_console_catch_up(BochsConsole *console, int timeout_ms, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    g_autofree char *command = g_strdup_printf(FORGET_LINE "calc 0x%x", g_random_int() | 1u << 31);
    g_autofree char *answer = g_strdup_printf("\n%s ", strchr(command, ' ') + 1);
    gsize length;

    (void)bochs_console_drop_output(console);
    console->prompt = 0;
    console->running = TRUE;
    console->runs_machine = FALSE;
    if (!write_line(console, command, error))
        return FALSE;
    while (!has_answer(console, answer, &length)) {
        if (!wait_for(console->output, POLLIN, deadline, error) || !read_piece(console, error))
            return FALSE;
        limit_text(console);
    }
    return take_answer(console, length, NULL, error);
}
