/*
 * A sequence that is undone where it fails
 *
 * Theory of operation: what takes a step after the other, each of which leaves
 * something outside (a process, a connection, a record on disk), is a table of
 * stages that reads from top to bottom.  stages_run() runs them in order.  Where
 * one fails, that one and all before it are undone, the last first; so an undo
 * copes with a stage that got only half-way.
 *
 * Where it is only too early for one, all from an earlier one on may be undone and run again: StageAgain.
 *
 * One stage may be final, the point of no return: until it has succeeded
 * everything can be undone, and afterwards nothing is, whatever fails behind it.
 * A caller who learns later that it had no effect calls stages_undo() itself.
 *
 *     static const Stage stages[] = {
 *         STAGE("connect", connect_peer, disconnect),
 *         STAGE("offer", offer, withdraw),
 *         STAGE_FINAL("switchover", send_start),
 *     };
 */
#pragma once

#include <glib.h>

typedef gboolean (*StageRun)(gpointer user, GError **error);
typedef void (*StageUndo)(gpointer user);

typedef struct {
    const char *name; /* for messages */
    StageRun run;
    StageUndo undo; /* NULL: nothing remains of it */
    gboolean final;
} Stage;

/* Rows of a table; *run* and *undo* may take a pointer of any type. */
#define STAGE(name, run, undo)                                                                     \
    {                                                                                              \
        name, (StageRun)(run), (StageUndo)(undo), FALSE                                            \
    }
#define STAGE_FINAL(name, run)                                                                     \
    {                                                                                              \
        name, (StageRun)(run), NULL, TRUE                                                          \
    }

/* Told of the failed stage before anything is undone, since an undo may want to
 * say why; may replace *error*. */
typedef void (*StageFailed)(gpointer user, guint stage, GError **error);

/* Asked before StageFailed: TRUE where the sequence is to go on again from *ret_first*, which is not behind *stage*.  All
 * from there on are undone first. */
typedef gboolean (*StageAgain)(gpointer user, guint stage, const GError *problem, guint *ret_first);

/* Runs all of *stages*.  FALSE with the error of the one that failed; *failed* may
 * be NULL. */
gboolean stages_run(const Stage *stages, guint count, StageFailed failed, gpointer user,
                    GError **error);

/* The same; *again* is asked while there is a way back. */
gboolean stages_run_again(const Stage *stages, guint count, StageAgain again, StageFailed failed,
                          gpointer user, GError **error);

/* Undoes the first *count* of *stages*, the last first. */
void stages_undo(const Stage *stages, guint count, gpointer user);
