#include "page/pack_window.h"

#include <string.h>
#include <zstd.h>

#include "base/error.h"

/* zstd's own tables for the dearer levels are of 100 MB, and make little more of it. */
#define MOST_HASH_LOG 21
#define MOST_CHAIN_LOG 22
/* A frame's header, and a flush's empty block. */
#define MARGIN 64u

struct PackWindow {
    ZSTD_CCtx *packer; /* NULL until it is needed */
    guint log;
    int level;
    gboolean is_open;
};

struct UnpackWindow {
    ZSTD_DCtx *unpacker; /* NULL until it is needed */
    gboolean is_open;
};

/* ---- packing ---- */

PackWindow *pack_window_new(guint log)
{
    PackWindow *window = g_new0(PackWindow, 1);

    window->log = CLAMP(log, PACK_WINDOW_LEAST_LOG, PACK_WINDOW_MOST_LOG);
    return window;
}

void pack_window_free(PackWindow *window)
{
    if (!window)
        return;
    ZSTD_freeCCtx(window->packer);
    g_free(window);
}

size_t pack_window_bound(size_t length)
{
    return ZSTD_compressBound(length) + MARGIN;
}

static gboolean set(PackWindow *window, ZSTD_cParameter parameter, int value)
{
    return !ZSTD_isError(ZSTD_CCtx_setParameter(window->packer, parameter, value));
}

static gboolean begin(PackWindow *window, int level)
{
    window->is_open = FALSE;
    window->level = level;
    if (!window->packer)
        window->packer = ZSTD_createCCtx();
    if (!window->packer)
        return FALSE;
    ZSTD_CCtx_reset(window->packer, ZSTD_reset_session_and_parameters);
    window->is_open = set(window, ZSTD_c_compressionLevel, level) &&
                      set(window, ZSTD_c_windowLog, (int)window->log) &&
                      set(window, ZSTD_c_enableLongDistanceMatching, 1) &&
                      (level < 6 || (set(window, ZSTD_c_hashLog, MOST_HASH_LOG) &&
                                     set(window, ZSTD_c_chainLog, MOST_CHAIN_LOG)));
    return window->is_open;
}

size_t pack_window_pack(PackWindow *window, int level, const void *in, size_t length, void *out,
                        gboolean *ret_begins)
{
    ZSTD_inBuffer from = {in, length, 0};
    ZSTD_outBuffer to = {out, pack_window_bound(length), 0};
    size_t left = 1;

    *ret_begins = !window->is_open || level != window->level;
    if (length == 0 || (*ret_begins && !begin(window, level)))
        return 0;
    while (left > 0 && !ZSTD_isError(left) && to.pos < to.size)
        left = ZSTD_compressStream2(window->packer, &to, &from, ZSTD_e_flush);
    if (left == 0)
        return to.pos;
    window->is_open = FALSE;
    return 0;
}

/* ---- unpacking ---- */

UnpackWindow *unpack_window_new(void)
{
    return g_new0(UnpackWindow, 1);
}

void unpack_window_free(UnpackWindow *window)
{
    if (!window)
        return;
    ZSTD_freeDCtx(window->unpacker);
    g_free(window);
}

/* What begins is a frame of today's format: neither a skippable one nor one of versions before 0.8. */
static gboolean begin_unpacking(UnpackWindow *window, const uint8_t *in, size_t packed_length,
                                GError **error)
{
    uint32_t magic = 0;

    if (packed_length >= sizeof magic)
        memcpy(&magic, in, sizeof magic);
    if (GUINT32_FROM_LE(magic) != ZSTD_MAGICNUMBER) {
        error_set(error, VMFERRY_ERROR_INVALID, "a window does not begin with a zstd frame");
        return FALSE;
    }
    if (!window->unpacker)
        window->unpacker = ZSTD_createDCtx();
    if (!window->unpacker ||
        ZSTD_isError(ZSTD_DCtx_reset(window->unpacker, ZSTD_reset_session_and_parameters)) ||
        ZSTD_isError(
            ZSTD_DCtx_setParameter(window->unpacker, ZSTD_d_windowLogMax, PACK_WINDOW_MOST_LOG))) {
        error_set(error, VMFERRY_ERROR_NO_SPACE, "no memory to unpack a window");
        return FALSE;
    }
    window->is_open = TRUE;
    return TRUE;
}

/* FALSE: it is malformed, or the frame ends. */
static gboolean step(UnpackWindow *window, ZSTD_outBuffer *to, ZSTD_inBuffer *from)
{
    size_t left = ZSTD_decompressStream(window->unpacker, to, from);

    return !ZSTD_isError(left) && left > 0;
}

static gboolean unpack_all(UnpackWindow *window, ZSTD_outBuffer *to, ZSTD_inBuffer *from)
{
    for (;;) {
        size_t before_in = from->pos, before_out = to->pos;

        if (!step(window, to, from))
            return FALSE;
        if (from->pos == before_in && to->pos == before_out)
            return from->pos == from->size && to->pos == to->size;
    }
}

/* Nothing is left in the context that would come out with the next piece. */
static gboolean has_more(UnpackWindow *window)
{
    uint8_t one;
    ZSTD_outBuffer to = {&one, sizeof one, 0};
    ZSTD_inBuffer from = {NULL, 0, 0};

    return !step(window, &to, &from) || to.pos > 0;
}

gboolean unpack_window(UnpackWindow *window, gboolean begins, const void *in, size_t packed_length,
                       void *out, size_t length, GError **error)
{
    ZSTD_inBuffer from = {in, packed_length, 0};
    ZSTD_outBuffer to = {out, length, 0};

    if (begins && !begin_unpacking(window, in, packed_length, error))
        return FALSE;
    if (!window->is_open) {
        error_set(error, VMFERRY_ERROR_INVALID, "%zu bytes go on with no window", packed_length);
        return FALSE;
    }
    if (unpack_all(window, &to, &from) && !has_more(window))
        return TRUE;
    window->is_open = FALSE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "%zu bytes of a window of up to %u MiB do not make %zu bytes", packed_length,
              1u << (PACK_WINDOW_MOST_LOG - 20), length);
    return FALSE;
}
