#include "vmm/bochs/hpet_place.h"

#include "base/error.h"
#include "vmm/bochs/parameters.h"
#include "vmm/bochs/search.h"

/* 3 timers of 64 bits that count 10 ns, Intel (IA-PC HPET specification, 2.3.4). */
#define CAPABILITIES 0x009896808086a201u

/* Before the counter's parameter. */
typedef struct {
    uint64_t value, time, capabilities, config, status;
} Before;

static gboolean set_counter(BochsProcess *process, uint64_t value, GError **error)
{
    g_autoptr(BochsNode) hpet = bochs_tree_new("hpet");

    bochs_tree_set(hpet, "hpet_counter", BOCHS_NODE_HEX, value);
    return bochs_restore(process->console, process->state_folder, hpet, error);
}

static gboolean is_hpet(const BochsProcess *process, uint64_t counter)
{
    Before before;

    return bochs_memory_read(process, counter - sizeof before, &before, sizeof before, NULL) &&
           before.value == 0 && before.time == 0 && before.capabilities == CAPABILITIES &&
           before.config == 0 && before.status == 0;
}

static gboolean find(const BochsProcess *process, const RamRegion *ram, uint64_t value,
                     uint64_t *ret, GError **error)
{
    const BochsPattern pattern = {&value, sizeof value};
    g_autoptr(GPtrArray) found = bochs_search(process, ram, &pattern, 1, error);
    const GArray *places = found ? found->pdata[0] : NULL;

    for (guint i = 0; places && i < places->len; i++) {
        uint64_t counter = g_array_index(places, uint64_t, i);

        if (!is_hpet(process, counter))
            continue;
        *ret = counter - sizeof(Before);
        return TRUE;
    }
    if (places)
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "Bochs's HPET is not found in its memory");
    return FALSE;
}

gboolean bochs_hpet_find(BochsProcess *process, const RamRegion *ram, uint64_t *ret, GError **error)
{
    uint64_t value = (uint64_t)g_random_int() << 32 | g_random_int();

    return set_counter(process, value, error) && find(process, ram, value, ret, error) &&
           set_counter(process, 0, error);
}
