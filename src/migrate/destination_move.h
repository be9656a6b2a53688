/* What the destination keeps during a move (private). */
#pragma once

#include "memory/guest_memory.h"
#include "migrate/destination.h"
#include "transfer/digest.h"
#include "transfer/frame_queue.h"
#include "guard/guard.h"
#include "transfer/page_applier.h"

typedef struct {
    Channel *channel;
    const MigrateDestinationHost *host;
    GuestMessage *guest;
    Vmm *vmm;
    Guard *guard;
    GuardAction kill_action, resume_action; /* of the guard, for the VMM here */
    VmmDescription *description;
    GuestMemory *memory;
    FrameQueue *queue;
    PageApplier *applier;
    DigestCheck *check;
    GByteArray *state;          /* device state as far as it came */
    uint64_t state_bytes;       /* all of it */
    gboolean run;               /* START says so; FALSE: it stays paused */
    GPtrArray *images;          /* of VmmImage, once asked for */
    struct ImageAnswer *answer; /* the last one, perhaps still being made */
    GError *resume_error;       /* committed, but it is not known to run */
} DestinationMove;

/* Our regions in the order of the source's list, so that indexes agree. */
GPtrArray *destination_order_regions(const GuestMessage *guest, const VmmDescription *description,
                                     GError **error);

/* Frames while the machine is being received. */
gboolean destination_end_round(DestinationMove *move, const Frame *frame, GError **error);
/* destination_images.c: answers IMAGES, at once or, where images are to be read as
 * a whole, from a thread; ends that. */
typedef struct ImageAnswer ImageAnswer;
gboolean destination_show_images(DestinationMove *move, const Frame *frame, GError **error);
void destination_images_free(ImageAnswer *answer);
/* Before the state is loaded, with the guest paused at the source: could it write
 * to its images here?  Waits a moment for who holds a lock. */
gboolean destination_try_images(DestinationMove *move, GError **error);
/* destination_start.c: runs the machine, or leaves it paused, as START says.
 * FALSE with *error* where it certainly did not run and the commit was taken
 * back; move->resume_error where nobody knows. */
gboolean destination_start_guest(DestinationMove *move, GError **error);
gboolean destination_take_state(DestinationMove *move, const Frame *frame, GError **error);
