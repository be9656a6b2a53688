#include "base/fault.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"

static const char *const points[] = {
    "inject.stopped",         /* thread stopped, nothing changed in it */
    "inject.prepared",        /* return frame on its stack, registers untouched */
    "inject.registers-set",   /* will run our system call */
    "inject.called",          /* system call done, registers not yet restored */
    "memory.tracker-started", /* userfaultfd registered in the guest */
    "source.disks-made",      /* the destination has made the files of disks, nothing is in them */
    "source.disks-begun",     /* the VMM copies its disks */
    "source.disks-in-sync",   /* what the guest writes is in the copies as well from now on */
    "source.disks-finished",  /* guest stopped, copies complete, not yet on the storage there */
    "source.image-lock",      /* before an image is locked; fails: as where locks are not shared */
    "source.image-token",     /* the same of its access time */
    "look.paused",            /* a guest of Bochs stopped for its state to be looked at */
    "source.accepted",        /* the destination has accepted the guest */
    "source.first-round",     /* before the first page is read */
    "source.decided",         /* pre-copy is over, the guest still runs */
    "source.fault-channel",   /* post-copy: a channel for faults has joined, the guest still runs */
    "source.register",        /* before the witness is told of the transaction */
    "source.store-fill",      /* before a store gets its first page, the guest still runs */
    "source.store-rest",      /* after START: before a store gets the rest */
    "source.paused",          /* guest stopped, nothing of the last round sent */
    "source.device-state-saved",  /* device state taken, images released */
    "source.before-start",        /* the destination is ready, word not sent */
    "source.switching-over",      /* on record that START may be sent; the guard still resumes */
    "source.start-sent",          /* word sent, answer not read */
    "source.after-started",       /* the answer came; the source's QEMU is still there */
    "source.split",               /* on record that pages here are still needed there */
    "save.accepted",              /* a save: the image has begun, nothing was read */
    "save.resumed",               /* all was read, the guest goes on, the image is not complete */
    "save.sent",                  /* all was sent, whether the image is complete is not known */
    "image.begun",                /* the image's host: it has begun, that is not said */
    "image.disks-complete",       /* copies of disks are complete, on record as to be removed */
    "image.before-commit",        /* they are kept, the image has no name */
    "image.committed",            /* the image has its name, that is not said */
    "restore.launched",           /* a VMM waits for its state */
    "restore.loaded",             /* it has it, and its memory is served; not on record */
    "restore.on-record",          /* the guest is ours and may run */
    "source.pushed",              /* all pages were sent, that is not said */
    "source.given-up",            /* on record that it will not take over; ENDED not sent */
    "destination.disks-made",     /* files for disks are there, empty */
    "destination.launched",       /* QEMU waits for its state */
    "destination.opened",         /* its incoming stream is open, there are markers in its RAM */
    "destination.round-applied",  /* a round's pages are in */
    "destination.discard",        /* before pages that are outstanding lose what was here */
    "destination.held",           /* post-copy: its output is held, the guest has not run */
    "destination.before-load",    /* all received, device state not loaded */
    "destination.before-ready",   /* all loaded, not yet said */
    "destination.before-commit",  /* word received, journal not written */
    "destination.before-journal", /* the guard lets the guest be, journal not written */
    "destination.committed",      /* journal written, the guard still lets the guest be */
    "destination.after-commit",   /* guest not yet running, the guard resumes it */
    "destination.cont",           /* before it runs; fails: as where QEMU refuses */
    "destination.taking-back",    /* it refused; the journal still says committed */
    "destination.taken-back",     /* journal says aborted, QEMU is still there */
    "destination.before-started", /* guest runs, the source does not know */
    "destination.all-pages",      /* no page is outstanding, the source does not know */
    "destination.fetch",          /* connected to a store, nothing said of what is missing */
    "destination.ended",          /* the source will not take over; output is still held */
    "store.seal",                 /* a store has what came before the pause, not on record */
    "destination.complete-sent",  /* the source was told, the guest's faults are still served */
    "checkpoint.cut",             /* before the guest is paused for an epoch */
    "checkpoint.send",            /* an epoch is cut, the guest runs, nothing was sent */
    "checkpoint.seal",            /* all of an epoch was sent, not that it is all */
    "checkpoint.commit",          /* all of an epoch has come, nothing of it is on record */
    "checkpoint.committed",       /* an epoch is on record, that is not said */
    "checkpoint.release",         /* that was said; the output of the epoch is still held */
    "takeover.begun",             /* on record that the source takes over; nothing is changed */
    "takeover.place-left",        /* the paused VMM has given up what only one can have */
    "takeover.image-open",        /* another process has an image open; nothing is written */
    "takeover.disks-written",     /* what the epochs have written is in the images */
    "takeover.launched",          /* the fresh VMM is there, empty */
    "takeover.loaded",            /* device state loaded, its memory is served; not the guest yet */
    "protect.noted",              /* on record as protected, nothing of that in its VMM */
    "protect.tracked",            /* its memory is registered, its leases run */
    "protect.held",               /* its disks have overlays */
    "protect.disks-sent",         /* the standby has its disks */
    "protect.begun",              /* the standby counts, and is not told */
    "standby.before-commit",      /* it is told, and not on record */
    "takeover.become",            /* on record that the guest is the fresh VMM; it does not run */
    "engine.intended",            /* a move is in the journal, nobody was asked for anything */
    "engine.before-order",        /* all was checked again; the agent is told next */
    "engine.ordered",             /* the agent has begun, the journal does not say so */
    NULL,
};

static GMutex fault_lock;
static GHashTable *fault_hits;

const char *const *fault_list_points(void)
{
    return points;
}

static guint count_hit(const char *name)
{
    guint hits;

    g_mutex_lock(&fault_lock);
    if (!fault_hits)
        fault_hits = g_hash_table_new(g_str_hash, g_str_equal);
    hits = GPOINTER_TO_UINT(g_hash_table_lookup(fault_hits, name)) + 1;
    g_hash_table_insert(fault_hits, (gpointer)name, GUINT_TO_POINTER(hits));
    g_mutex_unlock(&fault_lock);
    return hits;
}

/* Returns the action for *name* or NULL. */
static char *find_action(const char *setting, const char *name)
{
    g_auto(GStrv) entries = g_strsplit(setting, ",", 64);

    for (char **entry = entries; *entry; entry++) {
        char *equals = strchr(*entry, '=');

        if (equals && (size_t)(equals - *entry) == strlen(name) &&
            strncmp(*entry, name, strlen(name)) == 0)
            return g_strdup(equals + 1);
    }
    return NULL;
}

gboolean fault_point(const char *name, GError **error)
{
    const char *setting = g_getenv("VMFERRY_FAULT");
    g_autofree char *action = setting ? find_action(setting, name) : NULL;
    char *at;

    if (!action)
        return FALSE;
    at = strchr(action, '@');
    if (at) {
        *at = '\0';
        if (count_hit(name) != (guint)strtoul(at + 1, NULL, 10))
            return FALSE;
    }
    if (strcmp(action, "kill") == 0)
        kill(getpid(), SIGKILL);
    else if (strcmp(action, "stop") == 0)
        raise(SIGSTOP); /* kill() would stop another thread first: this one might run on */
    else if (g_str_has_prefix(action, "sleep:"))
        clock_sleep_ns(strtoull(action + 6, NULL, 10) * 1000000ULL);
    else if (strcmp(action, "fail") == 0) {
        error_set(error, VMFERRY_ERROR_FAILED, "fault point %s", name);
        return TRUE;
    }
    return FALSE;
}
