#include "vmm/qemu/disk_counters.h"

#include "base/error.h"
#include "vmm/qemu/block_graph.h"
#include "vmm/qemu/driver.h"

/* A drive without a medium counts nothing. */
static gboolean add_drive(json_t *drive, VmmDiskCounters *ret, GError **error)
{
    json_t *stats = json_object_get(drive, "stats");
    struct {
        const char *key;
        uint64_t *sum;
    } counters[] = {{"rd_bytes", &ret->read_bytes},
                    {"wr_bytes", &ret->written_bytes},
                    {"flush_operations", &ret->flushes}};

    for (guint i = 0; i < G_N_ELEMENTS(counters); i++) {
        uint64_t count;

        if (!json_get_count(stats, counters[i].key, G_MAXINT64, &count, error)) {
            g_prefix_error(error, "query-blockstats: ");
            return FALSE;
        }
        if (__builtin_add_overflow(*counters[i].sum, count, counters[i].sum)) {
            error_set(error, VMFERRY_ERROR_INVALID, "query-blockstats: \"%s\" is beyond all bounds",
                      counters[i].key);
            return FALSE;
        }
    }
    return TRUE;
}

gboolean qemu_parse_disk_counters(json_t *statistics, VmmDiskCounters *ret, GError **error)
{
    json_t *drive;
    size_t index;

    *ret = (VmmDiskCounters){0};
    if (!json_is_array(statistics) || json_array_size(statistics) > BLOCK_GRAPH_MAX_NODES) {
        error_set(error, VMFERRY_ERROR_INVALID, "QEMU: unexpected answer to query-blockstats");
        return FALSE;
    }
    json_array_foreach(statistics, index, drive) if (!add_drive(drive, ret, error)) return FALSE;
    return TRUE;
}

gboolean qemu_ask_disk_counters(QemuVmm *qemu, guint timeout_ms, VmmDiskCounters *ret,
                                GError **error)
{
    g_autoptr(json_t) statistics =
        qmp_execute(qemu->qmp, "query-blockstats", NULL, (int)timeout_ms, error);

    return statistics && qemu_parse_disk_counters(statistics, ret, error);
}
