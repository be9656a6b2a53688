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
 * Where a guest is in its life with this agent.
 *
 * STARTING      its VMM is being launched; its process runs only once the pid is
 *               written here.  Restart: reattach; keep it.
 * HERE          ours; runs or is paused as its user wants it.
 *               All operations.  Restart: reattach.
 * MOVING        a move reads it; it may be paused by the move (*resume*).
 *               Only cancel.  Restart: clean up in it, resume it if it was.
 * SWITCHING_OVER  START may have been sent.  Nothing is allowed.
 *               Restart: if it runs it is ours; otherwise ask the destination.
 * IN_DOUBT      START was sent and no answer came; paused.
 *               Only resolve.  Restart: as SWITCHING_OVER.
 * LEAVING       it runs at the destination; our copy is to be ended.
 *               Restart: end it.
 * INCOMING      a move fills it.  Nothing is allowed.
 *               Restart: end it, unless its transaction is committed; then it
 *               is HERE, and is resumed (*resume*) where it is paused.
 */
typedef enum {
    GUEST_STARTING,
    GUEST_HERE,
    GUEST_MOVING,
    GUEST_SWITCHING_OVER,
    GUEST_IN_DOUBT,
    GUEST_LEAVING,
    GUEST_INCOMING,
} GuestState;

const char *guest_state_name(GuestState state);

typedef enum {
    GUEST_ORIGIN_RUN,   /* launched here */
    GUEST_ORIGIN_ADOPT, /* launched by somebody else */
    GUEST_ORIGIN_MOVE,  /* came from another host */
} GuestOrigin;

const char *guest_origin_name(GuestOrigin origin);

typedef struct {
    char *name;
    GuestState state;
    GuestOrigin origin;
    char *boot_id;            /* of the host when this was written */
    char *directory;          /* its sockets and log, ours to remove; NULL for adopted guests */
    pid_t pid;                /* 0: not known yet */
    uint64_t start_time;      /* of that pid */
    char *vmm_kind;           /* of the driver (vmm_driver.h); NULL while the pid is not known */
    char *qmp_path;           /* NULL while the pid is not known */
    char *log_path;           /* may be NULL */
    char **command_line;      /* as a destination should start it */
    char *working_directory;  /* that it is relative to; as the first host knows it */
    ProcessIdentity *process; /* who runs it here, as first seen; NULL: not known yet */
    char **cgroups;           /* folders of control groups, ours to remove; NULL: none */
    char *supervisor;         /* what may start it again here, with its user's consent; or NULL */
    char *transaction;        /* of the move under way, or NULL */
    char *destination;        /* of the move away that is under way, or NULL */
    char *destination_agent;  /* whose word counts (agent_id.h); NULL: nobody's */
    gboolean resume;          /* where it is found paused: a move did that, its user did not */
    uint64_t balloon_bytes;   /* what its balloon is to be given back; 0: nothing is owed */
    int64_t since;            /* wall clock, seconds: when it came into care here */
} GuestRecord;

GuestRecord *guest_record_copy(const GuestRecord *record);
void guest_record_free(GuestRecord *record);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GuestRecord, guest_record_free)

json_t *guest_record_to_json(const GuestRecord *record);

/* Checks every field and every limit. */
GuestRecord *guest_record_from_json(json_t *object, GError **error);
