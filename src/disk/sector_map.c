#include "disk/sector_map.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"

#define CHUNK_BYTES 65536u
#define CHUNK_BITS (CHUNK_BYTES * 8ull)

struct SectorMap {
    int fd;
    uint64_t sectors;
};

static uint64_t bytes_of(uint64_t sectors)
{
    return (sectors + 7) / 8;
}

SectorMap *sector_map_open(int fd, uint64_t sectors, GError **error)
{
    SectorMap *map;

    if (ftruncate(fd, (off_t)bytes_of(sectors)) < 0) {
        error_set_errno(error, errno, "make the map of a disk");
        fd_close(&fd);
        return NULL;
    }
    map = g_new0(SectorMap, 1);
    map->fd = fd;
    map->sectors = sectors;
    return map;
}

void sector_map_free(SectorMap *map)
{
    if (!map)
        return;
    fd_close(&map->fd);
    g_free(map);
}

int sector_map_get_fd(const SectorMap *map)
{
    return map->fd;
}

/* The file has it all, so that less is an error. */
static gboolean read_bytes(const SectorMap *map, uint8_t *bytes, size_t length, uint64_t offset,
                           GError **error)
{
    ssize_t got;

    do
        got = pread(map->fd, bytes, length, (off_t)offset);
    while (got < 0 && errno == EINTR);
    if (got == (ssize_t)length)
        return TRUE;
    if (got < 0)
        error_set_errno(error, errno, "read the map of a disk");
    else
        error_set(error, VMFERRY_ERROR_INVALID, "the map of a disk has become shorter");
    return FALSE;
}

static gboolean write_bytes(const SectorMap *map, const uint8_t *bytes, size_t length,
                            uint64_t offset, GError **error)
{
    while (length > 0) {
        ssize_t put = pwrite(map->fd, bytes, length, (off_t)offset);

        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0) {
            error_set_errno(error, errno, "write the map of a disk");
            return FALSE;
        }
        bytes += put;
        offset += (uint64_t)put;
        length -= (size_t)put;
    }
    return TRUE;
}

/* ---- setting ---- */

static void set_bits(uint8_t *bytes, uint64_t first, uint64_t end)
{
    for (; first < end && first % 8 != 0; first++)
        bytes[first / 8] |= (uint8_t)(1u << first % 8);
    if (first + 8 <= end) {
        memset(bytes + first / 8, 0xff, (end - first) / 8);
        first = end - end % 8;
    }
    for (; first < end; first++)
        bytes[first / 8] |= (uint8_t)(1u << first % 8);
}

/* Within one chunk. */
static gboolean set_some(SectorMap *map, uint64_t first, uint64_t end, GError **error)
{
    uint8_t bytes[CHUNK_BYTES];
    uint64_t at = first / 8;
    size_t length = (size_t)(bytes_of(end) - at);

    if (!read_bytes(map, bytes, length, at, error))
        return FALSE;
    set_bits(bytes, first - at * 8, end - at * 8);
    return write_bytes(map, bytes, length, at, error);
}

gboolean sector_map_set(SectorMap *map, uint64_t first, uint64_t count, GError **error)
{
    uint64_t end = first + count;

    while (first < end) {
        uint64_t border = MIN(end, (first / CHUNK_BITS + 1) * CHUNK_BITS);

        if (!set_some(map, first, border, error))
            return FALSE;
        first = border;
    }
    return TRUE;
}

/* ---- walking ---- */

typedef struct {
    SectorRun take;
    gpointer user;
    uint64_t first, count; /* the run that is not given yet */
} Walk;

static gboolean give(Walk *walk, GError **error)
{
    gboolean given = walk->count == 0 || walk->take(walk->first, walk->count, walk->user, error);

    walk->count = 0;
    return given;
}

static gboolean add_run(Walk *walk, uint64_t first, uint64_t count, GError **error)
{
    if (walk->count > 0 && walk->first + walk->count == first) {
        walk->count += count;
        return TRUE;
    }
    if (!give(walk, error))
        return FALSE;
    walk->first = first;
    walk->count = count;
    return TRUE;
}

static gboolean walk_byte(Walk *walk, uint8_t byte, uint64_t first, GError **error)
{
    if (byte == 0xff)
        return add_run(walk, first, 8, error);
    for (guint i = 0; i < 8; i++)
        if (byte & 1u << i && !add_run(walk, first + i, 1, error))
            return FALSE;
    return TRUE;
}

/* Where there may be bits, at or after this byte; the file's end where there are none. */
static uint64_t skip_hole(const SectorMap *map, uint64_t at)
{
    off_t data = lseek(map->fd, (off_t)at, SEEK_DATA);

    if (data < 0)
        return errno == ENXIO ? bytes_of(map->sectors) : at;
    return (uint64_t)data;
}

static gboolean walk_chunk(const SectorMap *map, uint64_t at, size_t length, Walk *walk,
                           GError **error)
{
    uint8_t bytes[CHUNK_BYTES];

    if (!read_bytes(map, bytes, length, at, error))
        return FALSE;
    for (size_t i = 0; i < length; i++)
        if (bytes[i] && !walk_byte(walk, bytes[i], (at + i) * 8, error))
            return FALSE;
    return TRUE;
}

gboolean sector_map_walk(const SectorMap *map, SectorRun take, gpointer user, GError **error)
{
    uint64_t end = bytes_of(map->sectors), at = skip_hole(map, 0);
    Walk walk = {.take = take, .user = user};

    while (at < end) {
        size_t length = (size_t)MIN(end - at, CHUNK_BYTES);

        if (!walk_chunk(map, at, length, &walk, error))
            return FALSE;
        at = skip_hole(map, at + length);
    }
    return give(&walk, error);
}

static gboolean stop_walk(uint64_t first G_GNUC_UNUSED, uint64_t count G_GNUC_UNUSED, gpointer user,
                          GError **error G_GNUC_UNUSED)
{
    gboolean *any = user;

    *any = TRUE;
    return FALSE;
}

gboolean sector_map_has_any(const SectorMap *map, gboolean *ret_any, GError **error)
{
    *ret_any = FALSE;
    return sector_map_walk(map, stop_walk, ret_any, error) || *ret_any;
}
