/* What a machine is made of. */
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/neutral.h"

#define MAX_VCPUS 4096
#define MAX_THREAD (1u << 22) /* the kernel's limit */
#define MACHINE_SUFFIX "-machine"

static char *query_machine(Qmp *qmp, GError **error)
{
    g_autoptr(json_t) reply = NULL;
    const char *type;

    reply =
        qmp_execute(qmp, "qom-get", json_pack("{s:s,s:s}", "path", "/machine", "property", "type"),
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

/* It never changes, and is asked for while the guest is paused. */
char *qemu_get_machine(QemuVmm *qemu, GError **error)
{
    if (!qemu->machine)
        qemu->machine = query_machine(qemu->qmp, error);
    return g_strdup(qemu->machine);
}

gboolean qemu_check_machine_type(QemuVmm *qemu, const char *machine, GError **error)
{
    g_autofree char *ours = qemu_get_machine(qemu, error);

    if (!ours || strcmp(ours, machine) == 0)
        return ours != NULL;
    error_set(error, VMFERRY_ERROR_REFUSED,
              "the guest is of machine type %s, QEMU here was started as %s", machine, ours);
    return FALSE;
}

char *qemu_query_version(Qmp *qmp, GError **error)
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

static json_t *query_cpus(Qmp *qmp, GError **error)
{
    g_autoptr(json_t) reply = qmp_execute(qmp, "query-cpus-fast", NULL, QMP_COMMAND_MS, error);

    if (!reply)
        return NULL;
    if (!json_is_array(reply) || json_array_size(reply) > MAX_VCPUS) {
        error_set(error, VMFERRY_ERROR_INVALID, "query-cpus-fast: unexpected answer");
        return NULL;
    }
    return g_steal_pointer(&reply);
}

static gboolean query_vcpus(Qmp *qmp, guint *ret, GError **error)
{
    g_autoptr(json_t) cpus = query_cpus(qmp, error);

    if (!cpus)
        return FALSE;
    *ret = (guint)json_array_size(cpus);
    return TRUE;
}

static gboolean has_thread(const GArray *threads, pid_t thread)
{
    for (guint i = 0; i < threads->len; i++)
        if (g_array_index(threads, pid_t, i) == thread)
            return TRUE;
    return FALSE;
}

GArray *qemu_get_vcpu_threads(QemuVmm *qemu, GError **error)
{
    g_autoptr(json_t) cpus = query_cpus(qemu->qmp, error);
    g_autoptr(GArray) threads = g_array_new(FALSE, FALSE, sizeof(pid_t));
    json_t *cpu;
    size_t i;

    if (!cpus)
        return NULL;
    json_array_foreach(cpus, i, cpu)
    {
        uint64_t number;
        pid_t thread;

        if (!json_get_count(cpu, "thread-id", MAX_THREAD, &number, error)) {
            g_prefix_error(error, "query-cpus-fast: ");
            return NULL;
        }
        thread = (pid_t)number;
        /* TCG may run all vCPUs in one thread. */
        if (!has_thread(threads, thread))
            g_array_append_val(threads, thread);
    }
    if (threads->len == 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "query-cpus-fast names no vCPU");
        return NULL;
    }
    return g_steal_pointer(&threads);
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

VmmDescription *qemu_describe(QemuVmm *qemu, GError **error)
{
    g_autoptr(VmmDescription) description = g_new0(VmmDescription, 1);

    description->kind = g_strdup(QEMU_KIND);
    description->version = qemu_query_version(qemu->qmp, error);
    if (!description->version)
        return NULL;
    description->machine = qemu_get_machine(qemu, error);
    if (!description->machine)
        return NULL;
    description->accelerator = query_accelerator(qemu->qmp, error);
    if (!description->accelerator || !query_vcpus(qemu->qmp, &description->vcpus, error) ||
        !query_memory(qemu->qmp, &description->memory_bytes, error) ||
        !qemu_query_discards(qemu->qmp, &description->discards_memory, error))
        return NULL;
    description->ram_regions = qemu_query_ram_regions(qemu, error);
    if (!description->ram_regions ||
        (qemu->neutral && !qemu_neutral_describe(qemu, description, error)))
        return NULL;
    return g_steal_pointer(&description);
}
