#include "migrate/kept_writes.h"

#include "base/error.h"
#include "base/log.h"
#include "base/page.h"
#include "disk/write_piece.h"
#include "wire/event_frame.h"
#include "migrate/epoch_writes.h"

struct KeptWrites {
    WriteJournal *journal; /* NULL: there are no disks */
    uint64_t *bytes;       /* of each disk */
    DeltaStore *pages;     /* NULL: not known */
    GByteArray *records;
};

static KeptWrites *take(WriteJournal *journal)
{
    KeptWrites *kept = g_new0(KeptWrites, 1);

    kept->journal = journal;
    kept->records = g_byte_array_new();
    if (!journal)
        return kept;
    kept->bytes = g_new0(uint64_t, write_journal_get_count(journal) + 1);
    for (guint i = 0; i < write_journal_get_count(journal); i++)
        kept->bytes[i] = write_journal_get_disk_bytes(journal, i);
    return kept;
}

KeptWrites *kept_writes_create_for(const uint64_t *bytes, guint count, const char *directory,
                                   const char *transaction, GError **error)
{
    WriteJournal *journal;

    if (count == 0)
        return take(NULL);
    journal =
        write_journal_create(directory, transaction, bytes, count, KEPT_WRITES_MOST_BYTES, error);
    return journal ? take(journal) : NULL;
}

KeptWrites *kept_writes_create(Vmm *vmm, const char *directory, const char *transaction,
                               GError **error)
{
    g_autoptr(GPtrArray) disks = epoch_writes_list(vmm, error);
    g_autofree uint64_t *bytes = NULL;

    if (!disks || !epoch_writes_check(disks, error))
        return NULL;
    bytes = g_new0(uint64_t, disks->len + 1);
    for (guint i = 0; i < disks->len; i++) {
        const VmmDisk *disk = disks->pdata[i];

        bytes[i] = ((const VmmDiskFile *)disk->files->pdata[0])->bytes;
    }
    return kept_writes_create_for(bytes, disks->len, directory, transaction, error);
}

KeptWrites *kept_writes_open(const char *directory, const char *transaction, uint64_t committed,
                             GError **error)
{
    WriteJournal *journal;

    if (!g_file_test(directory, G_FILE_TEST_EXISTS))
        return take(NULL);
    journal = write_journal_open(directory, transaction, committed, KEPT_WRITES_MOST_BYTES, error);
    return journal ? take(journal) : NULL;
}

void kept_writes_free(KeptWrites *kept)
{
    if (!kept)
        return;
    write_journal_free(kept->journal);
    g_byte_array_unref(kept->records);
    g_free(kept->bytes);
    g_free(kept);
}

static gboolean takes(FrameType type)
{
    return type == FRAME_EPOCH_WRITES || type == FRAME_EPOCH_EVENTS;
}

/* ---- events: the pages have their data ---- */

static gboolean read_pages(const KeptWrites *kept, const WriteEvent *event, uint8_t *buffer,
                           GError **error)
{
    for (uint32_t i = 0; i < event->pages; i++)
        if (!delta_stage_read(kept->pages, event->region, event->page + i,
                              buffer + (size_t)i * PAGE_BYTES, error))
            return FALSE;
    return TRUE;
}

static gboolean stage_event(KeptWrites *kept, const WriteEvent *event, uint64_t epoch,
                            GError **error)
{
    g_autoptr(WriteBatch) batch = write_batch_new(write_journal_get_count(kept->journal));
    size_t length = (size_t)event->pages * PAGE_BYTES;
    g_autofree uint8_t *buffer = g_malloc(length);
    WriteBatchWalk walk = write_batch_walk(batch);

    if (!read_pages(kept, event, buffer, error))
        return FALSE;
    write_batch_add(batch, event->disk, event->offset, length, buffer);
    for (;;) {
        g_byte_array_set_size(kept->records, 0);
        if (!write_batch_encode(&walk, WRITE_PIECE_MAX_BYTES, kept->records))
            return TRUE;
        if (!write_journal_stage(kept->journal, epoch, kept->records->data, kept->records->len,
                                 error))
            return FALSE;
    }
}

static gboolean take_events(KeptWrites *kept, const Frame *frame, uint64_t epoch, GError **error)
{
    ByteReader reader = byte_reader_make(frame->payload, frame->length);
    const PageRegions *regions = kept->pages ? delta_store_get_regions(kept->pages) : NULL;
    WriteEvent event;
    int got;

    if (!regions) {
        error_set(error, VMFERRY_ERROR_INVALID, "EPOCH_EVENTS where no pages are kept");
        return FALSE;
    }
    while ((got = event_frame_read(&reader, kept->bytes, write_journal_get_count(kept->journal),
                                   regions->pages, regions->count, &event, error)) == 1)
        if (!stage_event(kept, &event, epoch, error))
            return FALSE;
    return got == 0;
}

static gboolean take_writes(KeptWrites *kept, const Frame *frame, uint64_t epoch, GError **error)
{
    return write_piece_decode(frame->payload, frame->length, kept->records, error) &&
           write_journal_stage(kept->journal, epoch, kept->records->data, kept->records->len,
                               error);
}

static gboolean take_frame(const Frame *frame, uint64_t epoch, gpointer user, GError **error)
{
    KeptWrites *kept = user;

    if (!kept->journal) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s of a guest without disks",
                  frame_type_name(frame->type));
        return FALSE;
    }
    return (frame->type == FRAME_EPOCH_EVENTS ? take_events : take_writes)(kept, frame, epoch,
                                                                           error);
}

void kept_writes_set_pages(KeptWrites *kept, DeltaStore *pages)
{
    kept->pages = pages;
}

static gboolean seal(uint64_t epoch, gpointer user, GError **error)
{
    WriteJournal *journal = ((KeptWrites *)user)->journal;

    return !journal || write_journal_seal(journal, epoch, error);
}

/* Where folding fails, it is folded later, or applied out of the log. */
static void commit(uint64_t epoch, gpointer user)
{
    WriteJournal *journal = ((KeptWrites *)user)->journal;
    g_autoptr(GError) problem = NULL;

    if (journal && !write_journal_commit(journal, epoch, &problem))
        log_warning("journal of disk writes: %s", problem->message);
}

static void forget(gpointer user)
{
    WriteJournal *journal = ((KeptWrites *)user)->journal;
    g_autoptr(GError) problem = NULL;

    if (journal && !write_journal_forget(journal, &problem))
        log_debug("journal of disk writes: %s", problem->message);
}

CheckpointPart kept_writes_get(KeptWrites *kept)
{
    return (CheckpointPart){takes, take_frame, seal, commit, forget, kept};
}

const WriteJournal *kept_writes_get_journal(const KeptWrites *kept)
{
    return kept->journal;
}

WriteJournal *kept_writes_use_journal(KeptWrites *kept)
{
    return kept->journal;
}
