/* Devices of a PC that are registers and little else: clock, HPET, DMA, keyboard controller, serial port. */
#include "vmm/bochs/form_private.h"

#include <string.h>

#include "base/error.h"
#include "vmm/bochs/hpet_place.h"

static gboolean refuse(GError **error, const char *path, const char *why)
{
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "%s: %s", path, why);
    return FALSE;
}

/* ---- MC146818 ---- */

static const BochsField cmos_fields[] = {BOCHS_HEX("index", "mem_address"), BOCHS_END};

static gboolean write_cmos(const StateNode *device, const BochsForm *shown, BochsForm *wanted,
                           GError **error)
{
    size_t length = 0;
    const uint8_t *bytes = state_get_bytes(device, "cmos", &length);

    bochs_form_set_bytes(wanted, "cmos", "ram", bytes, length);
    bochs_fields_write(cmos_fields, device, bochs_form_get(wanted, "cmos"), "");
    return TRUE;
}

static gboolean read_cmos(const BochsForm *shown, const BochsClock *clock, StateNode *device,
                          GError **error)
{
    const uint8_t *bytes = bochs_form_get_bytes(shown, "cmos", "ram", 128);

    if (!bytes)
        return refuse(error, "motorola,mc146818.cmos", "not known");
    state_set_bytes(device, "cmos", bytes, 128);
    return bochs_fields_read(cmos_fields, bochs_form_find(shown, "cmos"), "", device, error);
}

/* ---- HPET ---- */

static const BochsField hpet_fields[] = {
    BOCHS_HEX("config", "config"),
    BOCHS_HEX("isr", "isr"),
    BOCHS_HEX("counter", "hpet_counter"),
    BOCHS_END,
};

static const BochsField hpet_timer_fields[] = {
    BOCHS_HEX("config", "config"),
    BOCHS_HEX("comparator", "cmp"),
    BOCHS_HEX("fsb", "fsb"),
    BOCHS_DECIMAL("period", "period"),
    BOCHS_END,
};

#define HPET_HZ 100000000u
#define HPET_ENABLE 1u
#define HPET_LEGACY 2u
#define HPET_TIMER_ENABLE 4u
#define HPET_TIMER_32 0x100u

static gboolean write_hpet(const StateNode *device, const BochsForm *shown, BochsForm *wanted,
                           GError **error)
{
    const StateNode *timers = state_find(device, "timers");
    BochsNode *to = bochs_form_get(wanted, "hpet");
    uint32_t config = (uint32_t)state_number_or(device, "config", 0);

    bochs_fields_write(hpet_fields, device, to, "");
    /* The bits that make it run are written at the end (hpet_start.h). */
    if (config & HPET_ENABLE) {
        bochs_tree_set(to, "config", BOCHS_NODE_HEX, 0);
        wanted->hpet_start = config & (HPET_ENABLE | HPET_LEGACY);
    }
    for (guint i = 0; i < BOCHS_HPET_TIMERS; i++) {
        g_autofree char *under = g_strdup_printf("timer%u", i);

        bochs_fields_write(hpet_timer_fields, state_child(timers, i), to, under);
    }
    return TRUE;
}

/* The main counter of one that runs: what it counts from is in Bochs's memory. */
static gboolean read_hpet_counter(const BochsForm *shown, const BochsClock *clock,
                                  StateNode *device, GError **error)
{
    const uint8_t *bytes =
        bochs_form_get_bytes(shown, "hpet", BOCHS_HPET_REFERENCE, BOCHS_HPET_REFERENCE_BYTES);
    uint64_t value, since, now = (uint64_t)bochs_clock_ns(clock, clock->now);

    if (!bytes)
        return refuse(error, "intel,hpet.counter", "not known");
    memcpy(&value, bytes, sizeof value);
    memcpy(&since, bytes + sizeof value, sizeof since);
    state_set_number(device, "counter",
                     value + (now > since ? now - since : 0) / (1000000000 / HPET_HZ));
    return TRUE;
}

static void read_hpet_fire(const StateNode *device, StateNode *timer)
{
    uint64_t config = state_number_or(timer, "config", 0);
    uint64_t left = state_number_or(timer, "comparator", 0) - state_number_or(device, "counter", 0);

    (void)state_remove(timer, "until_fire");
    if (!(config & HPET_TIMER_ENABLE))
        return;
    if (config & HPET_TIMER_32)
        left = (uint32_t)left;
    if (left < (uint64_t)G_MAXINT64 / 10)
        state_set_time(timer, "until_fire", (int64_t)left * (1000000000 / HPET_HZ));
}

static gboolean read_hpet(const BochsForm *shown, const BochsClock *clock, StateNode *device,
                          GError **error)
{
    const BochsNode *from = bochs_form_find(shown, "hpet");
    gboolean runs;

    if (!bochs_fields_read(hpet_fields, from, "", device, error))
        return FALSE;
    runs = state_number_or(device, "config", 0) & HPET_ENABLE;
    if (runs && !read_hpet_counter(shown, clock, device, error))
        return FALSE;
    for (guint i = 0; i < BOCHS_HPET_TIMERS; i++) {
        g_autofree char *under = g_strdup_printf("timer%u", i);
        g_autofree char *path = g_strdup_printf("timers[%u]", i);
        StateNode *timer = state_set_group(device, path);

        if (!bochs_fields_read(hpet_timer_fields, from, under, timer, error))
            return FALSE;
        if (runs)
            read_hpet_fire(device, timer);
    }
    return TRUE;
}

/* ---- 8237A ---- */

/* Of a controller; with bit n of the mask channel n. */
static const BochsField dma_fields[] = {
    BOCHS_HEX("command", "command_reg"),     BOCHS_FLAG("command", "ctrl_disabled", 2),
    BOCHS_FLAG("flip_flop", "flip_flop", 0), BOCHS_FLAG("mask", "0.mask", 0),
    BOCHS_FLAG("mask", "1.mask", 1),         BOCHS_FLAG("mask", "2.mask", 2),
    BOCHS_FLAG("mask", "3.mask", 3),         BOCHS_END,
};

static const BochsField dma_channel_fields[] = {
    BOCHS_BITS("mode", "mode_type", 6, 2),
    BOCHS_FLAG("mode", "address_decrement", 5),
    BOCHS_FLAG("mode", "autoinit_enable", 4),
    BOCHS_BITS("mode", "transfer_type", 2, 2),
    BOCHS_HEX("base[0]", "base_address"),
    BOCHS_HEX("base[1]", "base_count"),
    BOCHS_DERIVED("base[0]", "current_address", 0, 16),
    BOCHS_DERIVED("base[1]", "current_count", 0, 16),
    BOCHS_HEX("page", "page_reg"),
    BOCHS_END,
};

static gboolean write_dma(const StateNode *device, const BochsForm *shown, BochsForm *wanted,
                          GError **error)
{
    gboolean second = g_strcmp0(state_get_text(device, "at"), "io:c0") == 0;
    const char *name = second ? "1" : "0";
    BochsNode *to = bochs_form_get(wanted, "dma");

    bochs_fields_write(dma_fields, device, to, name);
    for (guint i = 0; i < 4; i++) {
        g_autofree char *from = g_strdup_printf("channels[%u]", i);
        g_autofree char *under = g_strdup_printf("%s.%u", name, i);

        bochs_fields_write(dma_channel_fields, state_find(device, from), to, under);
    }
    return TRUE;
}

/* The mode's low bits, which name the channel when it is written (8237A, mode register), are not in Bochs, and stay as they were loaded. */
static gboolean read_dma_channel(const BochsNode *from, const char *under, StateNode *channel,
                                 GError **error)
{
    uint64_t named = state_number_or(channel, "mode", 0) & 3;

    if (!bochs_fields_read(dma_channel_fields, from, under, channel, error))
        return FALSE;
    state_set_number(channel, "mode", state_number_or(channel, "mode", 0) | named);
    return TRUE;
}

static gboolean read_dma(const BochsForm *shown, const BochsClock *clock, StateNode *device,
                         GError **error)
{
    gboolean second = g_strcmp0(state_get_text(device, "at"), "io:c0") == 0;
    const BochsNode *from = bochs_form_find(shown, "dma");
    const char *name = second ? "1" : "0";
    uint64_t unused = state_number_or(device, "mask", 0) & 0xf0;

    if (!bochs_fields_read(dma_fields, from, name, device, error))
        return FALSE;
    state_set_number(device, "mask", state_number_or(device, "mask", 0) | unused);
    for (guint i = 0; i < 4; i++) {
        g_autofree char *to = g_strdup_printf("channels[%u]", i);
        g_autofree char *under = g_strdup_printf("%s.%u", name, i);

        if (!read_dma_channel(from, under, state_set_group(device, to), error))
            return FALSE;
    }
    return TRUE;
}

/* ---- 8042 ---- */

static const BochsField keyboard_fields[] = {
    BOCHS_FLAG("status", "controller.outb", 0),
    BOCHS_FLAG("status", "controller.inpb", 1),
    BOCHS_FLAG("status", "controller.sysf", 2),
    BOCHS_FLAG("status", "controller.c_d", 3),
    BOCHS_FLAG("status", "controller.auxb", 5),
    BOCHS_FLAG("status", "controller.tim", 6),
    BOCHS_FLAG("command_byte", "controller.allow_irq1", 0),
    BOCHS_FLAG("command_byte", "controller.allow_irq12", 1),
    BOCHS_FLAG("command_byte", "controller.scancodes_translate", 6),
    BOCHS_OPTIONAL("output_byte", "controller.kbd_output_buffer"),
    BOCHS_FLAG("keyboard.scan_enabled", "kbd_internal_buffer.scanning_enabled", 0),
    BOCHS_OPTIONAL("keyboard.leds", "kbd_internal_buffer.led_status"),
    BOCHS_FLAG("mouse.status", "mouse.enable", 5),
    BOCHS_END,
};

static gboolean write_keyboard(const StateNode *device, const BochsForm *shown, BochsForm *wanted,
                               GError **error)
{
    BochsNode *to = bochs_form_get(wanted, "keyboard");
    uint64_t command = state_number_or(device, "command_byte", 0);
    uint64_t set = state_number_or(device, "keyboard.scan_code_set", 0);

    bochs_fields_write(keyboard_fields, device, to, "");
    bochs_tree_set(to, "controller.kbd_clock_enabled", BOCHS_NODE_BOOLEAN, !(command & 0x10));
    bochs_tree_set(to, "controller.aux_clock_enabled", BOCHS_NODE_BOOLEAN, !(command & 0x20));
    bochs_tree_set(to, "controller.current_scancodes_set", BOCHS_NODE_DECIMAL, set ? set - 1 : 1);
    return TRUE;
}

#define COMMAND_SYSTEM_FLAG 0x04u /* has no effect */
#define STATUS_UNLOCKED 0x10u     /* of which Bochs has no parameter: it is always so */

static gboolean read_keyboard(const BochsForm *shown, const BochsClock *clock, StateNode *device,
                              GError **error)
{
    const BochsNode *from = bochs_form_find(shown, "keyboard");
    uint64_t kept = state_number_or(device, "command_byte", 0) & COMMAND_SYSTEM_FLAG;
    uint64_t command, status, waits, clocked, mouse_clocked, set;

    if (!bochs_tree_get(from, "kbd_internal_buffer.num_elements", &waits, error) ||
        !bochs_tree_get(from, "controller.kbd_clock_enabled", &clocked, error) ||
        !bochs_tree_get(from, "controller.aux_clock_enabled", &mouse_clocked, error) ||
        !bochs_tree_get(from, "controller.current_scancodes_set", &set, error) ||
        !bochs_fields_read(keyboard_fields, from, "", device, error))
        return FALSE;
    status = state_number_or(device, "status", 0);
    if (waits) {
        error_set(error, VMFERRY_ERROR_BUSY, "intel,8042: bytes of the keyboard wait to be read");
        return FALSE;
    }
    command = state_number_or(device, "command_byte", 0) | kept;
    state_set_number(device, "status", status | STATUS_UNLOCKED);
    state_set_number(device, "command_byte",
                     command | (clocked ? 0 : 0x10) | (mouse_clocked ? 0 : 0x20));
    state_set_number(device, "keyboard.scan_code_set", set + 1);
    return TRUE;
}

/* ---- 16550A ---- */

static const BochsField serial_fields[] = {
    BOCHS_BITS("divisor", "divisor_lsb", 0, 8),
    BOCHS_BITS("divisor", "divisor_msb", 8, 8),
    BOCHS_HEX("rbr", "rxbuffer"),
    BOCHS_FLAG("ier", "int_enable.rxdata_enable", 0),
    BOCHS_FLAG("ier", "int_enable.txhold_enable", 1),
    BOCHS_FLAG("ier", "int_enable.rxlstat_enable", 2),
    BOCHS_FLAG("ier", "int_enable.modstat_enable", 3),
    BOCHS_FLAG("iir", "int_ident.ipending", 0),
    BOCHS_BITS("iir", "int_ident.int_ID", 1, 3),
    BOCHS_FLAG("fcr", "fifo_cntl.enable", 0),
    BOCHS_BITS("fcr", "fifo_cntl.rxtrigger", 6, 2),
    BOCHS_BITS("lcr", "line_cntl.wordlen_sel", 0, 2),
    BOCHS_FLAG("lcr", "line_cntl.stopbits", 2),
    BOCHS_FLAG("lcr", "line_cntl.parity_enable", 3),
    BOCHS_FLAG("lcr", "line_cntl.evenparity_sel", 4),
    BOCHS_FLAG("lcr", "line_cntl.stick_parity", 5),
    BOCHS_FLAG("lcr", "line_cntl.break_cntl", 6),
    BOCHS_FLAG("lcr", "line_cntl.dlab", 7),
    BOCHS_FLAG("mcr", "modem_cntl.dtr", 0),
    BOCHS_FLAG("mcr", "modem_cntl.rts", 1),
    BOCHS_FLAG("mcr", "modem_cntl.out1", 2),
    BOCHS_FLAG("mcr", "modem_cntl.out2", 3),
    BOCHS_FLAG("mcr", "modem_cntl.local_loopback", 4),
    BOCHS_FLAG("lsr", "line_status.rxdata_ready", 0),
    BOCHS_FLAG("lsr", "line_status.overrun_error", 1),
    BOCHS_FLAG("lsr", "line_status.parity_error", 2),
    BOCHS_FLAG("lsr", "line_status.framing_error", 3),
    BOCHS_FLAG("lsr", "line_status.break_int", 4),
    BOCHS_FLAG("lsr", "line_status.thr_empty", 5),
    BOCHS_FLAG("lsr", "line_status.tsr_empty", 6),
    BOCHS_FLAG("lsr", "line_status.fifo_error", 7),
    BOCHS_FLAG("msr", "modem_status.delta_cts", 0),
    BOCHS_FLAG("msr", "modem_status.delta_dsr", 1),
    BOCHS_FLAG("msr", "modem_status.ri_trailedge", 2),
    BOCHS_FLAG("msr", "modem_status.delta_dcd", 3),
    BOCHS_FLAG("msr", "modem_status.cts", 4),
    BOCHS_FLAG("msr", "modem_status.dsr", 5),
    BOCHS_FLAG("msr", "modem_status.ri", 6),
    BOCHS_FLAG("msr", "modem_status.dcd", 7),
    BOCHS_HEX("scr", "scratch"),
    {"thr_interrupt", "tx_interrupt", BOCHS_NODE_BOOLEAN, 0, 1, FALSE, TRUE},
    BOCHS_END,
};

static gboolean write_serial(const StateNode *device, const BochsForm *shown, BochsForm *wanted,
                             GError **error)
{
    BochsNode *to = bochs_form_get(wanted, "serial");

    bochs_fields_write(serial_fields, device, to, "0");
    /* Bytes are sent at once, as in QEMU; by the line's rate they would nearly always be under way. */
    bochs_tree_set(to, "0.databyte_usec", BOCHS_NODE_DECIMAL, 1);
    return TRUE;
}

#define IIR_FIFOS 0xc0u /* follows from FCR */

static gboolean read_serial(const BochsForm *shown, const BochsClock *clock, StateNode *device,
                            GError **error)
{
    const BochsNode *from = bochs_form_find(shown, "serial");

    if (!bochs_fields_read(serial_fields, from, "0", device, error))
        return FALSE;
    if (state_number_or(device, "fcr", 0) & 1)
        state_set_number(device, "iir", state_number_or(device, "iir", 0) | IIR_FIFOS);
    return TRUE;
}

/* ---- the rest ---- */

static gboolean write_speaker(const StateNode *device, const BochsForm *shown, BochsForm *wanted,
                              GError **error)
{
    bochs_tree_set(bochs_form_get(wanted, "pit"), "speaker_data_on", BOCHS_NODE_BOOLEAN,
                   state_number_or(device, "data_on", 0));
    return TRUE;
}

static gboolean read_speaker(const BochsForm *shown, const BochsClock *clock, StateNode *device,
                             GError **error)
{
    uint64_t on;

    if (!bochs_tree_get(bochs_form_find(shown, "pit"), "speaker_data_on", &on, error))
        return FALSE;
    state_set_number(device, "data_on", on);
    return TRUE;
}

/* The address line is told by the machine's "a20". */
static gboolean write_port92(const StateNode *device, const BochsForm *shown, BochsForm *wanted,
                             GError **error)
{
    return TRUE;
}

static gboolean read_port92(const BochsForm *shown, const BochsClock *clock, StateNode *device,
                            GError **error)
{
    return TRUE;
}

const BochsDevice bochs_port_devices[] = {
    {"motorola,mc146818", write_cmos, read_cmos}, {"intel,hpet", write_hpet, read_hpet},
    {"intel,8237a", write_dma, read_dma},         {"intel,8042", write_keyboard, read_keyboard},
    {"ns,16550a", write_serial, read_serial},     {"ibm,speaker", write_speaker, read_speaker},
    {"ibm,port92", write_port92, read_port92},    {NULL, NULL, NULL},
};
