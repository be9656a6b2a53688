/* What has changed of a disk: dirty bitmaps of QEMU, and exports that show them by NBD. */
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "vmm/qemu/block_job.h"

#define SERVER_NAME "vmferry-changes"
/* What QEMU's own default is at most; bitmaps can only be merged where it is the same. */
#define GRANULARITY_BYTES 65536

/* ---- bitmaps ---- */

static json_t *make_action(const char *type, json_t *data)
{
    return json_pack("{s:s, s:o}", "type", type, "data", data);
}

static json_t *describe_add(const char *node, const char *name, gboolean disabled)
{
    return json_pack("{s:s, s:s, s:i, s:b}", "node", node, "name", name, "granularity",
                     GRANULARITY_BYTES, "disabled", disabled);
}

static gboolean check_name(const char *name, GError **error)
{
    if (g_str_has_prefix(name, VMM_BITMAP_PREFIX) || g_str_has_prefix(name, VMM_CHANGES_PREFIX))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not the name of a bitmap of ours", name);
    return FALSE;
}

gboolean qemu_begin_bitmap(QemuVmm *qemu, const char *node, const char *name, GError **error)
{
    return check_name(name, error) &&
           qmp_run(qemu->qmp, "block-dirty-bitmap-add", describe_add(node, name, FALSE),
                   QMP_COMMAND_MS, error);
}

gboolean qemu_remove_bitmap(QemuVmm *qemu, const char *node, const char *name, GError **error)
{
    return check_name(name, error) &&
           qmp_run(qemu->qmp, "block-dirty-bitmap-remove",
                   json_pack("{s:s, s:s}", "node", node, "name", name), QMP_COMMAND_MS, error);
}

static gboolean is_recording(json_t *bitmap, const char *prefix)
{
    return g_str_has_prefix(json_text_or(bitmap, "name", ""), prefix) &&
           json_flag_or(bitmap, "recording", FALSE) && !json_flag_or(bitmap, "persistent", FALSE) &&
           !json_flag_or(bitmap, "busy", FALSE) &&
           json_count_or(bitmap, "granularity", 0) == GRANULARITY_BYTES;
}

static gint compare_names(gconstpointer one, gconstpointer other)
{
    return strcmp(*(char *const *)one, *(char *const *)other);
}

GPtrArray *qemu_list_bitmaps(QemuVmm *qemu, const char *node_name, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(json_t) node = NULL;
    json_t *bitmap;
    size_t i;

    if (!block_node_query(qemu->qmp, node_name, &node, error))
        return NULL;
    json_array_foreach(json_object_get(node, "dirty-bitmaps"), i, bitmap)
    {
        if (is_recording(bitmap, VMM_BITMAP_PREFIX))
            g_ptr_array_add(names, g_strdup(json_text_or(bitmap, "name", "")));
    }
    g_ptr_array_sort(names, compare_names);
    return g_steal_pointer(&names);
}

/* ---- exports ---- */

gboolean qemu_start_exports(QemuVmm *qemu, int listener, GError **error)
{
    g_autoptr(json_t) named =
        qmp_execute_fd(qemu->qmp, "getfd", json_pack("{s:s}", "fdname", SERVER_NAME), listener,
                       QMP_COMMAND_MS, error);

    if (!named)
        return FALSE;
    if (qmp_run(qemu->qmp, "nbd-server-start",
                json_pack("{s:{s:s, s:{s:s}}}", "addr", "type", "fd", "data", "str", SERVER_NAME),
                QMP_COMMAND_MS, error))
        return TRUE;
    (void)qmp_run(qemu->qmp, "closefd", json_pack("{s:s}", "fdname", SERVER_NAME), QMP_COMMAND_MS,
                  NULL);
    return FALSE;
}

gboolean qemu_end_exports(QemuVmm *qemu, GError **error)
{
    return qmp_run(qemu->qmp, "nbd-server-stop", NULL, BLOCK_JOB_END_MS, error);
}

/* The next bitmap comes first: QEMU runs these one after the other, and writes of a disk in an iothread go on between
 * them.  What is written then is in both bitmaps; in another order it would be in none. */
static json_t *make_turn(const VmmChanges *changes)
{
    json_t *actions = json_array();

    if (changes->next)
        json_array_append_new(actions,
                              make_action("block-dirty-bitmap-add",
                                          describe_add(changes->node, changes->next, FALSE)));
    if (changes->keeps) {
        json_array_append_new(actions,
                              make_action("block-dirty-bitmap-add",
                                          describe_add(changes->node, changes->name, TRUE)));
        json_array_append_new(
            actions, make_action("block-dirty-bitmap-merge",
                                 json_pack("{s:s, s:s, s:[s]}", "node", changes->node, "target",
                                           changes->name, "bitmaps", changes->since)));
    } else {
        json_array_append_new(actions, make_action("block-dirty-bitmap-disable",
                                                   json_pack("{s:s, s:s}", "node", changes->node,
                                                             "name", changes->since)));
    }
    return json_pack("{s:o}", "actions", actions);
}

char *qemu_export_changes(QemuVmm *qemu, const VmmChanges *changes, GError **error)
{
    const char *bitmap = changes->keeps ? changes->name : changes->since;
    json_t *export = json_pack("{s:s, s:s, s:s, s:s, s:b, s:[s]}", "type", "nbd", "id",
                               changes->name, "node-name", changes->node, "name", changes->name,
                               "writable", 0, "bitmaps", bitmap);

    if (!check_name(changes->name, error) || !check_name(changes->since, error) ||
        !qmp_run(qemu->qmp, "transaction", make_turn(changes), QMP_COMMAND_MS, error)) {
        json_decref(export);
        return NULL;
    }
    return qmp_run(qemu->qmp, "block-export-add", export, QMP_COMMAND_MS, error)
               ? g_strdup_printf("qemu:dirty-bitmap:%s", bitmap)
               : NULL;
}

/* ---- what was left ---- */

/* The server is ours where all of its exports are. */
static gboolean are_exports_ours(Qmp *qmp)
{
    g_autoptr(json_t) list = qmp_execute(qmp, "query-block-exports", NULL, QMP_COMMAND_MS, NULL);
    json_t *export;
    size_t i;

    json_array_foreach(list, i, export)
    {
        if (!g_str_has_prefix(json_text_or(export, "id", ""), VMM_CHANGES_PREFIX))
            return FALSE;
    }
    return json_array_size(list) > 0;
}

static void remove_left_bitmaps(QemuVmm *qemu, json_t *node)
{
    json_t *bitmap;
    size_t i;

    json_array_foreach(json_object_get(node, "dirty-bitmaps"), i, bitmap)
    {
        const char *name = json_text_or(bitmap, "name", "");
        g_autoptr(GError) failure = NULL;

        if (g_str_has_prefix(name, VMM_CHANGES_PREFIX) &&
            !qemu_remove_bitmap(qemu, json_text_or(node, "node-name", ""), name, &failure))
            log_debug("pid %d keeps bitmap %s: %s", (int)qemu->pid, name, failure->message);
    }
}

void qemu_remove_left_changes(QemuVmm *qemu)
{
    g_autoptr(json_t) nodes = NULL;
    json_t *node;
    size_t i;

    if (are_exports_ours(qemu->qmp))
        (void)qemu_end_exports(qemu, NULL);
    nodes = qmp_execute(qemu->qmp, "query-named-block-nodes", json_pack("{s:b}", "flat", 1),
                        QMP_COMMAND_MS, NULL);
    json_array_foreach(nodes, i, node) remove_left_bitmaps(qemu, node);
}
