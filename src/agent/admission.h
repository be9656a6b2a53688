/*
 * Who of the strangers at the peer port is served
 *
 * Theory of operation: whoever reaches the port can open connections and say
 * nothing.  Until a peer has proven who it is and said what it wants, it is
 * *pending*, and a place among the pending is never worth more than an honest
 * peer's next attempt: an address may have ADMISSION_PER_ADDRESS of them and
 * all together ADMISSION_PENDING; a newcomer beyond that takes the place of the
 * oldest one of its own address, or of the address that has the most.  An
 * honest peer is through in a few round trips, so it is the silent that lose
 * their places.  IPv6 counts by /64, which is what one customer has.
 *
 * Peers that were let in are counted apart from them, and questions apart from
 * moves: as many moves as there may be do not keep a guest in doubt.
 *
 * Limits: who floods from more than ADMISSION_PENDING addresses at once, or
 * from the honest peer's own faster than a handshake takes, still wins; that is
 * a firewall's to keep out.
 *
 * Threads: any.
 */
#pragma once

#include <glib.h>
#include <sys/socket.h>

#define ADMISSION_PENDING 64
#define ADMISSION_PER_ADDRESS 8
#define ADMISSION_MOVES 48
#define ADMISSION_QUESTIONS 48
#define ADMISSION_MEASURING 4   /* of which each may take what the network carries */
#define ADMISSION_WITNESSED 256 /* connections to the witness here: one of each side of a guest */

typedef enum {
    ADMITTED_MOVE,
    ADMITTED_QUESTION,
    ADMITTED_WITNESS,
    ADMITTED_MEASURING,
    ADMITTED_KINDS
} AdmittedKind;

typedef struct Admission Admission;
typedef struct AdmissionPlace AdmissionPlace;

Admission *admission_new(void);
/* All places must have been left. */
void admission_free(Admission *admission);

/* A connection has come; who has to make room for it is shut down.  *fd* stays
 * the caller's.  NULL where it can't be served. */
AdmissionPlace *admission_enter(Admission *admission, int fd, const struct sockaddr *address);

/* It has proven who it is: it is pending no more.  FALSE with *error* (BUSY)
 * where there are enough of its kind. */
gboolean admission_pass(AdmissionPlace *place, AdmittedKind kind, GError **error);

/* The connection has ended or is about to. */
void admission_leave(AdmissionPlace *place);

/* TRUE where it was cut to make room for another: its own error is of no interest then. */
gboolean admission_was_cut(AdmissionPlace *place);
