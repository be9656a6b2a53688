#include "vmm/qemu/neutral.h"

#include <string.h>

#include "base/error.h"
#include "base/page.h"
#include "memory/guest_memory.h"
#include "state/state_machine.h"
#include "state/state_qemu.h"
#include "state/tree.h"
#include "vmm/qemu/twin.h"

struct QemuNeutral {
    uint64_t ram_bytes;  /* of main RAM; 0: its stream was not opened yet */
    char *main_block;    /* name of main RAM's block */
    GPtrArray *firmware; /* of QemuFirmware */
    GBytes *template;    /* its own state, fresh */
};

void qemu_neutral_free(QemuNeutral *neutral)
{
    if (!neutral)
        return;
    g_free(neutral->main_block);
    if (neutral->firmware)
        g_ptr_array_unref(neutral->firmware);
    g_bytes_unref(neutral->template);
    g_free(neutral);
}

/* ---- its RAM ---- */

char *qemu_neutral_query_main(QemuVmm *qemu, GError **error)
{
    g_autoptr(json_t) reply =
        qmp_execute(qemu->qmp, "qom-get",
                    json_pack("{s:s, s:s}", "path", "/machine", "property", "memory-backend"),
                    QMP_COMMAND_MS, error);
    const char *path = json_string_value(reply);

    if (path && *path)
        return g_path_get_basename(path);
    if (reply)
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "QEMU does not tell which memory is its RAM");
    return NULL;
}

/* A block's name ends with its backend's id, or is that. */
QemuNeutralBlock qemu_neutral_block(const char *block, const char *main)
{
    const char *slash = strrchr(block, '/');
    const char *last = slash ? slash + 1 : block;

    if (strcmp(last, main) == 0)
        return QEMU_NEUTRAL_RAM;
    return slash && strcmp(last, "vga.vram") == 0 ? QEMU_NEUTRAL_VIDEO : QEMU_NEUTRAL_NONE;
}

static const char *const names[] = {
    [QEMU_NEUTRAL_NONE] = NULL,
    [QEMU_NEUTRAL_RAM] = VMM_NEUTRAL_RAM,
    [QEMU_NEUTRAL_VIDEO] = VMM_NEUTRAL_VIDEO,
};

/* Main RAM first; each at most once. */
static GPtrArray *pick_regions(const GPtrArray *regions, const char *main, GError **error)
{
    g_autoptr(GPtrArray) picked = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);

    for (guint wanted = QEMU_NEUTRAL_RAM; wanted <= QEMU_NEUTRAL_VIDEO; wanted++) {
        guint before = picked->len;

        for (guint i = 0; i < regions->len; i++) {
            const RamRegion *region = regions->pdata[i];

            if (qemu_neutral_block(region->name, main) == wanted)
                g_ptr_array_add(picked,
                                ram_region_new(names[wanted], region->host_address, region->bytes));
        }
        if (picked->len - before > 1 || (wanted == QEMU_NEUTRAL_RAM && picked->len == 0)) {
            error_set(error, VMFERRY_ERROR_UNSUPPORTED, "QEMU has %u blocks of memory for \"%s\"",
                      picked->len - before, names[wanted]);
            return NULL;
        }
    }
    return g_steal_pointer(&picked);
}

GPtrArray *qemu_neutral_list_regions(Vmm *vmm, const VmmDescription *description, GError **error)
{
    QemuVmm *qemu = (QemuVmm *)vmm;
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&qemu->lock);
    g_autofree char *main_block = qemu_neutral_query_main(qemu, error);

    return main_block ? pick_regions(description->ram_regions, main_block, error) : NULL;
}

gboolean qemu_neutral_describe(QemuVmm *qemu, VmmDescription *description, GError **error)
{
    GPtrArray *picked = pick_regions(description->ram_regions, qemu->neutral->main_block, error);

    if (!picked)
        return FALSE;
    g_ptr_array_unref(description->ram_regions);
    description->ram_regions = picked;
    return TRUE;
}

/* ---- leaving ---- */

GBytes *qemu_neutral_save(Vmm *vmm, VmmSavePurpose purpose, const MachineDescription *machine,
                          GError **error)
{
    g_autoptr(GBytes) stream = vmm_save_device_state(vmm, purpose, error);
    g_autoptr(StateNode) state = NULL;

    if (stream)
        state = state_from_qemu(g_bytes_get_data(stream, NULL), g_bytes_get_size(stream), error);
    if (!state)
        return NULL;
    state_note_machine(state, machine);
    return state_encode(state);
}

/* ---- arriving ---- */

/* In the form of cpu_features.h; NULL: nothing is known. */
static json_t *words_of_cpu(const MachineDescription *machine)
{
    json_t *words = machine->cpuid->len > 0 ? json_array() : NULL;

    for (guint i = 0; i < machine->cpuid->len; i++) {
        const MachineCpuid *word = &g_array_index(machine->cpuid, MachineCpuid, i);

        json_array_append_new(words, json_pack("{s:I, s:I, s:s, s:I}", "cpuid-input-eax",
                                               (json_int_t)word->leaf, "cpuid-input-ecx",
                                               (json_int_t)word->subleaf, "cpuid-register",
                                               word->reg, "features", (json_int_t)word->bits));
    }
    return words ? json_pack("{s:o}", "words", words) : NULL;
}

static gboolean match_cpu(QemuVmm *qemu, const MachineDescription *machine, GError **error)
{
    g_autoptr(json_t) source = words_of_cpu(machine);

    return qemu_match_cpu(qemu, source, error);
}

/* Where it is has to be right to the byte: it is in the guest's tables. */
static gboolean match_memory(QemuVmm *qemu, const MachineDescription *machine, GError **error)
{
    const GArray *wanted = machine->memory;
    g_autoptr(GArray) own = NULL;

    if (wanted->len == 0)
        return TRUE;
    own = qemu_query_memory(qemu, machine->ram_bytes, error);
    if (!own)
        return FALSE;
    for (guint i = 0; i < wanted->len; i++) {
        const MachineMemory *part = &g_array_index(wanted, MachineMemory, i);
        const MachineMemory *here =
            i < own->len ? &g_array_index(own, MachineMemory, i) : &(const MachineMemory){0, 0};

        if (part->base == here->base && part->bytes == here->bytes)
            continue;
        error_set(error, VMFERRY_ERROR_REFUSED,
                  "the guest has %" G_GUINT64_FORMAT " bytes of RAM at 0x%" G_GINT64_MODIFIER
                  "x, QEMU here %" G_GUINT64_FORMAT " at 0x%" G_GINT64_MODIFIER "x",
                  part->bytes, part->base, here->bytes, here->base);
        return FALSE;
    }
    return TRUE;
}

gboolean qemu_neutral_begin(QemuVmm *qemu, const VmmLaunch *launch, GError **error)
{
    QemuNeutral *neutral = qemu->neutral = g_new0(QemuNeutral, 1);

    neutral->main_block = qemu_neutral_query_main(qemu, error);
    if (!neutral->main_block || !match_memory(qemu, launch->neutral, error) ||
        !match_cpu(qemu, launch->neutral, error) ||
        !qemu_check_tsc(qemu, launch->neutral->tsc_hz, error))
        return FALSE;
    neutral->template = qemu_take_stream(qemu, VMM_SAVE_CHECKPOINT, error);
    neutral->firmware = neutral->template ? qemu_twin_read_firmware(launch, error) : NULL;
    return neutral->firmware != NULL;
}

static const RamRegion *find_region(const GPtrArray *regions, const char *name)
{
    for (guint i = 0; name && i < regions->len; i++)
        if (strcmp(((const RamRegion *)regions->pdata[i])->name, name) == 0)
            return regions->pdata[i];
    return NULL;
}

static const QemuFirmware *find_firmware(const QemuNeutral *neutral, const char *name)
{
    for (guint i = 0; i < neutral->firmware->len; i++)
        if (strcmp(((const QemuFirmware *)neutral->firmware->pdata[i])->name, name) == 0)
            return neutral->firmware->pdata[i];
    return NULL;
}

/* How long a block is to be; 0 with *error* where nobody says what is in it. */
static uint64_t wanted_bytes(const QemuNeutral *neutral, const QemuRamBlock *block,
                             const GPtrArray *regions, guint *found, uint64_t *ret_ram,
                             GError **error)
{
    const char *name = names[qemu_neutral_block(block->name, neutral->main_block)];
    const RamRegion *region = name ? find_region(regions, name) : NULL;
    const QemuFirmware *firmware = name ? NULL : find_firmware(neutral, block->name);

    if (region && region->bytes == block->used) {
        ++*found;
        if (strcmp(name, VMM_NEUTRAL_RAM) == 0)
            *ret_ram = block->used;
        return block->used;
    }
    if (firmware && g_bytes_get_size(firmware->content) >= block->used)
        return g_bytes_get_size(firmware->content);
    error_set(error, VMFERRY_ERROR_REFUSED,
              "the guest has no memory for block %s of %" G_GUINT64_FORMAT " bytes", block->name,
              block->used);
    return 0;
}

/* All blocks of ours, with what they hold. */
static GPtrArray *plan_blocks(QemuVmm *qemu, const GPtrArray *regions, GError **error)
{
    g_autoptr(GPtrArray) planned = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);
    g_autoptr(GPtrArray) blocks = qemu_query_ram_blocks(qemu->qmp, error);
    guint found = 0;

    if (!blocks)
        return NULL;
    for (guint i = 0; i < blocks->len; i++) {
        const QemuRamBlock *block = blocks->pdata[i];
        uint64_t bytes;

        if (!block->name[0] || block->used == 0)
            continue;
        bytes =
            wanted_bytes(qemu->neutral, block, regions, &found, &qemu->neutral->ram_bytes, error);
        if (bytes == 0)
            return NULL;
        g_ptr_array_add(planned, ram_region_new(block->name, 0, bytes));
    }
    if (found == regions->len)
        return g_steal_pointer(&planned);
    error_set(error, VMFERRY_ERROR_REFUSED, "the guest has memory that QEMU here has not");
    return NULL;
}

/* The markers by which the blocks were found go with that. */
static gboolean write_firmware(QemuVmm *qemu, const GPtrArray *blocks, GError **error)
{
    g_autoptr(GuestMemory) memory = guest_memory_open(qemu->pid, blocks, error);

    for (guint i = 0; memory && i < blocks->len; i++) {
        const RamRegion *region = blocks->pdata[i];
        const QemuFirmware *firmware = find_firmware(qemu->neutral, region->name);
        const PageSpan span = {0, guest_memory_get_region(memory, i)->pages};

        if (firmware && !guest_memory_write(memory, i, &span, 1,
                                            g_bytes_get_data(firmware->content, NULL), error))
            return FALSE;
    }
    return memory != NULL;
}

gboolean qemu_neutral_open(QemuVmm *qemu, const GPtrArray *regions, GError **error)
{
    g_autoptr(GPtrArray) planned = plan_blocks(qemu, regions, error);
    g_autoptr(GPtrArray) blocks = NULL;

    if (!planned || !qemu_open_stream(qemu, planned, error))
        return FALSE;
    blocks = qemu_query_ram_regions(qemu, error);
    return blocks && write_firmware(qemu, blocks, error);
}

gboolean qemu_neutral_load(QemuVmm *qemu, GBytes *bytes, GError **error)
{
    const QemuNeutral *neutral = qemu->neutral;
    g_autoptr(StateNode) state =
        state_decode(g_bytes_get_data(bytes, NULL), g_bytes_get_size(bytes), error);
    g_autoptr(GBytes) stream = NULL;

    if (state && state_check(state, error) &&
        state_check_ram(state, neutral->ram_bytes, "QEMU", error))
        stream = state_to_qemu(state, g_bytes_get_data(neutral->template, NULL),
                               g_bytes_get_size(neutral->template), error);
    if (!stream || !qemu_load_device_state(qemu, stream, error))
        return FALSE;
    g_clear_pointer(&qemu->neutral, qemu_neutral_free);
    return TRUE;
}
