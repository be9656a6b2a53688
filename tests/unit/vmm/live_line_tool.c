/*
 * Asks a live QEMU for its machine and writes down what a move would tell
 *
 *   live_line_tool PID QMP-SOCKET FILE     machine into FILE, words as JSON to
 *                                          standard output
 *
 * The settings of added things go along under "settings" (QOM path → object),
 * so that test_live_line.c can make the line again without QEMU.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "vmm/qemu/driver.h"
#include "vmm/qemu/machine.h"

static json_t *print_words(char **words)
{
    json_t *array = json_array();

    for (char **word = words; *word; word++)
        json_array_append_new(array, json_string(*word));
    return array;
}

/* Things that may have been added: all that have an id or number, and objects. */
static void add_settings(Qmp *qmp, json_t *machine)
{
    g_autoptr(QemuMachine) parsed = qemu_machine_parse(machine, NULL);
    const GPtrArray *lists[] = {parsed->named, parsed->anonymous, parsed->objects};
    static const char *const folders[] = {"/machine/peripheral", "/machine/peripheral-anon",
                                          "/objects"};
    json_t *settings = json_object();

    for (guint k = 0; k < G_N_ELEMENTS(lists); k++)
        for (guint i = 0; i < lists[k]->len; i++) {
            const QemuObject *object = lists[k]->pdata[i];
            g_autofree char *path = g_strdup_printf("%s/%s", folders[k], object->name);
            g_autoptr(GError) problem = NULL;

            if (!g_str_has_suffix(object->type, "-cpu"))
                json_object_set_new(settings, path,
                                    qemu_read_settings(path, object->type, qmp, &problem));
            if (problem)
                fprintf(stderr, "%s: %s\n", path, problem->message);
        }
    json_object_set_new(machine, "settings", settings);
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) line = NULL;
    g_autoptr(json_t) machine = NULL;
    g_autoptr(json_t) words = NULL;
    g_autofree char *type = NULL;
    QemuVmm *qemu;
    Vmm *vmm = argc == 4 ? qemu_adopt((pid_t)atoi(argv[1]), argv[2], &error) : NULL;

    if (!vmm) {
        fprintf(stderr, "%s\n", error ? error->message : "PID QMP-SOCKET FILE");
        return 1;
    }
    qemu = (QemuVmm *)vmm;
    machine = qemu_read_machine(qemu, NULL, &line, &error);
    if (!machine) {
        fprintf(stderr, "%s\n", error->message);
        return 1;
    }
    add_settings(qemu->qmp, machine);
    type = qemu_get_machine(qemu, NULL);
    json_object_set_new(machine, "type", json_string(type));
    if (json_dump_file(machine, argv[3], JSON_INDENT(1) | JSON_SORT_KEYS) < 0)
        return 1;
    words = print_words(line);
    json_dumpf(words, stdout, 0);
    printf("\n");
    vmm_free(vmm);
    return 0;
}
