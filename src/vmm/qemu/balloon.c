/* The balloon: what it leaves to the guest, and what the guest says is free. */
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "vmm/qemu/driver.h"

#define MAX_BALLOON_BYTES ((uint64_t)1 << 46)
#define MAX_STATISTICS_BYTES 65536
#define ACTION_ATTEMPTS 5 /* of a guard: a restarted agent that keeps QMP busy does it itself */
#define MAX_INTERVAL_SECONDS G_MAXINT32
/* The device has several names (-pci, -pci-transitional, -ccw, -device). */
#define BALLOON_TYPE "child<virtio-balloon"
#define MEMORY_DEVICE_TYPE "child<virtio-mem"
/* QEMU's ids, and the names it makes itself ("device[3]"). */
#define NAME_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._[]"

static void explain_missing(GError **error)
{
    if (!error || !error_is(*error, VMFERRY_ERROR_NOT_FOUND))
        return;
    g_clear_error(error);
    error_set(error, VMFERRY_ERROR_NOT_FOUND, "the guest has no balloon device");
}

gboolean qemu_get_balloon(QemuVmm *qemu, uint64_t *ret_bytes, GError **error)
{
    g_autoptr(json_t) reply = qmp_execute(qemu->qmp, "query-balloon", NULL, QMP_COMMAND_MS, error);

    if (!reply) {
        explain_missing(error);
        return FALSE;
    }
    return json_get_count(reply, "actual", MAX_BALLOON_BYTES, ret_bytes, error);
}

gboolean qemu_set_balloon(QemuVmm *qemu, uint64_t bytes, GError **error)
{
    json_t *arguments = json_pack("{s:I}", "value", (json_int_t)bytes);

    if (qmp_run(qemu->qmp, "balloon", arguments, QMP_COMMAND_MS, error))
        return TRUE;
    explain_missing(error);
    return FALSE;
}

gboolean qemu_get_set_balloon_action(QemuVmm *qemu, uint64_t bytes, GuardAction *ret,
                                     GError **error)
{
    g_autofree char *command =
        g_strdup_printf("{\"execute\":\"balloon\",\"arguments\":{\"value\":%" G_GUINT64_FORMAT
                        "}," QEMU_ACTION_ID "}\n",
                        bytes);

    if (!qemu_begin_action(qemu, ACTION_ATTEMPTS, ret, error))
        return FALSE;
    qemu_end_action(ret, command);
    return TRUE;
}

/* ---- statistics ---- */

/* The device of that type in *folder*, or NULL; free with g_free(). */
static char *find_in(Qmp *qmp, const char *folder, const char *type, GError **error)
{
    g_autoptr(json_t) entries =
        qmp_execute(qmp, "qom-list", json_pack("{s:s}", "path", folder), QMP_COMMAND_MS, error);
    json_t *entry;
    size_t i;

    json_array_foreach(entries, i, entry)
    {
        const char *name = json_text_or(entry, "name", "");

        if (g_str_has_prefix(json_text_or(entry, "type", ""), type) && *name &&
            name[strspn(name, NAME_CHARACTERS)] == '\0')
            return g_strdup_printf("%s/%s", folder, name);
    }
    return NULL;
}

/* Its path among QEMU's objects, with an id or without one; NULL without an
 * error where there is none. */
static char *find_device(Qmp *qmp, const char *type, GError **error)
{
    static const char *const folders[] = {"/machine/peripheral", "/machine/peripheral-anon"};
    GError *problem = NULL;
    char *path = NULL;

    for (guint i = 0; i < G_N_ELEMENTS(folders) && !path && !problem; i++)
        path = find_in(qmp, folders[i], type, &problem);
    if (problem)
        g_propagate_error(error, problem);
    return path;
}

static char *find_balloon(Qmp *qmp, GError **error)
{
    g_autoptr(GError) problem = NULL;
    char *path = find_device(qmp, BALLOON_TYPE, &problem);

    if (problem)
        g_propagate_error(error, g_steal_pointer(&problem));
    else if (!path)
        error_set(error, VMFERRY_ERROR_NOT_FOUND, "the guest has no balloon device");
    return path;
}

/* FALSE only where QEMU says so: what is not known may be. */
static gboolean may_have_flag(Qmp *qmp, const char *path, const char *property)
{
    g_autoptr(json_t) reply =
        qmp_execute(qmp, "qom-get", json_pack("{s:s, s:s}", "path", path, "property", property),
                    QMP_COMMAND_MS, NULL);

    return !json_is_false(reply);
}

gboolean qemu_query_discards(Qmp *qmp, gboolean *ret, GError **error)
{
    g_autoptr(GError) problem = NULL;
    g_autofree char *memory = find_device(qmp, MEMORY_DEVICE_TYPE, &problem);
    g_autofree char *balloon = problem ? NULL : find_device(qmp, BALLOON_TYPE, &problem);

    if (problem) {
        g_propagate_error(error, g_steal_pointer(&problem));
        return FALSE;
    }
    *ret = memory || (balloon && may_have_flag(qmp, balloon, "free-page-reporting"));
    return TRUE;
}

gboolean qemu_watch_statistics(QemuVmm *qemu, guint seconds, guint *ret_before, GError **error)
{
    static const char property[] = "guest-stats-polling-interval";
    g_autofree char *path = find_balloon(qemu->qmp, error);
    g_autoptr(json_t) before = NULL;

    if (!path)
        return FALSE;
    before = qmp_execute(qemu->qmp, "qom-get",
                         json_pack("{s:s, s:s}", "path", path, "property", property),
                         QMP_COMMAND_MS, error);
    if (!before)
        return FALSE;
    if (!json_is_integer(before) || json_integer_value(before) < 0 ||
        json_integer_value(before) > MAX_INTERVAL_SECONDS) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "QEMU's polling interval of the balloon is not a valid number");
        return FALSE;
    }
    *ret_before = (guint)json_integer_value(before);
    return qmp_run(qemu->qmp, "qom-set",
                   json_pack("{s:s, s:s, s:I}", "path", path, "property", property, "value",
                             (json_int_t)seconds),
                   QMP_COMMAND_MS, error);
}

/* A number of bytes or seconds; what a guest has not told is 2^64 - 1. */
static gboolean read_number(json_t *object, const char *key, uint64_t *ret)
{
    double value = json_number_value(json_object_get(object, key));

    if (!(value > 0) || value > (double)MAX_BALLOON_BYTES)
        return FALSE;
    *ret = (uint64_t)value;
    return TRUE;
}

gboolean qemu_parse_statistics(const char *text, uint64_t *ret_free_bytes, uint64_t *ret_updated,
                               GError **error)
{
    size_t length = strlen(text);
    g_autoptr(json_t) object =
        length <= MAX_STATISTICS_BYTES
            ? json_loadb(text, length, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, NULL)
            : NULL;

    *ret_free_bytes = *ret_updated = 0;
    if (!json_is_object(json_object_get(object, "stats"))) {
        error_set(error, VMFERRY_ERROR_INVALID, "QEMU's statistics of the balloon are not valid");
        return FALSE;
    }
    /* Unknown numbers stay 0: never told, nothing free. */
    if (read_number(object, "last-update", ret_updated))
        read_number(json_object_get(object, "stats"), "stat-free-memory", ret_free_bytes);
    return TRUE;
}

/* By the human monitor: QMP's answer would hold 2^64 - 1 for each number that
 * the guest does not tell, and no JSON integer of ours is that long. */
gboolean qemu_get_free_memory(QemuVmm *qemu, uint64_t *ret_free_bytes, uint64_t *ret_updated,
                              GError **error)
{
    g_autofree char *path = find_balloon(qemu->qmp, error);
    g_autofree char *line = path ? g_strdup_printf("qom-get %s guest-stats", path) : NULL;
    g_autofree char *text = line ? qmp_execute_human(qemu->qmp, line, QMP_COMMAND_MS, error) : NULL;

    return text && qemu_parse_statistics(text, ret_free_bytes, ret_updated, error);
}
