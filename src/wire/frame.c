#include "wire/frame.h"

#include "base/bytes.h"
#include "base/error.h"
#include "base/names.h"
#include "base/page.h"
#include "wire/page_frame.h"
#include "wire/witness_message.h"

#define JSON_BYTES 65536u
#define GUEST_BYTES (4u << 20)
#define IMAGES_BYTES (4u << 20)
#define STORE_BYTES (1u << 20)
#define PAGES_BYTES                                                                                \
    (PAGE_FRAME_HEADER_BYTES + PAGE_FRAME_RUN_BYTES * PAGE_FRAME_MAX_RUNS +                        \
     PAGE_BYTES * PAGE_FRAME_MAX_RAW_PAGES)
/* A piece of a window may be longer than what it becomes. */
#define PAGES_WINDOW_BYTES (PAGES_BYTES + PAGE_FRAME_WINDOW_MARGIN)

typedef struct {
    const char *name;
    uint32_t min, max; /* bytes of payload */
    TrafficClass traffic;
    gboolean carries_pages;
} FrameKind;

/* Without a class: control.  Numbers without a name are not in use. */
static const FrameKind kinds[] = {
    [0] = {"none", 0, 0},
    [FRAME_HELLO] = {"HELLO", 2, JSON_BYTES},
    [FRAME_GUEST] = {"GUEST", 2, GUEST_BYTES},
    [FRAME_ACCEPTED] = {"ACCEPTED", 0, 0},
    [FRAME_PAGES] = {"PAGES", PAGE_FRAME_HEADER_BYTES + PAGE_FRAME_RUN_BYTES, PAGES_BYTES,
                     TRAFFIC_BULK, TRUE},
    [FRAME_EPOCH_SEAL] = {"EPOCH_SEAL", FRAME_EPOCH_SEAL_BYTES, FRAME_EPOCH_SEAL_BYTES,
                          TRAFFIC_BULK},
    [FRAME_EPOCH_APPLIED] = {"EPOCH_APPLIED", FRAME_EPOCH_APPLIED_BYTES, FRAME_EPOCH_APPLIED_BYTES},
    [FRAME_DEVICE_STATE] = {"DEVICE_STATE", FRAME_DEVICE_STATE_HEADER_BYTES + 1,
                            FRAME_DEVICE_STATE_HEADER_BYTES + FRAME_DEVICE_STATE_PIECE_BYTES,
                            TRAFFIC_BULK},
    [FRAME_DIGESTS] = {"DIGESTS", FRAME_DIGESTS_HEADER_BYTES + 8,
                       FRAME_DIGESTS_HEADER_BYTES + 8 * FRAME_DIGESTS_MAX_PAGES},
    [FRAME_PREPARE] = {"PREPARE", 0, 0},
    [FRAME_READY] = {"READY", 2, JSON_BYTES},
    [FRAME_START] = {"START", 9, 9},
    [FRAME_STARTED] = {"STARTED", 0, 0},
    [FRAME_ABORT] = {"ABORT", 2, JSON_BYTES},
    [FRAME_ERROR] = {"ERROR", 2, JSON_BYTES},
    [FRAME_HEARTBEAT] = {"HEARTBEAT", 0, 0},
    [FRAME_RESOLVE] = {"RESOLVE", 2, JSON_BYTES},
    [FRAME_OUTCOME] = {"OUTCOME", 2, JSON_BYTES},
    [FRAME_PAGES_LZ4] = {"PAGES_LZ4", PAGE_FRAME_HEADER_BYTES + PAGE_FRAME_RUN_BYTES, PAGES_BYTES,
                         TRAFFIC_BULK, TRUE},
    [FRAME_PAGES_ZSTD] = {"PAGES_ZSTD", PAGE_FRAME_HEADER_BYTES + PAGE_FRAME_RUN_BYTES, PAGES_BYTES,
                          TRAFFIC_BULK, TRUE},
    [FRAME_SEGMENTS] = {"SEGMENTS", FRAME_SEGMENTS_HEAD_BYTES + 1,
                        FRAME_SEGMENTS_HEAD_BYTES + FRAME_SEGMENTS_MAX_BODY_BYTES, TRAFFIC_BULK,
                        TRUE},
    [FRAME_COPIES] = {"COPIES", FRAME_COPIES_HEAD_BYTES + FRAME_COPIES_RUN_BYTES,
                      FRAME_COPIES_HEAD_BYTES + FRAME_COPIES_RUN_BYTES *FRAME_COPIES_MAX_RUNS,
                      TRAFFIC_BULK, TRUE},
    [FRAME_IMAGES] = {"IMAGES", 2, IMAGES_BYTES},
    [FRAME_IMAGES_SEEN] = {"IMAGES_SEEN", 2, IMAGES_BYTES},
    [FRAME_DISKS] = {"DISKS", 2, IMAGES_BYTES},
    [FRAME_DISKS_SEEN] = {"DISKS_SEEN", 2, IMAGES_BYTES},
    [FRAME_DISKS_MAKE] = {"DISKS_MAKE", 2, IMAGES_BYTES},
    [FRAME_DISKS_MADE] = {"DISKS_MADE", 0, 0},
    [FRAME_DISK_WRITE] = {"DISK_WRITE", FRAME_DISK_WRITE_HEAD_BYTES + 1,
                          FRAME_DISK_WRITE_HEAD_BYTES + FRAME_DISK_WRITE_MAX_BYTES, TRAFFIC_DISK},
    [FRAME_DISK_ZERO] = {"DISK_ZERO", FRAME_DISK_ZERO_BYTES, FRAME_DISK_ZERO_BYTES, TRAFFIC_DISK},
    [FRAME_DISK_FLUSH] = {"DISK_FLUSH", FRAME_DISK_FLUSH_BYTES, FRAME_DISK_FLUSH_BYTES,
                          TRAFFIC_DISK},
    [FRAME_DISK_DONE] = {"DISK_DONE", FRAME_DISK_DONE_BYTES, FRAME_DISK_DONE_BYTES, TRAFFIC_DISK},
    [FRAME_DISKS_VERIFY] = {"DISKS_VERIFY", 0, 0},
    [FRAME_DISKS_DIGESTS] = {"DISKS_DIGESTS", 2, IMAGES_BYTES},
    [FRAME_OUTSTANDING] = {"OUTSTANDING",
                           FRAME_OUTSTANDING_HEAD_BYTES + FRAME_OUTSTANDING_RUN_BYTES,
                           FRAME_OUTSTANDING_HEAD_BYTES +
                               FRAME_OUTSTANDING_RUN_BYTES *FRAME_OUTSTANDING_MAX_RUNS,
                           TRAFFIC_BULK},
    [FRAME_WANT] = {"WANT", FRAME_WANT_BYTES, FRAME_WANT_BYTES, TRAFFIC_FAULT},
    [FRAME_PUSHED] = {"PUSHED", 0, 0},
    [FRAME_COMPLETE] = {"COMPLETE", 0, 0},
    [FRAME_RESUME] = {"RESUME", 2, JSON_BYTES},
    [FRAME_RESUMED] = {"RESUMED", 0, 0},
    [FRAME_ENDED] = {"ENDED", 0, 0},
    [FRAME_EPOCH_WRITES] = {"EPOCH_WRITES", FRAME_EPOCH_WRITES_MIN_BYTES,
                            FRAME_EPOCH_WRITES_MAX_BYTES, TRAFFIC_CHECKPOINT},
    [FRAME_STORE] = {"STORE", 2, STORE_BYTES},
    [FRAME_STORE_SEAL] = {"STORE_SEAL", 0, 0},
    [FRAME_STORED] = {"STORED", FRAME_STORED_BYTES, FRAME_STORED_BYTES},
    [FRAME_UNCOVERED] = {"UNCOVERED", FRAME_UNCOVERED_BYTES, FRAME_UNCOVERED_BYTES},
    [FRAME_WITNESS_REQUEST] = {"WITNESS_REQUEST", 2, WITNESS_FRAME_BYTES},
    [FRAME_WITNESS_ANSWER] = {"WITNESS_ANSWER", 2, WITNESS_FRAME_BYTES},
    [FRAME_LEASE] = {"LEASE", FRAME_LEASE_BYTES, FRAME_LEASE_BYTES},
    [FRAME_EPOCH_BARRIER] = {"EPOCH_BARRIER", 0, 0, TRAFFIC_CHECKPOINT},
    [FRAME_PROTECT] = {"PROTECT", 2, STORE_BYTES},
    [FRAME_EPOCH_EVENTS] = {"EPOCH_EVENTS", FRAME_EPOCH_EVENT_BYTES,
                            FRAME_EPOCH_EVENT_BYTES *FRAME_EPOCH_EVENTS_MOST, TRAFFIC_CHECKPOINT},
    [FRAME_DISK_COMPARE] = {"DISK_COMPARE", FRAME_DISK_COMPARE_BYTES, FRAME_DISK_COMPARE_BYTES,
                            TRAFFIC_DISK},
    [FRAME_DISK_DIGESTS] = {"DISK_DIGESTS", FRAME_DISK_DIGESTS_HEAD_BYTES,
                            FRAME_DISK_DIGESTS_HEAD_BYTES +
                                FRAME_DISK_DIGEST_BYTES *FRAME_DISK_DIGESTS_MOST,
                            TRAFFIC_DISK},
    [FRAME_DISK_SAME] = {"DISK_SAME", FRAME_DISK_SAME_HEAD_BYTES + FRAME_DISK_DIGEST_BYTES,
                         FRAME_DISK_SAME_HEAD_BYTES + FRAME_DISK_DIGEST_BYTES *FRAME_DISK_SAME_MOST,
                         TRAFFIC_DISK},
    [FRAME_SAVE] = {"SAVE", 2, JSON_BYTES},
    [FRAME_SAVE_NOTE] = {"SAVE_NOTE", 2, STORE_BYTES},
    [FRAME_SAVED] = {"SAVED", 2, JSON_BYTES},
    [FRAME_SAVE_BASE] = {"SAVE_BASE", 2, STORE_BYTES},
    [FRAME_RECEIVED] = {"RECEIVED", FRAME_RECEIVED_BYTES, FRAME_RECEIVED_BYTES},
    [FRAME_RECONNECT] = {"RECONNECT", FRAME_RECEIVED_BYTES, FRAME_RECEIVED_BYTES},
    [FRAME_BYE] = {"BYE", 0, 0},
    [FRAME_PAGES_WINDOW] = {"PAGES_WINDOW", PAGE_FRAME_HEADER_BYTES + PAGE_FRAME_RUN_BYTES + 2,
                            PAGES_WINDOW_BYTES, TRAFFIC_BULK, TRUE},
    [FRAME_SEED] = {"SEED", 2, JSON_BYTES},
    [FRAME_SEED_DIGESTS] = {"SEED_DIGESTS", FRAME_SEED_DIGESTS_HEAD_BYTES,
                            FRAME_SEED_DIGESTS_HEAD_BYTES +
                                FRAME_SEED_DIGEST_BYTES *FRAME_SEED_DIGESTS_MOST},
    [FRAME_SEED_PAGES] = {"SEED_PAGES",
                          FRAME_SEED_PAGES_HEAD_BYTES + FRAME_SEED_PAGES_MIN_RUN_BYTES,
                          FRAME_SEED_PAGES_HEAD_BYTES +
                              FRAME_SEED_PAGES_MAX_RUN_BYTES *FRAME_SEED_PAGES_MAX_RUNS,
                          TRAFFIC_BULK, TRUE},
    [FRAME_BULK_BARRIER] = {"BULK_BARRIER", FRAME_BULK_BARRIER_BYTES, FRAME_BULK_BARRIER_BYTES,
                            TRAFFIC_BULK},
    [FRAME_RETRACT] = {"RETRACT", 0, FRAME_RETRACT_BYTES},
    [FRAME_MEASURE] = {"MEASURE", FRAME_MEASURE_HEAD_BYTES,
                       FRAME_MEASURE_HEAD_BYTES + FRAME_MEASURE_MOST_BYTES, TRAFFIC_BULK},
    [FRAME_MEASURED] = {"MEASURED", FRAME_MEASURED_BYTES, FRAME_MEASURED_BYTES},
};
G_STATIC_ASSERT(G_N_ELEMENTS(kinds) == FRAME_MEASURED + 1);

static const FrameKind *find_kind(guint type)
{
    return type > 0 && type < G_N_ELEMENTS(kinds) && kinds[type].name ? &kinds[type] : NULL;
}

uint32_t frame_payload_limit(FrameType type)
{
    const FrameKind *kind = find_kind((guint)type);

    return kind ? kind->max : 0;
}

static const char *const traffic_class_names[] = {
    [TRAFFIC_CONTROL] = "control", [TRAFFIC_FAULT] = "fault", [TRAFFIC_CHECKPOINT] = "checkpoint",
    [TRAFFIC_BULK] = "bulk",       [TRAFFIC_DISK] = "disk",
};
NAMES_DEFINE(traffic_class, TrafficClass, traffic_class_names)

TrafficClass frame_type_traffic(FrameType type)
{
    const FrameKind *kind = find_kind((guint)type);

    return kind ? kind->traffic : TRAFFIC_CONTROL;
}

gboolean frame_type_carries_pages(FrameType type)
{
    const FrameKind *kind = find_kind((guint)type);

    return kind && kind->carries_pages;
}

gboolean frame_type_has_order(FrameType type)
{
    return type == FRAME_COPIES || type == FRAME_PAGES_WINDOW;
}

gboolean frame_type_is_paced(FrameType type, TrafficClass traffic)
{
    return (traffic == TRAFFIC_BULK && (frame_type_carries_pages(type) || type == FRAME_MEASURE)) ||
           type == FRAME_DISK_WRITE;
}

const char *frame_type_name(FrameType type)
{
    const FrameKind *kind = find_kind((guint)type);

    return kind ? kind->name : "unknown";
}

gboolean frame_header_check(const FrameHeader *header, GError **error)
{
    const FrameKind *kind = find_kind((guint)header->type);

    if (!kind) {
        error_set(error, VMFERRY_ERROR_INVALID, "frame of unknown type %u", (guint)header->type);
        return FALSE;
    }
    if (header->length < kind->min || header->length > kind->max) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s frame of %u bytes; from %u to %u are allowed",
                  kind->name, header->length, kind->min, kind->max);
        return FALSE;
    }
    return TRUE;
}

static void put_little(uint8_t *out, uint32_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        out[i] = (uint8_t)(value >> (8 * i));
}

void frame_header_encode(const FrameHeader *header, uint8_t out[FRAME_HEADER_BYTES])
{
    put_little(out, FRAME_MAGIC, 4);
    put_little(out + 4, (uint32_t)header->type, 2);
    put_little(out + 6, 0, 2);
    put_little(out + 8, header->length, 4);
}

gboolean frame_header_decode(const uint8_t in[FRAME_HEADER_BYTES], FrameHeader *ret, GError **error)
{
    ByteReader reader = byte_reader_make(in, FRAME_HEADER_BYTES);
    uint32_t magic = byte_read_le32(&reader);
    uint16_t type = byte_read_le16(&reader);
    uint16_t flags = byte_read_le16(&reader);
    FrameHeader header = {.type = (FrameType)type, .length = byte_read_le32(&reader)};

    if (magic != FRAME_MAGIC) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "not a vmferry frame (magic 0x%08x, expected 0x%08x)", magic, FRAME_MAGIC);
        return FALSE;
    }
    if (flags != 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "frame with unknown flags 0x%04x", flags);
        return FALSE;
    }
    if (!frame_header_check(&header, error))
        return FALSE;
    *ret = header;
    return TRUE;
}

gboolean frame_type_is_counted(FrameType type)
{
    return type != FRAME_HEARTBEAT && type != FRAME_RECEIVED && type != FRAME_RECONNECT &&
           type != FRAME_BYE;
}
