/*
 * Performing actions, in the guard's process: system calls only
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "guard/action.h"

/* What the guard finds open. */
#define PIPE_FD 3
#define PIDFD_FD 4
#define NETNS_FD 5

#define SLOT_BYTES (160u << 10) /* 256 files with long paths, in the guard's bss */

typedef struct {
    uint16_t attempts;
    int done;
    size_t length;
    char steps[SLOT_BYTES];
} Slot;

typedef struct {
    int fd;              /* or -1 */
    const char *opening; /* the steps that have opened it, or NULL */
    size_t opening_length;
    int64_t until_ns; /* guard_now_ns(): it has to be over by then; 0: 3 s an answer */
    int is_needed; /* an answer has said that the action is not over: what follows does something */
} Conversation;

/* OVER: nothing of the action is left to be done. */
typedef enum { STEP_FAILED, STEP_DONE, STEP_OVER } StepResult;

/* All steps of the slot. */
StepResult guard_perform(const Slot *slot, Conversation *conversation);
void guard_hang_up(Conversation *conversation);

/* CLOCK_BOOTTIME. */
int64_t guard_now_ns(void);

/* Whether the VMM has ended. */
int guard_vmm_has_ended(void);
