/*
 * Frames: the unit of the wire protocol
 *
 * Every frame is a header of 12 bytes (little-endian) and a payload:
 *
 *     0  u32  magic "VMF1"
 *     4  u16  type
 *     6  u16  flags, 0 in version 1
 *     8  u32  payload length
 *
 * docs/protocol.md is the specification; this header and it change together.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#define FRAME_MAGIC 0x31464d56u
#define FRAME_HEADER_BYTES 12u

typedef enum {
    FRAME_HELLO = 1,          /* JSON: both sides' versions, features, purpose */
    FRAME_GUEST = 2,          /* JSON, source: what comes */
    FRAME_ACCEPTED = 3,       /* empty, destination: the VMM waits for pages */
    FRAME_PAGES = 4,          /* binary, source: see page_frame.h */
    FRAME_EPOCH_SEAL = 5,     /* binary, source: the epoch is complete; see epoch_frame.h */
    FRAME_EPOCH_APPLIED = 6,  /* binary, destination: all of it is in place */
    FRAME_DEVICE_STATE = 7,   /* binary, source, in pieces: see epoch_frame.h */
    FRAME_DIGESTS = 8,        /* binary, source, --verify: see epoch_frame.h */
    FRAME_PREPARE = 9,        /* empty, source: all sent; load it and say READY */
    FRAME_READY = 10,         /* JSON, destination: loaded and (if asked) verified; paused */
    FRAME_START = 11,         /* u8 run, u64 term, source: the destination owns it now */
    FRAME_STARTED = 12,       /* empty, destination: the guest runs here */
    FRAME_ABORT = 13,         /* JSON reason, either: forget this transaction */
    FRAME_ERROR = 14,         /* JSON code and message, either; the connection ends */
    FRAME_HEARTBEAT = 15,     /* empty, either, while there is nothing else to say */
    FRAME_RESOLVE = 16,       /* JSON transaction, source: what became of it? */
    FRAME_OUTCOME = 17,       /* JSON, destination: committed, aborted, pending or lost */
    FRAME_PAGES_LZ4 = 18,     /* as PAGES, the pages as one LZ4 block; feature "pages-lz4" */
    FRAME_PAGES_ZSTD = 19,    /* as PAGES, the pages as one zstd frame; feature "pages-zstd" */
    FRAME_SEGMENTS = 20,      /* binary, source: see segment_frame.h; feature "segments" */
    FRAME_COPIES = 21,        /* binary, source: see copy_frame.h; feature "copies" */
    FRAME_IMAGES = 22,        /* JSON, source: questions about disk images */
    FRAME_IMAGES_SEEN = 23,   /* JSON, destination: what it sees of them */
    FRAME_DISKS = 24,         /* JSON, source: image files that may have to be made there */
    FRAME_DISKS_SEEN = 25,    /* JSON, destination: what is at their places */
    FRAME_DISKS_MAKE = 26,    /* JSON, source: which of them are to be made, and how */
    FRAME_DISKS_MADE = 27,    /* empty, destination: it can take their content */
    FRAME_DISK_WRITE = 28,    /* binary, source: see disk_frame.h */
    FRAME_DISK_ZERO = 29,     /* binary, source: the same */
    FRAME_DISK_FLUSH = 30,    /* binary, source: all before it is to be on the storage */
    FRAME_DISK_DONE = 31,     /* binary, destination: how far it is */
    FRAME_DISKS_VERIFY = 32,  /* empty, source, --verify: make digests of the disks */
    FRAME_DISKS_DIGESTS = 33, /* JSON, destination: these */
    FRAME_OUTSTANDING = 34,   /* binary, either: pages that are not there yet; postcopy_frame.h */
    FRAME_WANT = 35,          /* binary, destination: a thread waits for these pages */
    FRAME_PUSHED = 36,        /* empty, source: all outstanding pages have been sent */
    FRAME_COMPLETE = 37,      /* empty, destination: all pages are in place */
    FRAME_RESUME = 38,        /* JSON as RESOLVE, source: which pages are still outstanding? */
    FRAME_RESUMED = 39,       /* empty, destination: these were all */
    FRAME_ENDED = 40,        /* empty, either, after COMPLETE: the source has given up its epochs */
    FRAME_EPOCH_WRITES = 41, /* binary, destination: disk/write_batch.h, pieces of an epoch's */
    FRAME_STORE = 42,        /* JSON, source to a store: keep pages of this transaction */
    FRAME_STORE_SEAL = 43,   /* empty, source to its store: what is stale was named */
    FRAME_STORED = 44,       /* u8 sealed, u64 pages, store: so many are there */
    FRAME_UNCOVERED = 45,    /* u64 pages, source to destination: that the store lacks */
    FRAME_WITNESS_REQUEST = 46, /* JSON, to a witness: see witness_message.h */
    FRAME_WITNESS_ANSWER = 47,  /* JSON, from it */
    FRAME_LEASE = 48,           /* u64 number, u32 ms, either; see lease_frame.h */
    FRAME_EPOCH_BARRIER = 49,   /* empty, in a checkpoint: what follows may name pages again */
    FRAME_PROTECT = 50, /* JSON, to a standby, after GUEST: its disks, and where it comes from */
    FRAME_EPOCH_EVENTS = 51, /* binary, destination: disk writes that pages of the epoch have */
    FRAME_DISK_COMPARE = 52, /* binary, source: tell digests of the old file; see disk_frame.h */
    FRAME_DISK_DIGESTS = 53, /* binary, destination: these */
    FRAME_DISK_SAME = 54,    /* binary, source: content that the old file has */
    FRAME_SAVE = 55,         /* JSON, source: into which file; section 14 of docs/protocol.md */
    FRAME_SAVE_NOTE = 56,    /* JSON, source: all is sent; what the image says besides */
    FRAME_SAVED = 57,        /* JSON, destination: the image is complete, and on its storage */
    FRAME_SAVE_BASE = 58,    /* JSON, destination, to SAVE with a base: what that has of disks */
    FRAME_RECEIVED = 59,     /* u64, either: so many bytes of counted frames have come */
    FRAME_RECONNECT = 60, /* the same, each side, on the connection that takes the place of one */
    FRAME_BYE = 61,       /* empty, either: the end of the connection is meant */
    FRAME_PAGES_WINDOW = 62, /* as PAGES, as a piece of a window; feature "pages-window" */
    FRAME_SEED = 64, /* JSON, source: an image there whose pages need not travel; its answer */
    FRAME_SEED_DIGESTS = 65, /* binary, destination: of that image's pages; see seed_frame.h */
    FRAME_SEED_PAGES = 66,   /* binary, source: pages that the image has; feature "seed" */
    FRAME_BULK_BARRIER = 67, /* binary, source: lies between two epochs on each channel of bulk */
    /* u8, source: the pause has ended without START, rounds follow; destination: so be it; empty: in
     * place of a PREPARE that was taken back on its way */
    FRAME_RETRACT = 69,
    FRAME_MEASURE = 70,  /* binary, connecting side with "measure": see measure_frame.h */
    FRAME_MEASURED = 71, /* binary, the other side: the same */
} FrameType;

typedef struct {
    FrameType type;
    uint32_t length;
} FrameHeader;

/* An EPOCH_SEAL and an EPOCH_APPLIED frame; see epoch_frame.h. */
#define FRAME_EPOCH_SEAL_BYTES 12u
#define FRAME_EPOCH_APPLIED_BYTES 4u

/* A DEVICE_STATE frame: its head, 1 to FRAME_DEVICE_STATE_PIECE_BYTES; all pieces
 * together; see epoch_frame.h. */
#define FRAME_DEVICE_STATE_HEADER_BYTES 16u
#define FRAME_DEVICE_STATE_PIECE_BYTES (1u << 20)
#define FRAME_DEVICE_STATE_MAX_BYTES (64u << 20)

/* A DIGESTS frame: its head, 1 to FRAME_DIGESTS_MAX_PAGES digests; see epoch_frame.h. */
#define FRAME_DIGESTS_HEADER_BYTES 12u
#define FRAME_DIGESTS_MAX_PAGES 16384u

/* A SEGMENTS frame: its head, 1 to FRAME_SEGMENTS_MAX_BODY_BYTES (also when
 * unpacked); see segment_frame.h. */
#define FRAME_SEGMENTS_HEAD_BYTES 16u
#define FRAME_SEGMENTS_MAX_BODY_BYTES ((1u << 20) + 8192u)

/* A COPIES frame: its head, 1 to FRAME_COPIES_MAX_RUNS runs; see copy_frame.h. */
#define FRAME_COPIES_HEAD_BYTES 8u
#define FRAME_COPIES_RUN_BYTES 24u
#define FRAME_COPIES_MAX_RUNS 256u

/* A DISK_WRITE frame: its head, 1 to FRAME_DISK_WRITE_MAX_BYTES (also when unpacked); see
 * disk_frame.h. */
#define FRAME_DISK_WRITE_HEAD_BYTES 20u
#define FRAME_DISK_WRITE_MAX_BYTES (1u << 20)
#define FRAME_DISK_ZERO_BYTES 20u
#define FRAME_DISK_FLUSH_BYTES 9u
#define FRAME_DISK_DONE_BYTES 16u
/* A DISK_COMPARE frame; a DISK_DIGESTS frame: its head, none to FRAME_DISK_DIGESTS_MOST digests; a
 * DISK_SAME frame: its head, 1 to FRAME_DISK_SAME_MOST digests. */
#define FRAME_DISK_COMPARE_BYTES 52u
#define FRAME_DISK_DIGEST_BYTES 16u
#define FRAME_DISK_DIGESTS_HEAD_BYTES 12u
#define FRAME_DISK_DIGESTS_MOST 4096u
#define FRAME_DISK_SAME_HEAD_BYTES 20u
#define FRAME_DISK_SAME_MOST 256u

/* An OUTSTANDING frame: its head, 1 to FRAME_OUTSTANDING_MAX_RUNS runs; the pages of a WANT; see
 * postcopy_frame.h. */
#define FRAME_OUTSTANDING_HEAD_BYTES 8u
#define FRAME_OUTSTANDING_RUN_BYTES 16u
#define FRAME_OUTSTANDING_MAX_RUNS 65535u
#define FRAME_WANT_BYTES 16u
#define FRAME_WANT_MAX_PAGES 512u

/* An EPOCH_WRITES frame: a piece of disk/write_piece.h. */
#define FRAME_EPOCH_WRITES_MIN_BYTES 9u
#define FRAME_EPOCH_WRITES_MAX_BYTES (1u << 20)
/* An EPOCH_EVENTS frame: 1 to FRAME_EPOCH_EVENTS_MOST events; see event_frame.h. */
#define FRAME_EPOCH_EVENT_BYTES 32u
#define FRAME_EPOCH_EVENTS_MOST 4096u
/* A STORED and an UNCOVERED frame; see store_frame.h. */
#define FRAME_STORED_BYTES 9u
#define FRAME_UNCOVERED_BYTES 8u
/* A LEASE frame; see lease_frame.h. */
#define FRAME_LEASE_BYTES 12u
/* A MEASURE frame: its number, and none to FRAME_MEASURE_MOST_BYTES that mean nothing; a MEASURED
 * frame; see measure_frame.h. */
#define FRAME_MEASURE_HEAD_BYTES 8u
#define FRAME_MEASURE_MOST_BYTES (64u << 10)
#define FRAME_MEASURED_BYTES 16u
/* A RETRACT frame that is answered, and the answer; what it says is its being there. */
#define FRAME_RETRACT_BYTES 1u
/* A RECEIVED and a RECONNECT frame. */
#define FRAME_RECEIVED_BYTES 8u
/* A SEED_DIGESTS frame: its head, none to FRAME_SEED_DIGESTS_MOST digests; a SEED_PAGES frame: its head,
 * 1 to FRAME_SEED_PAGES_MAX_RUNS runs; see seed_frame.h. */
#define FRAME_SEED_DIGESTS_HEAD_BYTES 5u
#define FRAME_SEED_DIGEST_BYTES 6u
#define FRAME_SEED_DIGESTS_MOST 16384u
#define FRAME_SEED_PROOF_BYTES 32u
#define FRAME_SEED_PAGES_HEAD_BYTES (4u + 4u + FRAME_SEED_PROOF_BYTES)
#define FRAME_SEED_PAGES_MAX_RUNS 256u
#define FRAME_SEED_PAGES_MIN_RUN_BYTES 3u
#define FRAME_SEED_PAGES_MAX_RUN_BYTES 11u
/* A BULK_BARRIER frame; see epoch_frame.h. */
#define FRAME_BULK_BARRIER_BYTES 12u

/* What a frame is sent as: each class of a session may have a channel of its own
 * (session.h), so that nothing has to wait behind what is less urgent. */
typedef enum {
    TRAFFIC_CONTROL,    /* the sequence of a transaction, and its answers */
    TRAFFIC_FAULT,      /* pages that a thread waits for, and requests for them */
    TRAFFIC_CHECKPOINT, /* an epoch of a protected guest */
    TRAFFIC_BULK,       /* an epoch that no thread waits for: pages, device state, its seal */
    TRAFFIC_DISK,       /* content of disks, which a guest that writes may have to wait for */
    TRAFFIC_CLASSES,
} TrafficClass;

/* "control", "fault", "checkpoint", "bulk", "disk" */
const char *traffic_class_name(TrafficClass traffic);
gboolean traffic_class_from_name(const char *name, TrafficClass *ret);

/* The class that frames of *type* are sent as unless their sender chooses another one. */
TrafficClass frame_type_traffic(FrameType type);

/* Largest payload that is accepted for *type*; 0 for a type that is always
 * empty and for an unknown one. */
uint32_t frame_payload_limit(FrameType type);

/* TRUE for the frames that carry content of guest RAM, which may be sent as any class: as bulk they
 * wait for their turn under the rate limit.  They may be applied in any order within an epoch,
 * COPIES behind all others. */
gboolean frame_type_carries_pages(FrameType type);

/* Of those: TRUE where what came before matters, so that they go by the first channel for bulk. */
gboolean frame_type_has_order(FrameType type);

/* TRUE where a frame of *type*, sent as *traffic*, waits for its turn under the rate limit. */
gboolean frame_type_is_paced(FrameType type, TrafficClass traffic);

/* FALSE for what a channel says about itself: such frames are not counted, and not sent again on a new
 * connection (channel_reconnect.h). */
gboolean frame_type_is_counted(FrameType type);

/* Name for messages ("PAGES"). */
const char *frame_type_name(FrameType type);

/* Checks the type and that its payload may have this length. */
gboolean frame_header_check(const FrameHeader *header, GError **error);

void frame_header_encode(const FrameHeader *header, uint8_t out[FRAME_HEADER_BYTES]);

/* Checks magic, type, flags and length limit. */
gboolean frame_header_decode(const uint8_t in[FRAME_HEADER_BYTES], FrameHeader *ret,
                             GError **error);
