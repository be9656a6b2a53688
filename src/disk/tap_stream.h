/*
 * The stream of a block tap: what guests' disks were written, in order
 *
 * Theory of operation: the tap's process (tap_sink.h) writes records to a socket, a fixed head each
 * and what belongs to it.  Both ends are the same program on the same host, so heads go as they are
 * in memory.  The reader takes as much as there is, checks each record against the disks that it was
 * told of, and gives one event after the other out of its buffer: where many are there, reading one
 * costs no system call.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

typedef enum {
    TAP_EVENT_WRITE,
    TAP_EVENT_ZERO, /* reads as zeros from now on */
    TAP_EVENT_TRIM, /* may read as anything until it is written.  QEMU never tells a guest's discard
                        to a tap, and does not do it either */
    TAP_EVENT_FLUSH, /* of QEMU: one at the tap's start, and one as the last thing of each `stop`, behind
                        all that came before it: an epoch's mark.  No flush of the guest */
    TAP_EVENT_END,     /* nothing of this disk will follow */
    TAP_EVENT_BARRIER, /* of no disk: what tap_sink_send_barrier() asked for */
} TapEventKind;

typedef struct {
    TapEventKind kind;
    guint disk;          /* place in the list of disks */
    uint64_t sequence;   /* 1, 2, 3, … over all disks */
    uint64_t offset;     /* in bytes; 0 of FLUSH and END; the number of a BARRIER */
    uint32_t length;     /* 0 of FLUSH, END and BARRIER */
    const uint8_t *data; /* of WRITE: until the next call */
    const char
        *reason; /* of END: why the tap is broken, until the next call; NULL: the VMM has left
                            in order */
} TapEvent;

/* As they are in the stream. */
typedef struct {
    uint32_t magic;
    uint16_t kind;
    uint16_t disk;
    uint64_t sequence;
    uint64_t offset;
    uint32_t length;   /* of END: bytes of the reason, which follow */
    uint32_t reserved; /* 0 */
} TapRecordHead;

#define TAP_RECORD_MAGIC 0x54415056u
#define TAP_REASON_MAX 500u

typedef struct TapReader TapReader;

/* Takes *fd*, a socket.  *bytes* has the sizes of the disks. */
TapReader *tap_reader_new(int fd, const uint64_t *bytes, guint count);
void tap_reader_free(TapReader *reader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TapReader, tap_reader_free)

/* The next event.  Returns 1; 0 where none has come within *timeout_ms* (-1: for ever; 0: only what
 * is there); -1 with *error*, for ever then: DISCONNECTED where the other end is gone. */
int tap_reader_next(TapReader *reader, int timeout_ms, TapEvent *ret, GError **error);
