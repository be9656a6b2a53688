#include "migrate/kept_writes.h"

#include "base/error.h"
#include "base/log.h"
#include "migrate/epoch_writes.h"

struct KeptWrites {
    WriteJournal *journal; /* NULL: there are no disks */
};

static KeptWrites *take(WriteJournal *journal)
{
    KeptWrites *kept = g_new0(KeptWrites, 1);

    kept->journal = journal;
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
    g_free(kept);
}

static gboolean takes(FrameType type)
{
    return type == FRAME_EPOCH_WRITES;
}

static gboolean take_frame(const Frame *frame, uint64_t epoch, gpointer user, GError **error)
{
    WriteJournal *journal = ((KeptWrites *)user)->journal;

    if (journal)
        return write_journal_stage(journal, epoch, frame->payload, frame->length, error);
    error_set(error, VMFERRY_ERROR_INVALID, "EPOCH_WRITES of a guest without disks");
    return FALSE;
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
