/*
 * The drivers: launching, adopting, reattaching
 *
 * Theory of operation: a driver makes Vmm objects (vmm.h) of one kind of virtual
 * machine monitor.  Three ways lead to one: launch() starts a process, adopt()
 * takes one that another program started, reattach() finds one again after a
 * restart of the agent.  A process is always named by pid and start time, and is
 * never our child (it is started through a process in between that ends at once),
 * so that all three ways behave alike and no zombie is left.
 *
 * The registry (vmm_drivers.c) is the one place outside of the drivers' folders
 * that names them.  A driver is found by the kind that a record or a peer names,
 * or by the program of a command line or of a process.
 */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

#include "identity/identity.h"
#include "state/tree.h"
#include "vmm/vmm.h"
#include "vmm/vmm_storage.h"

/* A rewriting rule for what is local to a host: every occurrence of *from* in
 * an argument of the command line becomes *to*. */
typedef struct {
    char *from;
    char *to;
} VmmMapRule;

/* The text with all rules applied; free with g_free().  *rules* NULL: none. */
char *vmm_map_text(const char *text, const GPtrArray *rules);

/* What is needed to find a guest again after a restart. */
struct VmmIdentity {
    char *kind; /* of the driver */
    pid_t pid;
    uint64_t start_time;
    char *control_path;      /* where its control socket is (for QEMU: QMP; base/unix_socket.h) */
    char *log_path;          /* its standard error; NULL for adopted guests */
    char **command_line;     /* as a destination should start it: without our additions */
    char *working_directory; /* of its start; unmapped */
    char **cgroups;          /* folders of control groups made for it by a launch, or NULL */
};

void vmm_identity_free(VmmIdentity *identity);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmmIdentity, vmm_identity_free)

typedef struct {
    const char *name;      /* guest's name, for socket and log names */
    char **command_line;   /* as the user gave it, program first */
    const char *directory; /* where the control socket and the log go (exists, private) */
    gboolean incoming;     /* start as the destination of a move: paused, not loaded */
    gboolean paused;       /* start without running an instruction of the guest */
    gboolean in_place; /* of one that gives its memory back while this one gets it (takeover.h): the
                          host need not have it twice */
    gboolean
        restored; /* incoming, from an image: its disks may have other backing files than on record */
    /* Incoming, in the neutral form (vmm.h): *command_line* was planned for this machine.  Its RAM is described
     * (vmm_describe()) by the neutral names until its state is loaded, and vmm_load_device_state() takes a neutral state.
     * NULL: in the driver's own form. */
    const MachineDescription *neutral;
    const GPtrArray *rules;         /* of VmmMapRule, may be NULL; applied for incoming only */
    const char *working_directory;  /* for relative paths of the command line; mapped, too */
    const ProcessIdentity *process; /* who is to run it; NULL: we */
    guint allow_unconfined;         /* set of Confinement that may be left out */
    /* Called when its process exists and has done nothing yet, with kind, pid, start
     * time, socket and log: to be written down.  FALSE with *error*: it never
     * runs.  May be NULL. */
    gboolean (*begun)(const VmmIdentity *identity, gpointer user, GError **error);
    gpointer user;
} VmmLaunch;

/* What is on record of a guest that is not there now: of an image. */
typedef struct {
    json_t *machine;                        /* what vmm_read_machine() told */
    const char *machine_type, *accelerator; /* may be NULL */
    const char *directory;                  /* of relative paths; may be NULL */
    guint vcpus;
    uint64_t memory_bytes;
} VmmSavedMachine;

typedef struct {
    const char *kind; /* "qemu": in records, and in what agents tell each other */

    const char *programs; /* for messages: what such a program is called */

    /* TRUE where a program of this name or path is of this kind. */
    gboolean (*is_program)(const char *program);

    /* Starts a process in a session of its own, so that it outlives us; standard
     * error goes to a log file in the launch's directory.  Returns when it answers
     * and is confined as told.  NULL with *error*: nothing of it runs. */
    Vmm *(*launch)(const VmmLaunch *launch, GError **error);

    /* Manages the process with this pid from now on.  *control* NULL: its control socket is found
     * from its command line; else a path, or "@NAME" for an abstract socket. */
    Vmm *(*adopt)(pid_t pid, const char *control, GError **error);

    /* Connects again to a guest that was known before. */
    Vmm *(*reattach)(const VmmIdentity *identity, GError **error);

    /* Starts a storage process (vmm_storage.h).  NULL: it has none. */
    VmmStorage *(*open_storage)(const VmmStorageLaunch *launch, GError **error);

    /* The command line of a machine that goes on from a copy of itself, and tells its guest so where it can: with
     * a new VM generation id.  Free with g_strfreev().  NULL: it cannot. */
    char **(*renew_generation)(char *const *command_line);

    /* FALSE (UNSUPPORTED) where such a machine has no channel to an agent in its guest (vmm_set_clock()).  NULL: none has. */
    gboolean (*check_agent)(char *const *command_line, GError **error);

    /* FALSE (UNSUPPORTED) with the network card that can get no new address (vmm_plan_new_macs()); *machine* is what
     * vmm_read_machine() told.  NULL: none can. */
    gboolean (*check_new_macs)(json_t *machine, GError **error);

    /* What the bytes that vmm_save_device_state() or a checkpoint returned mean, as a neutral state
     * (state/tree.h).  NULL in the table: nobody can say. */
    StateNode *(*read_state)(const void *bytes, size_t length, GError **error);

    /* The command line that makes such a machine here, program first, before map rules; free with g_strfreev().  UNSUPPORTED with all that
     * cannot be made (devices, CPU features, sizes), each by name.  NULL: nothing comes to it in the neutral form. */
    char **(*plan)(const MachineDescription *machine, GError **error);

    /* What the TSC of a machine that begins in it counts a second; 0: what the description says. */
    uint64_t first_tsc_hz;

    /* As vmm_describe_neutral(), of a guest that is not there now; the rate of its TSC is that of this host's.  NULL:
     * nobody can say. */
    MachineDescription *(*describe_saved)(const VmmSavedMachine *saved, GError **error);

    /* VMM_NEUTRAL_RAM or VMM_NEUTRAL_VIDEO for a RAM region of such a guest, NULL for others.  NULL: as above. */
    const char *(*find_neutral_region)(const VmmSavedMachine *saved, const char *name,
                                       uint64_t bytes);

    /* Whether a machine in this state could go on in such a VMM: pure, and cheap enough for the pause.  BUSY: not at this very moment;
     * UNSUPPORTED: never, with the path of what cannot be.  NULL: always. */
    gboolean (*check_state)(const StateNode *state, GError **error);
} VmmDriver;

/* How many drivers there are, and their kinds by number; NULL behind the last. */
#define VMM_DRIVER_KINDS 2u
const char *vmm_driver_kind(guint index);

/* The driver of this kind (NULL: of none); UNSUPPORTED where there is none. */
const VmmDriver *vmm_driver_find(const char *kind, GError **error);

/* The driver for this command line, by its program; INVALID where it is empty,
 * REFUSED where no driver knows the program. */
const VmmDriver *vmm_driver_find_for_command_line(char *const *command_line, GError **error);

/* The driver for a process that runs, by its program's file or, for one that was
 * started through a loader, argv[0]; INVALID where no driver knows it. */
const VmmDriver *vmm_driver_find_for_process(pid_t pid, GError **error);

/* By the driver of that kind; UNSUPPORTED where it cannot say.  Free with state_free(). */
StateNode *vmm_read_state(const char *kind, GBytes *bytes, GError **error);

/* For drivers, before they launch an incoming guest: refuses
 * (VMFERRY_ERROR_NO_SPACE) where less than *guest_bytes* are available on this
 * host now. */
gboolean vmm_check_host_memory(uint64_t guest_bytes, GError **error);

/* The same by the text of a /proc/meminfo. */
gboolean vmm_memory_fits(uint64_t guest_bytes, const char *meminfo, GError **error);
