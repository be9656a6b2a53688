/*
 * What QEMU, or a peer, tells of a live machine
 *
 * Input: a machine as JSON, then (behind a line "--") words of a command line.
 * Whatever it holds, it is read or refused; what was read is equal to itself,
 * and makes a command line or is refused with a reason.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "vmm/qemu/command_line.h"
#include "vmm/qemu/cpu_features.h"
#include "vmm/qemu/live_line.h"
#include "vmm/qemu/machine_compare.h"
#include "vmm/qemu/neutral_machine.h"
#include "vmm/qemu/plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static json_t *read_settings(const char *path, const char *type, gpointer user, GError **error)
{
    json_t *settings = json_object_get(json_object_get(user, "settings"), path);

    return json_is_object(settings) ? json_deep_copy(settings) : json_object();
}

static void make_line(const QemuMachine *machine, json_t *object, char **words)
{
    g_auto(GStrv) clean = qemu_command_line_clean(words);
    g_autoptr(GError) error = NULL;
    QemuLiveLine job = {.arguments = clean,
                        .machine = machine,
                        .machine_type = json_text_or(object, "type", ""),
                        .read_settings = read_settings,
                        .user = object};
    g_auto(GStrv) line = qemu_live_line(&job, &error);

    if (!line && !error)
        abort();
}

/* A CPU lacks nothing of itself. */
static void compare_cpu(json_t *cpu)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) missing = qemu_list_missing_features(cpu, cpu, &error);

    if ((missing && missing->len > 0) || (!missing && !error))
        abort();
}

/* In the neutral form it makes a command line, or is refused with a reason. */
static void plan(json_t *object)
{
    const QemuNeutralFacts facts = {.architecture = "x86_64",
                                    .machine_type = "pc-i440fx-7.2",
                                    .directory = "/a",
                                    .ram_bytes = 1u << 28,
                                    .vcpus = 1};
    g_autoptr(GError) error = NULL, refusal = NULL;
    g_autoptr(MachineDescription) machine = qemu_neutral_machine(object, &facts, &error);
    g_auto(GStrv) line = machine ? qemu_plan(machine, &refusal) : NULL;
    g_autoptr(json_t) json = machine ? machine_description_to_json(machine) : NULL;

    if ((!machine && !error) || (machine && !line && !refusal))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup((const char *)data, size);
    g_auto(GStrv) parts = g_strsplit(text, "\n--\n", 2);
    g_auto(GStrv) words = g_strsplit(parts[0] && parts[1] ? parts[1] : "qemu", "\n", 100);
    g_autoptr(GError) error = NULL;
    json_t *object = parts[0] ? json_loads(parts[0], 0, NULL) : NULL;
    g_autoptr(QemuMachine) machine =
        json_is_object(object) ? qemu_machine_parse(object, &error) : NULL;

    if (json_is_object(object))
        compare_cpu(json_object_get(object, "cpu"));
    if (machine) {
        g_autoptr(GPtrArray) found =
            qemu_machine_compare(machine, machine, MACHINE_COMPARE_LATER, NULL);

        (void)qemu_machine_check_idle(machine, NULL);
        (void)found;
        make_line(machine, object, words);
        plan(object);
    } else if (json_is_object(object) && !error) {
        abort();
    }
    json_decref(object);
    return 0;
}
