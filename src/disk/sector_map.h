/*
 * A bit for each sector of a disk, in a file
 *
 * Theory of operation: bits are only ever set, by reading, changing and writing the bytes that they
 * are in, so that a crash between any two calls loses none that was set.  The file is sparse; walks
 * skip its holes.  It is not mapped: a full disk would be a SIGBUS.
 *
 * Threads: one at a time.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

typedef struct SectorMap SectorMap;

/* Takes *fd*, whose file becomes as long as so many sectors need. */
SectorMap *sector_map_open(int fd, uint64_t sectors, GError **error);
void sector_map_free(SectorMap *map);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SectorMap, sector_map_free)

int sector_map_get_fd(const SectorMap *map);

/* The range lies within the disk. */
gboolean sector_map_set(SectorMap *map, uint64_t first, uint64_t count, GError **error);

typedef gboolean (*SectorRun)(uint64_t first, uint64_t count, gpointer user, GError **error);

/* Calls *take* for each run of set bits, ascending, as long as it can be; ends with the first FALSE. */
gboolean sector_map_walk(const SectorMap *map, SectorRun take, gpointer user, GError **error);

/* TRUE in *ret_any* where a bit is set. */
gboolean sector_map_has_any(const SectorMap *map, gboolean *ret_any, GError **error);
