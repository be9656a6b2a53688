/*
 * An agent without QEMU and without a second host
 *
 * fakes.c stands in for the QEMU driver and for the moving: a "QEMU" is a
 * process that sleeps, its run state is in a table by pid, and what a move or
 * a question to the destination ends with is what the test has set.  All else
 * (registry, records, care, control API) is the real thing.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

#include "migrate/destination.h"
#include "migrate/source.h"
#include "vmm/vmm.h"

/* Starts a process that looks like a guest's; it is in state *state*. */
pid_t fake_qemu_start(const char *socket, VmmRunState state);
VmmRunState fake_qemu_get_state(pid_t pid);
gboolean fake_qemu_is_alive(pid_t pid);
guint64 fake_qemu_get_start_time(pid_t pid);

/* Ends all of them and forgets the settings below. */
void fakes_reset(void);

typedef struct {
    gboolean launch_fails, reattach_fails, resume_fails, balloon_fails;
    const char *obstacle;   /* why no guest can be moved; NULL: they can */
    guint images_taken;     /* by paused guests */
    uint64_t balloon_bytes; /* what the last balloon was set to */
    guint launches;
    /* What migrate_source_run() does: journals up to *journal_to*, waits while
     * *hold* is set (until cancelled), and reports *status*. */
    MigrateStatus status;
    SourceJournalState journal_to;
    guint moves;            /* begun; each has a transaction of its own */
    gint hold;              /* atomic */
    gint progressed;        /* atomic: how often progress was told */
    guint trace_lines;      /* traced right before the end, where a trace is wanted */
    MigrateOptions options; /* of the last move … */
    uint64_t rate;          /* … and its rate limit at the end … */
    char disk_mode[16];     /* … and of its disk "system"; "": none was given */
    /* What migrate_source_resolve() answers; negative: cannot be reached. */
    gint outcome;   /* atomic */
    gint old_term;  /* atomic: it answers with the term that the asking source has */
    gint questions; /* atomic: how often it was asked */
    /* What migrate_destination_serve() does; NULL: it fails. */
    gboolean (*serve)(Session *session, GError **error);
} Fakes;

extern Fakes fakes;
