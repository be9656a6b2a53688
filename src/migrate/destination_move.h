/* What the destination keeps during a move (private). */
#pragma once

#include "memory/guest_memory.h"
#include "migrate/destination.h"
#include "migrate/digest.h"
#include "migrate/frame_queue.h"
#include "migrate/guard.h"
#include "migrate/page_applier.h"

typedef struct {
    Channel *channel;
    const MigrateDestinationHost *host;
    GuestMessage *guest;
    Vmm *vmm;
    Guard *guard;
    VmmDescription *description;
    GuestMemory *memory;
    FrameQueue *queue;
    PageApplier *applier;
    DigestCheck *check;
    GByteArray *state;    /* device state as far as it came */
    uint64_t state_bytes; /* all of it */
    gboolean committed;
    gboolean run;               /* START says so; FALSE: it stays paused */
    GPtrArray *images;          /* of VmmImage, once asked for */
    struct ImageAnswer *answer; /* the last one, perhaps still being made */
    GError *resume_error;       /* committed, but the VMM would not run it */
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
gboolean destination_take_state(DestinationMove *move, const Frame *frame, GError **error);
