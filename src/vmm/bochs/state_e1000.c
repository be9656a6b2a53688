/*
 * The network card
 *
 * Its registers are an array of bytes in both forms; what Bochs keeps of them a second time is computed.  In
 * Bochs it is connected to nothing: the guest sees the link that it saw before, what it sends is lost, and nothing comes.
 *
 * Bochs has one transmit context, the neutral state the last one of each kind: they are equal where the last one of
 * all was for segmentation.
 */
#include "vmm/bochs/form_private.h"

#include <string.h>

#include "base/error.h"

#define CARD "0"
#define REGISTER_BYTES 131072u
#define ICR 0xc0u
#define IMS 0xd0u
#define RCTL 0x100u
#define ICR_ASSERTED 0x80000000u
#define RCTL_LARGE 0x02000000u /* BSEX */
#define VLAN_BYTES 4u          /* room before a packet */
#define PACKET_BYTES 65540u    /* with that */
#define HEADER_BYTES 256u

static const BochsField fields[] = {
    BOCHS_DECIMAL("eeprom_access.clock_in", "eecd_state.val_in"),
    BOCHS_DECIMAL("eeprom_access.bits_in", "eecd_state.bitnum_in"),
    BOCHS_DECIMAL("eeprom_access.bits_out", "eecd_state.bitnum_out"),
    BOCHS_FLAG("eeprom_access.reading", "eecd_state.reading", 0),
    BOCHS_HEX("eeprom_access.last_control", "eecd_state.old_eecd"),
    BOCHS_DECIMAL("segments_sent", "tx.tso_frames"),
    BOCHS_DECIMAL("checksums_needed", "tx.sum_needed"),
    BOCHS_END,
};

static const BochsField context_fields[] = {
    BOCHS_DECIMAL("ipcss", "tx.ipcss"),   BOCHS_DECIMAL("ipcso", "tx.ipcso"),
    BOCHS_DECIMAL("ipcse", "tx.ipcse"),   BOCHS_DECIMAL("tucss", "tx.tucss"),
    BOCHS_DECIMAL("tucso", "tx.tucso"),   BOCHS_DECIMAL("tucse", "tx.tucse"),
    BOCHS_DECIMAL("paylen", "tx.paylen"), BOCHS_DECIMAL("hdrlen", "tx.hdr_len"),
    BOCHS_DECIMAL("mss", "tx.mss"),       BOCHS_FLAG("ip", "tx.ip", 0),
    BOCHS_FLAG("tcp", "tx.tcp", 0),       BOCHS_END,
};

/* Lists of numbers, which Bochs numbers in hexadecimal. */
static const struct {
    const char *neutral, *bochs;
    guint count;
} lists[] = {{"phy", "phy_reg", 32}, {"eeprom", "eeprom_data", 64}};

static uint32_t get_register(const uint8_t *registers, guint offset)
{
    uint32_t value;

    memcpy(&value, registers + offset, sizeof value);
    return GUINT32_FROM_LE(value);
}

static void set_register(uint8_t *registers, guint offset, uint32_t value)
{
    value = GUINT32_TO_LE(value);
    memcpy(registers + offset, &value, sizeof value);
}

/* ---- to Bochs ---- */

static void set(BochsNode *to, const char *name, BochsNodeKind kind, uint64_t value)
{
    g_autofree char *path = bochs_path(CARD, name);

    bochs_tree_set(to, path, kind, value);
}

static void write_lists(const StateNode *device, BochsNode *to)
{
    for (guint i = 0; i < G_N_ELEMENTS(lists); i++)
        for (guint j = 0; j < lists[i].count; j++) {
            g_autofree char *from = g_strdup_printf("%s[%u]", lists[i].neutral, j);
            g_autofree char *path = g_strdup_printf("%s.0x%02x", lists[i].bochs, j);

            set(to, path, BOCHS_NODE_HEX, state_number_or(device, from, 0));
        }
}

static gboolean is_for_segmentation(const StateNode *device)
{
    g_autoptr(GPtrArray) differences = state_compare(state_find(device, "checksum_offload"),
                                                     state_find(device, "segmentation_offload"));

    return differences->len == 0;
}

/* 13.4.22: by BSIZE, 16 times as much with BSEX. */
static guint buffer_bytes(uint32_t control)
{
    guint size = 2048u >> (control >> 16 & 3);

    return control & RCTL_LARGE && size < 2048 ? size * 16 : size;
}

static void write_derived(const uint8_t *registers, BochsNode *to)
{
    uint32_t control = get_register(registers, RCTL);

    set(to, "rxbuf_size", BOCHS_NODE_DECIMAL, buffer_bytes(control));
    set(to, "rxbuf_min_shift", BOCHS_NODE_DECIMAL, (control >> 8 & 3) + 1);
    set(to, "check_rxov", BOCHS_NODE_BOOLEAN, FALSE);
    set(to, "tx.vlan_needed", BOCHS_NODE_BOOLEAN, FALSE);
    set(to, "tx.cptse", BOCHS_NODE_BOOLEAN, FALSE);
    set(to, "tx.int_cause", BOCHS_NODE_HEX, 0);
}

static void write_packet(const StateNode *device, BochsForm *wanted, BochsNode *to)
{
    static const uint8_t none[HEADER_BYTES];
    size_t length = 0, header_length = 0;
    const uint8_t *data = state_get_bytes(device, "transmit_data", &length);
    const uint8_t *header = state_get_bytes(device, "transmit_header", &header_length);

    set(to, "tx.size", BOCHS_NODE_DECIMAL, length);
    bochs_form_add_bytes(wanted, "e1000", CARD ".tx.header",
                         header && header_length == HEADER_BYTES ? header : none, HEADER_BYTES);
    if (length > 0) {
        g_autofree uint8_t *packet = g_malloc0(PACKET_BYTES);

        memcpy(packet + VLAN_BYTES, data, MIN(length, PACKET_BYTES - VLAN_BYTES));
        bochs_form_add_bytes(wanted, "e1000", CARD ".tx_vlan_data", packet, PACKET_BYTES);
    }
}

static gboolean write_e1000(const StateNode *device, const BochsForm *shown, BochsForm *wanted,
                            GError **error)
{
    BochsNode *to = bochs_form_get(wanted, "e1000");
    gboolean segmentation = is_for_segmentation(device);
    size_t length = 0;
    const uint8_t *registers = state_get_bytes(device, "registers", &length);

    if (!bochs_form_find(shown, "e1000")) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "intel,82540em: this Bochs has none");
        return FALSE;
    }
    bochs_fields_write(fields, device, to, CARD);
    bochs_fields_write(
        context_fields,
        state_find(device, segmentation ? "segmentation_offload" : "checksum_offload"), to, CARD);
    set(to, "tx.tse", BOCHS_NODE_BOOLEAN, segmentation);
    write_lists(device, to);
    write_derived(registers, to);
    write_packet(device, wanted, to);
    bochs_form_add_bytes(wanted, "e1000", CARD ".mac_reg", registers, REGISTER_BYTES);
    bochs_form_set_bytes(wanted, "e1000", CARD ".pci_conf",
                         state_get_bytes(device, "config", &length), BOCHS_CONFIG_BYTES);
    return TRUE;
}

/* ---- from Bochs ---- */

static gboolean not_known(const char *what, GError **error)
{
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "intel,82540em.%s: not known", what);
    return FALSE;
}

static gboolean read_lists(const BochsNode *from, StateNode *device, GError **error)
{
    for (guint i = 0; i < G_N_ELEMENTS(lists); i++)
        for (guint j = 0; j < lists[i].count; j++) {
            g_autofree char *to = g_strdup_printf("%s[%u]", lists[i].neutral, j);
            g_autofree char *path = g_strdup_printf(CARD ".%s.0x%02x", lists[i].bochs, j);
            uint64_t value;

            if (!bochs_tree_get(from, path, &value, error))
                return FALSE;
            state_set_number(device, to, value);
        }
    return TRUE;
}

/* Bochs tells a transmission's end some time after it, by a timer that is not told: it is told at once, which at worst is an
 * interrupt for nothing. */
static gboolean read_registers(const BochsForm *shown, const BochsNode *from, StateNode *device,
                               GError **error)
{
    const uint8_t *bytes = bochs_form_get_bytes(shown, "e1000", CARD ".mac_reg", REGISTER_BYTES);
    g_autofree uint8_t *registers = NULL;
    uint64_t cause;

    if (!bytes)
        return not_known("registers", error);
    if (!bochs_tree_get(from, CARD ".tx.int_cause", &cause, error))
        return FALSE;
    registers = g_memdup2(bytes, REGISTER_BYTES);
    if (cause)
        set_register(registers, ICR, get_register(registers, ICR) | (uint32_t)cause | ICR_ASSERTED);
    state_set_bytes(device, "registers", registers, REGISTER_BYTES);
    return TRUE;
}

static gboolean read_context(const BochsNode *from, StateNode *device, GError **error)
{
    uint64_t segmentation;

    if (!bochs_tree_get(from, CARD ".tx.tse", &segmentation, error) ||
        !bochs_fields_read(context_fields, from, CARD, state_set_group(device, "checksum_offload"),
                           error))
        return FALSE;
    return !segmentation ||
           bochs_fields_read(context_fields, from, CARD,
                             state_set_group(device, "segmentation_offload"), error);
}

static gboolean read_packet(const BochsForm *shown, const BochsNode *from, StateNode *device,
                            GError **error)
{
    const uint8_t *packet =
        bochs_form_get_bytes(shown, "e1000", CARD ".tx_vlan_data", PACKET_BYTES);
    const uint8_t *header = bochs_form_get_bytes(shown, "e1000", CARD ".tx.header", HEADER_BYTES);
    uint64_t length;

    if (!bochs_tree_get(from, CARD ".tx.size", &length, error))
        return FALSE;
    if (!header || (length > 0 && !packet) || length > PACKET_BYTES - VLAN_BYTES)
        return not_known("transmit_data", error);
    state_set_bytes(device, "transmit_data", length > 0 ? packet + VLAN_BYTES : header, length);
    if (state_find(device, "transmit_header"))
        state_set_bytes(device, "transmit_header", header, HEADER_BYTES);
    return TRUE;
}

static gboolean read_e1000(const BochsForm *shown, const BochsClock *clock, StateNode *device,
                           GError **error)
{
    const BochsNode *from = bochs_form_find(shown, "e1000");
    const uint8_t *config =
        bochs_form_get_bytes(shown, "e1000", CARD ".pci_conf", BOCHS_CONFIG_BYTES);

    if (!from || !config)
        return not_known("config", error);
    state_set_bytes(device, "config", config, BOCHS_CONFIG_BYTES);
    return bochs_fields_read(fields, from, CARD, device, error) &&
           read_context(from, device, error) && read_lists(from, device, error) &&
           read_registers(shown, from, device, error) && read_packet(shown, from, device, error);
}

/* ---- what it cannot be ---- */

gboolean bochs_e1000_check(const StateNode *device, const char *what, GError **error)
{
    size_t length = 0;

    (void)state_get_bytes(device, "transmit_data", &length);
    if (length <= G_MAXUINT16)
        return TRUE;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "%s.transmit_data: more than a packet", what);
    return FALSE;
}

/* Bochs asserts an interrupt at once, QEMU some time later (ITR). */
gboolean bochs_e1000_check_moment(const StateNode *device, GError **error)
{
    size_t length = 0;
    const uint8_t *registers = state_get_bytes(device, "registers", &length);

    if (!registers || length != REGISTER_BYTES || state_number_or(device, "intx[0]", 0) ||
        !(get_register(registers, ICR) & get_register(registers, IMS)))
        return TRUE;
    error_set(error, VMFERRY_ERROR_BUSY, "intel,82540em.registers: an interrupt is held back");
    return FALSE;
}

const BochsDevice bochs_e1000_device = {"intel,82540em", write_e1000, read_e1000};
