#include "disk/change_reader.h"

#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "base/unix_socket.h"
#include "disk/nbd_export.h"

/* How far the server is asked at once what has changed. */
#define LOOK_BYTES ((uint64_t)1 << 30)
#define DIRTY 1u
/* 16 bytes each; a disk of 16 TiB of which every second piece of 64 KiB has changed has 2²⁷. */
#define MAX_RANGES (1u << 24)

typedef struct {
    uint64_t offset, end;
} Range;

struct ChangeReader {
    NbdHandle *nbd;
    char *context;
    uint64_t bytes;
    uint64_t looked; /* up to there */
    GArray *ranges;  /* Range, ascending */
    guint next;      /* of these … */
    uint64_t at;     /* … where */
    uint8_t *piece;
};

/* ---- waiting ---- */

/* So long the server may be silent: the guest may be paused meanwhile. */
#define SILENCE_MS 10000

/* FALSE where nothing comes of it in time. */
static gboolean wait_for_server(ChangeReader *reader, const char *what, GError **error)
{
    int ready = nbd_poll(reader->nbd, SILENCE_MS);

    if (ready > 0)
        return TRUE;
    if (ready == 0)
        error_set(error, VMFERRY_ERROR_TIMEOUT, "%s: the server has been silent for %d s", what,
                  SILENCE_MS / 1000);
    else
        nbd_export_set_error(reader->nbd, what, error);
    return FALSE;
}

static gboolean await_command(ChangeReader *reader, int64_t cookie, const char *what,
                              GError **error)
{
    int done = cookie < 0 ? -1 : 0;

    while (done == 0) {
        done = nbd_aio_command_completed(reader->nbd, (uint64_t)cookie);
        if (done == 0 && !wait_for_server(reader, what, error))
            return FALSE;
    }
    if (done < 0)
        nbd_export_set_error(reader->nbd, what, error);
    return done > 0;
}

static gboolean await_ready(ChangeReader *reader, GError **error)
{
    while (nbd_aio_is_connecting(reader->nbd) == 1)
        if (!wait_for_server(reader, "connect", error))
            return FALSE;
    if (nbd_aio_is_ready(reader->nbd) == 1)
        return TRUE;
    nbd_export_set_error(reader->nbd, "connect", error);
    return FALSE;
}

/* ---- opening ---- */

static gboolean connect_to(ChangeReader *reader, const char *socket_path, const char *name,
                           GError **error)
{
    int fd;

    reader->nbd = nbd_create();
    if (!reader->nbd || nbd_set_debug(reader->nbd, false) < 0 ||
        nbd_set_export_name(reader->nbd, name) < 0 ||
        nbd_add_meta_context(reader->nbd, reader->context) < 0) {
        nbd_export_set_error(reader->nbd, "prepare", error);
        return FALSE;
    }
    fd = unix_socket_connect(socket_path, error);
    if (fd < 0)
        return FALSE;
    if (nbd_aio_connect_socket(reader->nbd, fd) == 0)
        return await_ready(reader, error);
    nbd_export_set_error(reader->nbd, "connect", error);
    return FALSE;
}

static gboolean check(const ChangeReader *reader, GError **error)
{
    int64_t bytes = nbd_get_size(reader->nbd);

    if (bytes < 0 || (uint64_t)bytes != reader->bytes)
        error_set(error, VMFERRY_ERROR_INVALID, "it has %" PRId64 " bytes, and the disk %" PRIu64,
                  bytes, reader->bytes);
    else if (nbd_can_meta_context(reader->nbd, reader->context) != 1)
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "it does not tell what has changed");
    else
        return TRUE;
    return FALSE;
}

ChangeReader *change_reader_open(const char *socket_path, const char *name, const char *context,
                                 uint64_t bytes, GError **error)
{
    g_autoptr(ChangeReader) reader = g_new0(ChangeReader, 1);

    reader->context = g_strdup(context);
    reader->bytes = bytes;
    reader->ranges = g_array_new(FALSE, FALSE, sizeof(Range));
    reader->piece = g_malloc(CHANGE_READER_PIECE_BYTES);
    if (connect_to(reader, socket_path, name, error) && check(reader, error))
        return g_steal_pointer(&reader);
    g_prefix_error(error, "export \"%s\": ", name);
    return NULL;
}

void change_reader_free(ChangeReader *reader)
{
    if (!reader)
        return;
    nbd_close(reader->nbd);
    g_array_unref(reader->ranges);
    g_free(reader->context);
    g_free(reader->piece);
    g_free(reader);
}

/* ---- ranges ---- */

static void add_range(ChangeReader *reader, uint64_t offset, uint64_t end)
{
    Range *last = reader->ranges->len > 0
                      ? &g_array_index(reader->ranges, Range, reader->ranges->len - 1)
                      : NULL;
    const Range range = {offset, end};

    if (last && last->end == offset)
        last->end = end;
    else
        g_array_append_val(reader->ranges, range);
}

/* Entries are pairs of a length and flags, from *offset* on; the last may reach beyond what was asked. */
static int on_extents(void *user, const char *context, uint64_t offset, uint32_t *entries,
                      size_t count, int *error)
{
    ChangeReader *reader = user;

    if (strcmp(context, reader->context) != 0 || offset != reader->looked)
        return 0;
    for (size_t i = 0; i + 1 < count && reader->looked < reader->bytes; i += 2) {
        uint64_t end = MIN(reader->looked + entries[i], reader->bytes);

        if ((entries[i + 1] & DIRTY) && end > reader->looked)
            add_range(reader, reader->looked, end);
        reader->looked = end;
    }
    return 0;
}

static gboolean look(ChangeReader *reader, GError **error)
{
    uint64_t before = reader->looked;

    if (!await_command(
            reader,
            nbd_aio_block_status(reader->nbd, MIN(LOOK_BYTES, reader->bytes - before), before,
                                 (nbd_extent_callback){.callback = on_extents, .user_data = reader},
                                 NBD_NULL_COMPLETION, 0),
            "look for changes", error))
        return FALSE;
    if (reader->looked > before && reader->ranges->len <= MAX_RANGES)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "the server does not tell what has changed");
    return FALSE;
}

gboolean change_reader_look(ChangeReader *reader, uint64_t *ret_bytes, GError **error)
{
    while (reader->looked < reader->bytes)
        if (!look(reader, error))
            return FALSE;
    *ret_bytes = 0;
    for (guint i = 0; i < reader->ranges->len; i++) {
        const Range *range = &g_array_index(reader->ranges, Range, i);

        *ret_bytes += range->end - range->offset;
    }
    return TRUE;
}

/* ---- content ---- */

gboolean change_reader_next(ChangeReader *reader, uint64_t *ret_offset, const uint8_t **ret_data,
                            size_t *ret_length, GError **error)
{
    const Range *range;

    *ret_length = 0;
    if (reader->next >= reader->ranges->len)
        return TRUE;
    range = &g_array_index(reader->ranges, Range, reader->next);
    *ret_offset = MAX(reader->at, range->offset);
    *ret_length = (size_t)MIN(CHANGE_READER_PIECE_BYTES, range->end - *ret_offset);
    *ret_data = reader->piece;
    reader->at = *ret_offset + *ret_length;
    if (reader->at == range->end)
        reader->next++;
    return await_command(
        reader,
        nbd_aio_pread(reader->nbd, reader->piece, *ret_length, *ret_offset, NBD_NULL_COMPLETION, 0),
        "read", error);
}
