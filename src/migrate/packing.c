#include "migrate/packing.h"

#include <string.h>

static const char *const mode_names[] = {
    [PACKING_AUTO] = "auto",
    [PACKING_NONE] = "none",
    [PACKING_LZ4] = "lz4",
    [PACKING_ZSTD] = "zstd",
};
G_STATIC_ASSERT(G_N_ELEMENTS(mode_names) == PACKING_ZSTD + 1);

const char *packing_mode_name(PackingMode mode)
{
    return mode_names[mode];
}

gboolean packing_mode_from_name(const char *name, PackingMode *ret)
{
    for (guint i = 0; i < G_N_ELEMENTS(mode_names); i++) {
        if (strcmp(name, mode_names[i]) == 0) {
            *ret = (PackingMode)i;
            return TRUE;
        }
    }
    return FALSE;
}

Packing packing_make(PackingMode mode)
{
    return (Packing){.mode = mode,
                     .on = mode == PACKING_LZ4 || mode == PACKING_ZSTD,
                     .next_pause = PACKING_FIRST_PAUSE};
}

/* What the path carries; a window that took no time says "very much". */
static gboolean path_is_slow(const Packing *packing)
{
    return (double)packing->sent_bytes < PACKING_SLOW_PATH_BYTES_PER_MS * packing->send_ms;
}

static void decide(Packing *packing)
{
    if (packing->on) {
        gboolean shrinks =
            (double)packing->sent_bytes < PACKING_WORTH_SHARE * (double)packing->raw_bytes;

        packing->on = shrinks && path_is_slow(packing);
        packing->paused_windows = shrinks ? 0 : packing->next_pause;
        packing->next_pause =
            shrinks ? PACKING_FIRST_PAUSE : MIN(2 * packing->next_pause, PACKING_LONGEST_PAUSE);
    } else if (packing->paused_windows > 0) {
        packing->paused_windows--;
    } else {
        packing->on = path_is_slow(packing);
    }
}

void packing_note(Packing *packing, uint64_t raw_bytes, uint64_t sent_bytes, double send_ms)
{
    packing->raw_bytes += raw_bytes;
    packing->sent_bytes += sent_bytes;
    packing->send_ms += send_ms;
    if (++packing->frames < PACKING_WINDOW_FRAMES)
        return;
    if (packing->mode == PACKING_AUTO)
        decide(packing);
    packing->frames = 0;
    packing->raw_bytes = packing->sent_bytes = 0;
    packing->send_ms = 0;
}
