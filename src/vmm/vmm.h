/*
 * A virtual machine monitor process under our control
 *
 * Theory of operation: a Vmm is one running VMM process and the control
 * connection to it.  The components above know only this interface; a driver
 * (vmm_driver.h tells how to find one) fills the tables of operations: the core
 * table, which each driver has, and one optional table for each thing that not
 * every VMM can do (balloon, block, net).  Where a driver lacks a table, the functions
 * of that table fail with VMFERRY_ERROR_UNSUPPORTED and say what is missing.
 * Every call blocks with a time-out of its own and may be made from any thread;
 * calls on one Vmm are serialised by the driver.
 *
 * Freeing a Vmm closes the control connection and nothing else: the process
 * lives on, unless it still waits for its state (vmm_open_incoming()).  Only
 * vmm_quit() ends it.
 */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/json.h"
#include "guard/action.h"
#include "identity/identity.h"
#include "memory/guest_memory.h"
#include "state/machine_description.h"
#include "vmm/vmm_checkpoint.h"

typedef enum {
    VMM_RUN_STATE_RUNNING,  /* vCPUs run */
    VMM_RUN_STATE_PAUSED,   /* stopped, can be resumed */
    VMM_RUN_STATE_INCOMING, /* waits for its state; cannot be resumed */
    VMM_RUN_STATE_ENDED,    /* guest has shut down or panicked; the process is there */
    VMM_RUN_STATE_FAILED,   /* stopped by an error (I/O, internal) */
    VMM_RUN_STATE_GONE,     /* no process any more */
} VmmRunState;

/* Has a machine run since its state was loaded? */
typedef enum {
    VMM_START_NEVER,   /* certainly not: paused or ended, and never reported as running */
    VMM_START_DONE,    /* yes, if only for a moment */
    VMM_START_UNKNOWN, /* the VMM does not answer, or was not loaded by us */
} VmmStart;

/* Stable name for JSON ("running"). */
const char *vmm_run_state_name(VmmRunState state);

typedef struct {
    char *kind;        /* "qemu" */
    char *version;     /* "7.2.22" */
    char *machine;     /* versioned machine type: "pc-i440fx-7.2" */
    char *accelerator; /* "tcg", "kvm" */
    guint vcpus;
    uint64_t memory_bytes;  /* main RAM as configured */
    GPtrArray *ram_regions; /* of RamRegion: all that must reach the other side */
    /* The guest may give memory back and rely on its being zero after that (free
     * page reporting, virtio-mem): that is not a write, and no tracker sees it. */
    gboolean discards_memory;
} VmmDescription;

void vmm_description_free(VmmDescription *description);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmmDescription, vmm_description_free)

/* A file or device that holds what a disk has, or a file that the VMM loads into
 * the guest when it starts. */
typedef struct {
    char *device; /* the guest's, for messages: "virtio-blk-pci at pci.0 05.0"; or the
                     VMM's option: "-kernel" */
    char *file;   /* as the VMM names it */
    char *path;   /* how this process reaches it; NULL where it is not of this host (a URL) */
    gboolean read_only;
    gboolean loaded; /* read at the VMM's start, and not since */
} VmmImage;

void vmm_image_free(VmmImage *image);

/* An image file of a disk, as far as is needed to make it at another host. */
typedef struct {
    char *file;               /* as the VMM names it */
    char *path;               /* how this process reaches it */
    char *format;             /* "raw", "qcow2" */
    uint64_t bytes;           /* size of the disk in it */
    uint64_t file_bytes;      /* length of the file */
    uint64_t allocated_bytes; /* of the host's storage */
    json_t *options;          /* how it was made, in the driver's own form; NULL: nothing to tell */
} VmmDiskFile;

void vmm_disk_file_free(VmmDiskFile *file);

/* A drive of the machine that has a medium. */
typedef struct {
    char *id; /* as its user named it: -drive id=, -device id=, the node's name; else a QOM path */
    char *device; /* as VmmImage.device */
    char *node;   /* at its root, in the driver's own form */
    gboolean read_only;
    gboolean flash;       /* firmware or its variables: its content is guest memory, too */
    gboolean passthrough; /* the guest sends commands to the device behind it that the VMM does not
                             understand, writes among them */
    gboolean shared;      /* its user lets others write to it at the same time */
    char *obstacle;       /* why it cannot be copied ("qcow2 with encryption"), or NULL */
    GPtrArray *files; /* of VmmDiskFile: the image, then the backing files below it, the next one
                         below each; empty where *obstacle* says that they are not files */
} VmmDisk;

void vmm_disk_free(VmmDisk *disk);

/* A copy of a disk that is being made, by the VMM, while the guest runs. */
typedef enum {
    VMM_COPY_RUNNING, /* the bulk of it is under way */
    VMM_COPY_READY,   /* the bulk is done; what the guest writes follows */
    VMM_COPY_IN_SYNC, /* the same, and each write of the guest ends only when the copy has it */
    VMM_COPY_FAILED,
} VmmCopyState;

typedef struct {
    const char *name;    /* unique on this host: of the attempt and the disk */
    const char *node;    /* VmmDisk.node */
    uint64_t bytes;      /* size of the disk */
    const char *address; /* abstract Unix socket of an NBD server that takes it */
    const char *export_name;
    gboolean top; /* only what is in the topmost image, not in its backing files */
} VmmCopy;

/* Names of bitmaps (and of exports): of what has changed since an image was saved, and for a while only. */
#define VMM_BITMAP_PREFIX "vmferry-saved-"
#define VMM_CHANGES_PREFIX "vmferry-changes-"

/* What has changed of a disk, to be read while the guest runs on. */
typedef struct {
    const char *node;  /* VmmDisk.node */
    const char *name;  /* of the export; begins with VMM_CHANGES_PREFIX */
    const char *since; /* the bitmap that says what has changed … */
    gboolean keeps;    /* … and that goes on; else it ends, and has what changed up to now */
    const char *next;  /* a bitmap that begins no later than that; NULL: none */
} VmmChanges;

/* A disk whose writes are written to an NBD server, too, before the guest sees them completed. */
typedef enum {
    VMM_TAP_ACTIVE, /* the server has all that the guest has written since the start */
    VMM_TAP_BROKEN, /* it lacks something; what, the VMM knows, and a server can be sent it */
    VMM_TAP_ENDED,  /* by another program */
} VmmTapState;

typedef struct {
    const char *name;    /* unique on this host: of the attempt and the disk */
    const char *node;    /* VmmDisk.node */
    uint64_t bytes;      /* size of the disk */
    const char *address; /* abstract Unix socket of the NBD server (disk/tap_sink.h) */
    const char *export_name;
} VmmTap;

/* An image above a disk's own that takes what is written, until it is decided whether that is to
 * stay. */
typedef struct {
    const char *name; /* unique within the VMM, at most 31 characters */
    const char *node; /* VmmDisk.node */
    uint64_t bytes;   /* size of the disk */
    const char *path; /* an empty qcow2 image of that size, as the VMM names it */
} VmmOverlay;

/* Disks that are read past the host's page cache: the host's kernel pins guest
 * pages for the time of a request, and trackers do not see what it writes
 * (memory/tracker.h). */
typedef struct {
    gboolean in_use;
    /* Requests of all disks that have ended, and the time they took together. */
    uint64_t operations;
    double total_ms;
    double slowest_ms; /* the mean of the slowest disk so far */
} VmmDirectIo;

/* What all disks of a machine have done since they were there. */
typedef struct {
    uint64_t read_bytes, written_bytes, flushes;
} VmmDiskCounters;

/* What the device state is saved for. */
typedef enum {
    /* The guest goes on elsewhere: the locks on its disk images are released, too. */
    VMM_SAVE_SWITCHOVER,
    /* The guest goes on here: it keeps its disk images and simply continues. */
    VMM_SAVE_CHECKPOINT,
} VmmSavePurpose;

/* A network card of the machine. */
typedef struct {
    char *
        id; /* of its back end, in the driver's own form ("net0"); NULL: it is connected to nothing,
                 and has no output */
    char *device;   /* as VmmImage.device */
    char *obstacle; /* why its output cannot be held ("multiqueue is not supported"), or NULL */
} VmmNic;

void vmm_nic_free(VmmNic *nic);

/* What a network card sends is handed to us, and sent when we give it back. */
typedef struct {
    const char *name; /* unique within the VMM: at most 32 letters, digits, '-' and '_' */
    const char *nic;  /* VmmNic.id */
} VmmHold;

/* Our ends of a hold: stream sockets, in blocking mode. */
typedef struct {
    int sent; /* what the guest sends is read here, in the frames of net/packet_stream.h */
    int back; /* the same frames are written here, to be sent */
} VmmHoldEnds;

typedef struct Vmm Vmm;
typedef struct VmmIdentity VmmIdentity; /* vmm_driver.h */

/* The core table: what each driver has; the functions below say what each entry does. */
typedef struct {
    const char *kind; /* the driver's: "qemu" */
    void (*free)(Vmm *vmm);
    pid_t (*get_pid)(Vmm *vmm);
    gboolean (*is_same_process)(Vmm *vmm); /* that pid's, still */
    VmmIdentity *(*get_identity)(Vmm *vmm);
    gboolean (*get_run_state)(Vmm *vmm, VmmRunState *ret, GError **error);
    gboolean (*ask_run_state)(Vmm *vmm, guint timeout_ms, VmmRunState *ret, GError **error);
    VmmDescription *(*describe)(Vmm *vmm, GError **error);
    gboolean (*check_movable)(Vmm *vmm, GError **error);
    GArray *(*get_vcpu_threads)(Vmm *vmm, GError **error);
    gboolean (*check_turns)(Vmm *vmm, GError **error);
    json_t *(*read_machine)(Vmm *vmm, char *const *original, char ***ret_line, GError **error);
    gboolean (*check_unchanged)(Vmm *vmm, json_t *before, GError **error);
    gboolean (*match_machine)(Vmm *vmm, const char *type, json_t *machine, GError **error);
    gboolean (*pause)(Vmm *vmm, gboolean *ret_was_running, GError **error);
    gboolean (*check_paused)(Vmm *vmm, GError **error);
    ProcessIdentity *(*get_process)(Vmm *vmm, GError **error);
    gboolean (*resume)(Vmm *vmm, GError **error);
    VmmStart (*get_start)(Vmm *vmm);
    gboolean (*get_resume_action)(Vmm *vmm, GuardAction *ret, GError **error);
    gboolean (*get_pause_action)(Vmm *vmm, GuardAction *ret, GError **error);
    GBytes *(*save_device_state)(Vmm *vmm, VmmSavePurpose purpose, GError **error);
    VmmCheckpoint *(*open_checkpoint)(Vmm *vmm, GError **error);      /* NULL: it takes none */
    GBytes *(*look)(Vmm *vmm, double *ret_paused_ms, GError **error); /* NULL: by a checkpoint */
    gboolean (*open_incoming)(Vmm *vmm, const char *machine, const GPtrArray *regions,
                              GError **error);
    gboolean (*load_device_state)(Vmm *vmm, GBytes *state, GError **error);
    char *(*describe_end)(Vmm *vmm);
    gboolean (*was_shut_down)(Vmm *vmm);
    gboolean (*stay_at_shutdown)(Vmm *vmm, gboolean stays, GError **error);
    gboolean (*announce)(Vmm *vmm, GError **error);
    gboolean (*give_up_resources)(Vmm *vmm, GError **error); /* may be NULL */
    gboolean (*quit_gently)(Vmm *vmm, GError **error);
    gboolean (*quit)(Vmm *vmm, GError **error);
    char *(*get_stderr_tail)(Vmm *vmm);
} VmmOps;

/* The disks: their images, and the I/O to them. */
typedef struct {
    GPtrArray *(*list_images)(Vmm *vmm, json_t *source, GError **error);
    gboolean (*check_writable)(Vmm *vmm, const VmmImage *image, GError **error);
    gboolean (*take_images)(Vmm *vmm, GError **error);
    gboolean (*get_direct_io)(Vmm *vmm, VmmDirectIo *ret, GError **error);
    gboolean (*ask_disk_counters)(Vmm *vmm, guint timeout_ms, VmmDiskCounters *ret, GError **error);
    gboolean (*drain)(Vmm *vmm, GError **error);
    GPtrArray *(*list_disks)(Vmm *vmm, GError **error);
    gboolean (*start_copy)(Vmm *vmm, const VmmCopy *copy, GError **error);
    gboolean (*get_copy)(Vmm *vmm, const char *name, VmmCopyState *ret, GError **error);
    gboolean (*sync_copy)(Vmm *vmm, const char *name, GError **error);
    gboolean (*hold_copy)(Vmm *vmm, const char *name, gboolean held, GError **error);
    gboolean (*finish_copy)(Vmm *vmm, const char *name, GError **error);
    gboolean (*abort_copy)(Vmm *vmm, const char *name, GError **error);
    gboolean (*begin_bitmap)(Vmm *vmm, const char *node, const char *name, GError **error);
    gboolean (*remove_bitmap)(Vmm *vmm, const char *node, const char *name, GError **error);
    GPtrArray *(*list_bitmaps)(Vmm *vmm, const char *node, GError **error);
    gboolean (*start_exports)(Vmm *vmm, int listener, GError **error);
    char *(*export_changes)(Vmm *vmm, const VmmChanges *changes, GError **error);
    gboolean (*end_exports)(Vmm *vmm, GError **error);
    gboolean (*start_tap)(Vmm *vmm, const VmmTap *tap, GError **error);
    gboolean (*get_tap)(Vmm *vmm, const char *name, VmmTapState *ret, GError **error);
    gboolean (*resync_tap)(Vmm *vmm, const char *name, gboolean *ret_done, GError **error);
    gboolean (*stop_tap)(Vmm *vmm, const char *name, GError **error);
    gboolean (*check_overlay)(Vmm *vmm, const VmmOverlay *overlay, GError **error);
    gboolean (*begin_overlay)(Vmm *vmm, const VmmOverlay *overlay, GError **error);
    gboolean (*commit_overlay)(Vmm *vmm, const char *name, gboolean *ret_done, GError **error);
} VmmBlockOps;

/* The balloon. */
typedef struct {
    gboolean (*get)(Vmm *vmm, uint64_t *ret_bytes, GError **error);
    gboolean (*set)(Vmm *vmm, uint64_t bytes, GError **error);
    gboolean (*get_set_action)(Vmm *vmm, uint64_t bytes, GuardAction *ret, GError **error);
    gboolean (*watch_statistics)(Vmm *vmm, guint seconds, guint *ret_before, GError **error);
    gboolean (*get_free_memory)(Vmm *vmm, uint64_t *ret_free_bytes, uint64_t *ret_updated,
                                GError **error);
} VmmBalloonOps;

/* The network cards. */
typedef struct {
    GPtrArray *(*list_nics)(Vmm *vmm, GError **error);
    gboolean (*begin_hold)(Vmm *vmm, const VmmHold *hold, VmmHoldEnds *ret, GError **error);
    gboolean (*end_hold)(Vmm *vmm, const char *name, GError **error);
    int (*open_tap_interface)(Vmm *vmm, const char *nic, GError **error);
    json_t *(*plan_new_macs)(Vmm *vmm, GError **error);
    gboolean (*renew_macs)(Vmm *vmm, json_t *plan, gboolean *ret_done, GError **error);
} VmmNetOps;

/* The agent in the guest. */
typedef struct {
    gboolean (*set_clock)(Vmm *vmm, gboolean (*gives_up)(gpointer user), gpointer user,
                          GError **error);
} VmmAgentOps;

/* The neutral form, in which a machine goes to a VMM of another kind. */
typedef struct {
    gboolean only; /* the driver has no other form */
    MachineDescription *(*describe)(Vmm *vmm, json_t *machine, GError **error);
    GPtrArray *(*list_regions)(Vmm *vmm, const VmmDescription *description, GError **error);
    GBytes *(*save)(Vmm *vmm, VmmSavePurpose purpose, const MachineDescription *machine,
                    GError **error);
} VmmNeutralOps;

/* Drivers embed this as their first member. */
struct Vmm {
    const VmmOps *ops;
    const VmmBlockOps *block;     /* NULL: the driver knows nothing of disks */
    const VmmBalloonOps *balloon; /* NULL: the driver knows no balloon */
    const VmmNetOps *net;         /* NULL: the driver knows nothing of network cards */
    const VmmAgentOps *agent;     /* NULL: the driver knows no agents in guests */
    const VmmNeutralOps *neutral; /* NULL: the driver knows no neutral form */
};

/* Closes the control connection; the process lives on.  NULL-safe. */
void vmm_free(Vmm *vmm);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Vmm, vmm_free)

pid_t vmm_get_pid(Vmm *vmm);
gboolean vmm_get_run_state(Vmm *vmm, VmmRunState *ret, GError **error);

/* The same, where no answer within *timeout_ms* is one: for who has another way. */
gboolean vmm_ask_run_state(Vmm *vmm, guint timeout_ms, VmmRunState *ret, GError **error);

/* FALSE with *error* where the VMM's process has ended, whoever has its pid now.
 * A caller that has opened something by the pid (a descriptor, a mapping, a
 * tracer) asks afterwards: TRUE means that the right process was opened. */
gboolean vmm_check_process(Vmm *vmm, GError **error);

/* How to find this VMM again after a restart of the agent (vmm_driver.h); free
 * with vmm_identity_free(). */
VmmIdentity *vmm_get_identity(Vmm *vmm);

/* What this machine is made of.  One that was launched as incoming can be
 * described once it is opened.  Free the result with vmm_description_free(). */
VmmDescription *vmm_describe(Vmm *vmm, GError **error);

/* FALSE with the VMM's own reasons where something (a device, a blocker, an
 * external DMA writer) forbids a move. */
gboolean vmm_check_movable(Vmm *vmm, GError **error);

/* The threads that run its vCPUs: a GArray of pid_t, each once, at least one;
 * free with g_array_unref(). */
GArray *vmm_get_vcpu_threads(Vmm *vmm, GError **error);

/* FALSE with the reason where the guest must not be paused and resumed again and
 * again (after a single pause vmm_resume() repairs what a pause may break). */
gboolean vmm_check_turns(Vmm *vmm, GError **error);

/* Who runs its process and what confines it, read just now.  Free with
 * process_identity_free(). */
ProcessIdentity *vmm_get_process(Vmm *vmm, GError **error);

/*
 * The live machine: what there is now, which is not what the command line said
 * once (disks, cards, memory and vCPUs come and go, images change).
 */

/* The source's side.  *original* is the command line as it came to this host,
 * before its map rules.  Returns the machine in the driver's own form (free with
 * json_decref()), and in *ret_line the command line that makes it at another
 * host (free with g_strfreev()).  Fails with the thing's name where something
 * cannot be carried over, or is under way that a move would break. */
json_t *vmm_read_machine(Vmm *vmm, char *const *original, char ***ret_line, GError **error);

/* Key of a machine with what its vCPUs can do; a destination does not compare
 * that where the key is missing. */
#define VMM_MACHINE_CPU "cpu"

/* Later: FALSE with what has changed since vmm_read_machine(), or is under way. */
gboolean vmm_check_unchanged(Vmm *vmm, json_t *before, GError **error);

/* The destination's side: brings an incoming machine to what a command line
 * does not say (I/O limits), and proves that it is the one that was told, of
 * that machine type; FALSE with what differs. */
gboolean vmm_match_machine(Vmm *vmm, const char *type, json_t *machine, GError **error);

/* Stops all vCPUs; returns once they have stopped and I/O is drained.
 * *ret_was_running (may be NULL): FALSE where it was paused already, so that
 * it is not ours to resume. */
gboolean vmm_pause(Vmm *vmm, gboolean *ret_was_running, GError **error);

/* FALSE where the machine is not as vmm_pause() left it: another program resumed it
 * (it may be paused again), ended it, or began to migrate it. */
gboolean vmm_check_paused(Vmm *vmm, GError **error);

/* Runs a paused machine, and takes the locks on its images (back) where they are
 * released.  REFUSED where the VMM's own migration has moved the guest. */
gboolean vmm_resume(Vmm *vmm, GError **error);

/* The on-death action (guard/guard.h) that does what vmm_resume() does, as far as
 * that can be done without us; one without steps where nothing can (Bochs): the machine then waits
 * for a restarted agent.  INVALID where the VMM's control socket is not
 * known or its path is too long. */
gboolean vmm_get_resume_action(Vmm *vmm, GuardAction *ret, GError **error);

/* The action of a guard's deadline (guard_arm_deadline()): pauses a machine that runs; of one that is
 * paused nothing is left to be done.  INVALID as above. */
gboolean vmm_get_pause_action(Vmm *vmm, GuardAction *ret, GError **error);

/* Of a machine that vmm_load_device_state() has loaded, after a vmm_resume() that
 * failed: what became of it. */
VmmStart vmm_get_start(Vmm *vmm);

/* Takes the state of all devices and vCPUs, without RAM, from a paused
 * machine, in a form that vmm_load_device_state() of the same driver takes.
 * SWITCHOVER releases the locks on disk images, so that the destination can take
 * them (vmm_resume() takes them back), and is possible once in a pause;
 * CHECKPOINT leaves the machine as it is, and can be repeated.  Both fail where
 * the images are released already.  Free the result with g_bytes_unref(). */
GBytes *vmm_save_device_state(Vmm *vmm, VmmSavePurpose purpose, GError **error);

/* For checkpoints of the running machine (vmm_checkpoint.h), which borrow *vmm*.  vmm_check_turns()
 * says whether it bears them.  UNSUPPORTED where the VMM takes none. */
VmmCheckpoint *vmm_open_checkpoint(Vmm *vmm, GError **error);

/* The state of a machine that goes on as it did, whatever fails; one that was paused stays so.  What the driver's read_state()
 * takes; free with g_bytes_unref().  *ret_paused_ms is for how long it stood.  REFUSED where it bears no such pauses. */
GBytes *vmm_look(Vmm *vmm, double *ret_paused_ms, GError **error);

/* Makes a machine that was launched as incoming ready to be written to: its RAM
 * becomes that of the source, whose machine type and regions (of RamRegion, with
 * name and bytes) these are.  REFUSED where they do not fit.  Afterwards the
 * first page of each region holds anything.  If the machine is not loaded, its
 * process ends with this Vmm. */
gboolean vmm_open_incoming(Vmm *vmm, const char *machine, const GPtrArray *regions, GError **error);

/* Loads such a state into a machine that was opened so.  RAM must be complete
 * before: devices look into it.  The machine is paused afterwards and holds no
 * image locks until vmm_resume(). */
gboolean vmm_load_device_state(Vmm *vmm, GBytes *state, GError **error);

/* How a machine that has ENDED or is GONE came to its end, as far as it is known
 * ("the guest powered off").  Free with g_free(). */
char *vmm_describe_end(Vmm *vmm);

/* TRUE where the machine was shut down in order, by its guest or a user: nobody misses it. */
gboolean vmm_was_shut_down(Vmm *vmm);

/* Whether the process stays when its guest shuts down, until it is ended; FALSE: as it was started to. */
gboolean vmm_stay_at_shutdown(Vmm *vmm, gboolean stays, GError **error);

/* Makes the guest's network cards tell the switches where they are now. */
gboolean vmm_announce(Vmm *vmm, GError **error);

/* Takes from a paused machine whatever only one VMM on a host can have (tap devices, ports, sockets,
 * images, locks), so that another can be launched in its place.  It keeps its memory, and its
 * control connection to us; it is not resumed any more (REFUSED).  Can be repeated; on failure some
 * of it is taken. */
gboolean vmm_give_up_resources(Vmm *vmm, GError **error);

/* Tells the process to end, and returns when it is gone.  FALSE: it is not, and
 * nothing else was done to it. */
gboolean vmm_quit_gently(Vmm *vmm, GError **error);

/* Ends the process, gently first.  Returns when it is gone. */
gboolean vmm_quit(Vmm *vmm, GError **error);

/* The last lines the process wrote to its standard error, or NULL where they
 * are not known.  Free with g_free(). */
char *vmm_get_stderr_tail(Vmm *vmm);

/*
 * Disks (VmmBlockOps).
 */

/* The images below the machine's disks, then the files that the VMM loaded into the
 * guest and that do not move with its memory; of VmmImage, in one order on both
 * sides of a move.  *source* is the machine that vmm_read_machine() told; NULL, of one that comes in the neutral
 * form: in an order of its own.  Left
 * out is what the machine carries in its memory (flash, firmware).  Fails where a
 * path does not lead to the file that the VMM has open, or to one that has
 * changed since the VMM loaded it. */
GPtrArray *vmm_list_images(Vmm *vmm, json_t *source, GError **error);

/* FALSE where the VMM's process may not write to this image (a read-only mount,
 * permissions). */
gboolean vmm_check_writable(Vmm *vmm, const VmmImage *image, GError **error);

/* Takes the locks on the disk images of a paused machine that does not hold
 * them (after a state was saved or loaded), as vmm_resume() would, without
 * running it. */
gboolean vmm_take_images(Vmm *vmm, GError **error);

/* Direct I/O of the machine's disks, as it is now. */
gboolean vmm_get_direct_io(Vmm *vmm, VmmDirectIo *ret, GError **error);

/* Waits for no other operation on this Vmm, and holds none up but for the moment that the VMM takes to
 * answer; no answer within *timeout_ms* is an error. */
gboolean vmm_ask_disk_counters(Vmm *vmm, guint timeout_ms, VmmDiskCounters *ret, GError **error);

/* Returns when all I/O of its disks that was submitted before has ended, TRUE
 * only where that is certain.  The vCPUs are not stopped, but one that needs the
 * VMM's main loop waits, for as long as the slowest request takes. */
gboolean vmm_drain(Vmm *vmm, GError **error);

/*
 * Copies of disks (VmmBlockOps).  The VMM reads a disk and what its guest writes to it meanwhile,
 * and writes both to an NBD server.  One copy of a disk at a time.  While a copy is
 * under way vmm_read_machine(), vmm_check_unchanged() and vmm_list_disks() tell the machine as it
 * is without it.
 */

/* Of VmmDisk, in one order; free with g_ptr_array_unref(). */
GPtrArray *vmm_list_disks(Vmm *vmm, GError **error);

/* Begins a copy.  The guest is not paused by it, and loses no write to it however it goes.
 * UNSUPPORTED where this VMM can begin a *top* copy of a paused guest only. */
gboolean vmm_start_copy(Vmm *vmm, const VmmCopy *copy, GError **error);

/* TRUE with FAILED and *error* where it has failed by itself; FALSE where the VMM does not
 * answer. */
gboolean vmm_get_copy(Vmm *vmm, const char *name, VmmCopyState *ret, GError **error);

/* Makes a copy come IN_SYNC, for a guest that writes without end: one that is READY, or RUNNING
 * past its first look at what there is to copy (BUSY before). */
gboolean vmm_sync_copy(Vmm *vmm, const char *name, GError **error);

/* As good as nothing is copied until it is held no more, but what the guest writes where its writes wait. */
gboolean vmm_hold_copy(Vmm *vmm, const char *name, gboolean held, GError **error);

/* The machine is paused: ends the copy.  TRUE is the proof that the server was sent all of the
 * disk; nothing of the copy is left then. */
gboolean vmm_finish_copy(Vmm *vmm, const char *name, GError **error);

/* Ends it in whatever state it is, without a trace; the NBD server must have closed its connection
 * before.  TRUE also where there is none. */
gboolean vmm_abort_copy(Vmm *vmm, const char *name, GError **error);

/*
 * Changes of disks (VmmBlockOps): the VMM notes in bitmaps what the guest writes to, in pieces of 64 KiB, without any
 * cost to the guest worth mentioning, and as long as it lives; and shows a disk, with such a bitmap, to who reads it by
 * NBD while the guest goes on.  Nothing of the guest waits for the reader.
 */

/* What changes from now on; a guest that is to be paused for an exact moment is so already. */
gboolean vmm_begin_bitmap(Vmm *vmm, const char *node, const char *name, GError **error);
gboolean vmm_remove_bitmap(Vmm *vmm, const char *node, const char *name, GError **error);
/* Names that begin with VMM_BITMAP_PREFIX, ascending, of bitmaps that have seen all since they began; free with
 * g_ptr_array_unref(). */
GPtrArray *vmm_list_bitmaps(Vmm *vmm, const char *node, GError **error);

/* Serves exports on a socket that listens (borrowed).  Fails where the VMM serves others already. */
gboolean vmm_start_exports(Vmm *vmm, int listener, GError **error);
/* Exports the disk as it is at any time, read-only, with what has changed of it up to this moment; the name of its NBD
 * metadata context for that (bit 0: has changed), free with g_free().  The bitmap *since* (with *keeps*: one called
 * *name*) is to be removed once the export has ended. */
char *vmm_export_changes(Vmm *vmm, const VmmChanges *changes, GError **error);
/* All of them. */
gboolean vmm_end_exports(Vmm *vmm, GError **error);

/*
 * Taps of disks (VmmBlockOps).  Each write and write of zeros of the guest is sent to an NBD server
 * when the disk has it, and before the guest is told that it has ended.  A flush is sent at the
 * start, and as the last thing of each vmm_pause(): the mark of an epoch.
 * The guest's own flushes are not sent.  Its discards are neither sent nor done: a tapped image does
 * not shrink.  A disk has one tap or one copy at a time; it is told without its tap, as with copies.
 * A tapped disk cannot be resized.
 */

/* The machine must be paused: from its vmm_resume() on the server gets everything.  BUSY where
 * another program's block job works on the disk. */
gboolean vmm_start_tap(Vmm *vmm, const VmmTap *tap, GError **error);

/* TRUE with BROKEN or ENDED and *error*, which says why; FALSE where the VMM does not answer. */
gboolean vmm_get_tap(Vmm *vmm, const char *name, VmmTapState *ret, GError **error);

/* Of a BROKEN tap, whose server is there again at the same address: sends it what it lacks, in
 * pieces of 64 KiB and in any order.  Call it again and again, every 10 ms say, until *ret_done: it
 * does not wait, and the VMM may take up to 16 s until it finds the server, the longer the server was
 * gone.  What the servers were told in all makes the disk again from the next mark on.  The guest may
 * run. */
gboolean vmm_resync_tap(Vmm *vmm, const char *name, gboolean *ret_done, GError **error);

/* Ends it in whatever state it is, without a trace, the guest running or not.  The server answers
 * still, or has closed its connection.  TRUE also where there is none. */
gboolean vmm_stop_tap(Vmm *vmm, const char *name, GError **error);

/*
 * Overlays (VmmBlockOps): writes that can be revoked.  While one is there it is part of the live
 * machine: vmm_list_disks() and the others tell it.  To revoke, end the VMM and delete the file: the
 * disk's own image is as it was at the beginning.  (Its length in bytes too: the VMM opened it to
 * read only.)
 */

/* The VMM can open the overlay's file (its user and what confines it allow that), and nothing else
 * is done: also of a machine that waits for its state. */
gboolean vmm_check_overlay(Vmm *vmm, const VmmOverlay *overlay, GError **error);

/* From now on what the guest writes goes to the overlay.  The guest may run. */
gboolean vmm_begin_overlay(Vmm *vmm, const VmmOverlay *overlay, GError **error);

/* What the overlay has goes to the disk's own image.  Call it until *ret_done: it does not wait for
 * the bulk of that, while which the guest may run.  Then the VMM is as it was before the overlay, and
 * its file can be deleted.  After a failure the overlay is in use still, and the next call tries
 * again.  An agent that was restarted goes on by calling it. */
gboolean vmm_commit_overlay(Vmm *vmm, const char *name, gboolean *ret_done, GError **error);

/*
 * The balloon (VmmBalloonOps): a device whose driver in the guest takes memory
 * from the guest and gives it to the VMM, or lets it go again.
 * VMFERRY_ERROR_NOT_FOUND where the machine has none.
 */

/* What the balloon leaves to the guest now, in bytes. */
gboolean vmm_get_balloon(Vmm *vmm, uint64_t *ret_bytes, GError **error);

/* Asks the guest to come to this size; returns at once, and the guest does so
 * when it likes (a paused one when it runs again). */
gboolean vmm_set_balloon(Vmm *vmm, uint64_t bytes, GError **error);

/* The on-death action (guard/guard.h) that does the same. */
gboolean vmm_get_set_balloon_action(Vmm *vmm, uint64_t bytes, GuardAction *ret, GError **error);

/* Makes the guest report statistics of its memory every so many seconds, from now
 * on (0: never); *ret_before is the interval before. */
gboolean vmm_watch_statistics(Vmm *vmm, guint seconds, guint *ret_before, GError **error);

/* What the guest last reported as free, and when (seconds of this host's clock);
 * 0 for what it never reported. */
gboolean vmm_get_free_memory(Vmm *vmm, uint64_t *ret_free_bytes, uint64_t *ret_updated,
                             GError **error);

/*
 * Holding output (VmmNetOps): each packet that the guest sends through a card is handed to us, and
 * goes to the network when we give it back (net/output_buffer.h is who does so).  What the guest
 * receives is not touched.  While a hold is there vmm_read_machine(), vmm_check_unchanged() and the
 * others tell the machine as it is without it.
 *
 * When we die, or close our ends, the guest runs on, and what it sends is lost as if the cable were
 * out: nothing leaves that nobody has released, until the hold is ended or begun anew.  (QEMU
 * writes a line to its log for each packet.)
 */

/* Of VmmNic, in one order; free with g_ptr_array_unref(). */
GPtrArray *vmm_list_nics(Vmm *vmm, GError **error);

/* From now on the card's output comes to us.  The machine runs, or is paused, or is an incoming one,
 * loaded or not.  (5 to 10 ms a card; before the load it is no part of the pause.)  Read at once, and
 * go on reading: the guest stands still while it waits to write.  Where a hold of this name has
 * been left by somebody who died, a new one takes its place, and no packet passes in between; EXISTS
 * where that one is alive.  Each *ret* is the caller's to close. */
gboolean vmm_begin_hold(Vmm *vmm, const VmmHold *hold, VmmHoldEnds *ret, GError **error);

/* Takes it out in whatever state it is, without a trace; TRUE also where there is none.  In order:
 * the guest's packets go straight to the network from now on; *sent* ends; what was read is given
 * back, all of it, and then *back* is shut down for writing, and not yet closed; the VMM has that
 * all when this returns (and sends it, where the guest is paused, when it runs again).  Nothing is
 * lost so, but packets that pass meanwhile may overtake others, unless the guest is paused.  Where
 * *back* is not shut down within VMM_HOLD_END_MS what is under way is lost. */
gboolean vmm_end_hold(Vmm *vmm, const char *name, GError **error);
#define VMM_HOLD_END_MS 2000

/* A descriptor of the tap device to which the card (VmmNic.id) sends, for what the VMM cannot hold
 * (net/tap_plug.h); -1 with UNSUPPORTED where it has none.  Close it soon: the interface stays as long as
 * it is open. */
int vmm_open_tap_interface(Vmm *vmm, const char *nic, GError **error);

/*
 * New addresses (VmmNetOps), of a machine that goes on from a copy of itself: each network card is unplugged, and another
 * one like it is plugged, with a random address that is locally administered.  VmmDriver.check_new_macs says whether all
 * cards bear that.
 */

/* Before the machine runs: cuts its cards off, so that nothing passes under the old addresses, and plans the new ones.
 * An array of objects of the driver's own form, of which "netdev", "mac_before" and "mac" are for users; free with
 * json_decref(). */
json_t *vmm_plan_new_macs(Vmm *vmm, GError **error);

/* Does what can be done of that plan just now.  The machine runs: its guest lets each card go when it likes.  Call it until
 * *ret_done, some times a second; also by an agent that was restarted.  A card that is not let go of stays cut off. */
gboolean vmm_renew_macs(Vmm *vmm, json_t *plan, gboolean *ret_done, GError **error);

/*
 * The agent in the guest (VmmAgentOps): a program there that does what it is asked to, where there is one.
 * VmmDriver.check_agent says whether there is a channel to it.
 */

/* Sets the guest's wall clock to this host's.  TIMEOUT where nobody answers, for 10 s; *gives_up* is asked meanwhile
 * (CANCELLED).  Holds no other operation up. */
gboolean vmm_set_clock(Vmm *vmm, gboolean (*gives_up)(gpointer user), gpointer user,
                       GError **error);

/*
 * The neutral form (VmmNeutralOps): of a machine that goes on in a VMM of another kind.  What goes is main RAM, and the VGA's
 * memory where there is a VGA, in regions of these names; the state is a neutral state (state/tree.h), encoded.
 * The other side is an incoming launch with VmmLaunch.neutral.
 */
#define VMM_NEUTRAL_RAM "ram"
#define VMM_NEUTRAL_VIDEO                                                                          \
    "video" /* the four planes of the VGA's own modes: byte by byte, side by side */

/* What the machine is made of; *machine* is what vmm_read_machine() told.  What has no neutral form is in it, by name (VmmDriver.plan
 * refuses it); UNSUPPORTED where even that cannot be told.  Free with machine_description_free(). */
MachineDescription *vmm_describe_neutral(Vmm *vmm, json_t *machine, GError **error);

/* Of its RAM, as vmm_describe() told, what goes: an array of RamRegion with the names above; free with
 * g_ptr_array_unref(). */
GPtrArray *vmm_list_neutral_regions(Vmm *vmm, const VmmDescription *description, GError **error);

/* As vmm_save_device_state(), in the neutral form, with what *machine* (vmm_describe_neutral(); NULL: nothing) says of memory and
 * disks.  BUSY: something is under way at this very moment that has no
 * neutral form; let the machine run for a millisecond, and try again. */
GBytes *vmm_save_neutral(Vmm *vmm, VmmSavePurpose purpose, const MachineDescription *machine,
                         GError **error);
