/*
 * Watching a deadline (deadline.h), in the guard's process: system calls only
 */
#pragma once

#include <stdint.h>

#include "guard/deadline.h"
#include "guard/perform.h"

typedef struct {
    GuardDeadlineFile *file; /* NULL: there is no deadline */
    int timer;               /* of CLOCK_BOOTTIME, once there is a file */
    int stops_again;         /* the process was stopped as the guest was about to be resumed */
    struct {
        size_t length;
        char steps[GUARD_ACTION_BYTES];
    } pause;
} DeadlineWatch;

/* An order came: the deadline in that file, with the action in *pause*.  That it is watched is said
 * in the file. */
void deadline_watch_begin(DeadlineWatch *watch, const char *path);

/* Waits until *fd* is readable (or hung up), and acts where the deadline comes before.  False: it
 * cannot be waited for. */
int deadline_watch_until_readable(DeadlineWatch *watch, int fd);

/* When the guard begins to act; 0: there is no deadline.  Whether that time has come. */
int64_t deadline_watch_begins_ns(const DeadlineWatch *watch);
int deadline_watch_is_due(const DeadlineWatch *watch);

/* Whether it was acted upon: the VMM is to be left as it is. */
int deadline_watch_has_passed(const DeadlineWatch *watch);

/* Returns when the deadline has been acted upon, there is none any more, or the VMM has ended. */
void deadline_watch_to_the_end(DeadlineWatch *watch);
