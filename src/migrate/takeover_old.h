/* What is written down of the old VMM of a takeover (takeover.h). */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct {
    pid_t pid; /* 0: it ran on another host, and all of its memory is in the delta store */
    uint64_t start_time;
    char *machine;
    gboolean left;      /* it has given up its place */
    GPtrArray *regions; /* of RamRegion */
} TakeoverOld;

/* NULL-safe. */
void takeover_old_free(TakeoverOld *old);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TakeoverOld, takeover_old_free)

gboolean takeover_old_write(const TakeoverOld *old, const char *path, GError **error);
/* INVALID where the file is damaged. */
TakeoverOld *takeover_old_read(const char *path, GError **error);

TakeoverOld *takeover_old_parse(const char *text, size_t length, GError **error);
