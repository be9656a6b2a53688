/*
 * Bochs's process
 *
 * Theory of operation: Bochs runs in a session and a network namespace of its own, is not our child,
 * and outlives us.  All that it needs is in one folder:
 *
 *     bochsrc    its configuration (machine.h)
 *     input      a FIFO: its standard input, the debugger's commands
 *     output     a FIFO: its standard output
 *     log        what it logs
 *     errors     its standard error
 *     state/     files that `restore` reads
 *     runs       is there while the machine was let run by `c`, and nobody has interrupted it; with a word in it where somebody
 *                has, to look at it only
 *
 * Bochs holds both ends of its FIFOs, so that our death is neither an end of its input nor a broken
 * pipe; when its own end comes, the reading end here sees it.  It begins at its prompt, and
 * stands still there.
 *
 * `c` lets the machine run, SIGINT brings the prompt back.  A signal that comes before Bochs has
 * begun to run is lost, so it is sent again until there is a prompt.
 *
 * An agent that comes back finds from the process's main thread whether it stands at its prompt: it waits for standard input
 * there, and only there.  Where it does not, `runs` tells a machine that runs from a command, or an interrupt, that is under way
 * still: its prompt is awaited.  One that was looked at is brought to its prompt, too, and is to run on.
 */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

#include "identity/spawn_plan.h"
#include "vmm/bochs/console.h"
#include "vmm/bochs/machine.h"

typedef struct {
    const BochsMachine *machine;
    const char *program;   /* NULL: "bochs-bin" of PATH */
    const SpawnPlan *plan; /* NULL: as we are */
    const char *folder;    /* made anew (folder.h), in a directory that only we can write to */
    /* Called when the process exists and has done nothing yet; FALSE with *error*: it never runs.  May
     * be NULL. */
    gboolean (*begun)(pid_t pid, gpointer user, GError **error);
    gpointer user;
} BochsStart;

typedef struct {
    pid_t pid;
    uint64_t start_time;
    char *folder;
    char *state_folder; /* for bochs_restore(): in the folder that it runs in */
    char *version;      /* "2.7" */
    BochsConsole *console;
    gboolean interrupted; /* it ran by `c`, and the prompt after an interrupt has not come */
    gboolean looked_at;   /* it stands for a look: bochs_process_end_look() */
} BochsProcess;

/* Returns when it is at its first prompt.  NULL with *error*, with what Bochs said: nothing of it
 * runs. */
BochsProcess *bochs_process_start(const BochsStart *start, GError **error);

/* Connects again to one that was started in this folder; its machine runs on, or stands still, as it did.  Takes
 * *version*, in failure too. */
BochsProcess *bochs_process_attach(pid_t pid, uint64_t start_time, const char *folder,
                                   char *version, GError **error);

/* Closes the console; the process lives on. */
void bochs_process_free(BochsProcess *process);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BochsProcess, bochs_process_free)

gboolean bochs_process_is_alive(const BochsProcess *process);

/* The machine runs.  It may have stopped by itself, at a breakpoint or because its processor was shut down.  While a command is
 * late it stands. */
gboolean bochs_process_runs(const BochsProcess *process);

/* For an agent that comes back: whether the machine, if it is not at its prompt, runs by `c`.  So before `c`; an interrupt takes
 * it back, before the signal.  While it stands no command may be sent with such a note. */
gboolean bochs_process_note_run(const BochsProcess *process, gboolean runs, GError **error);

/* Lets the machine run, which was noted before; returns at once. */
gboolean bochs_process_continue(BochsProcess *process, GError **error);

/* Brings the prompt back; TRUE at once where it is there.  An ordinary command is let end.  After TIMEOUT the machine may stop
 * still. */
gboolean bochs_process_interrupt(BochsProcess *process, GError **error);

/* The same of a machine that runs, for a look: an agent that comes back lets it run on.  Whether this fails or not, the look
 * is to be ended. */
gboolean bochs_process_begin_look(BochsProcess *process, GError **error);

/* Lets it run on, whatever is under way; FALSE: it may stand. */
gboolean bochs_process_end_look(BochsProcess *process, GError **error);

/* Brings the prompt back from a command of steps that takes too long. */
gboolean bochs_process_break(BochsProcess *process, GError **error);

/* Ends it by `q`; FALSE where that does not end it. */
gboolean bochs_process_quit(BochsProcess *process, GError **error);

/* Ends it, by signals where it must be. */
gboolean bochs_process_end(BochsProcess *process, GError **error);

/* What Bochs said when it ended itself, one line, or NULL.  Free with g_free(). */
char *bochs_process_read_end(const BochsProcess *process);

/* The file of its log.  Free with g_free(). */
char *bochs_process_log_path(const BochsProcess *process);
