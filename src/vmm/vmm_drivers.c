#include "vmm/vmm_driver.h"

#include <string.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/process.h"
#include "vmm/bochs/bochs.h"
#include "vmm/qemu/qemu.h"

#define MEBIBYTE ((uint64_t)1 << 20)

static const VmmDriver *const drivers[] = {&qemu_driver, &bochs_driver, NULL};

/* ---- finding one ---- */

const char *vmm_driver_kind(guint index)
{
    return index < G_N_ELEMENTS(drivers) && drivers[index] ? drivers[index]->kind : NULL;
}

const VmmDriver *vmm_driver_find(const char *kind, GError **error)
{
    for (const VmmDriver *const *at = drivers; *at; at++)
        if (g_strcmp0((*at)->kind, kind) == 0)
            return *at;
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "there is no driver for guests of kind \"%s\" here",
              kind ? kind : "");
    return NULL;
}

static const VmmDriver *find_for_program(const char *program)
{
    for (const VmmDriver *const *at = drivers; program && *at; at++)
        if ((*at)->is_program(program))
            return *at;
    return NULL;
}

/* For messages: what the drivers know; free with g_free(). */
static char *describe_programs(void)
{
    g_autoptr(GString) text = g_string_new(NULL);

    for (const VmmDriver *const *at = drivers; *at; at++)
        g_string_append_printf(text, "%s%s", at > drivers ? " or " : "", (*at)->programs);
    return g_string_free(g_steal_pointer(&text), FALSE);
}

const VmmDriver *vmm_driver_find_for_command_line(char *const *command_line, GError **error)
{
    const char *program = command_line ? command_line[0] : NULL;
    const VmmDriver *driver = find_for_program(program);
    g_autofree char *known = NULL;

    if (driver)
        return driver;
    known = describe_programs();
    if (program)
        error_set(error, VMFERRY_ERROR_REFUSED, "%s is not %s", program, known);
    else
        error_set(error, VMFERRY_ERROR_INVALID, "the command line is empty");
    return NULL;
}

const VmmDriver *vmm_driver_find_for_process(pid_t pid, GError **error)
{
    g_autofree char *link = g_strdup_printf("/proc/%d/exe", (int)pid);
    g_autofree char *program = g_file_read_link(link, NULL);
    g_auto(GStrv) argv = process_get_command_line(pid, error);
    g_autofree char *known = NULL;
    const VmmDriver *driver;

    if (!argv)
        return NULL;
    driver = find_for_program(program);
    if (!driver)
        driver = find_for_program(argv[0]);
    if (driver)
        return driver;
    known = describe_programs();
    error_set(error, VMFERRY_ERROR_INVALID, "pid %d is %s, not %s", (int)pid,
              program   ? program
              : argv[0] ? argv[0]
                        : "a kernel thread",
              known);
    return NULL;
}

StateNode *vmm_read_state(const char *kind, GBytes *bytes, GError **error)
{
    const VmmDriver *driver = vmm_driver_find(kind, error);
    gconstpointer data;
    gsize length;

    if (!driver)
        return NULL;
    if (!driver->read_state) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "the state of guests of %s is not read here",
                  kind);
        return NULL;
    }
    data = g_bytes_get_data(bytes, &length);
    return driver->read_state(data, length, error);
}

/* ---- what they share ---- */

void vmm_identity_free(VmmIdentity *identity)
{
    if (!identity)
        return;
    g_free(identity->kind);
    g_free(identity->control_path);
    g_free(identity->log_path);
    g_strfreev(identity->command_line);
    g_free(identity->working_directory);
    g_strfreev(identity->cgroups);
    g_free(identity);
}

gboolean vmm_memory_fits(uint64_t guest_bytes, const char *meminfo, GError **error)
{
    static const char key[] = "MemAvailable:";
    const char *line = strstr(meminfo, key);
    uint64_t available;

    /* A kernel that does not tell is no reason to refuse. */
    if (!line)
        return TRUE;
    available = g_ascii_strtoull(line + strlen(key), NULL, 10);
    available = available > G_MAXUINT64 / 1024 ? G_MAXUINT64 : available * 1024;
    if (guest_bytes <= available)
        return TRUE;
    error_set(error, VMFERRY_ERROR_NO_SPACE,
              "not enough memory here: guest needs %" G_GUINT64_FORMAT " MiB, %" G_GUINT64_FORMAT
              " MiB available",
              guest_bytes / MEBIBYTE, available / MEBIBYTE);
    return FALSE;
}

gboolean vmm_check_host_memory(uint64_t guest_bytes, GError **error)
{
    g_autofree char *meminfo = file_read("/proc/meminfo", 1u << 20, NULL, error);

    return meminfo && vmm_memory_fits(guest_bytes, meminfo, error);
}
