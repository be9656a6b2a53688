/* What a machine is made of. */
#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/pci_bars.h"
#include "vmm/qemu/ram_blocks.h"

#define MAX_SMAPS_BYTES (256u << 20)
#define MAX_VCPUS 4096
#define MACHINE_SUFFIX "-machine"

char *qemu_query_machine(Qmp *qmp, GError **error)
{
    g_autoptr(json_t) reply = NULL;
    const char *type;

    reply = qmp_execute(qmp, "qom-get",
                        json_pack("{s:s,s:s}", "path", "/machine", "property", "type"),
                        QMP_COMMAND_MS, error);
    if (!reply)
        return NULL;
    type = json_string_value(reply);
    if (!type || !g_str_has_suffix(type, MACHINE_SUFFIX)) {
        error_set(error, VMFERRY_ERROR_INVALID, "QEMU does not tell its machine type");
        return NULL;
    }
    return g_strndup(type, strlen(type) - strlen(MACHINE_SUFFIX));
}

static char *query_version(Qmp *qmp, GError **error)
{
    g_autoptr(json_t) reply = qmp_execute(qmp, "query-version", NULL, QMP_COMMAND_MS, error);
    json_t *version = reply ? json_object_get(reply, "qemu") : NULL;
    uint64_t major, minor, micro;

    if (!reply || !json_get_count(version, "major", 1000, &major, error) ||
        !json_get_count(version, "minor", 1000, &minor, error) ||
        !json_get_count(version, "micro", 1000, &micro, error))
        return NULL;
    return g_strdup_printf("%u.%u.%u", (guint)major, (guint)minor, (guint)micro);
}

static char *query_accelerator(Qmp *qmp, GError **error)
{
    g_autoptr(json_t) reply = qmp_execute(qmp, "query-kvm", NULL, QMP_COMMAND_MS, error);

    return reply ? g_strdup(json_flag_or(reply, "enabled", FALSE) ? "kvm" : "tcg") : NULL;
}

static gboolean query_vcpus(Qmp *qmp, guint *ret, GError **error)
{
    g_autoptr(json_t) reply = qmp_execute(qmp, "query-cpus-fast", NULL, QMP_COMMAND_MS, error);

    if (!reply)
        return FALSE;
    if (!json_is_array(reply) || json_array_size(reply) > MAX_VCPUS) {
        error_set(error, VMFERRY_ERROR_INVALID, "query-cpus-fast: unexpected answer");
        return FALSE;
    }
    *ret = (guint)json_array_size(reply);
    return TRUE;
}

static gboolean query_memory(Qmp *qmp, uint64_t *ret, GError **error)
{
    g_autoptr(json_t) reply =
        qmp_execute(qmp, "query-memory-size-summary", NULL, QMP_COMMAND_MS, error);
    uint64_t base;

    if (!reply || !json_get_count(reply, "base-memory", G_MAXINT64, &base, error))
        return FALSE;
    *ret = base + json_count_or(reply, "plugged-memory", 0);
    return TRUE;
}

static gboolean read_qemu_memory(uint64_t address, void *buffer, size_t length, gpointer user,
                                 GError **error)
{
    pid_t pid = GPOINTER_TO_INT(user);
    char *at = buffer;

    while (length > 0) {
        struct iovec local = {at, length};
        struct iovec remote = {(void *)(uintptr_t)address, length};
        ssize_t got = process_vm_readv(pid, &local, 1, &remote, 1, 0);

        if (got <= 0) {
            error_set_errno(error, got < 0 ? errno : EFAULT, "read memory of QEMU (pid %d)",
                            (int)pid);
            return FALSE;
        }
        at += got;
        address += (uint64_t)got;
        length -= (size_t)got;
    }
    return TRUE;
}

static GArray *read_mappings(pid_t pid, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/smaps", (int)pid);
    g_autofree char *text = file_read(path, MAX_SMAPS_BYTES, NULL, error);

    return text ? qemu_parse_smaps(text, error) : NULL;
}

/* Asks for the host address of each piece of RAM that the guest sees.  A
 * guest that runs may move a piece meanwhile: then there is no answer that
 * fits, and the piece is left out. */
static gboolean resolve_ranges(Qmp *qmp, GPtrArray *ranges, GError **error)
{
    for (guint i = 0; i < ranges->len; i++) {
        QemuFlatRange *range = ranges->pdata[i];
        g_autofree char *line =
            g_strdup_printf("gpa2hva 0x%" G_GINT64_MODIFIER "x", range->address);
        g_autofree char *answer = qmp_execute_human(qmp, line, QMP_COMMAND_MS, error);
        uint64_t host_address;

        if (!answer)
            return FALSE;
        if (qemu_parse_host_address(answer, range->region, &host_address) &&
            host_address > range->offset)
            range->host_address = host_address - range->offset;
    }
    return TRUE;
}

static GPtrArray *query_ranges(Qmp *qmp, GError **error)
{
    g_autofree char *text = qmp_execute_human(qmp, "info mtree -f", QMP_COMMAND_MS, error);
    g_autoptr(GPtrArray) ranges = text ? qemu_parse_flat_view(text, error) : NULL;
    g_autoptr(json_t) pci = NULL;

    if (!ranges || !resolve_ranges(qmp, ranges, error))
        return NULL;
    /* A machine without PCI has no such command's answer, and no need of it. */
    pci = qmp_execute(qmp, "query-pci", NULL, QMP_COMMAND_MS, NULL);
    for (guint i = 0; pci && i < ranges->len; i++) {
        QemuFlatRange *range = ranges->pdata[i];

        range->device = qemu_pci_find_device(pci, range->address);
    }
    return g_steal_pointer(&ranges);
}

static gboolean addresses_told(const GPtrArray *blocks)
{
    for (guint i = 0; i < blocks->len; i++)
        if (((QemuRamBlock *)blocks->pdata[i])->host_address == 0)
            return FALSE;
    return TRUE;
}

static GPtrArray *to_regions(const GPtrArray *blocks)
{
    GPtrArray *regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);

    for (guint i = 0; i < blocks->len; i++) {
        const QemuRamBlock *block = blocks->pdata[i];
        RamRegion *region;

        if (!block->name[0] || block->used == 0)
            continue;
        region = ram_region_new(block->name, block->host_address, block->used);
        region->proof = g_strdup(block->proof);
        g_ptr_array_add(regions, region);
    }
    return regions;
}

GPtrArray *qemu_query_ram_regions(Qmp *qmp, pid_t pid, GError **error)
{
    g_autofree char *text = qmp_execute_human(qmp, "info ramblock", QMP_COMMAND_MS, error);
    g_autoptr(GPtrArray) blocks = text ? qemu_parse_ram_blocks(text, error) : NULL;
    g_autoptr(GArray) mappings = NULL;
    g_autoptr(GPtrArray) ranges = NULL;

    if (!blocks)
        return NULL;
    mappings = read_mappings(pid, error);
    if (!mappings)
        return NULL;
    if (!addresses_told(blocks)) {
        ranges = query_ranges(qmp, error);
        if (!ranges)
            return NULL;
    }
    if (!qemu_locate_ram_blocks(blocks, mappings, ranges, read_qemu_memory, GINT_TO_POINTER(pid),
                                error))
        return NULL;
    return to_regions(blocks);
}

VmmDescription *qemu_describe(QemuVmm *qemu, GError **error)
{
    g_autoptr(VmmDescription) description = g_new0(VmmDescription, 1);

    description->kind = g_strdup("qemu");
    description->version = query_version(qemu->qmp, error);
    if (!description->version)
        return NULL;
    description->machine = qemu_query_machine(qemu->qmp, error);
    if (!description->machine)
        return NULL;
    description->accelerator = query_accelerator(qemu->qmp, error);
    if (!description->accelerator || !query_vcpus(qemu->qmp, &description->vcpus, error) ||
        !query_memory(qemu->qmp, &description->memory_bytes, error))
        return NULL;
    description->ram_regions = qemu_query_ram_regions(qemu->qmp, qemu->pid, error);
    return description->ram_regions ? g_steal_pointer(&description) : NULL;
}
