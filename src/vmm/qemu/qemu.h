/*
 * The QEMU driver: launching and adopting
 *
 * (Theory of operation to be filled with the driver.)
 */
#pragma once

#include "vmm/vmm.h"

/* A rewriting rule for what is local to a host: every occurrence of *from* in
 * an argument of the command line becomes *to*. */
typedef struct {
    char *from;
    char *to;
} QemuMapRule;

typedef struct {
    const char *name;         /* guest's name, for socket and log names */
    char **command_line;      /* as the user gave it, program first */
    const char *directory;    /* where our QMP socket and the log go (exists, private) */
    gboolean incoming;        /* start as the destination of a move: -incoming defer, -S */
    const GPtrArray *rules;   /* of QemuMapRule, may be NULL; applied for incoming only */
} QemuLaunch;

/* What is needed to find a guest again after a restart. */
typedef struct {
    pid_t pid;
    uint64_t start_time;
    char *qmp_path;
    char *log_path;      /* its standard error; NULL for adopted guests */
    char **command_line; /* as a destination should start it: without our additions */
} QemuIdentity;

void qemu_identity_free(QemuIdentity *identity);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QemuIdentity, qemu_identity_free)

/* Starts QEMU in a session of its own, so that it outlives us; standard error
 * goes to a log file in *directory*.  Returns when QMP answers. */
Vmm *qemu_launch(const QemuLaunch *launch, GError **error);

/* Takes the QEMU with this pid into care.  *qmp_path* NULL: find the socket
 * from its command line. */
Vmm *qemu_adopt(pid_t pid, const char *qmp_path, GError **error);

/* Connects again to a guest that was known before. */
Vmm *qemu_reattach(const QemuIdentity *identity, GError **error);

/* Identity of a QEMU guest; free with qemu_identity_free(). */
QemuIdentity *qemu_get_identity(Vmm *vmm);
