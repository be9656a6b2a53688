/* x87, SSE and AVX. */
#include "vmm/bochs/form_private.h"

#include <string.h>

#include "base/error.h"

#define REGISTERS 16u
#define TAG_VALID 0u
#define TAG_ZERO 1u
#define TAG_SPECIAL 2u
#define TAG_EMPTY 3u

static const BochsField fpu_fields[] = {
    BOCHS_HEX("control", "FPU.cwd"),
    BOCHS_HEX("status", "FPU.swd"),
    BOCHS_OPTIONAL("opcode", "FPU.foo"),
    BOCHS_OPTIONAL("instruction_pointer", "FPU.fip"),
    BOCHS_OPTIONAL("data_pointer", "FPU.fdp"),
    BOCHS_HEX("mxcsr", "SSE.mxcsr"),
    BOCHS_END,
};

/* SDM 1, 8.1.7. */
static guint tag_of(gboolean used, uint64_t fraction, uint64_t exponent)
{
    exponent &= 0x7fff;
    if (!used)
        return TAG_EMPTY;
    if (exponent == 0 && fraction == 0)
        return TAG_ZERO;
    return exponent == 0 || exponent == 0x7fff || !(fraction >> 63) ? TAG_SPECIAL : TAG_VALID;
}

static gboolean write_x87(const StateNode *fpu, BochsNode *cpu, GError **error)
{
    uint64_t status = state_number_or(fpu, "status", 0), tags = 0;

    for (guint i = 0; i < 8; i++) {
        g_autofree char *from = g_strdup_printf("r[%u]", i);
        g_autofree char *to_fraction = g_strdup_printf("FPU.st%u.fraction", i);
        g_autofree char *to_exponent = g_strdup_printf("FPU.st%u.exp", i);
        size_t length = 0;
        const uint8_t *bytes = state_get_bytes(fpu, from, &length);
        uint64_t fraction;
        uint16_t exponent;

        if (!bytes || length != 10) {
            error_set(error, VMFERRY_ERROR_INVALID, "fpu.%s is missing", from);
            return FALSE;
        }
        memcpy(&fraction, bytes, 8);
        memcpy(&exponent, bytes + 8, 2);
        bochs_tree_set(cpu, to_fraction, BOCHS_NODE_HEX, fraction);
        bochs_tree_set(cpu, to_exponent, BOCHS_NODE_HEX, exponent);
        tags |= (uint64_t)tag_of(state_number_or(fpu, "tag", 0) >> i & 1, fraction, exponent)
                << 2 * i;
    }
    bochs_tree_set(cpu, "FPU.twd", BOCHS_NODE_HEX, tags);
    bochs_tree_set(cpu, "FPU.tos", BOCHS_NODE_DECIMAL, status >> 11 & 7);
    return TRUE;
}

static gboolean read_x87(const BochsNode *cpu, StateNode *fpu, GError **error)
{
    uint64_t tags, top, used = 0;

    if (!bochs_tree_get(cpu, "FPU.twd", &tags, error) ||
        !bochs_tree_get(cpu, "FPU.tos", &top, error))
        return FALSE;
    for (guint i = 0; i < 8; i++) {
        g_autofree char *to = g_strdup_printf("r[%u]", i);
        g_autofree char *from_fraction = g_strdup_printf("FPU.st%u.fraction", i);
        g_autofree char *from_exponent = g_strdup_printf("FPU.st%u.exp", i);
        uint64_t fraction, exponent;
        uint8_t bytes[10];

        if (!bochs_tree_get(cpu, from_fraction, &fraction, error) ||
            !bochs_tree_get(cpu, from_exponent, &exponent, error))
            return FALSE;
        memcpy(bytes, &fraction, 8);
        bytes[8] = (uint8_t)exponent;
        bytes[9] = (uint8_t)(exponent >> 8);
        state_set_bytes(fpu, to, bytes, sizeof bytes);
        used |= (uint64_t)((tags >> 2 * i & 3) != TAG_EMPTY) << i;
    }
    state_set_number(fpu, "tag", used);
    state_set_number(fpu, "status",
                     (state_number_or(fpu, "status", 0) & ~(uint64_t)0x3800) | (top & 7) << 11);
    return TRUE;
}

/* Sixteen bytes of a register, in two parameters of which *part* is the first. */
static gboolean write_half(const StateNode *fpu, const char *list, guint number, guint part,
                           BochsNode *cpu, GError **error)
{
    g_autofree char *from = g_strdup_printf("%s[%u]", list, number);
    size_t length = 0;
    const uint8_t *bytes = state_get_bytes(fpu, from, &length);
    uint64_t words[2] = {0};

    if (bytes && length != sizeof words) {
        error_set(error, VMFERRY_ERROR_INVALID, "fpu.%s is not of 16 bytes", from);
        return FALSE;
    }
    if (bytes)
        memcpy(words, bytes, sizeof words);
    for (guint i = 0; i < 2; i++) {
        g_autofree char *to = g_strdup_printf("SSE.xmm%02u_%u", number, part + i);

        bochs_tree_set(cpu, to, BOCHS_NODE_HEX, words[i]);
    }
    return TRUE;
}

static gboolean read_half(const BochsNode *cpu, const char *list, guint number, guint part,
                          StateNode *fpu, GError **error)
{
    g_autofree char *to = g_strdup_printf("%s[%u]", list, number);
    uint64_t words[2];

    for (guint i = 0; i < 2; i++) {
        g_autofree char *from = g_strdup_printf("SSE.xmm%02u_%u", number, part + i);

        if (!bochs_tree_get(cpu, from, &words[i], error))
            return FALSE;
    }
    state_set_bytes(fpu, to, words, sizeof words);
    return TRUE;
}

gboolean bochs_fpu_write(const StateNode *fpu, BochsNode *cpu, GError **error)
{
    if (!write_x87(fpu, cpu, error))
        return FALSE;
    bochs_fields_write(fpu_fields, fpu, cpu, "");
    for (guint i = 0; i < REGISTERS; i++)
        if (!write_half(fpu, "xmm", i, 0, cpu, error) ||
            !write_half(fpu, "ymm_high", i, 2, cpu, error))
            return FALSE;
    return TRUE;
}

gboolean bochs_fpu_read(const BochsNode *cpu, StateNode *fpu, GError **error)
{
    if (!bochs_fields_read(fpu_fields, cpu, "", fpu, error) || !read_x87(cpu, fpu, error))
        return FALSE;
    for (guint i = 0; i < REGISTERS; i++)
        if (!read_half(cpu, "xmm", i, 0, fpu, error) ||
            !read_half(cpu, "ymm_high", i, 2, fpu, error))
            return FALSE;
    return TRUE;
}
