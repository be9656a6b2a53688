/*
 * The VM generation id: what tells a guest that it goes on from a copy of itself
 *
 * A guest that finds another id than before draws new random numbers, keys and leases (Microsoft, "Virtual Machine
 * Generation ID", 2012; docs/specs/vmgenid of QEMU). The machine has it where its command line has the device.
 */
#include <string.h>

#include "vmm/qemu/options.h"

char **qemu_renew_generation(char *const *command_line)
{
    char **line = g_strdupv((char **)command_line);
    QemuOption option = {0};

    while (qemu_option_next(command_line, &option)) {
        g_autoptr(QemuParameters) parameters = NULL;
        g_autofree char *id = NULL;

        if (g_strcmp0(option.name, "device") != 0 || !option.value || option.words != 2)
            continue;
        parameters = qemu_parameters_parse(option.value, "driver");
        if (g_strcmp0(qemu_parameters_get(parameters, "driver"), "vmgenid") != 0)
            continue;
        id = g_uuid_string_random();
        qemu_parameters_set(parameters, "guid", json_string(id));
        g_free(line[option.first + 1]);
        line[option.first + 1] = qemu_parameters_to_text(parameters);
    }
    return line;
}
