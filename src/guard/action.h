/*
 * On-death actions: what a guard does when the agent dies
 *
 * Theory of operation: an action is a list of steps.  Whoever knows what is to be
 * done (a VMM's driver, the throttle) makes the list beforehand; the guard
 * (guard.h) only performs it, and knows no VMM:
 *
 *     write    a text to a file, or a FIFO that is read; one that cannot be written at once is left as it is
 *     connect  to a Unix socket; the steps from here to `ready` open a conversation
 *     ready    the conversation is open; actions that open the same one share it,
 *              since a monitor serves one client at a time
 *     send     a text
 *     expect   read until a text has come
 *     run      our own program, executed anew as a helper with one argument: what needs
 *              memory, threads or a library; done where it ends with exit code 0
 *     kill     SIGKILL to the guard's process; no step of any action comes after it
 *
 * An action is tried again, after a short pause, until all its steps are done or
 * its attempts are used up.
 *
 * The steps are packed into bytes: an action goes through the guard's pipe in one
 * piece, so that the guard has it whole or not at all, and is performed without
 * allocating anything (but by `run`).
 */
#pragma once

#include <glib.h>
#include <stdint.h>

/* Each is one byte, followed by texts that end with a NUL. */
typedef enum {
    GUARD_STEP_WRITE = 1, /* path, text */
    GUARD_STEP_CONNECT,   /* a GuardAddress instead of texts */
    GUARD_STEP_READY,
    GUARD_STEP_SEND,   /* text */
    GUARD_STEP_EXPECT, /* text, other, unless */
    GUARD_STEP_KILL,
    GUARD_STEP_RUN, /* name, argument */
} GuardStep;

#define GUARD_ACTION_BYTES 2048
#define GUARD_EXPECT_BYTES 64 /* the longest text to be expected, with its end */

typedef struct {
    uint16_t attempts;
    uint16_t length;     /* of the steps */
    gboolean incomplete; /* there was too much: it cannot be armed */
    char steps[GUARD_ACTION_BYTES];
} GuardAction;

/* An action without steps, to be tried so many times. */
void guard_action_begin(GuardAction *action, guint attempts);

/* The steps, in the order in which they are to be performed.  What does not fit
 * is found when the action is armed. */
void guard_action_add_write(GuardAction *action, const char *path, const char *text);
void guard_action_add_ready(GuardAction *action);
void guard_action_add_send(GuardAction *action, const char *text);
void guard_action_add_kill(GuardAction *action);

/* *name*: a helper that takes an argument (HELPER_MAIN_WITH_ARGUMENT).  It is given GUARD_RUN_MS. */
#define GUARD_RUN_MS 40000
void guard_action_add_run(GuardAction *action, const char *name, const char *argument);

/* *where* as unix_socket.h has it.  INVALID where the path is missing or too long:
 * the guard keeps no descriptors, so a long path cannot go through one. */
gboolean guard_action_add_connect(GuardAction *action, const char *where, GError **error);

/* Also waits for *other* (NULL: for nothing else), in any order.  Where *unless*
 * (may be NULL) has come as well, nothing of the action is left to be done. */
void guard_action_add_expect(GuardAction *action, const char *text, const char *other,
                             const char *unless);

/* What `connect` connects to, as the guard finds it. */
typedef struct {
    uint8_t foreign; /* in the network namespace of the guard's process */
    uint8_t length;
    char address[110]; /* a struct sockaddr_un */
} GuardAddress;

/* The step behind this one. */
const char *guard_step_next(const char *step);
