/*
 * libvirt's client library, loaded at run time
 *
 * Theory of operation: vmferry runs without libvirt, so it is not linked: the library is looked for when
 * libvirt's guests are first spoken of, and what is called of it is a table of functions.  It is never
 * unloaded.  One thread runs its event loop from then on, which delivers events and sees to it that a
 * daemon that hangs is noticed.
 *
 * libvirt keeps its last error for each thread: fetch it (libvirt_error_set()) in the thread that made the call,
 * before the next one.
 */
#pragma once

#include <glib.h>
#include <libvirt/libvirt-qemu.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

/* What is called: from libvirt.so.0 … */
#define LIBVIRT_FUNCTIONS(X)                                                                       \
    X(virConnectClose)                                                                             \
    X(virConnectGetLibVersion)                                                                     \
    X(virConnectGetURI)                                                                            \
    X(virConnectIsAlive)                                                                           \
    X(virConnectListAllDomains)                                                                    \
    X(virConnectOpen)                                                                              \
    X(virConnectSetKeepAlive)                                                                      \
    X(virDomainDestroy)                                                                            \
    X(virDomainFree)                                                                               \
    X(virDomainGetID)                                                                              \
    X(virDomainGetName)                                                                            \
    X(virDomainGetState)                                                                           \
    X(virDomainGetUUIDString)                                                                      \
    X(virDomainIsActive)                                                                           \
    X(virDomainLookupByName)                                                                       \
    X(virDomainLookupByUUIDString)                                                                 \
    X(virDomainRef)                                                                                \
    X(virDomainRestoreFlags)                                                                       \
    X(virDomainResume)                                                                             \
    X(virEventRegisterDefaultImpl)                                                                 \
    X(virEventRunDefaultImpl)                                                                      \
    X(virGetLastError)                                                                             \
    X(virGetVersion)                                                                               \
    X(virInitialize)                                                                               \
    X(virSetErrorFunc)

/* … and from libvirt-qemu.so.0. */
#define LIBVIRT_QEMU_FUNCTIONS(X)                                                                  \
    X(virConnectDomainQemuMonitorEventDeregister)                                                  \
    X(virConnectDomainQemuMonitorEventRegister)                                                    \
    X(virDomainQemuMonitorCommand)

/* Of newer versions (8.2); NULL where it is not there: no descriptors are passed then. */
#define LIBVIRT_OPTIONAL_FUNCTIONS(X) X(virDomainQemuMonitorCommandWithFiles)

#define LIBVIRT_ENTRY(name) __typeof__(name) *name;
typedef struct {
    LIBVIRT_FUNCTIONS(LIBVIRT_ENTRY)
    LIBVIRT_QEMU_FUNCTIONS(LIBVIRT_ENTRY)
    LIBVIRT_OPTIONAL_FUNCTIONS(LIBVIRT_ENTRY)
} LibvirtLibrary;
#undef LIBVIRT_ENTRY

/* Where nobody says another. */
#define LIBVIRT_DEFAULT_URI "qemu:///system"

/* The same table each time.  UNSUPPORTED where libvirt, or a function of it, is not on this host. */
const LibvirtLibrary *libvirt_library_get(GError **error);

/* "9.0.0", of a number as libvirt tells it; free with g_free(). */
char *libvirt_version_text(unsigned long version);

/* Sets libvirt's last error of this thread, with *what* in front, and clears it.  NOT_FOUND: no such domain;
 * DISCONNECTED: the daemon, or the domain, is gone; BUSY: another call holds the domain. */
void libvirt_error_set(GError **error, const char *what);

/* A connection (close it with virConnectClose()), or NULL with *error*.  *uri* NULL: the variable LIBVIRT_DEFAULT_URI,
 * or else "qemu:///system"; INVALID where that is not of this host (libvirt_uri_check()).  Waits for a daemon that hangs: see libvirt_connect_within(). */
virConnectPtr libvirt_connect(const char *uri, GError **error);

/* The same, for *timeout_ms* at most (TIMEOUT). */
virConnectPtr libvirt_connect_within(const char *uri, int timeout_ms, GError **error);
