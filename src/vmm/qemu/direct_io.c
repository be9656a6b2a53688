/* Reads past the host's page cache: who makes them, how long they take, and when they have ended.
 */
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "vmm/qemu/block_graph.h"
#include "vmm/qemu/driver.h"

#define MAX_STATISTIC ((uint64_t)1 << 62)

static json_t *query_nodes(Qmp *qmp, GError **error)
{
    return qmp_execute(qmp, "query-named-block-nodes", json_pack("{s:b}", "flat", 1),
                       QMP_COMMAND_MS, error);
}

static gboolean check_list(json_t *list, const char *command, GError **error)
{
    if (json_is_array(list) && json_array_size(list) <= BLOCK_GRAPH_MAX_NODES)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "QEMU: unexpected answer to %s", command);
    return FALSE;
}

/* SG_IO to a host's device pins whatever the cache mode; a file in another host's process (NFS,
 * iSCSI, NBD by QEMU itself) is copied, but its node may be direct all the same: it does no harm
 * to count it. */
static gboolean is_direct(json_t *node)
{
    const char *driver = json_text_or(node, "drv", "");

    return json_flag_or(json_object_get(node, "cache"), "direct", FALSE) ||
           strcmp(driver, "host_device") == 0 || strcmp(driver, "host_cdrom") == 0;
}

static void add_statistics(json_t *drive, VmmDirectIo *ret)
{
    static const char *const kinds[] = {"rd", "wr", "flush"};
    json_t *stats = json_object_get(drive, "stats");
    uint64_t operations = 0;
    double ms = 0;

    for (guint i = 0; i < G_N_ELEMENTS(kinds); i++) {
        g_autofree char *count = g_strdup_printf("%s_operations", kinds[i]);
        g_autofree char *time = g_strdup_printf("%s_total_time_ns", kinds[i]);

        operations += MIN(json_count_or(stats, count, 0), MAX_STATISTIC / 4);
        ms += (double)json_count_or(stats, time, 0) / 1e6;
    }
    if (operations == 0)
        return;
    ret->operations += operations;
    ret->total_ms += ms;
    ret->slowest_ms = MAX(ret->slowest_ms, ms / (double)operations);
}

gboolean qemu_parse_direct_io(json_t *nodes, json_t *statistics, VmmDirectIo *ret, GError **error)
{
    json_t *entry;
    size_t index;

    *ret = (VmmDirectIo){0};
    if (!check_list(nodes, "query-named-block-nodes", error) ||
        !check_list(statistics, "query-blockstats", error))
        return FALSE;
    json_array_foreach(nodes, index, entry) ret->in_use |= is_direct(entry);
    json_array_foreach(statistics, index, entry) add_statistics(entry, ret);
    return TRUE;
}

gboolean qemu_get_direct_io(QemuVmm *qemu, VmmDirectIo *ret, GError **error)
{
    g_autoptr(json_t) nodes = query_nodes(qemu->qmp, error);
    g_autoptr(json_t) statistics =
        nodes ? qmp_execute(qemu->qmp, "query-blockstats", NULL, QMP_COMMAND_MS, error) : NULL;

    return statistics && qemu_parse_direct_io(nodes, statistics, ret, error);
}

/* A transaction of nothing: all that it does is what each one does first, which is to wait until no
 * node has a request in flight (bdrv_drain_all(), as `stop` does). */
gboolean qemu_drain(QemuVmm *qemu, GError **error)
{
    return qmp_run(qemu->qmp, "transaction", json_pack("{s:[]}", "actions"), QEMU_STOP_MS, error);
}

gboolean qemu_check_pinning_drivers(Qmp *qmp, GError **error)
{
    static const char *const pinning[] = {"nvme",
                                          "io_uring", /* libblkio's, not aio=io_uring */
                                          "nvme-io_uring",
                                          "virtio-blk-vfio-pci",
                                          "virtio-blk-vhost-user",
                                          "virtio-blk-vhost-vdpa",
                                          NULL};
    g_autoptr(json_t) nodes = query_nodes(qmp, error);
    json_t *node;
    size_t index;

    if (!nodes || !check_list(nodes, "query-named-block-nodes", error))
        return FALSE;
    json_array_foreach(nodes, index, node)
    {
        const char *driver = json_text_or(node, "drv", "");

        if (!g_strv_contains(pinning, driver))
            continue;
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "the guest has a disk on QEMU's block driver %s: it writes into guest memory "
                  "that it has pinned, which cannot be followed",
                  driver);
        return FALSE;
    }
    return TRUE;
}
