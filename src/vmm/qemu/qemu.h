/*
 * The QEMU driver: launching and adopting
 *
 * Theory of operation: one QemuVmm (driver.h) is one QEMU process and one QMP
 * connection.  Three ways lead to it: qemu_launch() starts a process,
 * qemu_adopt() takes one that somebody else started, qemu_reattach() finds one
 * again after a restart of the agent.  A process is always named by pid and
 * start time; it is never our child (it is started through a process in
 * between that ends at once), so that all three ways behave alike and no
 * zombie is left.
 *
 * A move: the source's clean command line (command_line.h) is rewritten at the
 * destination and started with `-incoming defer -S` and the capability
 * late-block-activate, so that it holds no image locks before `cont`.  Its
 * incoming stream is opened at once (incoming.c), which makes its RAM blocks as
 * long as the source's and marks them, and stays open.  RAM is copied by others,
 * by the addresses of qemu_describe() (ram_blocks.h).  The source's device state
 * comes from `xen-save-devices-state` (no Xen involved), which leaves out RAM
 * and, on a paused guest, releases the image locks; the end of the stream is
 * built from it (state/qemu_stream.h).
 *
 * Threads and locks: the operations of one Vmm are serialised by a lock; the
 * QMP client (qmp.h) has a reader thread of its own.
 *
 * What can fail: every text and number that comes from QEMU is checked, since
 * a guest may have taken it over.  Where QEMU ends during an operation, the
 * error has the code VMFERRY_ERROR_DISCONNECTED and QEMU's last words out of
 * its log.
 *
 * Limits: one QMP client a socket; what is local to a host and not rewritten
 * by a rule (inherited descriptors, sockets in use) is refused.  A state can be
 * saved once between two resumes, and not from a guest that was loaded and never
 * resumed (QEMU 7 aborts on releasing images twice); for a guest found stopped
 * the locks on its images tell, so one whose images cannot be locked must be
 * resumed first.  Guest memory in a file that both hosts share through a
 * network is not recognised (on one host it is).  A QEMU whose incoming stream
 * is closed before its end exits: nobody can go on with it after us.
 */
#pragma once

#include "vmm/vmm.h"

/* A rewriting rule for what is local to a host: every occurrence of *from* in
 * an argument of the command line becomes *to*. */
typedef struct {
    char *from;
    char *to;
} QemuMapRule;

struct QemuIdentity;

typedef struct {
    const char *name;               /* guest's name, for socket and log names */
    char **command_line;            /* as the user gave it, program first */
    const char *directory;          /* where our QMP socket and the log go (exists, private) */
    gboolean incoming;              /* start as the destination of a move: -incoming defer, -S */
    const GPtrArray *rules;         /* of QemuMapRule, may be NULL; applied for incoming only */
    const char *working_directory;  /* for relative paths of the command line; mapped, too */
    const ProcessIdentity *process; /* who is to run it; NULL: we */
    guint allow_unconfined;         /* set of Confinement that may be left out */
    /* Called when its process exists and has done nothing yet, with pid, start
     * time, socket and log: to be written down.  FALSE with *error*: it never
     * runs.  May be NULL. */
    gboolean (*begun)(const struct QemuIdentity *identity, gpointer user, GError **error);
    gpointer user;
} QemuLaunch;

/* What is needed to find a guest again after a restart. */
typedef struct QemuIdentity {
    pid_t pid;
    uint64_t start_time;
    char *qmp_path;
    char *log_path;          /* its standard error; NULL for adopted guests */
    char **command_line;     /* as a destination should start it: without our additions */
    char *working_directory; /* of its start; unmapped */
    char **cgroups;          /* folders of control groups made for it by a launch, or NULL */
} QemuIdentity;

void qemu_identity_free(QemuIdentity *identity);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QemuIdentity, qemu_identity_free)

/* Starts QEMU in a session of its own, so that it outlives us; standard error
 * goes to a log file in *directory*, which stays ours; sockets are in a folder
 * below it that belongs to whoever runs QEMU.  Returns when QMP answers and
 * QEMU is confined as *process* says. */
Vmm *qemu_launch(const QemuLaunch *launch, GError **error);

/* Takes the QEMU with this pid into care.  *qmp_path* NULL: find the socket
 * from its command line; else a path, or "@NAME" for an abstract socket. */
Vmm *qemu_adopt(pid_t pid, const char *qmp_path, GError **error);

/* Connects again to a guest that was known before. */
Vmm *qemu_reattach(const QemuIdentity *identity, GError **error);

/* Identity of a QEMU guest; free with qemu_identity_free(). */
QemuIdentity *qemu_get_identity(Vmm *vmm);

/* Refuses (VMFERRY_ERROR_NO_SPACE) where less than *guest_bytes* are available
 * by the text of /proc/meminfo. */
gboolean qemu_memory_fits(uint64_t guest_bytes, const char *meminfo, GError **error);

/* The same for this host, now. */
gboolean qemu_check_memory(uint64_t guest_bytes, GError **error);
