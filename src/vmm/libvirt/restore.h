/*
 * A domain that libvirt restores from a stream of ours
 *
 * Theory of operation: libvirt starts QEMU itself, with its own taps, labels, control groups, NVRAM and TPM, where it
 * restores a domain from a file.  That file is a FIFO: libvirt's daemon opens it and reads a header with the domain's XML
 * (save_header.h); newer versions do so twice, so it is written for each time that the FIFO is opened (inotify).  Then QEMU has it, and
 * reads its incoming stream from it.  QEMU is found among the processes by its command line and by the FIFO that it
 * has open.
 *
 * libvirt lets the guest run as soon as QEMU has all of its stream: so who holds the end of it back decides when.  Meanwhile
 * libvirt's daemon holds QEMU's monitor.
 *
 * The call that restores (virDomainRestoreFlags()) waits in a thread with a connection of its own.  That it failed does not prove that
 * QEMU is gone: libvirt's daemon may have died.  libvirt_restore_abort() kills it and sees it gone; only then may another copy of the guest
 * run.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

typedef struct LibvirtRestore LibvirtRestore;

typedef struct {
    const char *uri;       /* library.h */
    const char *uuid;      /* as in the XML */
    const char *xml;       /* migratable, with secrets */
    const char *directory; /* where the FIFO is made; libvirt's daemon must see it there, too */
    gboolean paused;       /* the guest is not to run */
} LibvirtRestoreJob;

/* Returns when QEMU is there and reads its stream.  NULL with *error*: nothing of it runs, or *error* says that it may (IN_DOUBT). */
LibvirtRestore *libvirt_restore_begin(const LibvirtRestoreJob *job, int timeout_ms, GError **error);

/* Of its QEMU. */
pid_t libvirt_restore_get_pid(LibvirtRestore *restore);

/* The next bytes of the stream; waits for QEMU to read.  FALSE: it has ended, with libvirt's reason; or TIMEOUT. */
gboolean libvirt_restore_write(LibvirtRestore *restore, const void *bytes, size_t length,
                               int timeout_ms, GError **error);

/* How many bytes of it QEMU has not read yet. */
gboolean libvirt_restore_get_unread(LibvirtRestore *restore, int *ret, GError **error);

/* The stream is whole: waits until libvirt says that the domain is restored. */
gboolean libvirt_restore_finish(LibvirtRestore *restore, int timeout_ms, GError **error);

/* Ends what is not finished.  TRUE where no QEMU of it is left, for sure. */
gboolean libvirt_restore_abort(LibvirtRestore *restore, GError **error);

/* Aborts what is neither finished nor aborted.  NULL-safe. */
void libvirt_restore_free(LibvirtRestore *restore);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(LibvirtRestore, libvirt_restore_free)
