/*
 * Bochs's debugger console
 *
 * Theory of operation: a stock Bochs with its debugger reads commands from standard input and writes
 * to standard output.  It stands still at its prompt, "<bochs:N> ", whose number grows by one a command; so
 * what an answer ends with is known before, and nothing else is taken for it.  A command that makes
 * the machine run has its prompt when the machine stops again: until then the console is *running*, and
 * whoever wants the prompt back sends SIGINT to the process.
 *
 * Answers come from a process that its guest may have taken over: they are limited, and while one has
 * not ended (it was not in time) no other command is sent (BUSY).  Both descriptors are put into
 * non-blocking mode, so that a Bochs that neither reads nor writes costs a deadline.  Calls on one console are serialised by the caller.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

#define BOCHS_COMMAND_MS 10000
#define BOCHS_ANSWER_MAX (4u << 20)

typedef struct BochsConsole BochsConsole;

/* Takes the descriptors: *input* is written, *output* read.  The process has just begun: its first
 * prompt is awaited before the first command. */
BochsConsole *bochs_console_new(int input, int output);

/* The same of a process that has been there before.  The prompt that comes next is the one that it has when the machine
 * stops, of whatever number; or bochs_console_catch_up() is called, where it stands at one. */
BochsConsole *bochs_console_new_again(int input, int output);

/* Of such a console whose process stands at its prompt: finds the prompt's number, whatever else was written before. */
gboolean bochs_console_catch_up(BochsConsole *console, int timeout_ms, GError **error);

/* Drops what was written to the process and not read by it: *input* must be readable, too (a FIFO). */
void bochs_console_drop_input(BochsConsole *console);

/* Some of what was written to the process was not read by it; *input* as above. */
gboolean bochs_console_has_unread(const BochsConsole *console);

/* Drops what the process has written up to now: for one that may wait for room to write more.  FALSE: that was nothing. */
gboolean bochs_console_drop_output(BochsConsole *console);
void bochs_console_free(BochsConsole *console);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BochsConsole, bochs_console_free)

/* Waits for the prompt that is outstanding; TRUE at once where there is none.  *ret* (may be NULL) is
 * what came before it; free with g_free().  TIMEOUT: it may be called again.  DISCONNECTED where
 * the process has closed its side, INVALID where it has written more than BOCHS_ANSWER_MAX bytes: what
 * comes before the prompt is lost then. */
gboolean bochs_console_await_prompt(BochsConsole *console, int timeout_ms, char **ret,
                                    GError **error);

/* Sends a command without waiting for its end.  Printable ASCII, at most 200 characters.  BUSY
 * while a prompt is outstanding. */
gboolean bochs_console_send(BochsConsole *console, const char *command, GError **error);

/* Waits until Bochs has read the command that is under way: it repeats it.  Its line editor drops a
 * command that a signal finds there. */
gboolean bochs_console_await_echo(BochsConsole *console, int timeout_ms, GError **error);

/* Sends a command and returns its answer, without the line that repeats the command.  Free with
 * g_free(). */
char *bochs_console_run(BochsConsole *console, const char *command, int timeout_ms, GError **error);

/* TRUE while a prompt is outstanding: a command is under way, or the machine runs. */
gboolean bochs_console_is_running(const BochsConsole *console);

/* The number of the prompt at which it stands; 0: at none, or nobody knows.  One that has not changed means that nobody has
 * told it anything since. */
guint64 bochs_console_get_prompt(const BochsConsole *console);

/* TRUE while that is `c`: the machine runs.  After any other command it stands when the prompt comes, however late. */
gboolean bochs_console_runs_machine(const BochsConsole *console);

/* Of a process that was there before, whose `c` is under way. */
void bochs_console_set_runs_machine(BochsConsole *console);
