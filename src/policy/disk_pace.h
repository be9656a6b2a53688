/*
 * The pace of copying disks: pure
 *
 * Theory of operation: a disk is copied in the background at first: the guest's writes wait for
 * nothing, and what they change is copied again.  That never ends for a guest that writes about as
 * fast as the link carries.  So once as much was sent as the disk holds, and some more, the copy
 * becomes synchronous: a write of the guest ends when the copy has taken it (which waits a quarter
 * of a second's worth of the link at most, disk/disk_sender.h), so that the guest writes no faster
 * than the link, and what is left gets less.  A copy whose bulk is done becomes synchronous, too:
 * then it stays in sync while memory follows.  Where the time for the whole move is over first, the
 * move is given up, since a disk cannot be left behind.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

typedef struct {
    double now_ms;      /* since the move's start */
    double deadline_ms; /* 0: none */
    gboolean ready;     /* the bulk is done */
    gboolean synchronous;
    uint64_t sent_bytes;   /* of content, unpacked */
    uint64_t stored_bytes; /* that the disk's storage holds */
} DiskPaceFacts;

typedef enum { DISK_PACE_GO_ON, DISK_PACE_SYNCHRONOUS, DISK_PACE_GIVE_UP } DiskPace;

DiskPace disk_pace_decide(const DiskPaceFacts *facts);
