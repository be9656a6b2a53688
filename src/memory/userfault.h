/*
 * A userfaultfd of another process's address space
 *
 * Theory of operation: two userfaultfds on one range of memory exclude each other, so all that
 * use a guest's page faults share one Userfault: the dirty tracker (write
 * protection) and a fault service (missing pages).  Its descriptor is made inside the process by
 * injection and fetched with pidfd_getfd(2).  Ranges are registered with all the modes that they
 * will ever need: the kernel cannot take one mode from a range and leave the other without a
 * moment in which neither is in force.
 *
 * What happens when this process dies is chosen at the start:
 *
 *   USERFAULT_CLOSES_WITH_US  the process's own descriptor is closed at once.  When the fetched
 *                             one is closed, by us or by our death, all registrations go away and
 *                             every waiting thread runs on.  Right for tracking.
 *   USERFAULT_STAYS_IN_VMM    the process keeps its descriptor.  With the last descriptor of a
 *                             userfaultfd closed, a missing page silently reads as zero; with this
 *                             one open, a thread that needs it waits until a restarted agent
 *                             fetches the descriptor again (userfault_fetch()) and serves it.
 *
 * The kept descriptor is distinguished from the VMM's own userfaultfds by O_APPEND, which means
 * nothing on a userfaultfd, belongs to the open file (so it can be set on the fetched copy) and is
 * shown in /proc/PID/fdinfo.
 *
 * Threads: registering and freeing from one at a time; the calls on pages and userfault_read() from
 * any number.
 */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

/* Linux 6.4 and 6.7; newer than Debian 12's headers. */
#define USERFAULT_FEATURE_WP_UNPOPULATED (1ULL << 13)
#define USERFAULT_FEATURE_WP_ASYNC (1ULL << 15)

/* What a Userfault is for; decides which kernel features are asked for. */
typedef enum {
    USERFAULT_WP_SYNC = 1 << 0,  /* each first write to a protected page waits to be served */
    USERFAULT_WP_ASYNC = 1 << 1, /* the kernel lifts the protection itself (Linux 6.7) */
    USERFAULT_MISSING = 1 << 2,  /* the first access to a page that is not there waits */
    USERFAULT_REMOVE = 1 << 3,   /* an event where the process discards pages, which waits, too */
} UserfaultUses;

typedef enum {
    USERFAULT_MODE_WP = 1 << 0,
    USERFAULT_MODE_MISSING = 1 << 1,
} UserfaultModes;

typedef enum { USERFAULT_CLOSES_WITH_US, USERFAULT_STAYS_IN_VMM } UserfaultOnDeath;

typedef struct Userfault Userfault;

/* Opens one in the process.  UNSUPPORTED where the kernel lacks a feature.  The process's main
 * thread is stopped for about half a millisecond. */
Userfault *userfault_open(pid_t pid, UserfaultUses uses, UserfaultOnDeath on_death, GError **error);

/* Fetches the one that an agent that died has left open in the process.  NOT_FOUND where there is
 * none.  Its ranges are to be registered again with the modes they have. */
Userfault *userfault_fetch(pid_t pid, GError **error);

/* Takes the descriptor *fd* of one that was opened elsewhere for *uses*. */
Userfault *userfault_take(int fd, UserfaultUses uses);

/* Unregisters all ranges, which wakes the threads that wait for a page in them: every page must be in
 * place.  Threads that discard pages still wait until their events are read. */
void userfault_unregister(Userfault *userfault);

/* Unregisters all ranges, and closes it, a descriptor kept in the process included.  FALSE where that one cannot be closed,
 * because the process is stopped by a signal, say: to be tried again, nothing else is left to do. */
gboolean userfault_end(Userfault *userfault, GError **error);
/* Frees it, ending it where that was not done.  NULL-safe. */
void userfault_free(Userfault *userfault);
/* The same for one that stays in the process: pages are still missing there, and who needs one waits
 * for a restarted agent.  Wakes nobody. */
void userfault_leave(Userfault *userfault);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Userfault, userfault_free)

UserfaultUses userfault_get_uses(const Userfault *userfault);

/* For poll(2): readable where userfault_read() has something.  Borrowed. */
int userfault_get_fd(const Userfault *userfault);

/* Registers [address, address + bytes), whole pages of its mapping, in these modes.  BUSY where
 * another userfaultfd has it. */
gboolean userfault_register(Userfault *userfault, uint64_t address, uint64_t bytes,
                            UserfaultModes modes, GError **error);

/* TRUE where exactly this range was registered in these modes, and perhaps others. */
gboolean userfault_is_registered(const Userfault *userfault, uint64_t address, uint64_t bytes,
                                 UserfaultModes modes);

/* Write-protects a range, or lets it be written and wakes the threads that wait there.  With
 * USERFAULT_REMOVE both wait until a REMOVE event under way has been read: by another thread. */
gboolean userfault_protect(Userfault *userfault, uint64_t address, uint64_t bytes, GError **error);
gboolean userfault_unprotect(Userfault *userfault, uint64_t address, uint64_t bytes,
                             GError **error);

/* Puts one page (of the mapping's size) in at *address* and wakes the threads that wait for it;
 * with *protect* it is write-protected from the start.  EXISTS where a page is there already (a
 * thread that still waits for it needs userfault_wake()), BUSY where events are to be read first.
 * */
gboolean userfault_copy(Userfault *userfault, uint64_t address, const void *page, uint64_t bytes,
                        gboolean protect, GError **error);
/* The same with a page of zeroes, not on hugetlbfs. */
gboolean userfault_zeropage(Userfault *userfault, uint64_t address, uint64_t bytes, GError **error);
gboolean userfault_wake(Userfault *userfault, uint64_t address, uint64_t bytes, GError **error);

typedef enum {
    USERFAULT_EVENT_MISSING, /* a thread waits for the page at address */
    USERFAULT_EVENT_WP,      /* a thread waits to write to the protected page at address */
    USERFAULT_EVENT_REMOVE,  /* [address, address + bytes) is being discarded */
} UserfaultEventKind;

typedef struct {
    UserfaultEventKind kind;
    uint64_t address, bytes; /* bytes: of REMOVE only */
} UserfaultEvent;

#define USERFAULT_MOST_EVENTS 64

/* Reads up to *most* (at most USERFAULT_MOST_EVENTS) events without waiting; returns how many. */
guint userfault_read(Userfault *userfault, UserfaultEvent *events, guint most);

/* The kernel features (UFFD_FEATURE_*) that these uses need. */
uint64_t userfault_features(UserfaultUses uses);

/* All features that this kernel's userfaultfd has; 0 where there is none. */
uint64_t userfault_get_kernel_features(void);

/* The userfaultfds that a process has open, of UserfaultFd, to clean up in it. */
typedef struct {
    int fd;
    gboolean kept; /* by USERFAULT_STAYS_IN_VMM */
} UserfaultFd;

GArray *userfault_list(pid_t pid, GError **error);
