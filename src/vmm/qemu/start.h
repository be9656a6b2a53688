/*
 * Starting a QEMU process, detached from us
 *
 * Theory of operation: what a guest's QEMU (launch.c) and one that only serves images (storage.c)
 * have in common.  Its standard error goes to a log file in a directory that is ours; its sockets
 * are in the folder "sockets" below that, which belongs to whoever runs QEMU.  It has been started
 * when QMP answers and the process has become what its plan says (identity/spawn_plan.h).
 */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

#include "identity/spawn.h"
#include "vmm/qemu/qmp.h"

typedef struct {
    const SpawnPlan *plan;
    const char *program; /* path of the file */
    char **argv;
    const char *working_directory;
    const char *directory; /* exists, ours */
    const char *qmp_path;  /* as argv tells it; see qemu_start_socket_path() */
    const char *log_path;
    gboolean (*begun)(pid_t pid, gpointer user, GError **error); /* see Spawn; may be NULL */
    gpointer user;
} QemuStart;

/* DIRECTORY/sockets/NAME; free with g_free(). */
char *qemu_start_socket_path(const char *directory, const char *name);

/* The file of a program, which may be relative to *folder*; REFUSED where it is not QEMU,
 * NOT_FOUND where there is none (*incoming*: the user may need a map rule).  Free with g_free(). */
char *qemu_start_find_program(const char *name, const char *folder, gboolean incoming,
                              GError **error);

/* Makes the sockets' folder and lets the process pass through to it. */
gboolean qemu_start_make_folder(const QemuStart *start, GError **error);

/* NULL with *error*: nothing of it runs. */
Qmp *qemu_start_run(const QemuStart *start, pid_t *ret_pid, uint64_t *ret_start_time,
                    GError **error);

/* Kills a process that we have started and no other one knows of. */
void qemu_start_abandon(const QemuStart *start, pid_t pid, uint64_t start_time);
