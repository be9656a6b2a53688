/* QEMU's sections of disks, serial ports, keyboard and mouse, display, network card. */
#include <string.h>

#include "state/qemu_map.h"

#define NUMBER(neutral, own)                                                                       \
    {                                                                                              \
        QEMU_MAP_NUMBER, neutral, own                                                              \
    }
#define OPTIONAL(neutral, own, otherwise)                                                          \
    {                                                                                              \
        QEMU_MAP_OPTIONAL, neutral, own, .value = (otherwise)                                      \
    }
#define BYTES(neutral, own)                                                                        \
    {                                                                                              \
        QEMU_MAP_BYTES, neutral, own                                                               \
    }
#define LEFT_OUT(own, why)                                                                         \
    {                                                                                              \
        QEMU_MAP_LEFT_OUT, why, own                                                                \
    }
#define CODE(own, read, write)                                                                     \
    {                                                                                              \
        QEMU_MAP_CODE, NULL, own, 0, 0, 0, NULL, read, write                                       \
    }

#define PCI(parent)                                                                                \
    BYTES("config", parent "|config[0]"), {QEMU_MAP_INTX, "intx", parent "|irq_state"},            \
        LEFT_OUT(parent "|version_id", "of QEMU's form")

/* ---- IDE ---- */

static gboolean read_identify(QemuMapContext *context, const QemuRecord *record, StateNode *node)
{
    size_t length;
    const guint8 *bytes = qemu_get_bytes(record, "identify_data", &length);

    if (bytes)
        state_set_bytes(node, "identify", bytes, length);
    return TRUE;
}

static gboolean write_identify(QemuMapContext *context, QemuRecord *record, const StateNode *node)
{
    size_t length = 0;
    const uint8_t *bytes = state_get_bytes(node, "identify", &length);

    return (qemu_set_number(record, "identify_set", bytes != NULL) &&
            qemu_set_conditional_bytes(record, "identify_data", bytes, length)) ||
           qemu_map_refuse(context, "does not fit into QEMU's state", "identify");
}

static const QemuMapRow drive_rows[] = {
    NUMBER("features", "feature"),
    NUMBER("error", "error"),
    NUMBER("sector_count", "nsector"),
    NUMBER("sector", "sector"),
    NUMBER("cylinder_low", "lcyl"),
    NUMBER("cylinder_high", "hcyl"),
    NUMBER("previous_features", "hob_feature"),
    NUMBER("previous_sector", "hob_sector"),
    NUMBER("previous_sector_count", "hob_nsector"),
    NUMBER("previous_cylinder_low", "hob_lcyl"),
    NUMBER("previous_cylinder_high", "hob_hcyl"),
    NUMBER("device", "select"),
    NUMBER("status", "status"),
    NUMBER("lba48", "lba48"),
    NUMBER("multiple_sectors", "mult_sectors"),
    CODE("identify_data identify_set", read_identify, write_identify),
    NUMBER("sense_key", "sense_key"),
    NUMBER("sense_code", "asc"),
    NUMBER("medium_changed", "cdrom_changed"),
    OPTIONAL("pio.sectors", "ide_drive/pio_state|req_nb_sectors", 0),
    OPTIONAL("pio.offset", "ide_drive/pio_state|cur_io_buffer_offset", 0),
    OPTIONAL("pio.length", "ide_drive/pio_state|cur_io_buffer_len", 0),
    OPTIONAL("pio.then", "ide_drive/pio_state|end_transfer_fn_idx", 0),
    OPTIONAL("pio.block_bytes", "ide_drive/pio_state|elementary_transfer_size", 0),
    OPTIONAL("pio.packet_bytes", "ide_drive/pio_state|packet_transfer_size", 0),
    BYTES("pio.buffer", "ide_drive/pio_state|io_buffer"),
    OPTIONAL("tray_open", "ide_drive/tray_state|tray_open", 0),
    OPTIONAL("tray_locked", "ide_drive/tray_state|tray_locked", 0),
    OPTIONAL("event_new_medium", "ide_drive/atapi/gesn_state|events.new_media", 0),
    OPTIONAL("event_eject_request", "ide_drive/atapi/gesn_state|events.eject_request", 0),
    {0},
};

#define CHANNEL(n)                                                                                 \
    NUMBER("channels[" n "].bus_master_command", "bmdma[" n "]|cmd"),                              \
        NUMBER("channels[" n "].bus_master_status", "bmdma[" n "]|migration_compat_status"),       \
        NUMBER("channels[" n "].descriptor_table", "bmdma[" n "]|addr"),                           \
        NUMBER("channels[" n "].device_control", "bus[" n "]|cmd"),                                \
        NUMBER("channels[" n "].selected", "bus[" n "]|unit"),                                     \
        OPTIONAL("channels[" n "].dma.address", "bmdma[" n "]|ide bmdma_current|cur_addr", 0),     \
        OPTIONAL("channels[" n "].dma.last", "bmdma[" n "]|ide bmdma_current|cur_prd_last", 0),    \
        OPTIONAL("channels[" n "].dma.data_address",                                               \
                 "bmdma[" n "]|ide bmdma_current|cur_prd_addr", 0),                                \
        OPTIONAL("channels[" n "].dma.data_bytes", "bmdma[" n "]|ide bmdma_current|cur_prd_len",   \
                 0),                                                                               \
    {                                                                                              \
        QEMU_MAP_GROUPS, "channels[" n "].drives", "bus[" n "].ifs", .rows = drive_rows            \
    }

#define HOST_ERROR "of a command that waits because the host's disk failed"

static const QemuMapRow ide_rows[] = {
    PCI("parent_obj"),
    CHANNEL("0"),
    CHANNEL("1"),
    LEFT_OUT("bmdma|migration_retry_sector_num", HOST_ERROR),
    LEFT_OUT("bmdma|migration_retry_nsector", HOST_ERROR),
    LEFT_OUT("bmdma|migration_retry_unit", HOST_ERROR),
    LEFT_OUT("bmdma|ide bmdma/status", "the same again, without the host's errors"),
    LEFT_OUT("bus|ide_bus/error", HOST_ERROR),
    {0},
};

/* ---- serial port ---- */

enum { FIFO_BYTES = 16 };

/* A ring: *data*, *head* and *num*. */
static void read_fifo(const QemuRecord *record, const char *own, StateNode *node, const char *path)
{
    g_autofree char *data_path = g_strdup_printf("%s|data", own);
    g_autofree char *head_path = g_strdup_printf("%s|head", own);
    g_autofree char *num_path = g_strdup_printf("%s|num", own);
    guint64 head = qemu_map_number(record, head_path), num = qemu_map_number(record, num_path);
    guint8 bytes[FIFO_BYTES];
    size_t length;
    const guint8 *data = qemu_get_bytes(record, data_path, &length);

    if (!data || num > FIFO_BYTES)
        return;
    for (guint i = 0; i < num; i++)
        bytes[i] = data[(head + i) % FIFO_BYTES];
    state_set_bytes(node, path, bytes, num);
}

static gboolean write_fifo(QemuMapContext *context, QemuRecord *record, const char *own,
                           const StateNode *node, const char *path)
{
    g_autofree char *data_path = g_strdup_printf("%s|data", own);
    g_autofree char *head_path = g_strdup_printf("%s|head", own);
    g_autofree char *num_path = g_strdup_printf("%s|num", own);
    guint64 head = qemu_map_number(record, head_path);
    guint8 data[FIFO_BYTES] = {0};
    size_t length = 0, whole;
    const uint8_t *bytes = state_get_bytes(node, path, &length);
    const guint8 *before = qemu_get_bytes(record, data_path, &whole);

    if (!before && length == 0)
        return TRUE;
    if (length > FIFO_BYTES)
        return qemu_map_refuse(context, "has more than a FIFO of 16 bytes", path);
    if (before)
        memcpy(data, before, FIFO_BYTES);
    for (guint i = 0; i < length; i++)
        data[(head + i) % FIFO_BYTES] = bytes[i];
    return (qemu_set_bytes(record, data_path, data, FIFO_BYTES) &&
            qemu_set_number(record, num_path, length)) ||
           qemu_map_refuse(context, "does not fit into QEMU's state", path);
}

static gboolean read_fifos(QemuMapContext *context, const QemuRecord *record, StateNode *node)
{
    read_fifo(record, "serial/recv_fifo|recv_fifo", node, "receive_fifo");
    read_fifo(record, "serial/xmit_fifo|xmit_fifo", node, "transmit_fifo");
    return TRUE;
}

static gboolean write_fifos(QemuMapContext *context, QemuRecord *record, const StateNode *node)
{
    return write_fifo(context, record, "serial/recv_fifo|recv_fifo", node, "receive_fifo") &&
           write_fifo(context, record, "serial/xmit_fifo|xmit_fifo", node, "transmit_fifo");
}

static const QemuMapRow serial_inner_rows[] = {
    NUMBER("divisor", "divider"),
    NUMBER("rbr", "rbr"),
    NUMBER("ier", "ier"),
    NUMBER("iir", "iir"),
    NUMBER("fcr", "fcr_vmstate"),
    NUMBER("lcr", "lcr"),
    NUMBER("mcr", "mcr"),
    NUMBER("lsr", "lsr"),
    NUMBER("msr", "msr"),
    NUMBER("scr", "scr"),
    OPTIONAL("thr_interrupt", "serial/thr_ipending|thr_ipending", 0),
    OPTIONAL("timeout_interrupt", "serial/timeout_ipending|timeout_ipending", 0),
    OPTIONAL("shift_register", "serial/tsr|tsr", 0),
    OPTIONAL("holding_register", "serial/tsr|thr", 0),
    CODE("serial/recv_fifo serial/xmit_fifo", read_fifos, write_fifos),
    LEFT_OUT("serial/tsr|tsr_retry", "how often the host's side did not take a byte"),
    LEFT_OUT("serial/fifo_timeout_timer", "four characters' time, counted anew"),
    LEFT_OUT("serial/poll", "of a host's serial line"),
    {0},
};

static gboolean read_serial(QemuMapContext *context, const QemuRecord *record, StateNode *node)
{
    return qemu_map_read_rows(context, serial_inner_rows, qemu_get_record(record, "state"), node);
}

static gboolean write_serial(QemuMapContext *context, QemuRecord *record, const StateNode *node)
{
    return qemu_map_write_rows(context, serial_inner_rows, qemu_get_record(record, "state"), node);
}

static const QemuMapRow serial_rows[] = {
    {QEMU_MAP_CODE, NULL, "state", .rows = serial_inner_rows, .read = read_serial,
     .write = write_serial},
    {0},
};

/* ---- keyboard and mouse ---- */

enum { PS2_QUEUE = 256 };

static const char queue_data[] = "parent_obj|queue.data";
static const char queue_first[] = "parent_obj|queue.rptr";
static const char queue_end[] = "parent_obj|queue.wptr";
static const char queue_count[] = "parent_obj|queue.count";

static gboolean read_queue(QemuMapContext *context, const QemuRecord *record, StateNode *node)
{
    guint64 first = qemu_map_number(record, queue_first);
    guint64 count = MIN(qemu_map_number(record, queue_count), PS2_QUEUE);
    guint8 bytes[PS2_QUEUE];
    size_t length;
    const guint8 *data = qemu_get_bytes(record, queue_data, &length);

    for (guint i = 0; data && i < count; i++)
        bytes[i] = data[(first + i) % PS2_QUEUE];
    state_set_bytes(node, "queue", bytes, count);
    return TRUE;
}

/* Where QEMU's place of the first byte is, so that an unchanged queue stays as it is. */
static gboolean write_queue(QemuMapContext *context, QemuRecord *record, const StateNode *node)
{
    guint64 first = qemu_map_number(record, queue_first);
    guint8 data[PS2_QUEUE];
    size_t length = 0, whole;
    const uint8_t *bytes = state_get_bytes(node, "queue", &length);
    const guint8 *before = qemu_get_bytes(record, queue_data, &whole);

    if (!bytes || !before || length > PS2_QUEUE)
        return qemu_map_refuse(context, "does not fit into QEMU's state", "queue");
    memcpy(data, before, PS2_QUEUE);
    for (guint i = 0; i < length; i++)
        data[(first + i) % PS2_QUEUE] = bytes[i];
    if (length != qemu_map_number(record, queue_count) &&
        !qemu_map_put(context, record, queue_end, (first + length) % PS2_QUEUE))
        return FALSE;
    return qemu_set_bytes(record, queue_data, data, PS2_QUEUE) &&
           qemu_map_put(context, record, queue_count, length);
}

static const QemuMapRow keyboard_rows[] = {
    {QEMU_MAP_NONE, "pending_command", "parent_obj|write_cmd"},
    CODE("parent_obj|queue.data parent_obj|queue.rptr parent_obj|queue.wptr parent_obj|queue.count",
         read_queue, write_queue),
    NUMBER("scan_enabled", "scan_enabled"),
    NUMBER("translate", "translate"),
    NUMBER("scan_code_set", "scancode_set"),
    OPTIONAL("leds", "ps2kbd/ledstate|ledstate", 0),
    LEFT_OUT("ps2kbd/need_high_bit", "of a key that is being translated"),
    LEFT_OUT("ps2kbd/command_reply_queue", "which of the bytes that wait are replies"),
    {0},
};

static const QemuMapRow mouse_rows[] = {
    {QEMU_MAP_NONE, "pending_command", "parent_obj|write_cmd"},
    CODE("parent_obj|queue.data parent_obj|queue.rptr parent_obj|queue.wptr parent_obj|queue.count",
         read_queue, write_queue),
    NUMBER("status", "mouse_status"),
    NUMBER("resolution", "mouse_resolution"),
    NUMBER("sample_rate", "mouse_sample_rate"),
    NUMBER("wrap", "mouse_wrap"),
    NUMBER("type", "mouse_type"),
    NUMBER("detect_state", "mouse_detect_state"),
    NUMBER("dx", "mouse_dx"),
    NUMBER("dy", "mouse_dy"),
    NUMBER("dz", "mouse_dz"),
    NUMBER("buttons", "mouse_buttons"),
    LEFT_OUT("ps2mouse/command_reply_queue", "which of the bytes that wait are replies"),
    {0},
};

static const QemuMapRow i8042_rows[] = {
    NUMBER("status", "kbd|status"),
    NUMBER("command_byte", "kbd|mode"),
    NUMBER("pending_command", "kbd|write_cmd"),
    NUMBER("pending_output", "kbd|pending_tmp"),
    OPTIONAL("output_port", "kbd|pckbd_outport|outport", 3),
    OPTIONAL("output_source", "kbd|pckbd/extended_state|obsrc", 0),
    OPTIONAL("output_byte", "kbd|pckbd/extended_state|obdata", 0),
    OPTIONAL("controller_byte", "kbd|pckbd/extended_state|cbdata", 0),
    LEFT_OUT("kbd|pckbd/extended_state|migration_flags", "of QEMU's form"),
    {0},
};

/* ---- display ---- */

#define FROM_VBE "follows from the VBE registers"

static const QemuMapRow vga_rows[] = {
    PCI("dev"),
    NUMBER("latch", "vga|latch"),
    NUMBER("sequencer_index", "vga|sr_index"),
    BYTES("sequencer", "vga|sr"),
    NUMBER("graphics_index", "vga|gr_index"),
    BYTES("graphics", "vga|gr"),
    NUMBER("attribute_index", "vga|ar_index"),
    BYTES("attribute", "vga|ar"),
    NUMBER("attribute_flip_flop", "vga|ar_flip_flop"),
    NUMBER("crt_index", "vga|cr_index"),
    BYTES("crt", "vga|cr"),
    NUMBER("miscellaneous_output", "vga|msr"),
    NUMBER("feature_control", "vga|fcr"),
    NUMBER("input_status_0", "vga|st00"),
    NUMBER("input_status_1", "vga|st01"),
    NUMBER("dac_state", "vga|dac_state"),
    NUMBER("dac_component", "vga|dac_sub_index"),
    NUMBER("dac_read_index", "vga|dac_read_index"),
    NUMBER("dac_write_index", "vga|dac_write_index"),
    BYTES("dac_cache", "vga|dac_cache"),
    BYTES("palette", "vga|palette"),
    NUMBER("bank", "vga|bank_offset"),
    NUMBER("vbe_index", "vga|vbe_index"),
    {QEMU_MAP_NUMBERS, "vbe", "vga|vbe_regs"},
    LEFT_OUT("vga|is_vbe_vmstate", "of QEMU's form"),
    LEFT_OUT("vga|vbe_start_addr", FROM_VBE),
    LEFT_OUT("vga|vbe_line_offset", FROM_VBE),
    LEFT_OUT("vga|vbe_bank_mask", "follows from the size of the memory"),
    {0},
};

/* ---- network card ---- */

enum { E1000_REGISTERS = 32768, E1000_TX_DATA = 65536 };

static const char all_registers[] = "e1000/full_mac_state|mac_reg";

/* What QEMU has of the registers once more by their names, at their offsets (8254x manual, 13.3). */
static const struct {
    const char *own;
    guint offset, count; /* in the registers; how many of 4 bytes */
} named_registers[] = {
    {"mac_reg[CTRL]", 0x0, 1},
    {"mac_reg[EECD]", 0x10, 1},
    {"mac_reg[EERD]", 0x14, 1},
    {"mac_reg[GPRC]", 0x4074, 1},
    {"mac_reg[GPTC]", 0x4080, 1},
    {"mac_reg[ICR]", 0xc0, 1},
    {"mac_reg[ICS]", 0xc8, 1},
    {"mac_reg[IMC]", 0xd8, 1},
    {"mac_reg[IMS]", 0xd0, 1},
    {"mac_reg[LEDCTL]", 0xe00, 1},
    {"mac_reg[MANC]", 0x5820, 1},
    {"mac_reg[MDIC]", 0x20, 1},
    {"mac_reg[MPC]", 0x4010, 1},
    {"mac_reg[PBA]", 0x1000, 1},
    {"mac_reg[RCTL]", 0x100, 1},
    {"mac_reg[RDBAH]", 0x2804, 1},
    {"mac_reg[RDBAL]", 0x2800, 1},
    {"mac_reg[RDH]", 0x2810, 1},
    {"mac_reg[RDLEN]", 0x2808, 1},
    {"mac_reg[RDT]", 0x2818, 1},
    {"mac_reg[STATUS]", 0x8, 1},
    {"mac_reg[SWSM]", 0x5b50, 1},
    {"mac_reg[TCTL]", 0x400, 1},
    {"mac_reg[TDBAH]", 0x3804, 1},
    {"mac_reg[TDBAL]", 0x3800, 1},
    {"mac_reg[TDH]", 0x3810, 1},
    {"mac_reg[TDLEN]", 0x3808, 1},
    {"mac_reg[TDT]", 0x3818, 1},
    {"mac_reg[TORH]", 0x40c4, 1},
    {"mac_reg[TORL]", 0x40c0, 1},
    {"mac_reg[TOTH]", 0x40cc, 1},
    {"mac_reg[TOTL]", 0x40c8, 1},
    {"mac_reg[TPR]", 0x40d0, 1},
    {"mac_reg[TPT]", 0x40d4, 1},
    {"mac_reg[TXDCTL]", 0x3828, 1},
    {"mac_reg[WUFC]", 0x5808, 1},
    {"mac_reg[VET]", 0x38, 1},
    {"mac_reg[0]", 0x5400, 32},
    {"mac_reg[1]", 0x5200, 128},
    {"mac_reg[2]", 0x5600, 128},
    {"e1000/mit_state|mac_reg[RDTR]", 0x2820, 1},
    {"e1000/mit_state|mac_reg[RADV]", 0x282c, 1},
    {"e1000/mit_state|mac_reg[TADV]", 0x382c, 1},
    {"e1000/mit_state|mac_reg[ITR]", 0xc4, 1},
};

static void swap_registers(guint8 *to, const guint8 *from, guint count)
{
    for (guint i = 0; i < count; i++) {
        guint32 value;

        memcpy(&value, from + sizeof value * i, sizeof value);
        value = GUINT32_SWAP_LE_BE(value);
        memcpy(to + sizeof value * i, &value, sizeof value);
    }
}

static gboolean read_registers(QemuMapContext *context, const QemuRecord *record, StateNode *node)
{
    g_autofree guint8 *registers = g_malloc0(4 * E1000_REGISTERS);
    size_t length;
    const guint8 *all = qemu_get_bytes(record, all_registers, &length);

    for (guint i = 0; !all && i < G_N_ELEMENTS(named_registers); i++) {
        const guint8 *bytes = qemu_get_bytes(record, named_registers[i].own, &length);

        if (bytes)
            swap_registers(registers + named_registers[i].offset, bytes, named_registers[i].count);
    }
    if (all)
        swap_registers(registers, all, E1000_REGISTERS);
    state_take_bytes(node, "registers", g_steal_pointer(&registers), 4 * E1000_REGISTERS);
    return TRUE;
}

/* TRUE also where the record has them not. */
static gboolean put_registers(QemuMapContext *context, QemuRecord *record, const char *path,
                              const guint8 *from, guint count)
{
    size_t length = 0;
    guint8 *own = qemu_edit_bytes(record, path, &length);

    if (own && length != 4 * (size_t)count)
        return qemu_map_refuse(context, "does not fit into QEMU's state", "registers");
    if (own)
        swap_registers(own, from, count);
    return TRUE;
}

static gboolean write_registers(QemuMapContext *context, QemuRecord *record, const StateNode *node)
{
    size_t length = 0;
    const uint8_t *registers = state_get_bytes(node, "registers", &length);

    if (!registers || length != 4 * E1000_REGISTERS)
        return qemu_map_refuse(context, "does not fit into QEMU's state", "registers");
    for (guint i = 0; i < G_N_ELEMENTS(named_registers); i++)
        if (!put_registers(context, record, named_registers[i].own,
                           registers + named_registers[i].offset, named_registers[i].count))
            return FALSE;
    return put_registers(context, record, all_registers, registers, E1000_REGISTERS);
}

static gboolean read_transmit_data(QemuMapContext *context, const QemuRecord *record,
                                   StateNode *node)
{
    size_t length = 0;
    const guint8 *data = qemu_get_bytes(record, "tx.data", &length);

    state_set_bytes(node, "transmit_data", data,
                    data ? MIN(qemu_map_number(record, "tx.size"), length) : 0);
    return TRUE;
}

static gboolean write_transmit_data(QemuMapContext *context, QemuRecord *record,
                                    const StateNode *node)
{
    g_autofree guint8 *whole = NULL;
    size_t length = 0, room = 0;
    const uint8_t *bytes = state_get_bytes(node, "transmit_data", &length);
    const guint8 *before = qemu_get_bytes(record, "tx.data", &room);

    if (!bytes || !before || length > MIN(room, G_MAXUINT16))
        return qemu_map_refuse(context, "does not fit into QEMU's state", "transmit_data");
    whole = g_memdup2(before, room);
    memcpy(whole, bytes, length);
    return qemu_set_bytes(record, "tx.data", whole, room) &&
           qemu_map_put(context, record, "tx.size", length);
}

#define OFFLOAD(group, own)                                                                        \
    NUMBER(group ".ipcss", own ".ipcss"), NUMBER(group ".ipcso", own ".ipcso"),                    \
        NUMBER(group ".ipcse", own ".ipcse"), NUMBER(group ".tucss", own ".tucss"),                \
        NUMBER(group ".tucso", own ".tucso"), NUMBER(group ".tucse", own ".tucse"),                \
        NUMBER(group ".paylen", own ".paylen"), NUMBER(group ".hdrlen", own ".hdr_len"),           \
        NUMBER(group ".mss", own ".mss"), NUMBER(group ".ip", own ".ip"),                          \
        NUMBER(group ".tcp", own ".tcp")

static const QemuMapRow e1000_rows[] = {
    PCI("parent_obj"),
    CODE("mac_reg e1000/full_mac_state|mac_reg e1000/mit_state|mac_reg", read_registers,
         write_registers),
    {QEMU_MAP_NUMBERS, "phy", "phy_reg"},
    {QEMU_MAP_NUMBERS, "eeprom", "eeprom_data"},
    NUMBER("eeprom_access.clock_in", "eecd_state.val_in"),
    NUMBER("eeprom_access.bits_in", "eecd_state.bitnum_in"),
    NUMBER("eeprom_access.bits_out", "eecd_state.bitnum_out"),
    NUMBER("eeprom_access.reading", "eecd_state.reading"),
    NUMBER("eeprom_access.last_control", "eecd_state.old_eecd"),
    OFFLOAD("checksum_offload", "mig_props"),
    OFFLOAD("segmentation_offload", "e1000/tx_tso_state|tx.tso_props"),
    NUMBER("segments_sent", "tx.tso_frames"),
    NUMBER("checksums_needed", "tx.sum_needed"),
    CODE("tx.data tx.size", read_transmit_data, write_transmit_data),
    BYTES("transmit_header", "tx.header"),
    OPTIONAL("interrupt_delayed", "e1000/mit_state|mit_irq_level", 0),
    LEFT_OUT("unused[1]", "of QEMU's form"),
    LEFT_OUT("rxbuf_size", "follows from RCTL"),
    LEFT_OUT("rxbuf_min_shift", "follows from RCTL"),
    {0},
};

const QemuMap qemu_maps_devices[] = {
    {"ide", "intel,piix3-ide", {NULL}, NULL, ide_rows},
    {"serial", "ns,16550a", {"io:3f8", "io:2f8", "io:3e8", "io:2e8"}, NULL, serial_rows},
    {"pckbd", "intel,8042", {"io:60"}, NULL, i8042_rows},
    {"ps2kbd", "intel,8042", {"io:60"}, "keyboard", keyboard_rows},
    {"ps2mouse", "intel,8042", {"io:60"}, "mouse", mouse_rows},
    {"vga", "bochs,vbe", {NULL}, NULL, vga_rows},
    {"e1000", "intel,82540em", {NULL}, NULL, e1000_rows},
    {NULL},
};
