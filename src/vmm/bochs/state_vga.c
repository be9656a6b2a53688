/*
 * The VGA with its VBE extension
 *
 * What Bochs computes from registers when they are written (line offset, place of the font …) is computed here.
 * The memory's content is not of the state (video.h).
 */
#include "vmm/bochs/form_private.h"

#include <string.h>

#include "base/error.h"

#define CORE "vgacore"

/* Bits of a byte of an array of the neutral state. */
typedef struct {
    const char *neutral, *bochs;
    guint index;
    BochsNodeKind kind;
    guint shift, bits;
} ByteField;

#define BYTE_FLAG(neutral, index, bochs, shift)                                                    \
    {                                                                                              \
        neutral, bochs, index, BOCHS_NODE_BOOLEAN, shift, 1                                        \
    }
#define BYTE_DECIMAL(neutral, index, bochs, shift, bits)                                           \
    {                                                                                              \
        neutral, bochs, index, BOCHS_NODE_DECIMAL, shift, bits                                     \
    }
#define BYTE_HEX(neutral, index, bochs, bits)                                                      \
    {                                                                                              \
        neutral, bochs, index, BOCHS_NODE_HEX, 0, bits                                             \
    }

static const ByteField byte_fields[] = {
    BYTE_FLAG("sequencer", 0, "sequencer.reset1", 0),
    BYTE_FLAG("sequencer", 0, "sequencer.reset2", 1),
    BYTE_HEX("sequencer", 1, "sequencer.reg1", 8),
    BYTE_DECIMAL("sequencer", 2, "sequencer.map_mask", 0, 4),
    BYTE_DECIMAL("sequencer", 3, "sequencer.char_map_select", 0, 6),
    BYTE_FLAG("sequencer", 4, "sequencer.extended_mem", 1),
    BYTE_FLAG("sequencer", 4, "sequencer.odd_even", 2),
    BYTE_FLAG("sequencer", 4, "sequencer.chain_four", 3),
    BYTE_DECIMAL("graphics", 0, "graphics_ctrl.set_reset", 0, 4),
    BYTE_DECIMAL("graphics", 1, "graphics_ctrl.enable_set_reset", 0, 4),
    BYTE_DECIMAL("graphics", 2, "graphics_ctrl.color_compare", 0, 4),
    BYTE_DECIMAL("graphics", 3, "graphics_ctrl.data_rotate", 0, 3),
    BYTE_DECIMAL("graphics", 3, "graphics_ctrl.raster_op", 3, 2),
    BYTE_DECIMAL("graphics", 4, "graphics_ctrl.read_map_select", 0, 2),
    BYTE_DECIMAL("graphics", 5, "graphics_ctrl.write_mode", 0, 2),
    BYTE_DECIMAL("graphics", 5, "graphics_ctrl.read_mode", 3, 1),
    BYTE_FLAG("graphics", 5, "graphics_ctrl.odd_even", 4),
    BYTE_DECIMAL("graphics", 5, "graphics_ctrl.shift_reg", 5, 2),
    BYTE_FLAG("graphics", 6, "graphics_ctrl.graphics_alpha", 0),
    BYTE_FLAG("graphics", 6, "graphics_ctrl.chain_odd_even", 1),
    BYTE_DECIMAL("graphics", 6, "graphics_ctrl.memory_mapping", 2, 2),
    BYTE_HEX("graphics", 7, "graphics_ctrl.color_dont_care", 4),
    BYTE_HEX("graphics", 8, "graphics_ctrl.bitmask", 8),
    BYTE_FLAG("attribute", 0x10, "attribute_ctrl.mode_ctrl.graphics_alpha", 0),
    BYTE_FLAG("attribute", 0x10, "attribute_ctrl.mode_ctrl.display_type", 1),
    BYTE_FLAG("attribute", 0x10, "attribute_ctrl.mode_ctrl.enable_line_graphics", 2),
    BYTE_FLAG("attribute", 0x10, "attribute_ctrl.mode_ctrl.blink_intensity", 3),
    BYTE_FLAG("attribute", 0x10, "attribute_ctrl.mode_ctrl.pixel_panning_compat", 5),
    BYTE_FLAG("attribute", 0x10, "attribute_ctrl.mode_ctrl.pixel_clock_select", 6),
    BYTE_FLAG("attribute", 0x10, "attribute_ctrl.mode_ctrl.internal_palette_size", 7),
    BYTE_HEX("attribute", 0x11, "attribute_ctrl.overscan_color", 6),
    BYTE_HEX("attribute", 0x12, "attribute_ctrl.color_plane_enable", 4),
    BYTE_HEX("attribute", 0x13, "attribute_ctrl.horiz_pel_panning", 4),
    BYTE_HEX("attribute", 0x14, "attribute_ctrl.color_select", 4),
};

static const BochsField core_fields[] = {
    BOCHS_BITS("latch", "graphics_ctrl.latch0", 0, 8),
    BOCHS_BITS("latch", "graphics_ctrl.latch1", 8, 8),
    BOCHS_BITS("latch", "graphics_ctrl.latch2", 16, 8),
    BOCHS_BITS("latch", "graphics_ctrl.latch3", 24, 8),
    BOCHS_DECIMAL("sequencer_index", "sequencer.index"),
    BOCHS_DECIMAL("graphics_index", "graphics_ctrl.index"),
    BOCHS_BITS("attribute_index", "attribute_ctrl.address", 0, 5),
    BOCHS_FLAG("attribute_index", "attribute_ctrl.video_enabled", 5),
    BOCHS_FLAG("attribute_flip_flop", "attribute_ctrl.flip_flop", 0),
    BOCHS_HEX("crt_index", "CRTC.address"),
    BOCHS_FLAG("miscellaneous_output", "misc_output.color_emulation", 0),
    BOCHS_FLAG("miscellaneous_output", "misc_output.enable_ram", 1),
    BOCHS_BITS("miscellaneous_output", "misc_output.clock_select", 2, 2),
    BOCHS_FLAG("miscellaneous_output", "misc_output.select_high_bank", 5),
    BOCHS_FLAG("miscellaneous_output", "misc_output.horiz_sync_pol", 6),
    BOCHS_FLAG("miscellaneous_output", "misc_output.vert_sync_pol", 7),
    BOCHS_DECIMAL("dac_state", "pel.dac_state"),
    BOCHS_HEX("dac_read_index", "pel.read_data_register"),
    BOCHS_HEX("dac_write_index", "pel.write_data_register"),
    BOCHS_END,
};

/* The registers of the extension, of which ENABLE has code of its own. */
static const BochsField vbe_fields[] = {
    BOCHS_HEX("vbe[0]", "cur_dispi"),        BOCHS_DECIMAL("vbe[1]", "xres"),
    BOCHS_DECIMAL("vbe[2]", "yres"),         BOCHS_DECIMAL("vbe[3]", "bpp"),
    BOCHS_DECIMAL("vbe[5]", "bank0"),        BOCHS_DERIVED("vbe[5]", "bank1", 0, 16),
    BOCHS_DECIMAL("vbe[6]", "virtual_xres"), BOCHS_DECIMAL("vbe[7]", "virtual_yres"),
    BOCHS_DECIMAL("vbe[8]", "offset_x"),     BOCHS_DECIMAL("vbe[9]", "offset_y"),
    BOCHS_DECIMAL("vbe_index", "curindex"),  BOCHS_END,
};

#define ENABLE_ON 0x01u
#define ENABLE_CAPABILITIES 0x02u
#define ENABLE_DAC_8 0x20u
#define ENABLE_ONLY_WRITTEN 0xc0u /* of an act, and of nothing in Bochs */

#define DAC_READS 3u
#define CRT_BYTES 25u
#define PALETTE_REGISTERS 16u
#define PALETTE_BYTES 768u
#define BANK_SHIFT 16u

/* ---- to Bochs ---- */

static uint8_t byte_of(const StateNode *device, const char *path, guint index)
{
    size_t length = 0;
    const uint8_t *bytes = state_get_bytes(device, path, &length);

    return bytes && index < length ? bytes[index] : 0;
}

static void write_bytes(const StateNode *device, BochsNode *to)
{
    for (guint i = 0; i < G_N_ELEMENTS(byte_fields); i++) {
        const ByteField *field = &byte_fields[i];
        g_autofree char *path = bochs_path(CORE, field->bochs);
        guint value = byte_of(device, field->neutral, field->index);

        bochs_tree_set(to, path, field->kind, value >> field->shift & ((1u << field->bits) - 1));
    }
}

/* Text fonts of 8 KiB: the even ones, then the odd ones. */
static guint font_offset(guint select)
{
    guint font = (select & 3) | (select >> 4 & 1) << 2;

    return (font & 3) << 14 | (font >> 2) << 13;
}

typedef struct {
    gboolean on;
    guint width, height, depth; /* depth 4: planes */
    guint bytes;                /* of a pixel */
    guint line;                 /* bytes */
    uint64_t start;
} Mode;

static Mode vbe_mode(const StateNode *device)
{
    Mode mode = {
        .on = (state_number_or(device, "vbe[4]", 0) & ENABLE_ON) != 0,
        .width = (guint)state_number_or(device, "vbe[1]", 0),
        .height = (guint)state_number_or(device, "vbe[2]", 0),
        .depth = (guint)state_number_or(device, "vbe[3]", 0),
    };
    guint virtual_width = (guint)state_number_or(device, "vbe[6]", 0);
    guint x = (guint)state_number_or(device, "vbe[8]", 0);

    mode.bytes = MAX(1, (mode.depth + 7) / 8);
    mode.line = mode.depth == 4 ? virtual_width / 8 : virtual_width * mode.bytes;
    mode.start = state_number_or(device, "vbe[9]", 0) * mode.line +
                 (mode.depth == 4 ? x / 8 : (uint64_t)x * mode.bytes);
    return mode;
}

static guint vga_line(const StateNode *device)
{
    guint line = byte_of(device, "crt", 0x13) * 2u;

    if (byte_of(device, "crt", 0x14) & 0x40)
        return line << 2;
    return byte_of(device, "crt", 0x17) & 0x40 ? line : line << 1;
}

static void set_core(BochsNode *to, const char *name, BochsNodeKind kind, uint64_t value)
{
    g_autofree char *path = bochs_path(CORE, name);

    bochs_tree_set(to, path, kind, value);
}

/* What follows from the registers. */
static void write_derived(const StateNode *device, const Mode *mode, BochsNode *to)
{
    guint overflow = byte_of(device, "crt", 7), height = byte_of(device, "crt", 9);

    set_core(to, "line_offset", BOCHS_NODE_DECIMAL, mode->on ? mode->line : vga_line(device));
    set_core(to, "line_compare", BOCHS_NODE_DECIMAL,
             byte_of(device, "crt", 0x18) | (overflow & 0x10) << 4 | (height & 0x40) << 3);
    set_core(to, "vertical_display_end", BOCHS_NODE_DECIMAL,
             byte_of(device, "crt", 0x12) | (overflow & 0x02) << 7 | (overflow & 0x40) << 3);
    set_core(to, "charmap_address", BOCHS_NODE_DECIMAL,
             font_offset(byte_of(device, "sequencer", 3)));
    set_core(to, "x_dotclockdiv2", BOCHS_NODE_BOOLEAN, (byte_of(device, "sequencer", 1) & 8) != 0);
    set_core(to, "y_doublescan", BOCHS_NODE_BOOLEAN, (height & 0x9f) != 0);
    set_core(to, "CRTC.write_protect", BOCHS_NODE_BOOLEAN, byte_of(device, "crt", 0x11) >> 7);
    set_core(to, "plane_shift", BOCHS_NODE_DECIMAL, 16);
    set_core(to, "ext_offset", BOCHS_NODE_DECIMAL, 0);
    set_core(to, "dac_shift", BOCHS_NODE_DECIMAL,
             state_number_or(device, "vbe[4]", 0) & ENABLE_DAC_8 ? 0 : 2);
}

static void write_dac(const StateNode *device, BochsNode *to)
{
    uint64_t component = state_number_or(device, "dac_component", 0);
    gboolean reads = state_number_or(device, "dac_state", 0) == DAC_READS;

    set_core(to, "pel.read_data_cycle", BOCHS_NODE_DECIMAL, reads ? component : 0);
    set_core(to, "pel.write_data_cycle", BOCHS_NODE_DECIMAL, reads ? 0 : component);
}

static void set_vbe(BochsNode *to, const char *name, BochsNodeKind kind, uint64_t value)
{
    g_autofree char *path = bochs_path("vbe", name);

    bochs_tree_set(to, path, kind, value);
}

static void write_vbe(const StateNode *device, const Mode *mode, BochsNode *to)
{
    uint64_t enable = state_number_or(device, "vbe[4]", 0);

    bochs_fields_write(vbe_fields, device, to, "vbe");
    set_vbe(to, "enabled", BOCHS_NODE_BOOLEAN, mode->on);
    set_vbe(to, "get_capabilities", BOCHS_NODE_BOOLEAN, (enable & ENABLE_CAPABILITIES) != 0);
    set_vbe(to, "dac_8bit", BOCHS_NODE_BOOLEAN, (enable & ENABLE_DAC_8) != 0);
    set_vbe(to, "bpp_multiplier", BOCHS_NODE_DECIMAL, mode->bytes);
    set_vbe(to, "virtual_start", BOCHS_NODE_DECIMAL, mode->on ? mode->start : 0);
    set_vbe(to, "visible_screen_size", BOCHS_NODE_DECIMAL,
            mode->on ? (uint64_t)mode->line * mode->height : 0);
}

static gboolean write_vga(const StateNode *device, const BochsForm *shown, BochsForm *wanted,
                          GError **error)
{
    const BochsNode *known = bochs_form_find(shown, "vga");
    BochsNode *to = bochs_form_get(wanted, "vga");
    Mode mode = vbe_mode(device);
    size_t length = 0;

    if (!known || !bochs_tree_find(known, "pci_conf")) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "bochs,vbe: this Bochs has no VGA card");
        return FALSE;
    }
    bochs_fields_write(core_fields, device, to, CORE);
    write_bytes(device, to);
    write_dac(device, to);
    write_derived(device, &mode, to);
    write_vbe(device, &mode, to);
    bochs_form_set_bytes(wanted, "vga", "pci_conf", state_get_bytes(device, "config", &length),
                         BOCHS_CONFIG_BYTES);
    bochs_form_add_bytes(wanted, "vga", CORE ".CRTC.reg", state_get_bytes(device, "crt", &length),
                         CRT_BYTES);
    bochs_form_add_bytes(wanted, "vga", CORE ".attribute_ctrl.palette_reg",
                         state_get_bytes(device, "attribute", &length), PALETTE_REGISTERS);
    bochs_form_add_bytes(wanted, "vga", CORE ".pel_data",
                         state_get_bytes(device, "palette", &length), PALETTE_BYTES);
    return TRUE;
}

/* ---- from Bochs ---- */

/* The first *count* bytes of an array; what is behind them stays. */
static gboolean read_array(const BochsForm *shown, const char *from, size_t count,
                           StateNode *device, const char *to, size_t whole, GError **error)
{
    const uint8_t *bytes = bochs_form_get_bytes(shown, "vga", from, count);
    size_t length = 0;
    const uint8_t *before = state_get_bytes(device, to, &length);
    g_autofree uint8_t *array = g_malloc0(whole);

    if (!bytes) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "bochs,vbe.%s: not known", to);
        return FALSE;
    }
    if (before && length == whole)
        memcpy(array, before, whole);
    memcpy(array, bytes, count);
    state_set_bytes(device, to, array, whole);
    return TRUE;
}

/* Bits that Bochs has not stay, too. */
static gboolean read_byte_field(const ByteField *field, const BochsNode *from, StateNode *device,
                                GError **error)
{
    g_autofree char *path = bochs_path(CORE, field->bochs);
    guint mask = ((1u << field->bits) - 1) << field->shift;
    size_t length = 0;
    const uint8_t *bytes = state_get_bytes(device, field->neutral, &length);
    g_autofree uint8_t *array = NULL;
    uint64_t value;

    if (!bytes || field->index >= length || !bochs_tree_get(from, path, &value, error))
        return FALSE;
    array = g_memdup2(bytes, length);
    array[field->index] =
        (uint8_t)((array[field->index] & ~mask) | (((guint)value << field->shift) & mask));
    state_set_bytes(device, field->neutral, array, length);
    return TRUE;
}

static gboolean read_dac(const BochsNode *from, StateNode *device, GError **error)
{
    uint64_t reads, writes;

    if (!bochs_tree_get(from, CORE ".pel.read_data_cycle", &reads, error) ||
        !bochs_tree_get(from, CORE ".pel.write_data_cycle", &writes, error))
        return FALSE;
    state_set_number(device, "dac_component",
                     state_number_or(device, "dac_state", 0) == DAC_READS ? reads : writes);
    return TRUE;
}

static gboolean read_vbe(const BochsNode *from, StateNode *device, GError **error)
{
    uint64_t before = state_number_or(device, "vbe[4]", 0), on, capabilities, dac, enable;

    if (!bochs_fields_read(vbe_fields, from, "vbe", device, error) ||
        !bochs_tree_get(from, "vbe.enabled", &on, error) ||
        !bochs_tree_get(from, "vbe.get_capabilities", &capabilities, error) ||
        !bochs_tree_get(from, "vbe.dac_8bit", &dac, error))
        return FALSE;
    enable =
        (on ? ENABLE_ON : 0) | (capabilities ? ENABLE_CAPABILITIES : 0) | (dac ? ENABLE_DAC_8 : 0);
    if ((before & ENABLE_ON) == (enable & ENABLE_ON))
        enable |= before & ENABLE_ONLY_WRITTEN;
    else if (on)
        enable |= 0x40;
    state_set_number(device, "vbe[4]", enable);
    state_set_number(device, "bank",
                     (uint32_t)(state_number_or(device, "vbe[5]", 0) << BANK_SHIFT));
    return TRUE;
}

static gboolean read_vga(const BochsForm *shown, const BochsClock *clock, StateNode *device,
                         GError **error)
{
    const BochsNode *from = bochs_form_find(shown, "vga");

    if (!from || !bochs_fields_read(core_fields, from, CORE, device, error) ||
        !read_array(shown, CORE ".CRTC.reg", CRT_BYTES, device, "crt", 256, error) ||
        !read_array(shown, CORE ".attribute_ctrl.palette_reg", PALETTE_REGISTERS, device,
                    "attribute", 21, error) ||
        !read_array(shown, CORE ".pel_data", PALETTE_BYTES, device, "palette", PALETTE_BYTES,
                    error) ||
        !read_array(shown, "pci_conf", BOCHS_CONFIG_BYTES, device, "config", BOCHS_CONFIG_BYTES,
                    error))
        return FALSE;
    for (guint i = 0; i < G_N_ELEMENTS(byte_fields); i++)
        if (!read_byte_field(&byte_fields[i], from, device, error))
            return FALSE;
    return read_dac(from, device, error) && read_vbe(from, device, error);
}

/* ---- what it cannot be ---- */

#define MAX_WIDTH 1280u /* of Bochs's display by VNC */
#define MAX_HEIGHT 1024u
#define MEMORY_BYTES (16u << 20)

gboolean bochs_vga_check(const StateNode *device, const char *what, GError **error)
{
    Mode mode = vbe_mode(device);

    /* Bochs does not look at it again. */
    if (state_number_or(device, "vbe[5]", 0) >= MEMORY_BYTES >> BANK_SHIFT) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "%s.vbe[5]: a bank behind the memory", what);
        return FALSE;
    }
    if (!mode.on || (mode.width > 0 && mode.width <= MAX_WIDTH && mode.height > 0 &&
                     mode.height <= MAX_HEIGHT && mode.depth != 4 &&
                     mode.start + (uint64_t)mode.line * mode.height <= MEMORY_BYTES))
        return TRUE;
    error_set(
        error, VMFERRY_ERROR_UNSUPPORTED,
        "%s.vbe: a mode of %ux%u with %u bits is not carried over to Bochs (1280x1024, from 8 "
        "bits on)",
        what, mode.width, mode.height, mode.depth);
    return FALSE;
}

const BochsDevice bochs_vga_device = {"bochs,vbe", write_vga, read_vga};
