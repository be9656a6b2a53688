/*
 * The source's half of a pre-copy move
 */
#pragma once

#include <gio/gio.h>

#include "migrate/move_rate.h"
#include "migrate/report.h"
#include "vmm/vmm.h"
#include "wire/channel.h"
#include "wire/messages.h"

/* With this exit code a guest's old process ends once the guest has moved; no
 * shell, no sysexits.h and no systemd gives it a meaning.  Users' scripts and
 * units rely on it. */
#define MIGRATE_EXIT_CODE_MOVED 109

#define SOURCE_DELTAS "deltas"
#define SOURCE_WRITES "writes"
#define SOURCE_MACHINE "machine"

/* What the source writes down so that a restarted agent knows what to do. */
typedef enum {
    SOURCE_JOURNAL_MOVING,         /* on restart: clean up; a paused guest was paused by others */
    SOURCE_JOURNAL_PAUSING,        /* on restart: clean up, resume if paused */
    SOURCE_JOURNAL_SWITCHING_OVER, /* START may have been sent: ask the destination first … */
    SOURCE_JOURNAL_SWITCHING_OVER_SPLIT, /* … which lacks pages where it has committed */
    SOURCE_JOURNAL_SPLIT,                /* it runs there and lacks pages: on restart serve them */
    SOURCE_JOURNAL_TAKING_OVER, /* nobody runs it there any more: it goes on here from its last epoch */
    SOURCE_JOURNAL_GIVEN_UP, /* as GONE, and the destination waits to hear it (ENDED) */
    SOURCE_JOURNAL_RETURNED, /* not moved, all is as before */
    SOURCE_JOURNAL_GONE,     /* the guest runs at the destination; our copy is to be ended */
} SourceJournalState;

typedef struct {
    /* Called from the moving thread, a few times a second and at each change of phase. */
    void (*progress)(const MigrateProgress *progress, gpointer user);
    /* Must have the state on record (the page cache is enough) when it returns, and
     * with it who the destination is: *agent* is its lasting id. */
    gboolean (*journal)(SourceJournalState state, const char *transaction, const char *agent,
                        gpointer user, GError **error);
    /* Writes down the size that the guest's balloon is to be given back, so that
     * a restarted agent does so (0: it has it). */
    gboolean (*note_balloon)(uint64_t bytes, gpointer user, GError **error);
    /* Writes down which of this host's files are copied, so that they are retired (renamed, or
     * removed) once it is known that the guest has moved. */
    gboolean (*note_images)(char *const *paths, gboolean removes, gpointer user, GError **error);
    /* Of a guest that is to be protected while it is split: makes a private directory for what another
     * process could take over from, and writes that down; removes it with all that is in it.
     * Its epochs are in SOURCE_DELTAS in there (transfer/delta_store.h) and SOURCE_WRITES
     * (kept_writes.h), its machine, as the GUEST message tells it, in SOURCE_MACHINE. */
    char *(*make_deltas)(gpointer user, GError **error);
    void (*drop_deltas)(gpointer user);
    /* The store that has a copy of what is outstanding: it keeps it from now on (*why* NULL), or the
     * move goes on without it.  From any thread. */
    void (*note_store)(const char *name, const GError *why, gpointer user);
    /* The witness that knows of the guest, before the pause: to be written down with
     * SOURCE_JOURNAL_SWITCHING_OVER_SPLIT. */
    void (*note_witness)(const char *witness, const char *agent, guint lease_ms, gpointer user);
    /* TRUE where a split guest is not to be served by this move any more: the agent stops, or an
     * operator has decided. */
    gboolean (*is_released)(gpointer user);
    /* A private directory for a while, or NULL; removes it. */
    char *(*make_directory)(gpointer user, GError **error);
    void (*remove_directory)(const char *directory, gpointer user);
    /* One line of a trace of this move (trace.h, without the line's end), from
     * the moving thread; NULL where nobody wants one. */
    void (*trace)(const char *line, gpointer user);
    gpointer user;
} MigrateSourceHost;

typedef struct {
    Vmm *vmm;
    const char *guest;
    const char *guest_id;
    uint64_t term;                 /* of its present ownership; the destination's is the next */
    char **command_line;           /* to start it with over there */
    const char *working_directory; /* that it is relative to */
    const char *destination;       /* HOST[:PORT] as the user gave it */
    const char *source_name;       /* for the report */
    ChannelOptions channel;
    MigrateOptions options;
    MoveRate *rate; /* borrowed; NULL: that of *options*, which does not change */
    json_t
        *disk_modes; /* what its user wants of single disks: {id: DiskMode's name}; NULL: nothing */
    MigrateSourceHost host;
} MigrateSourceJob;

/* Moves the guest; blocks until the outcome is known.  Whatever fails, the
 * guest runs on here, except with MIGRATE_COMPLETED (our VMM process has been
 * ended), MIGRATE_IN_DOUBT (paused here; see migrate_source_resolve()) and MIGRATE_SPLIT (it runs
 * there; see postcopy_source.h).
 * Never returns NULL. */
MigrateReport *migrate_source_run(const MigrateSourceJob *job, GCancellable *cancellable);

/* Ends what is left of a guest that runs at its destination: at once, so that it
 * writes to no disk any more, and with MIGRATE_EXIT_CODE_MOVED; by SIGKILL where
 * it cannot be traced.  FALSE: it is there still. */
gboolean migrate_source_end_old(pid_t pid, uint64_t start_time, const char *guest,
                                const char *destination, GError **error);

/* Asks the destination what became of a transaction whose START was sent.  FALSE
 * where it cannot be reached, or is not *agent*.  Whether the answer takes the
 * guest from its source is for the caller to see (outcome_takes_guest()). */
gboolean migrate_source_resolve(const char *destination, const ChannelOptions *channel,
                                const ResolveMessage *question, const char *agent,
                                OutcomeMessage *ret, GError **error);
