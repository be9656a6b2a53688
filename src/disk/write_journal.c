#include "disk/write_journal_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/error.h"
#include "base/fd.h"
#include "disk/write_batch.h"

#define MAGIC "vmfwrite"
#define VERSION 1u
#define RECORD_MAGIC 0x57524A4Cu
#define TRANSACTION_BYTES 128u

enum { RECORD_PIECE = 1, RECORD_SEAL = 2 };

/* The log, read by the host that wrote it and by no other: numbers are the machine's own.
 *
 *     LogHead | u64 bytes of each disk | Folded | records: RecordHead | piece
 */
typedef struct {
    char magic[8];
    uint32_t version, count;
    char transaction[TRANSACTION_BYTES];
    uint64_t digest; /* of all this and the sizes, while it is 0 */
} LogHead;

typedef struct {
    uint64_t epoch, digest; /* of the epoch */
} Folded;

typedef struct {
    uint32_t magic, kind;
    uint64_t epoch, length;
    uint64_t digest; /* of this, while it is 0, and the piece */
} RecordHead;

/* ---- files ---- */

static gboolean cut_log(WriteJournal *journal, uint64_t end, GError **error)
{
    if (ftruncate(journal->log, (off_t)end) < 0) {
        error_set_errno(error, errno, "cut the log");
        return FALSE;
    }
    journal->log_end = end;
    return TRUE;
}

/* ---- the head of the log ---- */

static uint64_t sizes_bytes(const WriteJournal *journal)
{
    return journal->count * sizeof *journal->bytes;
}

static uint64_t folded_at(const WriteJournal *journal)
{
    return sizeof(LogHead) + sizes_bytes(journal);
}

static uint64_t records_at(const WriteJournal *journal)
{
    return folded_at(journal) + sizeof(Folded);
}

static uint64_t digest_two(const void *head, size_t head_bytes, const void *rest, size_t rest_bytes)
{
    XXH64_hash_t head_digest = XXH3_64bits(head, head_bytes);

    return XXH3_64bits_withSeed(rest, rest_bytes, head_digest);
}

static gboolean write_folded(WriteJournal *journal, uint64_t epoch, GError **error)
{
    Folded folded = {.epoch = epoch, .digest = XXH3_64bits(&epoch, sizeof epoch)};

    if (!journal_write_at(journal->log, &folded, sizeof folded, folded_at(journal), error))
        return FALSE;
    journal->folded = epoch;
    return TRUE;
}

static gboolean write_head(WriteJournal *journal, const char *transaction, GError **error)
{
    LogHead head = {.magic = MAGIC, .version = VERSION, .count = journal->count};

    g_strlcpy(head.transaction, transaction, sizeof head.transaction);
    head.digest = digest_two(&head, sizeof head, journal->bytes, sizes_bytes(journal));
    return journal_write_at(journal->log, &head, sizeof head, 0, error) &&
           journal_write_at(journal->log, journal->bytes, sizes_bytes(journal), sizeof head,
                            error) &&
           write_folded(journal, 0, error);
}

static gboolean are_sizes_right(const uint64_t *bytes, guint count)
{
    for (guint i = 0; i < count; i++)
        if (bytes[i] == 0 || bytes[i] % WRITE_SECTOR_BYTES != 0 || bytes[i] > (uint64_t)G_MAXINT64)
            return FALSE;
    return count > 0 && count <= WRITE_JOURNAL_MAX_DISKS;
}

static gboolean is_head_right(LogHead *head, const uint64_t *bytes)
{
    uint64_t digest = head->digest;

    head->digest = 0;
    return digest == digest_two(head, sizeof *head, bytes, head->count * sizeof *bytes) &&
           are_sizes_right(bytes, head->count) &&
           memchr(head->transaction, '\0', sizeof head->transaction);
}

/* One that was cut off while it was written: the log has still all that was being folded, and may be
 * folded again. */
static void read_folded(WriteJournal *journal)
{
    Folded folded;

    if (journal_read_at(journal->log, &folded, sizeof folded, folded_at(journal), NULL) &&
        folded.digest == XXH3_64bits(&folded.epoch, sizeof folded.epoch))
        journal->folded = folded.epoch;
}

static gboolean read_head(WriteJournal *journal, LogHead *head)
{
    if (!journal_read_at(journal->log, head, sizeof *head, 0, NULL) ||
        memcmp(head->magic, MAGIC, sizeof head->magic) != 0 || head->version != VERSION ||
        head->count == 0 || head->count > WRITE_JOURNAL_MAX_DISKS)
        return FALSE;
    journal->count = head->count;
    journal->bytes = g_new0(uint64_t, journal->count);
    return journal_read_at(journal->log, journal->bytes, sizes_bytes(journal), sizeof *head,
                           NULL) &&
           is_head_right(head, journal->bytes);
}

static gboolean check_head(WriteJournal *journal, const char *transaction, GError **error)
{
    LogHead head;

    if (!read_head(journal, &head)) {
        error_set(error, VMFERRY_ERROR_INVALID, "its log is damaged");
        return FALSE;
    }
    read_folded(journal);
    if (strcmp(head.transaction, transaction) == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "it is of another transaction, %s", head.transaction);
    return FALSE;
}

/* ---- beginning and end ---- */

static WriteJournal *journal_new(const char *directory, uint64_t limit)
{
    WriteJournal *journal = g_new0(WriteJournal, 1);

    journal->directory = g_strdup(directory);
    journal->limit = limit;
    journal->log = -1;
    journal->pieces = g_array_new(FALSE, FALSE, sizeof(LoggedPiece));
    return journal;
}

void write_journal_free(WriteJournal *journal)
{
    if (!journal)
        return;
    journal_close_disks(journal);
    fd_close(&journal->log);
    g_array_unref(journal->pieces);
    g_clear_error(&journal->failure);
    g_free(journal->bytes);
    g_free(journal->directory);
    g_free(journal);
}

/* The log is the first to go: without it there is no journal. */
static gboolean remove_file(const char *directory, const char *name, GError **error)
{
    g_autofree char *path = g_build_filename(directory, name, NULL);

    if (unlink(path) == 0 || errno == ENOENT)
        return TRUE;
    error_set_errno(error, errno, "remove %s", path);
    return FALSE;
}

static gboolean remove_files(const char *directory, GError **error)
{
    GDir *dir = g_dir_open(directory, 0, NULL);
    gboolean removed = remove_file(directory, "log", error);
    const char *name;

    while (dir && removed && (name = g_dir_read_name(dir)))
        if (g_str_has_suffix(name, ".data") || g_str_has_suffix(name, ".map"))
            removed = remove_file(directory, name, error);
    if (dir)
        g_dir_close(dir);
    return removed;
}

gboolean write_journal_remove(const char *directory, GError **error)
{
    if (!remove_files(directory, error))
        return FALSE;
    if (rmdir(directory) == 0 || errno == ENOENT)
        return TRUE;
    error_set_errno(error, errno, "remove %s", directory);
    return FALSE;
}

static gboolean check_options(const char *transaction, const uint64_t *bytes, guint count,
                              GError **error)
{
    if (strlen(transaction) < TRANSACTION_BYTES && are_sizes_right(bytes, count))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "no disks, more than %u, one of no whole sectors, or too long a transaction",
              WRITE_JOURNAL_MAX_DISKS);
    return FALSE;
}

static gboolean make_directory(const char *directory, GError **error)
{
    if (mkdir(directory, 0700) == 0 || errno == EEXIST)
        return remove_files(directory, error);
    error_set_errno(error, errno, "%s", directory);
    return FALSE;
}

static gboolean create(WriteJournal *journal, const char *transaction, GError **error)
{
    if (!make_directory(journal->directory, error) || !journal_open_disks(journal, TRUE, error))
        return FALSE;
    journal->log = journal_open_file(journal->directory, "log", O_CREAT | O_EXCL, error);
    journal->log_end = journal->sealed_end = journal->committed_end = records_at(journal);
    return journal->log >= 0 && write_head(journal, transaction, error);
}

WriteJournal *write_journal_create(const char *directory, const char *transaction,
                                   const uint64_t *bytes, guint count, uint64_t limit_bytes,
                                   GError **error)
{
    g_autoptr(WriteJournal) journal = journal_new(directory, limit_bytes);

    journal->count = count;
    journal->bytes = g_memdup2(bytes, count * sizeof *bytes);
    if (check_options(transaction, bytes, count, error) && create(journal, transaction, error))
        return g_steal_pointer(&journal);
    g_prefix_error(error, "journal of disk writes: ");
    return NULL;
}

guint write_journal_get_count(const WriteJournal *journal)
{
    return journal->count;
}

uint64_t write_journal_get_disk_bytes(const WriteJournal *journal, guint disk)
{
    return journal->bytes[disk];
}

uint64_t write_journal_get_committed(const WriteJournal *journal)
{
    return journal->committed;
}

/* ---- records of the log ---- */

static uint64_t digest_record(const RecordHead *head, const void *piece)
{
    RecordHead plain = *head;

    plain.digest = 0;
    return digest_two(&plain, sizeof plain, piece, head->length);
}

static gboolean append(WriteJournal *journal, uint32_t kind, uint64_t epoch, const void *piece,
                       size_t length, GError **error)
{
    RecordHead head = {.magic = RECORD_MAGIC, .kind = kind, .epoch = epoch, .length = length};

    head.digest = digest_record(&head, piece);
    if (!journal_write_at(journal->log, &head, sizeof head, journal->log_end, error) ||
        !journal_write_at(journal->log, piece, length, journal->log_end + sizeof head, error)) {
        (void)cut_log(journal, journal->log_end, NULL);
        return FALSE;
    }
    journal->log_end += sizeof head + length;
    return TRUE;
}

static void note_piece(WriteJournal *journal, uint64_t epoch, uint64_t offset, uint64_t length)
{
    LoggedPiece piece = {.epoch = epoch, .offset = offset, .length = length};

    g_array_append_val(journal->pieces, piece);
}

static void forget_pieces_after(WriteJournal *journal, uint64_t epoch)
{
    guint count = journal->pieces->len;

    while (count > 0 && g_array_index(journal->pieces, LoggedPiece, count - 1).epoch > epoch)
        count--;
    g_array_set_size(journal->pieces, count);
}

static gboolean read_piece(const WriteJournal *journal, const LoggedPiece *piece,
                           GByteArray *content, GError **error)
{
    g_byte_array_set_size(content, (guint)piece->length);
    if (journal_read_at(journal->log, content->data, piece->length, piece->offset, error))
        return TRUE;
    if (error && !*error)
        error_set(error, VMFERRY_ERROR_INVALID, "the log has become shorter");
    return FALSE;
}

/* Calls *take* for each write of the piece; FALSE where that or a record fails. */
static gboolean walk_piece(const WriteJournal *journal, const void *piece, size_t length,
                           TakeRecord take, gpointer user, GError **error)
{
    ByteReader reader = byte_reader_make(piece, length);
    WriteRecord record;
    int got;

    while ((got = write_record_read(&reader, journal->bytes, journal->count, &record, error)) == 1)
        if (!take(journal, &record, user, error))
            return FALSE;
    return got == 0;
}

gboolean journal_walk_log(const WriteJournal *journal, TakeRecord take, gpointer user,
                          GError **error)
{
    g_autoptr(GByteArray) content = g_byte_array_new();

    for (guint i = 0; i < journal->pieces->len; i++) {
        const LoggedPiece *piece = &g_array_index(journal->pieces, LoggedPiece, i);

        if (piece->epoch > journal->committed)
            break;
        if (!read_piece(journal, piece, content, error) ||
            !walk_piece(journal, content->data, content->len, take, user, error))
            return FALSE;
    }
    return TRUE;
}

/* ---- epochs ---- */

static gboolean check_sectors(const WriteJournal *journal G_GNUC_UNUSED, const WriteRecord *record,
                              gpointer user G_GNUC_UNUSED, GError **error)
{
    if (record->offset % WRITE_SECTOR_BYTES == 0 && record->length % WRITE_SECTOR_BYTES == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "a record is not of whole sectors");
    return FALSE;
}

static gboolean check_epoch(const WriteJournal *journal, uint64_t epoch, GError **error)
{
    if (epoch > journal->sealed && (journal->staging == 0 || journal->staging == epoch))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "epoch %" G_GUINT64_FORMAT " comes after %" G_GUINT64_FORMAT, epoch,
              MAX(journal->sealed, journal->staging));
    return FALSE;
}

static gboolean check_room(const WriteJournal *journal, size_t length, GError **error)
{
    if (journal->failure) {
        if (error)
            *error = g_error_copy(journal->failure);
        return FALSE;
    }
    if (write_journal_get_used(journal) + sizeof(RecordHead) + length <= journal->limit)
        return TRUE;
    error_set(error, VMFERRY_ERROR_NO_SPACE,
              "what the guest has written takes more than the %" G_GUINT64_FORMAT
              " bytes that it may",
              journal->limit);
    return FALSE;
}

static gboolean stage(WriteJournal *journal, uint64_t epoch, const void *piece, size_t length,
                      GError **error)
{
    uint64_t at = journal->log_end + sizeof(RecordHead);

    if (length > WRITE_JOURNAL_MAX_PIECE_BYTES) {
        error_set(error, VMFERRY_ERROR_INVALID, "a piece of %zu bytes", length);
        return FALSE;
    }
    if (!check_epoch(journal, epoch, error) ||
        !walk_piece(journal, piece, length, check_sectors, NULL, error) ||
        !check_room(journal, length, error) ||
        !append(journal, RECORD_PIECE, epoch, piece, length, error))
        return FALSE;
    note_piece(journal, epoch, at, length);
    journal->staging = epoch;
    return TRUE;
}

gboolean write_journal_stage(WriteJournal *journal, uint64_t epoch, const void *piece,
                             size_t length, GError **error)
{
    if (stage(journal, epoch, piece, length, error))
        return TRUE;
    g_prefix_error(error, "journal of disk writes: ");
    return FALSE;
}

gboolean write_journal_seal(WriteJournal *journal, uint64_t epoch, GError **error)
{
    if (!check_epoch(journal, epoch, error) ||
        !append(journal, RECORD_SEAL, epoch, NULL, 0, error)) {
        g_prefix_error(error, "journal of disk writes: ");
        return FALSE;
    }
    journal->sealed = epoch;
    journal->sealed_end = journal->log_end;
    journal->staging = 0;
    return TRUE;
}

gboolean write_journal_forget(WriteJournal *journal, GError **error)
{
    if (!cut_log(journal, journal->committed_end, error)) {
        g_prefix_error(error, "journal of disk writes: ");
        return FALSE;
    }
    forget_pieces_after(journal, journal->committed);
    journal->staging = 0;
    journal->sealed = journal->committed;
    journal->sealed_end = journal->committed_end;
    return TRUE;
}

/* ---- folding ---- */

/* A hole; what is beyond a block's border is written. */
static gboolean make_zero(int fd, uint64_t offset, uint64_t length, GError **error)
{
    static const uint8_t zeros[65536];

    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length) ==
        0)
        return TRUE;
    if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINTR) {
        error_set_errno(error, errno, "make a hole");
        return FALSE;
    }
    for (; length > 0; offset += MIN(length, sizeof zeros), length -= MIN(length, sizeof zeros))
        if (!journal_write_at(fd, zeros, MIN(length, sizeof zeros), offset, error))
            return FALSE;
    return TRUE;
}

static gboolean fold_record(const WriteJournal *journal, const WriteRecord *record,
                            gpointer user G_GNUC_UNUSED, GError **error)
{
    const DiskFiles *files = &journal->disks[record->disk];
    gboolean done = record->data ? journal_write_at(files->data, record->data, record->length,
                                                    record->offset, error)
                                 : make_zero(files->data, record->offset, record->length, error);

    return done && sector_map_set(files->map, record->offset / WRITE_SECTOR_BYTES,
                                  record->length / WRITE_SECTOR_BYTES, error);
}

static void forget_folded(WriteJournal *journal)
{
    guint count = 0;

    while (count < journal->pieces->len &&
           g_array_index(journal->pieces, LoggedPiece, count).epoch <= journal->folded)
        count++;
    g_array_remove_range(journal->pieces, 0, count);
}

/* The log is cut only where nothing else is in it. */
static gboolean fold(WriteJournal *journal, GError **error)
{
    if (!journal_walk_log(journal, fold_record, NULL, error) ||
        !write_folded(journal, journal->committed, error))
        return FALSE;
    forget_folded(journal);
    if (journal->log_end > journal->committed_end)
        return TRUE;
    if (!cut_log(journal, records_at(journal), error))
        return FALSE;
    journal->sealed_end = journal->committed_end = journal->log_end;
    return TRUE;
}

static void fold_or_note(WriteJournal *journal)
{
    if (journal->failure || journal->committed == journal->folded)
        return;
    if (!fold(journal, &journal->failure))
        g_prefix_error(&journal->failure, "epoch %" G_GUINT64_FORMAT ": ", journal->committed);
}

static gboolean check_sealed(const WriteJournal *journal, uint64_t epoch, GError **error)
{
    if (epoch == journal->sealed)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "journal of disk writes: the last complete epoch is %" G_GUINT64_FORMAT
              ", and not %" G_GUINT64_FORMAT,
              journal->sealed, epoch);
    return FALSE;
}

gboolean write_journal_commit(WriteJournal *journal, uint64_t epoch, GError **error)
{
    if (!check_sealed(journal, epoch, error))
        return FALSE;
    journal->committed = epoch;
    journal->committed_end = journal->sealed_end;
    fold_or_note(journal);
    return TRUE;
}

/* ---- opening ---- */

/* FALSE where what comes is not a whole record. */
static gboolean read_record(const WriteJournal *journal, RecordHead *ret, GByteArray *piece)
{
    if (!journal_read_at(journal->log, ret, sizeof *ret, journal->log_end, NULL) ||
        ret->magic != RECORD_MAGIC || ret->length > WRITE_JOURNAL_MAX_PIECE_BYTES)
        return FALSE;
    g_byte_array_set_size(piece, (guint)ret->length);
    return journal_read_at(journal->log, piece->data, ret->length, journal->log_end + sizeof *ret,
                           NULL) &&
           ret->digest == digest_record(ret, piece->data);
}

static void take_record(WriteJournal *journal, const RecordHead *head)
{
    if (head->kind == RECORD_PIECE && head->epoch > journal->folded)
        note_piece(journal, head->epoch, journal->log_end + sizeof *head, head->length);
    journal->log_end += sizeof *head + head->length;
    if (head->kind != RECORD_SEAL)
        return;
    journal->sealed = head->epoch;
    journal->sealed_end = journal->log_end;
}

/* Up to the seal of the last committed epoch, or as far as there are whole records. */
static void read_log(WriteJournal *journal, uint64_t committed)
{
    g_autoptr(GByteArray) piece = g_byte_array_new();
    RecordHead head;

    journal->log_end = journal->sealed_end = records_at(journal);
    while (read_record(journal, &head, piece) && head.epoch <= committed)
        take_record(journal, &head);
    journal->sealed = MAX(journal->sealed, journal->folded);
}

static gboolean read_all(WriteJournal *journal, const char *transaction, uint64_t committed,
                         GError **error)
{
    journal->log = journal_open_file(journal->directory, "log", 0, error);
    if (journal->log < 0 || !check_head(journal, transaction, error) ||
        !journal_open_disks(journal, FALSE, error))
        return FALSE;
    read_log(journal, committed);
    if (journal->sealed == committed) {
        journal->committed = committed;
        journal->committed_end = journal->sealed_end;
        return write_journal_forget(journal, error);
    }
    error_set(error, VMFERRY_ERROR_INVALID,
              "its last complete epoch is %" G_GUINT64_FORMAT ", and not %" G_GUINT64_FORMAT,
              journal->sealed, committed);
    return FALSE;
}

WriteJournal *write_journal_open(const char *directory, const char *transaction, uint64_t committed,
                                 uint64_t limit_bytes, GError **error)
{
    g_autoptr(WriteJournal) journal = journal_new(directory, limit_bytes);

    if (read_all(journal, transaction, committed, error)) {
        fold_or_note(journal);
        return g_steal_pointer(&journal);
    }
    g_prefix_error(error, "journal of disk writes: ");
    return NULL;
}
