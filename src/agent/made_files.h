/*
 * Files that were made for guests that arrive
 *
 * Theory of operation: a guest whose disks move along gets image files here before it is here.
 * Which ones is on record before they are made, by the transaction, and until it is decided what
 * becomes of them.  After a crash an agent finds the records: files of a transaction that was not
 * committed are removed, and what was set aside for them is put back; those of a committed one
 * stay, and what was set aside goes.  Where nobody knows (the host went down meanwhile) all stays.
 */
#pragma once

#include "agent/context.h"

/* *files* is an array of {path, set_aside}, of which this keeps nothing; NULL: they are not to be
 * removed (any more). */
gboolean made_files_note(StateStore *store, const char *transaction, json_t *files, GError **error);

/* At the agent's start, once the transactions are known, and before recovery settles any. */
void made_files_recover(AgentContext *context);
