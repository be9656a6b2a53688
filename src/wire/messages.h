/*
 * The protocol's JSON messages
 *
 * Each has a struct, an encoder that cannot fail and a decoder that checks
 * every field and limit (docs/protocol.md lists them).  Texts in a decoded struct are owned by it.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "base/json.h"
#include "identity/identity.h"
#include "state/machine_description.h"
#include "wire/channel.h"

#define PROTOCOL_VERSION 1

/* Features that HELLO may name; this side's names all of them, and a source uses
 * those that its peer names, too (peer_has_feature()). */
#define FEATURE_PAGES_LZ4 "pages-lz4"
#define FEATURE_PAGES_ZSTD "pages-zstd"
#define FEATURE_SEGMENTS "segments"
#define FEATURE_COPIES "copies"
#define FEATURE_BALLOON "balloon"
#define FEATURE_DISKS "disks"
#define FEATURE_POSTCOPY "postcopy"
#define FEATURE_STORE "store"
#define FEATURE_STANDBY "standby"
#define FEATURE_DISK_DIGESTS "disk-digests"
#define FEATURE_SAVE "save"
#define FEATURE_SAVE_BASE "save-base"
#define FEATURE_NEUTRAL "neutral-state"
#define FEATURE_MEASURE "measure"
#define FEATURE_BULK_CHANNELS "bulk-channels"
#define FEATURE_PAGES_WINDOW "pages-window"
#define FEATURE_SEED "seed"
#define FEATURE_RECONNECT "reconnect"

#define MESSAGE_MAX_REGIONS 256
#define MESSAGE_MAX_ADDRESS_BYTES 255
#define MESSAGE_MAX_MEMORY_BYTES (1ULL << 46)
#define MESSAGE_MAX_ARGUMENTS 1024
#define MESSAGE_MAX_ARGUMENT_BYTES 65536

typedef struct {
    guint version_min, version_max;
    char **features; /* NULL-terminated; unknown ones are ignored */
    char *software;  /* "vmferry 0.2.0" */
    char *host;      /* the sender's host name */
    /* Of the connecting side: "migrate", "resume", "resolve", "ping", "join", "store", "fetch",
     * "witness", "protect". */
    char *purpose;
    char *instance; /* the sender's random id (ChannelOptions); "" or NULL for none */
    char *agent;    /* its lasting id, 32 hex digits; "" or NULL for none */
    /* 64 random hex digits: given by the accepting side to one that may join further channels to
     * this one, shown by those that do; "" or NULL for none. */
    char *token;
    /* Of "join" only, otherwise "" or NULL: what is joined, and the class of its traffic. */
    char *transaction;
    char *traffic;
    guint number; /* of a further channel for bulk; 0: the class's own */
} HelloMessage;

/* Each number is used once in a session. */
#define HELLO_MOST_NUMBER 63u

#define HELLO_TRANSACTION_DIGITS 32
#define HELLO_TOKEN_DIGITS 64

void hello_message_clear(HelloMessage *message);
char *hello_message_encode(const HelloMessage *message);
gboolean hello_message_decode(const char *text, size_t length, HelloMessage *ret, GError **error);

/* TRUE where the peer's HELLO names *feature* (FEATURE_…). */
gboolean peer_has_feature(const HelloMessage *peer, const char *feature);

/* Exchanges HELLO on a new channel and agrees on the highest version both
 * speak.  The connecting side speaks first; VMFERRY_ERROR_REFUSED where it has
 * reached its own agent.  *token* is what the accepting side gives (NULL: none);
 * handshake_join() and handshake_reconnect() are handshake_connect() for a channel of a session that
 * there is. */
gboolean handshake_connect(Channel *channel, const char *purpose, HelloMessage *ret_peer,
                           guint *ret_version, GError **error);
gboolean handshake_join(Channel *channel, const char *transaction, TrafficClass traffic,
                        guint number, const char *token, HelloMessage *ret_peer, GError **error);
gboolean handshake_reconnect(Channel *channel, const char *transaction, TrafficClass traffic,
                             guint number, const char *token, HelloMessage *ret_peer,
                             GError **error);
gboolean handshake_accept(Channel *channel, const char *token, HelloMessage *ret_peer,
                          guint *ret_version, GError **error);

/* The term of an owner of a guest: 1 for the host where it became managed, one
 * more with each change of owner.  Of two hosts that take themselves for the
 * owner of one guest (by its id), the one with the higher term is right. */
#define MESSAGE_MAX_TERM ((uint64_t)1 << 53)

typedef struct {
    char *name;
    uint64_t bytes;
} WireRegion;

typedef struct {
    char *transaction; /* 32 lower-case hex digits, random */
    char *guest;       /* name in the agents' registries */
    char *guest_id;    /* of this guest since it became managed: as a transaction's */
    uint64_t term;     /* with which the destination is to own it */
    char *vmm_kind;    /* "qemu" */
    char *vmm_version;
    char *machine;
    char *accelerator;
    char **command_line;      /* program first */
    char *working_directory;  /* that relative paths in it are relative to; NULL: not sent */
    ProcessIdentity *process; /* that is to run it */
    json_t *live;             /* the live machine, in the VMM driver's own form */
    MachineDescription *
        neutral; /* it comes in the neutral form, and this is what it is made of: then there is neither *live*
                                    nor a command line; NULL: in the driver's own form */
    guint vcpus;
    uint64_t memory_bytes;
    gboolean verify;
    gboolean postcopy;   /* the guest may be started before all of its pages are there; then … */
    guint checkpoint_ms; /* … epochs of it come back at this interval; 0: none */
    uint64_t balloon_bytes; /* what its balloon is set to once it runs there; 0: left alone */
    char *store;            /* HOST[:PORT] of an agent that keeps its pages, too; NULL: none does */
    char *store_agent;      /* its lasting id */
    guint lease_ms;     /* it runs there by leases of this length, and that agent is the witness;
                               0: it needs none */
    guint retry_for_ms; /* its source connects again where a connection breaks, for so long */
    WireRegion *regions;
    guint region_count;
} GuestMessage;

#define GUEST_MESSAGE_MAX_CHECKPOINT_MS 60000
#define GUEST_MAX_RETRY_MS 3600000
/* The field "regions" of a message; regions that were decoded. */
json_t *wire_regions_encode(const WireRegion *regions, guint count);
gboolean wire_regions_decode(json_t *object, WireRegion **ret, guint *ret_count, GError **error);
void wire_regions_free(WireRegion *regions, guint count);

void guest_message_free(GuestMessage *message);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(GuestMessage, guest_message_free)
char *guest_message_encode(const GuestMessage *message);
GuestMessage *guest_message_decode(const char *text, size_t length, GError **error);

/* UNSUPPORTED for a guest in the neutral form, for who needs the driver's own. */
gboolean guest_message_check_own_form(const GuestMessage *message, GError **error);

/* Questions of a source about the images below the guest's disks, which both
 * sides list in one order (vmm_list_images()), and what a destination sees. */
#define MESSAGE_MAX_IMAGES 1024
#define MESSAGE_MAX_SAMPLES 1024

typedef struct {
    uint64_t lock;      /* does anybody hold a lock on this byte? */
    uint64_t *samples;  /* offsets of blocks to make a digest of */
    guint sample_count; /* 0: none is asked for */
    gboolean content;   /* a digest of all of it is asked for, … */
    uint64_t bytes;     /* … if it is of this size */
} ImageQuestion;

typedef struct {
    ImageQuestion *images;
    guint count;
} ImagesMessage;

void images_message_clear(ImagesMessage *message);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ImagesMessage, images_message_clear)
char *images_message_encode(const ImagesMessage *message);
gboolean images_message_decode(const char *text, size_t length, ImagesMessage *ret, GError **error);

typedef struct {
    char *file;     /* as the VMM there names it */
    gboolean local; /* a file or device of that host: the rest is filled */
    gboolean device, sees_lock;
    uint64_t bytes;
    uint64_t token_s; /* see disk/image_view.h */
    uint32_t token_ms;
    char *device_id; /* "" for none */
    char *digest;    /* NULL where none was asked for or could be made */
} ImageSeen;

typedef struct {
    ImageSeen *images;
    guint count;
} ImagesSeenMessage;

void images_seen_message_clear(ImagesSeenMessage *message);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ImagesSeenMessage, images_seen_message_clear)
char *images_seen_message_encode(const ImagesSeenMessage *message);
gboolean images_seen_message_decode(const char *text, size_t length, ImagesSeenMessage *ret,
                                    GError **error);

/* Image files that a source may want to be made at its destination, and whatever makes them. */
#define MESSAGE_MAX_DISK_FILES 1024

typedef struct {
    char *path;          /* as the VMM at the source names it; the destination's map rules apply */
    char *format;        /* "raw", "qcow2" */
    uint64_t bytes;      /* of the disk in it */
    uint64_t file_bytes; /* length of the file */
    uint64_t allocated_bytes; /* of storage that it takes */
    guint mode;               /* permissions: of 0777 */
    uint64_t lock; /* who sees a lock on this byte has the very same file; 0: none is set */
    char *backing; /* path of the backing file as its header names it; NULL: none */
    char *backing_format;
    json_t *options; /* how it is made, in the VMM driver's own form; NULL: by default */
} WireDiskFile;

typedef struct {
    char *transaction; /* as in GUEST, which follows */
    char *guest;
    char *vmm_kind;
    char *program;            /* of the VMM */
    char *working_directory;  /* that relative paths are relative to */
    ProcessIdentity *process; /* that is to run the guest */
    gboolean overwrite;       /* files that are there may be replaced */
    guint retry_for_ms;       /* as in GUEST */
    WireDiskFile *files;
    guint file_count;
} DisksMessage;

void disks_message_clear(DisksMessage *message);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(DisksMessage, disks_message_clear)
char *disks_message_encode(const DisksMessage *message);
gboolean disks_message_decode(const char *text, size_t length, DisksMessage *ret, GError **error);

typedef struct {
    char *path;      /* there */
    gboolean exists; /* something is at that place */
    gboolean same;   /* … the very same file */
    uint64_t bytes;  /* its length; 0 where nothing is there, or no file */
} DiskFileSeen;

typedef struct {
    DiskFileSeen *files;
    guint count;
} DisksSeenMessage;

void disks_seen_message_clear(DisksSeenMessage *message);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(DisksSeenMessage, disks_seen_message_clear)
char *disks_seen_message_encode(const DisksSeenMessage *message);
gboolean disks_seen_message_decode(const char *text, size_t length, DisksSeenMessage *ret,
                                   GError **error);

/* How a file is made at the destination. */
typedef enum {
    DISK_MAKE_NOTHING, /* it is there, or not wanted */
    DISK_MAKE_FILE,    /* an equal file; DISK_WRITE frames are its bytes */
    DISK_MAKE_IMAGE,   /* an image of its format; DISK_WRITE frames are the disk's content */
} DiskMake;

/* "nothing", "file", "image" */
const char *disk_make_name(DiskMake make);
gboolean disk_make_from_name(const char *name, DiskMake *ret);

/* One for each file of DISKS. */
char *disks_make_message_encode(const DiskMake *makes, guint count);
gboolean disks_make_message_decode(const char *text, size_t length, guint count, DiskMake *ret,
                                   GError **error);

/* Digests of the content of the files that were made, as hex digits; NULL of others. */
char *disks_digests_message_encode(char *const *digests, guint count);
gboolean disks_digests_message_decode(const char *text, size_t length, guint count, char **ret,
                                      GError **error);

typedef struct {
    gboolean verified; /* TRUE: every digest matched (only with verify) */
    double load_ms;    /* time to load the device state */
} ReadyMessage;

char *ready_message_encode(const ReadyMessage *message);
gboolean ready_message_decode(const char *text, size_t length, ReadyMessage *ret, GError **error);

/* The change of owner.  Binary: u8 run, u64 term. */
#define START_MESSAGE_BYTES 9

typedef struct {
    gboolean run;  /* FALSE: the guest stays paused */
    uint64_t term; /* as in GUEST */
} StartMessage;

void start_message_encode(const StartMessage *message, uint8_t ret[START_MESSAGE_BYTES]);
gboolean start_message_decode(const uint8_t *payload, size_t length, StartMessage *ret,
                              GError **error);

/* What became of a transaction, said by its destination. */
typedef enum {
    OUTCOME_COMMITTED, /* the guest was started here */
    OUTCOME_ABORTED,   /* it was not and never will be, or was never heard of */
    OUTCOME_PENDING,   /* still being received or decided; ask again */
    OUTCOME_LOST,      /* this host was restarted meanwhile: it cannot know */
} TransactionOutcome;

const char *transaction_outcome_name(TransactionOutcome outcome);

/* A source's question: what became of this transaction, by which the guest was to
 * be owned with *term*?  RESUME says the same: let us go on with it. */
typedef struct {
    char *transaction;
    char *guest_id;
    uint64_t term;
} ResolveMessage;

void resolve_message_clear(ResolveMessage *message);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ResolveMessage, resolve_message_clear)
char *resolve_message_encode(const ResolveMessage *message);
gboolean resolve_message_decode(const char *text, size_t length, ResolveMessage *ret,
                                GError **error);

typedef struct {
    TransactionOutcome outcome;
    uint64_t term; /* of the ownership that *outcome* is about; 0: there is none */
} OutcomeMessage;

/* TRUE where a source that owns its guest with *term* has to give it up. */
static inline gboolean outcome_takes_guest(const OutcomeMessage *message, uint64_t term)
{
    return message->outcome == OUTCOME_COMMITTED && message->term > term;
}

/* A source to a store: keep pages of this transaction, for its destination. */
typedef struct {
    char *transaction;
    char *guest, *guest_id;
    uint64_t term;           /* with which the destination is to own it */
    char *source;            /* host name, for people */
    char *destination;       /* HOST[:PORT], for people … */
    char *destination_agent; /* … and who may fetch them: its lasting id */
    uint64_t bytes;          /* that it may have to keep: all that may be outstanding */
    WireRegion *regions;
    guint region_count;
} StoreMessage;

void store_message_free(StoreMessage *message);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreMessage, store_message_free)
char *store_message_encode(const StoreMessage *message);
StoreMessage *store_message_decode(const char *text, size_t length, GError **error);

/* A host to the one that is to stand by for its guest, after GUEST. */
#define PROTECT_MESSAGE_MAX_IMAGES 256u
#define PROTECT_MESSAGE_MAX_OVERHEAD_PERCENT 50u

typedef struct {
    char *path; /* of a disk's topmost image, as the VMM there names it; map rules apply */
    char *format;
    uint64_t bytes; /* of the disk, whole sectors */
} WireImage;

typedef struct {
    uint16_t port;     /* of the sender's agent, to be reached at */
    WireImage *images; /* of the disks whose writes come, in their order there */
    guint image_count;
    /* How it is protected, for a standby that has it protected the same way once it has gone on. */
    const char *sync;       /* "auto", "output" or "timed", a constant; NULL: not told */
    guint overhead_percent; /* for how much of its time it may stand; 0: not told */
    gboolean copies_writes; /* of its disks: all are sent, also where they are in its memory */
} ProtectMessage;

void protect_message_clear(ProtectMessage *message);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ProtectMessage, protect_message_clear)
char *protect_message_encode(const ProtectMessage *message);
gboolean protect_message_decode(const char *text, size_t length, ProtectMessage *ret,
                                GError **error);

/* A source to who keeps its image: into which file.  Before DISKS and GUEST. */
#define SAVE_MESSAGE_MAX_NOTE_BYTES (1u << 20)

typedef struct {
    char *path;       /* absolute; map rules do not apply */
    gboolean replace; /* a file that is there */
    char *base;       /* absolute; NULL: a full image.  Else SAVE_BASE answers */
} SaveMessage;

void save_message_clear(SaveMessage *message);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(SaveMessage, save_message_clear)
char *save_message_encode(const SaveMessage *message);
gboolean save_message_decode(const char *text, size_t length, SaveMessage *ret, GError **error);

/* What an image is that another is made above: its copies of disks. */
#define SAVE_BASE_MAX_DISKS 256u
#define SAVE_BASE_MAX_BACKING 64u

typedef struct {
    char *id;     /* VmmDisk.id */
    char *saved;  /* the name of the copy, without folders */
    char *format; /* of that */
    uint64_t bytes;
    char *bitmap;   /* of the VMM, which notes what has changed since; NULL: none */
    char **backing; /* names of the files below the copy, the next one first; NULL-terminated */
} SaveBaseDisk;

typedef struct {
    char *id; /* of the image: 32 hex digits */
    SaveBaseDisk *disks;
    guint disk_count;
} SaveBaseMessage;

void save_base_message_clear(SaveBaseMessage *message);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(SaveBaseMessage, save_base_message_clear)
char *save_base_message_encode(const SaveBaseMessage *message);
gboolean save_base_message_decode(const char *text, size_t length, SaveBaseMessage *ret,
                                  GError **error);

/* The image is complete. */
typedef struct {
    char *id;       /* of the image: 32 hex digits */
    uint64_t bytes; /* of the file */
    /* Above a base: pages that were compared with its, those of these that are equal, those that were stored,
     * and those that became zero. */
    gboolean above_base;
    uint64_t compared, equal, stored, zeroed;
} SavedMessage;

void saved_message_clear(SavedMessage *message);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(SavedMessage, saved_message_clear)
char *saved_message_encode(const SavedMessage *message);
gboolean saved_message_decode(const char *text, size_t length, SavedMessage *ret, GError **error);

/* Before anything else of a move: an image at the destination, by its path there, and of how many pages the
 * source takes digests. */
typedef struct {
    char *path;
    uint32_t most; /* 1 to SEED_MAX_DIGESTS (seed_frame.h) */
} SeedMessage;

void seed_message_clear(SeedMessage *message);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(SeedMessage, seed_message_clear)
char *seed_message_encode(const SeedMessage *message);
gboolean seed_message_decode(const char *text, size_t length, SeedMessage *ret, GError **error);

/* The destination has opened it. */
typedef struct {
    char *id;       /* the image's, 32 hex digits */
    uint64_t pages; /* with content, as far as its index tells */
    uint64_t key;   /* of the digests */
} SeedAnswer;

void seed_answer_clear(SeedAnswer *answer);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(SeedAnswer, seed_answer_clear)
char *seed_answer_encode(const SeedAnswer *answer);
gboolean seed_answer_decode(const char *text, size_t length, SeedAnswer *ret, GError **error);

char *outcome_message_encode(const char *transaction, const OutcomeMessage *message);
gboolean outcome_message_decode(const char *text, size_t length, const char *transaction,
                                OutcomeMessage *ret, GError **error);
