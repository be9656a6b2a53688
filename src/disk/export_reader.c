#include "disk/export_reader.h"

#include "base/error.h"
#include "disk/nbd_export.h"

#define PIECE_BYTES (1u << 20)

/* How far the server is asked at once what is zero. */
#define LOOK_BYTES ((uint64_t)1 << 30)

typedef struct {
    NbdHandle *nbd;
    uint64_t bytes;
    uint64_t at;
    uint64_t data_end; /* up to there everything must be read */
    uint8_t *piece;
    ExportPieceFunc take;
    gpointer user;
} Reading;

static void reading_clear(Reading *reading)
{
    nbd_close(reading->nbd);
    g_free(reading->piece);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Reading, reading_clear)

/* Entries are pairs of a length and flags, from *offset* on: skips zeros up to the first data. */
static int on_extents(void *user, const char *context, uint64_t offset, uint32_t *entries,
                      size_t count, int *error)
{
    Reading *reading = user;

    for (size_t i = 0; i + 1 < count && reading->data_end <= reading->at; i += 2) {
        if (entries[i + 1] & LIBNBD_STATE_ZERO)
            reading->at += entries[i];
        else
            reading->data_end = reading->at + entries[i];
    }
    return 0;
}

static gboolean look(Reading *reading, GError **error)
{
    uint64_t before = reading->at;
    uint64_t count = MIN(LOOK_BYTES, reading->bytes - reading->at);

    if (nbd_block_status(reading->nbd, count, reading->at,
                         (nbd_extent_callback){.callback = on_extents, .user_data = reading},
                         0) < 0) {
        nbd_export_set_error(reading->nbd, "look for zeros", error);
        return FALSE;
    }
    if (reading->at > before || reading->data_end > before)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "the server does not tell what is zero");
    return FALSE;
}

/* Moves on to the piece that holds the next data. */
static gboolean skip_zeros(Reading *reading, GError **error)
{
    while (reading->at < reading->bytes && reading->data_end <= reading->at)
        if (!look(reading, error))
            return FALSE;
    if (reading->at < reading->bytes)
        reading->at = reading->at / PIECE_BYTES * PIECE_BYTES;
    return TRUE;
}

static gboolean read_piece(Reading *reading, GError **error)
{
    size_t count = (size_t)MIN(PIECE_BYTES, reading->bytes - reading->at);

    if (nbd_pread(reading->nbd, reading->piece, count, reading->at, 0) < 0) {
        nbd_export_set_error(reading->nbd, "read", error);
        return FALSE;
    }
    if (!reading->take(reading->at, reading->piece, count, reading->user, error))
        return FALSE;
    reading->at += count;
    return TRUE;
}

static gboolean read_all(Reading *reading, const gint *cancelled, GError **error)
{
    for (;;) {
        if (cancelled && g_atomic_int_get(cancelled)) {
            error_set(error, VMFERRY_ERROR_CANCELLED, "cancelled");
            return FALSE;
        }
        if (!skip_zeros(reading, error))
            return FALSE;
        if (reading->at >= reading->bytes)
            return TRUE;
        if (!read_piece(reading, error))
            return FALSE;
    }
}

static gboolean begin(Reading *reading, GError **error)
{
    int64_t bytes = nbd_get_size(reading->nbd);

    if (bytes < 0) {
        nbd_export_set_error(reading->nbd, "size", error);
        return FALSE;
    }
    reading->bytes = (uint64_t)bytes;
    if (nbd_can_meta_context(reading->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) != 1)
        reading->data_end = reading->bytes;
    reading->piece = g_malloc(PIECE_BYTES);
    return TRUE;
}

gboolean export_read(const char *socket_path, const char *name, const gint *cancelled,
                     ExportPieceFunc take, gpointer user, uint64_t *ret_bytes, GError **error)
{
    g_auto(Reading) reading = {
        .nbd = nbd_export_connect(socket_path, name, TRUE, error), .take = take, .user = user};

    if (reading.nbd && begin(&reading, error) && read_all(&reading, cancelled, error)) {
        if (ret_bytes)
            *ret_bytes = reading.bytes;
        return TRUE;
    }
    g_prefix_error(error, "export \"%s\": ", name);
    return FALSE;
}
