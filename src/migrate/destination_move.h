/* What the destination keeps during a move (private). */
#pragma once

#include "memory/guest_memory.h"
#include "migrate/destination.h"
#include "migrate/epoch_writes.h"
#include "migrate/postcopy_destination.h"
#include "transfer/digest.h"
#include "transfer/epoch.h"
#include "transfer/frame_queue.h"
#include "transfer/page_applier.h"
#include "transfer/page_sink.h"
#include "transfer/page_source.h"
#include "guard/guard.h"

typedef struct {
    Session *session;
    const MigrateDestinationHost *host;
    gboolean takes_neutral; /* a guest may come from a VMM of another kind */
    GuestMessage *guest;
    Vmm *vmm;
    Guard *guard;
    GuardAction kill_action, resume_action; /* of the guard, for the VMM here */
    VmmDescription *description;
    GuestMemory *memory;
    FrameQueue *queue;
    PageSink *sink; /* the guest's memory */
    PageApplier *applier;
    EpochReceiver *epochs;
    PageSource *received; /* the same memory, to be verified */
    DigestCheck *check;
    uint64_t ready_ns;              /* when READY was sent (clock_boot_ns()): START answers it */
    StartMessage start;             /* what the source said */
    GPtrArray *images;              /* of VmmImage, once asked for */
    struct ImageAnswer *answer;     /* the last one, perhaps still being made */
    struct DestinationDisks *disks; /* NULL: none are copied */
    struct DestinationSeed *seed;   /* NULL: all pages travel */
    Userfault *userfault;           /* where its memory may be split; NULL once *split* has it */
    OutstandingPages *outstanding;  /* pages that do not come before START; the same */
    gboolean has_stale;             /* content of such pages is still there */
    char *outstanding_path;         /* of its file; NULL: all come */
    char *overlays;                 /* directory of overlays, or NULL */
    EpochWrites *writes;            /* prepared, for what it writes while it is split; or NULL */
    PostcopyDestination *split;     /* NULL: all memory was here at START */
    GError *failure;                /* why the move is given up */
    GError *resume_error;           /* committed, but it is not known to run */
} DestinationMove;

/* Our regions in the order of the source's list, so that indexes agree. */
GPtrArray *destination_order_regions(const GuestMessage *guest, const VmmDescription *description,
                                     GError **error);

/* Takes GUEST: destination.c. */
gboolean destination_take_guest(DestinationMove *move, const Frame *frame, GError **error);

/* Whether it has, or is about to: its process may take a moment to go, its
 * connection is closed at once. */
gboolean destination_vmm_has_ended(Vmm *vmm);

/* destination_images.c: answers IMAGES, at once or, where images are to be read as
 * a whole, from a thread; ends that. */
typedef struct ImageAnswer ImageAnswer;
gboolean destination_show_images(DestinationMove *move, const Frame *frame, GError **error);
void destination_images_free(ImageAnswer *answer);
/* Before the state is loaded, with the guest paused at the source: could it write
 * to its images here?  Waits a moment for who holds a lock. */
gboolean destination_try_images(DestinationMove *move, GError **error);

/* destination_postcopy.c: once its memory is open: can it be split?  Takes OUTSTANDING; before the
 * device state is loaded: begins to serve faults, or drops what is not needed for it; commits to a
 * guest whose memory is split, after which its source may connect anew; serves it to the end;
 * undoes it. */
gboolean destination_prepare_split(DestinationMove *move, GError **error);
gboolean destination_take_outstanding(DestinationMove *move, const Frame *frame, GError **error);
/* At an epoch's end: drops what is stale by then, which need not wait for the pause. */
gboolean destination_drop_outstanding(DestinationMove *move, GError **error);
gboolean destination_begin_split(DestinationMove *move, GError **error);
/* The state is loaded: where it is to be protected, from the guest's start on its output waits for
 * that. */
gboolean destination_hold_output(DestinationMove *move, GError **error);
/* From there on it may run only while it has a lease. */
gboolean destination_runs_by_leases(const DestinationMove *move);
/* Once a guest runs that was not split after all: nothing is to stay in its VMM. */
void destination_end_userfault(DestinationMove *move);
/* The same of overlays that are not in use. */
void destination_drop_overlays(DestinationMove *move);
void destination_serve_split(DestinationMove *move);
void destination_undo_split(DestinationMove *move);

/* destination_seed.c: SEED has come: opens the image, and answers; GUEST has come: the list may be sent; for the
 * page applier, NULL without one; the first epoch is in place: names what the seed did not have; a page that
 * is outstanding comes later; before the device state is loaded: all of that has come. */
typedef struct DestinationSeed DestinationSeed;
gboolean destination_take_seed(DestinationMove *move, const Frame *frame, GError **error);
void destination_seed_send_list(DestinationMove *move);
SeedReader *destination_seed_get_reader(const DestinationMove *move);
gboolean destination_seed_end(DestinationMove *move, GError **error);
void destination_seed_note_outstanding(DestinationMove *move, const Frame *frame);
gboolean destination_seed_check(DestinationMove *move, GError **error);
void destination_seed_free(DestinationSeed *seed);

/* destination_disks.c: DISKS has come in place of GUEST: makes what is wanted, and receives from
 * then on; waits for the next frame of the sequence, which may take as long as disks take; FALSE
 * where receiving has failed. */
typedef struct DestinationDisks DestinationDisks;
gboolean destination_take_disks(DestinationMove *move, const Frame *frame, GError **error);
gboolean destination_await_after_disks(DestinationMove *move, FrameType type, Frame *ret,
                                       GError **error);
gboolean destination_are_disks_of(const DestinationMove *move, const GuestMessage *guest,
                                  GError **error);
gboolean destination_check_disks(DestinationMove *move, GError **error);
/* The guest is paused: all content has come, and no process of ours has an image open; sends
 * digests. */
gboolean destination_complete_disks(DestinationMove *move, GError **error);
gboolean destination_verify_disks(DestinationMove *move, GError **error);
/* The guest is not, or is here. */
void destination_undo_disks(DestinationMove *move);
void destination_keep_disks(DestinationMove *move);
void destination_disks_free(DestinationDisks *disks);
