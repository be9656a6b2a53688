/*
 * Frames and messages about disks: what is taken keeps its limits and comes out the same after
 * encoding
 *
 * The first byte chooses which: a frame ("W", "Z", "F", "D", "C", "G", "S") or a message ("d", "s", "m", "g").
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "wire/disk_frame.h"
#include "wire/messages.h"

#define LIST_FILES 3u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- frames ---- */

static void check_same(const uint8_t *data, const uint8_t *again, size_t size)
{
    if (memcmp(data, again, size) != 0)
        abort();
}

static void check_place(uint64_t offset, uint64_t length)
{
    if (length == 0 || offset > INT64_MAX || length > INT64_MAX - offset)
        abort();
}

static void check_write(const uint8_t *data, size_t size)
{
    uint8_t again[FRAME_DISK_WRITE_HEAD_BYTES];
    DiskWrite write;

    if (!disk_write_decode(data, size, &write, NULL))
        return;
    check_place(write.offset, write.bytes);
    if (write.bytes > FRAME_DISK_WRITE_MAX_BYTES || write.content != data + sizeof again ||
        write.content_bytes != size - sizeof again)
        abort();
    disk_write_encode_head(&write, again);
    check_same(data, again, sizeof again);
}

static void check_zero(const uint8_t *data, size_t size)
{
    uint8_t again[FRAME_DISK_ZERO_BYTES];
    DiskZero zero;

    if (!disk_zero_decode(data, size, &zero, NULL))
        return;
    check_place(zero.offset, zero.length);
    disk_zero_encode(&zero, again);
    check_same(data, again, size);
}

static void check_flush(const uint8_t *data, size_t size)
{
    uint8_t again[FRAME_DISK_FLUSH_BYTES];
    DiskFlush flush;

    if (!disk_flush_decode(data, size, &flush, NULL))
        return;
    disk_flush_encode(&flush, again);
    check_same(data, again, size);
}

static void check_done(const uint8_t *data, size_t size)
{
    uint8_t again[FRAME_DISK_DONE_BYTES];
    DiskDone done;

    if (!disk_done_decode(data, size, &done, NULL))
        return;
    disk_done_encode(&done, again);
    check_same(data, again, size);
}

static void check_compare(const uint8_t *data, size_t size)
{
    uint8_t again[FRAME_DISK_COMPARE_BYTES];
    DiskCompare compare;

    if (!disk_compare_decode(data, size, &compare, NULL))
        return;
    check_place(compare.offset, compare.length);
    if (disk_count_granules(compare.length) > FRAME_DISK_DIGESTS_MOST)
        abort();
    disk_compare_encode(&compare, again);
    check_same(data, again, size);
}

static void check_granules(const uint8_t *data, size_t size)
{
    uint8_t again[FRAME_DISK_DIGESTS_HEAD_BYTES];
    DiskDigests digests;

    if (!disk_digests_decode(data, size, &digests, NULL))
        return;
    if (digests.count > FRAME_DISK_DIGESTS_MOST || digests.digests != data + sizeof again ||
        size != sizeof again + (size_t)digests.count * FRAME_DISK_DIGEST_BYTES)
        abort();
    disk_digests_encode_head(&digests, again);
    check_same(data, again, sizeof again);
}

static void check_same_content(const uint8_t *data, size_t size)
{
    uint8_t again[FRAME_DISK_SAME_HEAD_BYTES];
    DiskSame same;

    if (!disk_same_decode(data, size, &same, NULL))
        return;
    check_place(same.offset, same.length);
    if (same.digests != data + sizeof again ||
        size != sizeof again + (size_t)disk_count_granules(same.length) * FRAME_DISK_DIGEST_BYTES)
        abort();
    disk_same_encode_head(&same, again);
    check_same(data, again, sizeof again);
}

/* ---- messages ---- */

static void check_disks(const uint8_t *data, size_t size)
{
    g_auto(DisksMessage) message = {0};
    g_auto(DisksMessage) back = {0};
    g_autofree char *again = NULL;

    if (!disks_message_decode((const char *)data, size, &message, NULL))
        return;
    again = disks_message_encode(&message);
    if (!disks_message_decode(again, strlen(again), &back, NULL) ||
        back.file_count != message.file_count || back.overwrite != message.overwrite)
        abort();
    for (guint i = 0; i < back.file_count; i++)
        if (strcmp(back.files[i].path, message.files[i].path) != 0 ||
            back.files[i].mode != message.files[i].mode || back.files[i].mode > 0777 ||
            g_strcmp0(back.files[i].backing, message.files[i].backing) != 0)
            abort();
}

static void check_seen(const uint8_t *data, size_t size)
{
    g_auto(DisksSeenMessage) message = {0};
    g_auto(DisksSeenMessage) back = {0};
    g_autofree char *again = NULL;

    if (!disks_seen_message_decode((const char *)data, size, &message, NULL))
        return;
    again = disks_seen_message_encode(&message);
    if (!disks_seen_message_decode(again, strlen(again), &back, NULL) ||
        back.count != message.count)
        abort();
}

static void check_make(const uint8_t *data, size_t size)
{
    DiskMake makes[LIST_FILES], back[LIST_FILES];
    g_autofree char *again = NULL;

    if (!disks_make_message_decode((const char *)data, size, LIST_FILES, makes, NULL))
        return;
    again = disks_make_message_encode(makes, LIST_FILES);
    if (!disks_make_message_decode(again, strlen(again), LIST_FILES, back, NULL) ||
        memcmp(makes, back, sizeof makes) != 0)
        abort();
}

static void check_digests(const uint8_t *data, size_t size)
{
    char *digests[LIST_FILES] = {NULL}, *back[LIST_FILES] = {NULL};
    g_autofree char *again = NULL;

    if (!disks_digests_message_decode((const char *)data, size, LIST_FILES, digests, NULL))
        return;
    again = disks_digests_message_encode(digests, LIST_FILES);
    if (!disks_digests_message_decode(again, strlen(again), LIST_FILES, back, NULL))
        abort();
    for (guint i = 0; i < LIST_FILES; i++) {
        if (g_strcmp0(digests[i], back[i]) != 0)
            abort();
        g_free(digests[i]);
        g_free(back[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct {
        char letter;
        void (*check)(const uint8_t *data, size_t size);
    } checks[] = {
        {'C', check_compare}, {'G', check_granules}, {'S', check_same_content}, {'W', check_write},
        {'Z', check_zero},    {'F', check_flush},    {'D', check_done},         {'d', check_disks},
        {'s', check_seen},    {'m', check_make},     {'g', check_digests},
    };

    for (guint i = 0; size > 0 && i < G_N_ELEMENTS(checks); i++)
        if (data[0] == checks[i].letter)
            checks[i].check(data + 1, size - 1);
    return 0;
}
