#include "transfer/delta_files.h"

#include <inttypes.h>
#include <string.h>

#include "base/error.h"

#define HEAD_MAGIC "vmfdelta"
#define RECORD_MAGIC "vmfepoch"
#define VERSION 1u
#define MAX_REGIONS 1024u
#define NAME_BYTES 256u /* with its NUL, as the other texts here */
#define TRANSACTION_BYTES 128u

typedef struct {
    char magic[8];
    uint32_t version;
    uint32_t region_count;
    char transaction[TRANSACTION_BYTES];
} FileHead;

typedef struct {
    char name[NAME_BYTES];
    uint64_t pages;
} FileRegion;

typedef struct {
    char magic[8];
    uint32_t version;
    uint32_t note_bytes;
    uint64_t epoch;
    uint64_t run_count;
    uint64_t state_bytes;
} FileRecord;

G_STATIC_ASSERT(sizeof(FileHead) == 144 && sizeof(FileRegion) == 264);
G_STATIC_ASSERT(sizeof(FileRecord) == 40 && sizeof(DeltaRun) == 24);

static gboolean damaged(GError **error, const char *what)
{
    error_set(error, VMFERRY_ERROR_INVALID, "it is damaged: %s", what);
    return FALSE;
}

static gboolean check_start(const char *magic, const char *expected, uint32_t version,
                            GError **error)
{
    if (memcmp(magic, expected, strlen(expected)) != 0)
        return damaged(error, "no such file");
    if (version == VERSION)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "it is of version %u, not %u", version, VERSION);
    return FALSE;
}

/* --- the head ------------------------------------------------------------------------ */

void delta_head_free(DeltaHead *head)
{
    if (!head)
        return;
    g_free(head->transaction);
    g_free(head->regions.pages);
    g_strfreev(head->regions.names);
    g_free(head);
}

static gboolean check_regions(const PageRegions *regions, GError **error)
{
    uint64_t total = 0;

    if (regions->count > MAX_REGIONS) {
        error_set(error, VMFERRY_ERROR_INVALID, "%u RAM blocks", regions->count);
        return FALSE;
    }
    for (guint i = 0; i < regions->count; i++) {
        if (regions->pages[i] == 0 || regions->pages[i] > DELTA_MAX_PAGES - total ||
            strlen(regions->names[i]) >= NAME_BYTES) {
            error_set(error, VMFERRY_ERROR_INVALID, "RAM block %s of %" PRIu64 " pages",
                      regions->names[i], regions->pages[i]);
            return FALSE;
        }
        total += regions->pages[i];
    }
    return TRUE;
}

DeltaHead *delta_head_new(const char *transaction, const PageRegions *regions, GError **error)
{
    DeltaHead *head;

    if (strlen(transaction) >= TRANSACTION_BYTES) {
        error_set(error, VMFERRY_ERROR_INVALID, "transaction %s: too long", transaction);
        return NULL;
    }
    if (!check_regions(regions, error))
        return NULL;
    head = g_new0(DeltaHead, 1);
    head->transaction = g_strdup(transaction);
    head->regions.count = regions->count;
    head->regions.pages = g_memdup2(regions->pages, regions->count * sizeof *regions->pages);
    head->regions.names = g_new0(char *, regions->count + 1);
    for (guint i = 0; i < regions->count; i++)
        head->regions.names[i] = g_strdup(regions->names[i]);
    return head;
}

GByteArray *delta_head_encode(const DeltaHead *head)
{
    GByteArray *out = g_byte_array_new();
    FileHead file = {.version = VERSION, .region_count = head->regions.count};

    memcpy(file.magic, HEAD_MAGIC, sizeof file.magic);
    g_strlcpy(file.transaction, head->transaction, sizeof file.transaction);
    g_byte_array_append(out, (const guint8 *)&file, sizeof file);
    for (guint i = 0; i < head->regions.count; i++) {
        FileRegion region = {.pages = head->regions.pages[i]};

        g_strlcpy(region.name, head->regions.names[i], sizeof region.name);
        g_byte_array_append(out, (const guint8 *)&region, sizeof region);
    }
    return out;
}

static gboolean check_head(const FileHead *file, size_t length, GError **error)
{
    if (!check_start(file->magic, HEAD_MAGIC, file->version, error))
        return FALSE;
    if (!memchr(file->transaction, '\0', sizeof file->transaction))
        return damaged(error, "the transaction");
    if (file->region_count > MAX_REGIONS ||
        length != sizeof *file + file->region_count * sizeof(FileRegion))
        return damaged(error, "its size");
    return TRUE;
}

static gboolean read_regions(const uint8_t *data, guint count, PageRegions *ret, GError **error)
{
    ret->count = count;
    ret->pages = g_new0(uint64_t, count);
    ret->names = g_new0(char *, count + 1);
    for (guint i = 0; i < count; i++) {
        FileRegion region;

        memcpy(&region, data + i * sizeof region, sizeof region);
        if (!memchr(region.name, '\0', sizeof region.name))
            return damaged(error, "the name of a RAM block");
        ret->names[i] = g_strdup(region.name);
        ret->pages[i] = region.pages;
    }
    return check_regions(ret, error);
}

DeltaHead *delta_head_decode(const void *data, size_t length, GError **error)
{
    g_autoptr(DeltaHead) head = NULL;
    FileHead file;

    if (length < sizeof file) {
        damaged(error, "its size");
        return NULL;
    }
    memcpy(&file, data, sizeof file);
    if (!check_head(&file, length, error))
        return NULL;
    head = g_new0(DeltaHead, 1);
    head->transaction = g_strdup(file.transaction);
    return read_regions((const uint8_t *)data + sizeof file, file.region_count, &head->regions,
                        error)
               ? g_steal_pointer(&head)
               : NULL;
}

/* --- the record of an epoch ---------------------------------------------------------- */

void delta_record_free(DeltaRecord *record)
{
    if (!record)
        return;
    g_clear_pointer(&record->runs, g_array_unref);
    g_clear_pointer(&record->state, g_bytes_unref);
    g_clear_pointer(&record->note, g_bytes_unref);
    g_free(record);
}

GByteArray *delta_record_encode(const DeltaRecord *record)
{
    gsize state_bytes, note_bytes;
    const guint8 *state = g_bytes_get_data(record->state, &state_bytes);
    const guint8 *note = g_bytes_get_data(record->note, &note_bytes);
    guint run_bytes = record->runs->len * (guint)sizeof(DeltaRun);
    FileRecord file = {.version = VERSION,
                       .note_bytes = (uint32_t)note_bytes,
                       .epoch = record->epoch,
                       .run_count = record->runs->len,
                       .state_bytes = state_bytes};
    GByteArray *out = g_byte_array_sized_new((guint)sizeof file + run_bytes + (guint)state_bytes +
                                             (guint)note_bytes);

    memcpy(file.magic, RECORD_MAGIC, sizeof file.magic);
    g_byte_array_append(out, (const guint8 *)&file, sizeof file);
    if (run_bytes)
        g_byte_array_append(out, (const guint8 *)record->runs->data, run_bytes);
    if (state_bytes)
        g_byte_array_append(out, state, (guint)state_bytes);
    if (note_bytes)
        g_byte_array_append(out, note, (guint)note_bytes);
    return out;
}

static gboolean check_run(const DeltaRun *run, const PageRegions *regions, uint64_t places,
                          GError **error)
{
    uint64_t pages = run->region < regions->count ? regions->pages[run->region] : 0;

    if (run->count == 0 || run->first > pages || run->count > pages - run->first)
        return damaged(error, "pages that are in no RAM block");
    if (run->place == DELTA_PLACE_ZERO ||
        (run->place >= DELTA_PLACE_FIRST && run->count <= places &&
         run->place <= places - run->count))
        return TRUE;
    return damaged(error, "the place of pages");
}

static gboolean read_runs(const uint8_t *data, guint count, const PageRegions *regions,
                          uint64_t places, GArray *runs, GError **error)
{
    g_array_set_size(runs, count);
    if (count > 0)
        memcpy(runs->data, data, count * sizeof(DeltaRun));
    for (guint i = 0; i < count; i++)
        if (!check_run(&g_array_index(runs, DeltaRun, i), regions, places, error))
            return FALSE;
    return TRUE;
}

/* Its parts fill *length* bytes. */
static gboolean check_record(const FileRecord *file, size_t length, GError **error)
{
    size_t left = length - sizeof *file;

    if (!check_start(file->magic, RECORD_MAGIC, file->version, error))
        return FALSE;
    if (file->state_bytes > DELTA_MAX_STATE_BYTES || file->note_bytes > DELTA_MAX_NOTE_BYTES ||
        file->run_count > left / sizeof(DeltaRun) || file->run_count > DELTA_MAX_RUNS ||
        left != file->run_count * sizeof(DeltaRun) + file->state_bytes + file->note_bytes)
        return damaged(error, "its size");
    return TRUE;
}

DeltaRecord *delta_record_decode(const void *data, size_t length, const PageRegions *regions,
                                 uint64_t places, GError **error)
{
    g_autoptr(DeltaRecord) record = NULL;
    const uint8_t *at = data;
    FileRecord file;

    if (length < sizeof file) {
        damaged(error, "its size");
        return NULL;
    }
    memcpy(&file, at, sizeof file);
    at += sizeof file;
    if (!check_record(&file, length, error))
        return NULL;
    record = g_new0(DeltaRecord, 1);
    record->epoch = file.epoch;
    record->runs = g_array_new(FALSE, FALSE, sizeof(DeltaRun));
    if (!read_runs(at, (guint)file.run_count, regions, places, record->runs, error))
        return NULL;
    at += file.run_count * sizeof(DeltaRun);
    record->state = g_bytes_new(at, file.state_bytes);
    record->note = g_bytes_new(at + file.state_bytes, file.note_bytes);
    return g_steal_pointer(&record);
}
