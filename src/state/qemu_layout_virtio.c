/*
 * Layouts of QEMU's sections: virtio devices of "microvm" (qemu_layout.h)
 *
 * QEMU writes them by code, not by tables: its description has them as "virtio", so many bytes.
 * First the transport's part, then the common one, then the device's, then subsections.  The
 * common part is that of the legacy interface (virtio 0.9.5), what is newer came as subsections.
 */
#include "state/qemu_layout_tables.h"

#define VIRTIO_MAX_QUEUES 1024

static const QemuField mmio_queue_fields[] = {
    {"vring.num", QEMU_UINT32},
    {"vring.align", QEMU_UINT32},
    {"vring.desc", QEMU_UINT64},
    {"last_avail_idx", QEMU_UINT16},
    {NULL},
};
static const QemuLayout mmio_queue = {"virtio-mmio queue", 0, mmio_queue_fields, NULL};

#define MMIO_FIELDS                                                                                \
    {"host_features_sel", QEMU_UINT32}, {"guest_features_sel", QEMU_UINT32},                       \
        {"guest_page_shift", QEMU_UINT32}, {"status", QEMU_UINT8}, {"isr", QEMU_UINT8},            \
        {"queue_sel", QEMU_UINT16}, {"guest_features", QEMU_UINT32}, {"config_len", QEMU_UINT32},  \
        {"config", QEMU_BUFFER, 4096, .count_from = "config_len"}, {"num_queues", QEMU_UINT32},    \
    {                                                                                              \
        "queues", QEMU_STRUCT, VIRTIO_MAX_QUEUES, .count_from = "num_queues",                      \
                                                  .layout = &mmio_queue                            \
    }

/* ---- subsections ---- */

static const QemuField features_fields[] = {{"guest_features", QEMU_UINT64}, {NULL}};
static const QemuLayout features = {"virtio/64bit_features", 1, features_fields, NULL};

static const QemuField virtqueue_state_fields[] = {
    {"vring.avail", QEMU_UINT64},
    {"vring.used", QEMU_UINT64},
    {NULL},
};
static const QemuLayout virtqueue_state = {"virtqueue_state", 1, virtqueue_state_fields, NULL};
static const QemuField virtqueues_fields[] = {
    {"vq", QEMU_STRUCT, VIRTIO_MAX_QUEUES, .layout = &virtqueue_state}, {NULL}};
static const QemuLayout virtqueues = {"virtio/virtqueues", 1, virtqueues_fields, NULL};

static const QemuField packed_state_fields[] = {
    {"last_avail_idx", QEMU_UINT16}, {"last_avail_wrap_counter", QEMU_BOOL},
    {"used_idx", QEMU_UINT16},       {"used_wrap_counter", QEMU_BOOL},
    {"inuse", QEMU_UINT32},          {NULL},
};
static const QemuLayout packed_state = {"packed_virtqueue_state", 1, packed_state_fields, NULL};
static const QemuField packed_fields[] = {
    {"vq", QEMU_STRUCT, VIRTIO_MAX_QUEUES, .layout = &packed_state}, {NULL}};
static const QemuLayout packed = {"virtio/packed_virtqueues", 1, packed_fields, NULL};

static const QemuField ringsize_state_fields[] = {{"vring.num_default", QEMU_UINT32}, {NULL}};
static const QemuLayout ringsize_state = {"ringsize_state", 1, ringsize_state_fields, NULL};
static const QemuField ringsize_fields[] = {
    {"vq", QEMU_STRUCT, VIRTIO_MAX_QUEUES, .layout = &ringsize_state}, {NULL}};
static const QemuLayout ringsize = {"virtio/ringsize", 1, ringsize_fields, NULL};

static const QemuField broken_fields[] = {{"broken", QEMU_BOOL}, {NULL}};
static const QemuLayout broken = {"virtio/broken", 1, broken_fields, NULL};
static const QemuField started_fields[] = {{"started", QEMU_BOOL}, {NULL}};
static const QemuLayout started = {"virtio/started", 1, started_fields, NULL};
static const QemuField disabled_fields[] = {{"disabled", QEMU_BOOL}, {NULL}};
static const QemuLayout disabled = {"virtio/disabled", 1, disabled_fields, NULL};

static const QemuField mmio_queue_state_fields[] = {
    {"num", QEMU_UINT16},      {"enabled", QEMU_BOOL},   {"desc", QEMU_UINT32, 2},
    {"avail", QEMU_UINT32, 2}, {"used", QEMU_UINT32, 2}, {NULL},
};
static const QemuLayout mmio_queue_state = {"virtio_mmio/queue_state", 1, mmio_queue_state_fields,
                                            NULL};
static const QemuField mmio_state_fields[] = {
    {"guest_features", QEMU_UINT32, 2},
    {"vqs", QEMU_STRUCT, VIRTIO_MAX_QUEUES, .layout = &mmio_queue_state},
    {NULL},
};
static const QemuLayout mmio_state = {"virtio_mmio/state", 1, mmio_state_fields, NULL};
static const QemuLayout *const mmio_subsections[] = {&mmio_state, NULL};
static const QemuLayout mmio_extra = {"virtio_mmio", 1, NULL, mmio_subsections};
static const QemuField extra_fields[] = {{"extra_state", QEMU_STRUCT, .layout = &mmio_extra},
                                         {NULL}};
static const QemuLayout extra = {"virtio/extra_state", 1, extra_fields, NULL};

static const QemuLayout *const virtio_subsections[] = {
    &features, &virtqueues, &ringsize, &broken, &extra, &started, &packed, &disabled, NULL};

/* ---- devices ---- */

/* A request that has not ended makes the byte 1, and the section not known: QEMU writes its own
 * memory's layout then.  A guest that is paused has none. */
static const QemuField blk_fields[] = {MMIO_FIELDS, {"requests", QEMU_UINT8}, {NULL}};
static const QemuLayout blk = {"virtio-blk", 2, blk_fields, virtio_subsections};

static const QemuField rng_fields[] = {MMIO_FIELDS, {NULL}};
static const QemuLayout rng = {"virtio-rng", 1, rng_fields, virtio_subsections};

#define NET_FIELDS                                                                                 \
    {"mac", QEMU_UINT8, 6}, {"vqs[0].tx_waiting", QEMU_UINT32},                                    \
        {"mergeable_rx_bufs", QEMU_UINT32}, {"net_status", QEMU_UINT16}, {"promisc", QEMU_UINT8},  \
        {"allmulti", QEMU_UINT8}, {"mac_table.in_use", QEMU_UINT32},                               \
        {"mac_table.macs", QEMU_BUFFER, 64 * 6, .count_from = "mac_table.in_use",                  \
         .count_bytes = 6},                                                                        \
        {"vlans", QEMU_BUFFER, 512}, {"has_vnet_hdr", QEMU_UINT32},                                \
        {"mac_table.multi_overflow", QEMU_UINT8}, {"mac_table.uni_overflow", QEMU_UINT8},          \
        {"alluni", QEMU_UINT8}, {"nomulti", QEMU_UINT8}, {"nouni", QEMU_UINT8},                    \
        {"nobcast", QEMU_UINT8},                                                                   \
    {                                                                                              \
        "has_ufo", QEMU_UINT8                                                                      \
    }

/* VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, of the features that the guest has taken. */
#define GUEST_OFFLOADS                                                                             \
    {                                                                                              \
        "curr_guest_offloads", QEMU_UINT64, .when = "guest_features", .when_mask = 1u << 2         \
    }

static const QemuLayout *const no_net_subsections[] = {NULL};
static const QemuField net_device_fields[] = {NET_FIELDS, GUEST_OFFLOADS, {NULL}};
static const QemuLayout net_device = {"virtio-net-device", 11, net_device_fields,
                                      no_net_subsections};

static const QemuField net_fields[] = {
    MMIO_FIELDS, {"device", QEMU_STRUCT, .layout = &net_device}, {NULL}};
static const QemuLayout net = {"virtio-net", 11, net_fields, virtio_subsections};

static const QemuField queue_pair_fields[] = {{"tx_waiting", QEMU_UINT32}, {NULL}};
static const QemuLayout queue_pair = {"virtio-net-queue-tx_waiting", 0, queue_pair_fields, NULL};
static const QemuField net_multiqueue_device_fields[] = {
    NET_FIELDS,
    {"max_queue_pairs", QEMU_UINT16},
    {"curr_queue_pairs", QEMU_UINT16},
    {"vqs[1]", QEMU_STRUCT, VIRTIO_MAX_QUEUES, .count_from = "curr_queue_pairs", .count_less = 1,
     .layout = &queue_pair},
    GUEST_OFFLOADS,
    {NULL},
};
static const QemuLayout net_multiqueue_device = {"virtio-net-device", 11,
                                                 net_multiqueue_device_fields, no_net_subsections};
static const QemuField net_multiqueue_fields[] = {
    MMIO_FIELDS, {"device", QEMU_STRUCT, .layout = &net_multiqueue_device}, {NULL}};
static const QemuLayout net_multiqueue = {"virtio-net", 11, net_multiqueue_fields,
                                          virtio_subsections};

const QemuLayoutEntry qemu_layouts_virtio[] = {
    {"virtio-mmio virtio-blk", {&blk}},
    {"virtio-mmio virtio-net", {&net, &net_multiqueue}},
    {"virtio-mmio virtio-rng", {&rng}},
    {NULL},
};
