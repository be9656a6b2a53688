/*
 * Which CPU model a guest goes on with
 *
 * A bit is not looked for where it says nothing about what the guest can execute: hints, how many
 * cores there are, what a hypervisor offers in memory, and controls of speculation, which Bochs has
 * none of and whose registers it lets a guest write without effect.  Nor where Bochs has it in any
 * case: its TSC and its APIC's timer never stop, and SYSCALL is there in long mode (CPUID of Intel's
 * models says so in long mode only).
 */
#include <string.h>

#include "state/cpu_feature_names.h"
#include "vmm/bochs/cpu_models.h"

#define HYPERVISOR_LEAVES 0x40000000u /* to 400000FFh */

static const struct {
    uint32_t leaf, subleaf;
    char reg[4];
    uint32_t bits;
} not_looked_for[] = {
    {0x1, 0, "ECX", 1u << 31},                      /* hypervisor */
    {0x1, 0, "EDX", 1u << 27 | 1u << 28},           /* ss, ht */
    {0x6, 0, "EAX", 1u << 2},                       /* arat */
    {0x7, 0, "EBX", 1u << 6 | 1u << 13},            /* what the x87 keeps of a last instruction */
    {0x7, 0, "EDX", 1u << 10 | 0xfcu << 24},        /* md-clear, spec-ctrl to ssbd */
    {0x7, 2, "EDX", 0x3f},                          /* speculation */
    {0x80000001, 0, "ECX", 1u << 1 | 1u << 22},     /* cmp-legacy, topoext */
    {0x80000001, 0, "EDX", 0x0183f3ffu | 1u << 11}, /* as in leaf 1; syscall */
    {0x80000007, 0, "EBX", 0x3},                    /* machine checks */
    {0x80000007, 0, "EDX", 1u << 8},                /* invtsc */
    {0x80000008, 0, "EBX", 0x1f02d000u},            /* speculation */
    {0x80000021, 0, "EAX", 0x79000145u},            /* speculation */
};

static uint32_t mask_of(uint32_t leaf, uint32_t subleaf, const char *reg)
{
    if (leaf >> 8 == HYPERVISOR_LEAVES >> 8)
        return 0;
    for (guint i = 0; i < G_N_ELEMENTS(not_looked_for); i++)
        if (not_looked_for[i].leaf == leaf && not_looked_for[i].subleaf == subleaf &&
            strcmp(not_looked_for[i].reg, reg) == 0)
            return ~not_looked_for[i].bits;
    return ~0u;
}

/* ---- models ---- */

const BochsCpuModel *bochs_cpu_find(const char *name)
{
    for (const BochsCpuModel *model = bochs_cpu_models; model->name; model++)
        if (strcmp(model->name, name) == 0)
            return model;
    return NULL;
}

void bochs_cpu_describe(const BochsCpuModel *model, GArray *cpuid)
{
    for (guint i = 0; i < BOCHS_CPUID_WORDS; i++) {
        const BochsCpuidPlace *place = &bochs_cpuid_places[i];
        MachineCpuid word = {
            .leaf = place->leaf, .subleaf = place->subleaf, .bits = model->words[i]};

        memcpy(word.reg, place->reg, sizeof word.reg);
        if (word.bits)
            g_array_append_val(cpuid, word);
    }
}

static uint32_t bits_of(const BochsCpuModel *model, const MachineCpuid *word)
{
    for (guint i = 0; i < BOCHS_CPUID_WORDS; i++) {
        const BochsCpuidPlace *place = &bochs_cpuid_places[i];

        if (place->leaf == word->leaf && place->subleaf == word->subleaf &&
            strcmp(place->reg, word->reg) == 0)
            return model->words[i];
    }
    return 0;
}

/* ---- comparing ---- */

static uint32_t missing_bits(const BochsCpuModel *model, const MachineCpuid *word)
{
    return word->bits & ~bits_of(model, word) & mask_of(word->leaf, word->subleaf, word->reg);
}

static guint count_missing(const BochsCpuModel *model, const GArray *cpuid)
{
    guint count = 0;

    for (guint i = 0; i < cpuid->len; i++)
        count +=
            (guint)__builtin_popcount(missing_bits(model, &g_array_index(cpuid, MachineCpuid, i)));
    return count;
}

static uint32_t guest_bits(const GArray *cpuid, const BochsCpuidPlace *place)
{
    uint32_t bits = 0;

    for (guint i = 0; i < cpuid->len; i++) {
        const MachineCpuid *word = &g_array_index(cpuid, MachineCpuid, i);

        if (place->leaf == word->leaf && place->subleaf == word->subleaf &&
            strcmp(place->reg, word->reg) == 0)
            bits |= word->bits;
    }
    return bits;
}

/* What the model has and the guest does not know of. */
static guint count_extra(const BochsCpuModel *model, const GArray *cpuid)
{
    guint count = 0;

    for (guint i = 0; i < BOCHS_CPUID_WORDS; i++) {
        const BochsCpuidPlace *place = &bochs_cpuid_places[i];

        count += (guint)__builtin_popcount(model->words[i] & ~guest_bits(cpuid, place) &
                                           mask_of(place->leaf, place->subleaf, place->reg));
    }
    return count;
}

static GPtrArray *list_missing(const BochsCpuModel *model, const GArray *cpuid)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);

    for (guint i = 0; i < cpuid->len; i++) {
        const MachineCpuid *word = &g_array_index(cpuid, MachineCpuid, i);
        uint32_t bits = missing_bits(model, word);

        for (guint bit = 0; bit < 32; bit++)
            if (bits >> bit & 1)
                g_ptr_array_add(names, cpu_feature_tell(word->leaf, word->subleaf, word->reg, bit));
    }
    return names;
}

const BochsCpuModel *bochs_cpu_choose(const GArray *cpuid, const BochsCpuModel **ret_closest,
                                      GPtrArray **ret_missing)
{
    const BochsCpuModel *best = bochs_cpu_models;
    guint least = G_MAXUINT, extra_of_best = G_MAXUINT;

    for (const BochsCpuModel *model = bochs_cpu_models; model->name; model++) {
        guint missing = count_missing(model, cpuid), extra = count_extra(model, cpuid);

        if (missing > least || (missing == least && extra >= extra_of_best))
            continue;
        best = model;
        least = missing;
        extra_of_best = extra;
    }
    if (least == 0)
        return best;
    *ret_closest = best;
    *ret_missing = list_missing(best, cpuid);
    return NULL;
}
