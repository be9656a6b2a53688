/*
 * Content of disks on its way to the destination
 *
 * Theory of operation: whoever has content of a disk (an NBD server that QEMU mirrors to, a file
 * that is read) gives it to a DiskSender, which sends it as frames (wire/disk_frame.h) on the
 * session's channel for disks: packed where that helps, zeros as zeros, and those not at all that
 * fall where the new image has been written nothing else yet: it is all zero when it is made.
 *
 * Back-pressure: a request may be answered when what was sent up to it and is not applied yet fits
 * a window, a quarter of a second's worth of what the destination has been taking.  So a guest's
 * write does not wait for the link as long as that keeps up, and for about that long where the
 * guest writes faster; nothing piles up.  What an answer does not promise, a flush does: it is done
 * when all before it is on the destination's storage, and only the last one counts.
 *
 * Where the session survives a break, what was sent is kept until it has arrived: then requests may be answered though
 * nothing arrives, up to a limit of what is kept (disk_sender_run_ahead()).
 *
 * A file that is made in place of another one can be compared with that (old_file.h): the destination
 * tells digests of the old file, and of what has the same digest only the place is sent.
 *
 * Threads: content of one file comes from one thread at a time, which may block as long as the
 * channel does.  A thread of the sender's own hears how far the destination is, and makes the calls
 * back.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "wire/session.h"

typedef struct DiskSender DiskSender;

typedef struct {
    guint files;   /* as many as DISKS names */
    gboolean pack; /* compress what becomes smaller */
    /* The request with this id may be answered. */
    void (*answer)(guint file, uint64_t id, gpointer user);
    /* About ten times a second. */
    void (*tick)(DiskSender *sender, gpointer user);
    /* The channel has failed; the last call.  Content that comes afterwards is refused with *why*. */
    void (*failed)(const GError *why, gpointer user);
    gpointer user;
} DiskSenderOptions;

typedef struct {
    uint64_t data_bytes; /* sent as content, unpacked */
    uint64_t zero_bytes; /* zeros that were not sent as content */
    uint64_t same_bytes; /* content that the old file there has */
    uint64_t wire_bytes; /* payloads of frames */
} DiskCounts;

/* The session has a channel for TRAFFIC_DISK.  Copies the options. */
DiskSender *disk_sender_start(Session *session, const DiskSenderOptions *options, GError **error);

/* Ends its thread: when this returns no call back is being made, and none will be.  Content may be given to it
 * still.  Not from a call back. */
void disk_sender_stop(DiskSender *sender);

/* Stops it; nobody may use it any more.  NULL-safe. */
void disk_sender_free(DiskSender *sender);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DiskSender, disk_sender_free)

/* Before its first content.  *covers*: what is not written shows a backing file, so that zeros are
 * content, too. */
void disk_sender_begin_file(DiskSender *sender, guint file, uint64_t bytes, gboolean covers);

/* The same: an old file of that many bytes is there, and what it has may be copied there. */
gboolean disk_sender_compare_file(DiskSender *sender, guint file, uint64_t old_bytes,
                                  GError **error);

/* Asks what the old file has from *offset* on, and waits for *wait_ms* at most until that is known of
 * all that a piece up to *disk_sender_end_of_range()* has; *ret_known* then. */
gboolean disk_sender_await_digests(DiskSender *sender, guint file, uint64_t offset, guint wait_ms,
                                   gboolean *ret_known, GError **error);

/* What comes with an answer ends here at the latest. */
uint64_t disk_sender_end_of_range(uint64_t offset);

/* As disk_sender_write(), which it becomes where nothing is known to be there already.  Whole granules
 * of DISK_GRANULE_BYTES, but for the file's last one. */
gboolean disk_sender_write_compared(DiskSender *sender, guint file, uint64_t offset,
                                    const uint8_t *data, size_t length, GError **error);

gboolean disk_sender_write(DiskSender *sender, guint file, uint64_t offset, const uint8_t *data,
                           size_t length, GError **error);
gboolean disk_sender_zero(DiskSender *sender, guint file, uint64_t offset, uint64_t length,
                          GError **error);

/* Has *answer* called, perhaps at once, when all that was sent before fits the window. */
void disk_sender_answer(DiskSender *sender, guint file, uint64_t id);

/* Requests are answered though nothing of what was sent arrives, up to what the destination takes in about a second:
 * the session keeps it, and no channel of it is waited for (channel_renew()).  That ends when as much has arrived as
 * the window wants. */
void disk_sender_run_ahead(DiskSender *sender);
gboolean disk_sender_is_ahead(DiskSender *sender);

/* Sends a flush and returns its number in *ret; *last*: no content follows. */
gboolean disk_sender_flush(DiskSender *sender, gboolean last, uint64_t *ret, GError **error);

/* TRUE once the flush with that number is done. */
gboolean disk_sender_is_flushed(DiskSender *sender, uint64_t number);

/* Since when nothing has been applied though something waits to be, in ns; 0: nothing waits. */
uint64_t disk_sender_get_stall_ns(DiskSender *sender);

void disk_sender_get_counts(DiskSender *sender, guint file, DiskCounts *ret);
