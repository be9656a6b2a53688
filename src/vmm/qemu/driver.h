/* What the files of the QEMU driver share. */
#pragma once

#include "vmm/qemu/copy_traces.h"
#include "vmm/qemu/qemu.h"
#include "vmm/qemu/qmp.h"
#include "vmm/qemu/ram_blocks.h"
#include "vmm/vmm_driver.h"

#define QEMU_KIND "qemu"
#define QEMU_PROGRAMS "QEMU (a program whose name holds \"qemu\", or is \"kvm\")"

/* Time-outs of commands that wait for I/O: draining at `stop`, opening and
 * locking images at `cont`, reading a state. */
#define QEMU_STOP_MS 30000
#define QEMU_CONT_MS 30000
#define QEMU_STATE_MS 30000

/* How an incoming migration has ended, by QEMU's MIGRATION events. */
typedef enum { QEMU_ARRIVAL_OPEN, QEMU_ARRIVAL_COMPLETED, QEMU_ARRIVAL_FAILED } QemuArrival;

typedef struct QemuNeutral QemuNeutral; /* neutral.h */

typedef struct {
    Vmm base;
    GMutex lock;       /* serialises the operations */
    GMutex event_lock; /* guards arrival */
    GCond event_came;  /* arrival has changed, or a job, or the guest has stopped */
    pid_t pid;
    uint64_t start_time;
    char *qmp_path;          /* or where its libvirt is (vmm/libvirt/address.h) */
    char *log_path;          /* NULL: not ours to read */
    char **command_line;     /* clean: what a destination would start */
    char *working_directory; /* that it was started in, as it knows it */
    char **cgroups;          /* folders of control groups that were made for it, or NULL */
    Qmp *qmp;
    gboolean relayed;      /* no descriptors come through (relay.h) */
    gint images_released;  /* atomic; by a save or a load, until resumed */
    gboolean keeps_nodes;  /* it may not release all nodes by itself, see device_state.c */
    char *shutdown_reason; /* as its SHUTDOWN event says, or "guest-panic"; NULL: none came.
                              Guarded by event_lock. */
    gboolean shut_down;    /* a SHUTDOWN event came: one that has panicked may go on.  The same. */
    gint stops, resumes;   /* atomic: STOP and RESUME events so far */
    uint64_t stopped_ns;   /* atomic: when the last STOP event came */
    gint resumes_at_pause; /* *resumes* when we paused it last */
    gint job_changes;      /* atomic: JOB_STATUS_CHANGE events so far */
    gint asleep;           /* atomic: by a SUSPEND event, until it wakes up */
    gint gave_up;          /* atomic: it may not run any more, see give_up.h */
    gboolean loaded;       /* by us, through this very connection */
    int incoming_fd;       /* of an open incoming stream, or -1; see incoming.c */
    QemuArrival arrival;   /* of what comes through it */
    char *machine;         /* once asked for */
    GPtrArray *rules;      /* of VmmMapRule: what our command line was rewritten by */
    gboolean restored;     /* it was started for an image (VmmLaunch) */
    uint64_t unplugged_ns; /* when the guest was last asked to let its cards go; 0: never */
    uint64_t card_gone_ns; /* since when one of them is gone, and no other in its place; 0: none */
    GPtrArray *ram_blocks; /* of QemuRamBlock, as last described; NULL before */
    GPtrArray *copies;     /* of QemuCopy: copies and taps, begun here and not ended */
    QemuNeutral *neutral;  /* it waits for a machine in the neutral form; else NULL */
} QemuVmm;

/* Takes *qmp*; copies the rest. */
Vmm *qemu_vmm_new(pid_t pid, uint64_t start_time, const char *qmp_path, const char *log_path,
                  char *const *command_line, Qmp *qmp);
void qemu_vmm_free(Vmm *vmm);

/* Copies the rules that rewrote its command line; NULL: none. */
void qemu_vmm_set_rules(Vmm *vmm, const GPtrArray *rules);

/* For a guest that was paused before we connected: may its images be released? */
gboolean qemu_images_may_be_released(QemuVmm *qemu);

/* Where an operation failed because QEMU ended, says so, with its stderr tail. */
void qemu_vmm_add_exit_reason(QemuVmm *qemu, GError **error);

/* QEMU's own name of its run state ("postmigrate"); free with g_free(). */
char *qemu_query_status(Qmp *qmp, int timeout_ms, GError **error);
VmmRunState qemu_run_state_from_status(const char *status);

/* FALSE where QEMU's own migration is under way. */
gboolean qemu_check_no_migration(Qmp *qmp, GError **error);

/* FALSE with *error* where the guest is suspended to RAM: QEMU's device state does not carry
 * that, and 10.0 calls it "paused" once it was stopped. */
gboolean qemu_check_awake(QemuVmm *qemu, GError **error);

/* The operations of the table, each without the lock. */
gboolean qemu_pause(QemuVmm *qemu, gboolean *ret_was_running, GError **error);
gboolean qemu_check_paused(QemuVmm *qemu, GError **error);
gboolean qemu_take_images(QemuVmm *qemu, GError **error);
gboolean qemu_resume(QemuVmm *qemu, GError **error);
gboolean qemu_get_resume_action(QemuVmm *qemu, GuardAction *ret, GError **error);
gboolean qemu_get_pause_action(QemuVmm *qemu, GuardAction *ret, GError **error);
VmmStart qemu_get_start(QemuVmm *qemu);
gboolean qemu_check_writable(QemuVmm *qemu, const VmmImage *image, GError **error);
gboolean qemu_announce(QemuVmm *qemu, GError **error);
gboolean qemu_stay_at_shutdown(QemuVmm *qemu, gboolean stays, GError **error);
gboolean qemu_quit_gently(QemuVmm *qemu, GError **error);
gboolean qemu_quit(QemuVmm *qemu, GError **error);
GBytes *qemu_save_device_state(QemuVmm *qemu, VmmSavePurpose purpose, GError **error);
VmmCheckpoint *qemu_open_checkpoint(QemuVmm *qemu, GError **error);
gboolean qemu_open_incoming(QemuVmm *qemu, const char *machine, const GPtrArray *regions,
                            GError **error);
gboolean qemu_load_device_state(QemuVmm *qemu, GBytes *state, GError **error);
VmmDescription *qemu_describe(QemuVmm *qemu, GError **error);
gboolean qemu_check_movable(QemuVmm *qemu, GError **error);
GArray *qemu_get_vcpu_threads(QemuVmm *qemu, GError **error);
ProcessIdentity *qemu_get_process(QemuVmm *qemu, GError **error);
gboolean qemu_get_balloon(QemuVmm *qemu, uint64_t *ret_bytes, GError **error);
gboolean qemu_set_balloon(QemuVmm *qemu, uint64_t bytes, GError **error);
gboolean qemu_get_set_balloon_action(QemuVmm *qemu, uint64_t bytes, GuardAction *ret,
                                     GError **error);
gboolean qemu_watch_statistics(QemuVmm *qemu, guint seconds, guint *ret_before, GError **error);
gboolean qemu_get_direct_io(QemuVmm *qemu, VmmDirectIo *ret, GError **error);
gboolean qemu_ask_disk_counters(QemuVmm *qemu, guint timeout_ms, VmmDiskCounters *ret,
                                GError **error);
gboolean qemu_drain(QemuVmm *qemu, GError **error);
gboolean qemu_get_free_memory(QemuVmm *qemu, uint64_t *ret_free_bytes, uint64_t *ret_updated,
                              GError **error);

/* The bytes that QEMU saves, whatever it does just now. */
GBytes *qemu_take_stream(QemuVmm *qemu, VmmSavePurpose purpose, GError **error);

/* Makes QEMU's blocks as long as *regions*, finds them, and waits for the state from then on. */
gboolean qemu_open_stream(QemuVmm *qemu, const GPtrArray *regions, GError **error);

/* Saves the device state of a paused guest to *name*, as QEMU opens it. */
gboolean qemu_save_to_file(Qmp *qmp, const char *name, VmmSavePurpose purpose, GError **error);

/* Begins an on-death action: the steps that connect to QMP and make it ready for
 * commands, the same ones for each action. */
gboolean qemu_begin_action(QemuVmm *qemu, guint attempts, GuardAction *ret, GError **error);

/* Ends it: sends *command*, which has the id of the action, and waits for the answer. */
void qemu_end_action(GuardAction *action, const char *command);
#define QEMU_ACTION_ID "\"id\":\"guard\""

/* A QemuSettingsReader (live_line.h); *user* is the Qmp. */
json_t *qemu_read_settings(const char *path, const char *type, gpointer user, GError **error);

/* What vmm_read_machine(), vmm_check_unchanged() and vmm_match_machine() say;
 * *original* is the command line as it came (live_line.h). */
json_t *qemu_read_machine(QemuVmm *qemu, char *const *original, char ***ret_line, GError **error);
gboolean qemu_check_unchanged(QemuVmm *qemu, json_t *before, GError **error);
gboolean qemu_match_machine(QemuVmm *qemu, const char *type, json_t *object, GError **error);
/* FALSE with the names of what *source* (cpu_features.h; NULL: not known) has and the CPU here lacks. */
gboolean qemu_match_cpu(QemuVmm *qemu, json_t *source, GError **error);
GPtrArray *qemu_list_images(QemuVmm *qemu, json_t *source, GError **error);

/* vmm_describe_neutral(). */
MachineDescription *qemu_describe_neutral(QemuVmm *qemu, json_t *machine, GError **error);

/* See VmmDriver. */
MachineDescription *qemu_describe_saved(const VmmSavedMachine *saved, GError **error);
const char *qemu_find_neutral_region(const VmmSavedMachine *saved, const char *name,
                                     uint64_t bytes);

/* The path by which this process reaches a file that QEMU (*pid*) names and has open; NULL where
 * none leads to it (any more).  Free with g_free(). */
char *qemu_find_open_file(pid_t pid, const char *file);

/* Copies of disks. */
GPtrArray *qemu_list_disks(QemuVmm *qemu, GError **error);
gboolean qemu_start_copy(QemuVmm *qemu, const VmmCopy *wanted, GError **error);
gboolean qemu_get_copy(QemuVmm *qemu, const char *name, VmmCopyState *ret, GError **error);
gboolean qemu_sync_copy(QemuVmm *qemu, const char *name, GError **error);
gboolean qemu_hold_copy(QemuVmm *qemu, const char *name, gboolean held, GError **error);
gboolean qemu_finish_copy(QemuVmm *qemu, const char *name, GError **error);
gboolean qemu_abort_copy(QemuVmm *qemu, const char *name, GError **error);

/* Changes of disks. */
gboolean qemu_begin_bitmap(QemuVmm *qemu, const char *node, const char *name, GError **error);
gboolean qemu_remove_bitmap(QemuVmm *qemu, const char *node, const char *name, GError **error);
GPtrArray *qemu_list_bitmaps(QemuVmm *qemu, const char *node, GError **error);
gboolean qemu_start_exports(QemuVmm *qemu, int listener, GError **error);
char *qemu_export_changes(QemuVmm *qemu, const VmmChanges *changes, GError **error);
gboolean qemu_end_exports(QemuVmm *qemu, GError **error);
/* Removes what an agent that was killed left of them, but for bitmaps of images. */
void qemu_remove_left_changes(QemuVmm *qemu);

/* Cuts the copy's connection, so that a server that stalls holds up nothing.  Without the lock:
 * it may be an operation of another thread that hangs. */
void qemu_yank_copy(QemuVmm *qemu, const char *name);

/* Taps of disks, and overlays. */
gboolean qemu_start_tap(QemuVmm *qemu, const VmmTap *wanted, GError **error);
gboolean qemu_get_tap(QemuVmm *qemu, const char *name, VmmTapState *ret, GError **error);
gboolean qemu_resync_tap(QemuVmm *qemu, const char *name, gboolean *ret_done, GError **error);
gboolean qemu_stop_tap(QemuVmm *qemu, const char *name, GError **error);
gboolean qemu_check_overlay(QemuVmm *qemu, const VmmOverlay *overlay, GError **error);
gboolean qemu_begin_overlay(QemuVmm *qemu, const VmmOverlay *overlay, GError **error);
gboolean qemu_commit_overlay(QemuVmm *qemu, const char *name, gboolean *ret_done, GError **error);

/* Network cards. */
GPtrArray *qemu_list_nics(QemuVmm *qemu, GError **error);
gboolean qemu_begin_hold(QemuVmm *qemu, const VmmHold *wanted, VmmHoldEnds *ret, GError **error);
gboolean qemu_end_hold(QemuVmm *qemu, const char *name, GError **error);
json_t *qemu_plan_new_macs(QemuVmm *qemu, GError **error);
gboolean qemu_renew_macs(QemuVmm *qemu, json_t *plan, gboolean *ret_done, GError **error);
int qemu_open_tap_interface(QemuVmm *qemu, const char *id, GError **error);

/* Through the agent in the guest.  Without the lock: it takes long. */
gboolean qemu_set_clock(QemuVmm *qemu, gboolean (*gives_up)(gpointer user), gpointer user,
                        GError **error);

/* Removes what an agent that was killed left of its copies and taps, as far as that can be done. */
void qemu_remove_left_copies(QemuVmm *qemu);

/* A wrong socket must not make us steer another machine: refuses a QMP at
 * *where* that is not of this process. */
gboolean qemu_check_owner(Qmp *qmp, const char *where, pid_t pid, GError **error);

/* Relative paths of the process start there: the folder as it knows it, within
 * its own root.  Never NULL; free with g_free(). */
char *qemu_read_working_directory(pid_t pid);

/* Refuses a QEMU that has changed its root (-chroot) and cannot open its disk
 * images from there again. */
gboolean qemu_check_root(QemuVmm *qemu, char *const *argv, GError **error);

/* See VmmDescription.discards_memory. */
gboolean qemu_query_discards(Qmp *qmp, gboolean *ret, GError **error);

/* Takes the text of a balloon's "guest-stats"; 0 where the guest reports no
 * value. */
gboolean qemu_parse_statistics(const char *text, uint64_t *ret_free_bytes, uint64_t *ret_updated,
                               GError **error);

/* Takes the answers of query-named-block-nodes and query-blockstats. */
gboolean qemu_parse_direct_io(json_t *nodes, json_t *statistics, VmmDirectIo *ret, GError **error);

/* Refuses block drivers that pin all guest memory for good. */
gboolean qemu_check_pinning_drivers(Qmp *qmp, GError **error);

/* "10.0.2"; free with g_free(). */
char *qemu_query_version(Qmp *qmp, GError **error);

/* See vmm_check_turns(), and iothreads.h. */
gboolean qemu_check_turns(QemuVmm *qemu, GError **error);

/* After `cont`: gives the guest the interrupts again that QEMU may have lost
 * when it was paused (iothreads.h). */
void qemu_repeat_interrupts(QemuVmm *qemu);

/* The machine type without "-machine"; free with g_free(). */
char *qemu_get_machine(QemuVmm *qemu, GError **error);
gboolean qemu_check_machine_type(QemuVmm *qemu, const char *machine, GError **error);

/* What ram_blocks.h needs of a live QEMU; *user* of the reader is the pid. */
GPtrArray *qemu_query_ram_blocks(Qmp *qmp, GError **error);
QemuMappings *qemu_read_mappings(pid_t pid, GError **error);
gboolean qemu_read_memory(uint64_t address, void *buffer, size_t length, gpointer user,
                          GError **error);

/* A list of RamRegion: all that QEMU itself would migrate. */
GPtrArray *qemu_query_ram_regions(QemuVmm *qemu, GError **error);

/* Proves that the ambiguous blocks of the last description still hold the same
 * (see qemu_check_ambiguous()); the guest must be paused. */
gboolean qemu_check_ram(QemuVmm *qemu, GError **error);
