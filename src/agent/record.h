/*
 * What the agent writes down about a guest
 *
 * The record is what a restarted agent knows.  It is written before a step is
 * taken (agent.h has the order), so it always names the furthest point that
 * may have been reached.
 */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/json.h"
#include "identity/identity.h"

/*
 * What a guest is to this host.  That is a durable fact, apart from who works on
 * the guest just now (guest.h: its claim) and from what goes on with it
 * (activity.h).
 *
 * STARTING      ours once it runs: its VMM is being launched; its process runs
 *               only once the pid is written here.  Restart: reattach; keep it.
 * OURS          it belongs to this host, and runs or is paused as its user wants
 *               it.  All operations, one at a time.  Restart: reattach.  With a
 *               *transaction*, a move reads it, which may have paused it
 *               (*resume*): then restart cleans up in it and resumes it first.
 * SWITCHING_OVER  START may have been sent: it may belong to the destination.
 *               Nothing is allowed.  Restart: if it runs it is ours; otherwise
 *               ask the destination.
 * IN_DOUBT      START was sent and no answer came; paused.
 *               Only resolve.  Restart: as SWITCHING_OVER.
 * POSTCOPY_SOURCE  it belongs to the destination and runs there; pages that it
 *               lacks are in our paused copy, and are served.  Only resolve.
 *               Restart: go on serving.
 * LEAVING       it belongs to the destination; our copy is to be ended.
 *               Restart: end it.
 * INCOMING      it belongs to its source; a move fills it.  Nothing is allowed.
 *               Restart: end it, unless its transaction is committed; then it
 *               is OURS, and is resumed (*resume*) where it is paused; first
 *               POSTCOPY where there is *outstanding*.
 * POSTCOPY      it belongs to this host and runs; a part of its memory is still at
 *               its source.  Nothing is allowed.  Restart: fetch that (*outstanding*).
 *
 * POSTCOPY_SOURCE with *taking_over*: the destination has lost the guest, and it
 * will go on here from what its epochs have brought, in a fresh VMM.  Nothing
 * is allowed.  Restart: begin that anew.
 * TAKEOVER      it belongs to this host and runs in that fresh VMM; a part of its memory is
 *               still in the old one (*other_pid*).  Nothing is allowed.  Restart: fetch that.
 *
 * RESTORING     it belongs to this host and comes from *image*: it runs, and a part of its memory is still in there.
 *               Nothing is allowed.  Restart: fetch that.  Without *image* its VMM does not have its device state
 *               yet.  Restart: end it.
 */
typedef enum {
    GUEST_STARTING,
    GUEST_OURS,
    GUEST_SWITCHING_OVER,
    GUEST_IN_DOUBT,
    GUEST_LEAVING,
    GUEST_INCOMING,
    GUEST_POSTCOPY,
    GUEST_POSTCOPY_SOURCE,
    GUEST_TAKEOVER,
    GUEST_RESTORING,
} GuestRole;

const char *guest_role_name(GuestRole role);

typedef enum {
    GUEST_ORIGIN_RUN,   /* launched here */
    GUEST_ORIGIN_ADOPT, /* launched by others */
    GUEST_ORIGIN_MOVE,  /* came from another host */
    GUEST_ORIGIN_IMAGE, /* restored from an image */
} GuestOrigin;

const char *guest_origin_name(GuestOrigin origin);

/*
 * The term counts a guest's owners: 1 where it became managed, one more with each
 * change of owner.  The owner's record has the term with which it owns the
 * guest; that of a destination (INCOMING) the one with which it will; that of a
 * source keeps its own until the copy is gone, so a destination that has
 * committed always has a higher one.  Names may be used again, so terms are
 * compared between records of the same *id* only.
 */
typedef struct {
    char *name;
    char *id;      /* of this guest since it became managed, wherever it goes (name.h) */
    uint64_t term; /* of its ownership, see above */
    GuestRole role;
    GuestOrigin origin;
    char *boot_id;            /* of the host when this was written */
    char *directory;          /* its sockets and log, ours to remove; NULL for adopted guests */
    pid_t pid;                /* 0: not known yet */
    uint64_t start_time;      /* of that pid */
    char *vmm_kind;           /* of the driver (vmm_driver.h); NULL while the pid is not known */
    char *qmp_path;           /* NULL while the pid is not known; of libvirt's guests as in
                                 vmm/libvirt/address.h */
    char *log_path;           /* may be NULL */
    char **command_line;      /* as a destination should start it */
    char *working_directory;  /* that it is relative to; as the first host knows it */
    ProcessIdentity *process; /* who runs it here, as first seen; NULL: not known yet */
    char **cgroups;           /* folders of control groups, ours to remove; NULL: none */
    char *supervisor;         /* what may start it again here, with its user's consent; or NULL */
    char *transaction;        /* of the move under way, or NULL */
    char *destination;        /* of the move away that is under way, or NULL */
    char *destination_agent;  /* the one whose answers count (agent_id.h); NULL: no one's */
    gboolean split;           /* that destination lacks pages where it has committed */
    char *outstanding;        /* file of pages that are not here (memory/outstanding.h), or NULL */
    char *source_agent;       /* that has them */
    char *deltas; /* directory of epochs that the destination sends back, ours to remove; or NULL */
    char *image;  /* RESTORING: the file that has its memory; or NULL */
    json_t *
        renewal; /* RESTORING: what is still to be changed in it (restored_guest.h); NULL: nothing.  Not changed once
                        it is there */
    gboolean untold; /* LEAVING, and that destination has not confirmed that it knows (ENDED) */
    gboolean taking_over; /* see above */
    gboolean
        standby; /* POSTCOPY: it lacks nothing, and is protected; POSTCOPY_SOURCE: that is stood by
                         for here, without a process */
    pid_t other_pid; /* of a takeover, or of a standby for it: the fresh process, of TAKEOVER the
                        old one … */
    uint64_t other_start;
    char *other_directory; /* … and its directory, or NULL */
    guint checkpoint_ms;   /* such epochs go from here, at this interval; 0: none */
    char *store;           /* HOST[:PORT] of a store that has them, too, or NULL … */
    char *store_agent;     /* … and its lasting id */
    guint lease_ms;        /* that agent is the witness, with leases of this length; 0: it is not */
    char *stale_destination; /* where a copy is to be ended that was taken over here, or NULL … */
    char *stale_agent;       /* … that agent's lasting id … */
    char *stale_transaction; /* … and by which it had come there */
    json_t *protection;      /* that it is to be protected: {standby, witness, interval_ms,
                                copies_writes}; NULL: it is not.  Not changed once it is there */
    gboolean resume;         /* where it is found paused: a move did that, its user did not */
    uint64_t balloon_bytes;  /* what its balloon is to be given back; 0: nothing is owed */
    char **moved_images;     /* copied by the move under way (moved_images.h); NULL: none … */
    gboolean removes_images; /* … and to be removed once it has moved */
    int64_t since;           /* wall clock, seconds: when it became managed here */
} GuestRecord;

GuestRecord *guest_record_copy(const GuestRecord *record);
void guest_record_free(GuestRecord *record);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GuestRecord, guest_record_free)

/* FALSE (UNSUPPORTED) where libvirt runs the guest: such a one is not moved or protected, yet. */
gboolean guest_record_check_leaving(const GuestRecord *record, GError **error);

json_t *guest_record_to_json(const GuestRecord *record);

/* Checks every field and every limit. */
GuestRecord *guest_record_from_json(json_t *object, GError **error);
