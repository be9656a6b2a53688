/*
 * A storage process: the VMM's knowledge of image formats, without a machine
 *
 * Theory of operation: a disk image has a format (raw, qcow2, …) that its VMM knows and we do not.
 * So images are made, written and read by a process of the VMM that has no machine: it makes
 * images, and exports them over NBD on a Unix socket in its directory, to this host only.  It is
 * run by whoever is to run the guest, and confined as that; a guest's content is never parsed by a
 * process with more rights than the guest's own.
 *
 * For QEMU that is the guest's own QEMU program with `-machine none`: a host that can run the guest
 * can run it, and it is of the same version.
 *
 * It is not our child and outlives us; a caller arms a guard for its pid (guard/guard.h),
 * best before it does anything (VmmStorageLaunch.begun).
 */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdint.h>
#include <sys/types.h>

#include "identity/identity.h"

typedef struct VmmStorage VmmStorage;

typedef struct {
    const char *program;            /* the VMM's, as in a guest's command line, after map rules */
    const char *working_directory;  /* that a relative *program* is relative to; NULL: "/" */
    const char *directory;          /* exists, private: for its sockets and its log */
    const ProcessIdentity *process; /* who is to run it; NULL: we */
    guint allow_unconfined;         /* set of Confinement that may be left out */
    /* It does nothing yet; FALSE ends it.  NULL: nobody is told. */
    gboolean (*begun)(pid_t pid, gpointer user, GError **error);
    gpointer user;
} VmmStorageLaunch;

typedef struct {
    const char *path;    /* of the file, absolute */
    const char *format;  /* "raw", "qcow2" */
    uint64_t bytes;      /* as its guest is to see it */
    json_t *options;     /* as VmmDiskFile.options tells them; NULL: defaults */
    const char *backing; /* as its header is to name it; NULL: none */
    const char *backing_format;
} VmmImageRequest;

/* What the driver's table has. */
typedef struct {
    void (*free)(VmmStorage *storage);
    pid_t (*get_pid)(VmmStorage *storage);
    void (*kill)(VmmStorage *storage);
    gboolean (*answers)(VmmStorage *storage, guint timeout_ms, GError **error);
    gboolean (*create)(VmmStorage *storage, const VmmImageRequest *request, GError **error);
    gboolean (*open)(VmmStorage *storage, const char *name, const char *path, const char *format,
                     gboolean writable, GError **error);
    char *(*get_socket)(VmmStorage *storage);
    gboolean (*close)(VmmStorage *storage, const char *name, GError **error);
} VmmStorageOps;

/* Drivers embed this as their first member. */
struct VmmStorage {
    const VmmStorageOps *ops;
};

/* Ends the process, all exports closed.  NULL-safe. */
void vmm_storage_free(VmmStorage *storage);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmmStorage, vmm_storage_free)

pid_t vmm_storage_get_pid(VmmStorage *storage);

/* Ends the process at once, from any thread, whatever it does: all that waits for it fails, and
 * its images are good for nothing. */
void vmm_storage_kill(VmmStorage *storage);

/* It does what it is told, by *timeout_ms* at the latest. */
gboolean vmm_storage_answers(VmmStorage *storage, guint timeout_ms, GError **error);

/* Makes an image in a file that exists and is empty.  UNSUPPORTED where the format or an option
 * cannot be made. */
gboolean vmm_storage_create(VmmStorage *storage, const VmmImageRequest *request, GError **error);

/* Opens an image, with its backing files, and exports it as *name*.  Writable: zeros that are
 * written may become holes, and nobody else may write to it.  Otherwise it may be in use by a VMM
 * that is paused. */
gboolean vmm_storage_open_image(VmmStorage *storage, const char *name, const char *path,
                                const char *format, gboolean writable, GError **error);

/* Path of the socket with all exports; free with g_free(). */
char *vmm_storage_get_socket(VmmStorage *storage);

/* Ends the export, clients or not, and closes the image, all of it written out.  Returns when
 * another process may open it. */
gboolean vmm_storage_close_image(VmmStorage *storage, const char *name, GError **error);
