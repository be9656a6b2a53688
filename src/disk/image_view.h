/*
 * Is it the same image?
 *
 * Theory of operation: two hosts open what they both call /srv/web1.qcow2.  It
 * is the same file where one of these shows, the cheapest first:
 *
 *   lock    one host locks a byte far behind any image's end (an open file
 *           description lock, fcntl(2)) at a random place; the other one asks
 *           the file system who has it.  Local file systems, NFSv4, CephFS,
 *           GFS2 and OCFS2 carry locks between hosts.
 *   device  a block device's identity and size are equal on both hosts.  Only
 *           names that are unique in the world count (image_device.h).
 *   token   one host sets the access time to a random moment in the future,
 *           which no later read changes (relatime), the other one sees it.
 *           Works where attributes are shared and locks are not (NFSv3, SMB).
 *   content every block is equal: of an image that nobody writes, read at
 *           leisure (image_reader.h), or of a small one, with the guest paused.
 *           Samples are not enough (a stale copy is equal but for some blocks);
 *           they only tell soon that two images differ.
 *
 * None of this touches content, and the access time is put back.  An ImageView
 * is one opened image on this host.
 *
 * Limits: a file system that shares neither locks nor times between hosts makes
 * one file look like two.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

typedef enum { IMAGE_KIND_FILE, IMAGE_KIND_DEVICE } ImageKind;

/* What a host says of an image. */
typedef struct {
    ImageKind kind;
    uint64_t bytes;    /* length of the file, size of the device */
    int64_t token_s;   /* access time: seconds … */
    uint32_t token_ms; /* … and milliseconds */
    char *device_id;   /* unique in the world; "" where there is none */
} ImageFacts;

void image_facts_clear(ImageFacts *facts);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ImageFacts, image_facts_clear)

typedef struct ImageView ImageView;

/* Opens a regular file or block device for reading. */
ImageView *image_view_open(const char *path, GError **error);

/* Puts the access time back and lets the lock go.  NULL-safe. */
void image_view_free(ImageView *view);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ImageView, image_view_free)

gboolean image_view_get_facts(ImageView *view, ImageFacts *ret, GError **error);

/* A random place for a lock. */
uint64_t image_lock_offset(void);
gboolean image_view_lock(ImageView *view, uint64_t offset, GError **error);

/* TRUE where somebody else has a lock on just this byte. */
gboolean image_view_sees_lock(ImageView *view, uint64_t offset);

/* TRUE where another process keeps every QEMU from writing to the image, by the
 * locks that QEMU itself sets (it runs a guest from it, say). */
gboolean image_view_is_write_locked(ImageView *view);

/* Sets the access time to a random moment; FALSE where that is not possible (a
 * device, a file system that is read-only or does not keep it). */
gboolean image_view_set_token(ImageView *view, int64_t *ret_s, uint32_t *ret_ms);

#define IMAGE_SAMPLE_BYTES 4096u
#define IMAGE_SAMPLES_LIMIT 1024u
#define IMAGE_DIGEST_DIGITS 32u
#define IMAGE_FAST_BYTES ((uint64_t)64 << 20)

/* Places to look at: the start, the end, and random ones where there is data.
 * Returns their number, at most IMAGE_SAMPLES_LIMIT. */
guint image_view_pick_samples(ImageView *view, uint64_t offsets[IMAGE_SAMPLES_LIMIT]);

/* Over these places, as hex digits; bypasses this host's cache where it can.
 * What lies behind the end counts as empty.  NULL with *error*. */
char *image_view_digest(ImageView *view, const uint64_t *offsets, guint count, GError **error);

/* Over all of it: each block of 64 KiB that is not all zeros, with its place, so
 * that holes cost nothing.  The first
 * IMAGE_FAST_BYTES are read at full speed, what is beyond with idle priority (of
 * this thread, from then on) and no faster than others bear.  Gives up with CANCELLED once
 * *cancelled* (may be NULL) is set, and where the image is not of *bytes* bytes (any more). */
char *image_view_digest_content(ImageView *view, uint64_t bytes, const gint *cancelled,
                                GError **error);
