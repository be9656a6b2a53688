/*
 * Ctrl-C during a move
 *
 * SIGINT and SIGTERM are taken by a thread of their own: the first one asks
 * the agent to cancel the move (and the command goes on to show how it ends),
 * the second one leaves at once; then the move goes its way.
 */
#pragma once

#include "cli/cli.h"

/* Before any other thread is made. */
void interrupt_block(void);

/* Begins to listen. */
void interrupt_watch(const CommonOptions *common, const char *guest);
