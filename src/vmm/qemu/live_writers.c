#include "vmm/qemu/live_writers.h"

#include <string.h>

#include "base/json.h"
#include "vmm/qemu/command_line.h"

/* The word behind each *mark*, up to one of *ends*; the first that is a
 * foreign writer. */
static char *find_behind(const char *text, const char *mark, const char *ends)
{
    for (const char *at = strstr(text, mark); at; at = strstr(at, mark)) {
        g_autofree char *type = NULL;

        at += strlen(mark);
        type = g_strndup(at, strcspn(at, ends));
        if (qemu_is_foreign_writer(type))
            return g_steal_pointer(&type);
    }
    return NULL;
}

char *qemu_find_live_writer(const char *device_tree, const char *networks)
{
    /* "dev: vfio-pci, id …" and "n0: index=0,type=vhost-user,…" */
    char *found = find_behind(device_tree, "dev: ", ",\r\n");

    return found ? found : find_behind(networks, ",type=", ",\r\n");
}

char *qemu_find_live_block_writer(json_t *nodes)
{
    json_t *node;
    size_t i;

    json_array_foreach(nodes, i, node)
    {
        const char *driver = json_text_or(node, "drv", "");

        if (strcmp(driver, "nvme") == 0 || qemu_is_foreign_writer(driver))
            return g_strdup_printf("block node %s of driver %s",
                                   json_text_or(node, "node-name", "?"), driver);
    }
    return NULL;
}
