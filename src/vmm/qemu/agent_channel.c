#include "vmm/qemu/agent_channel.h"

#include <string.h>

#include "base/error.h"
#include "base/process.h"
#include "base/unix_socket.h"
#include "vmm/qemu/options.h"
#include "vmm/qemu/qmp_endpoints.h"
#include "vmm/qemu/qmp_places.h"

/* The character device of the port; NULL: there is no port.  Free with g_free(). */
static char *find_chardev(char *const *argv)
{
    QemuOption option = {0};

    while (qemu_option_next(argv, &option)) {
        g_autoptr(QemuParameters) parameters = NULL;

        if (g_strcmp0(option.name, "device") != 0 || !option.value)
            continue;
        parameters = qemu_parameters_parse(option.value, "driver");
        if (g_strcmp0(qemu_parameters_get(parameters, "driver"), "virtserialport") == 0 &&
            g_strcmp0(qemu_parameters_get(parameters, "name"), QEMU_AGENT_PORT) == 0)
            return g_strdup(qemu_parameters_get(parameters, "chardev"));
    }
    return NULL;
}

static QmpEndpoint *find_endpoint(char *const *argv, GError **error)
{
    g_autofree char *chardev = find_chardev(argv);
    g_autoptr(QmpEndpoint) endpoint = chardev ? qmp_endpoint_of_chardev(argv, chardev) : NULL;

    if (!chardev)
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "the machine has no channel to an agent in its guest (-device "
                  "virtserialport,name=" QEMU_AGENT_PORT ")");
    else if (!endpoint || (endpoint->kind != QMP_AT_PATH && endpoint->kind != QMP_AT_ABSTRACT))
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "the channel to the agent in its guest, chardev \"%.64s\", is not a Unix socket "
                  "on which QEMU listens",
                  chardev);
    else
        return g_steal_pointer(&endpoint);
    return NULL;
}

gboolean qemu_check_agent(char *const *command_line, GError **error)
{
    g_autoptr(QmpEndpoint) endpoint = find_endpoint(command_line, error);

    return endpoint != NULL;
}

int qemu_connect_agent(pid_t pid, GError **error)
{
    g_auto(GStrv) argv = process_get_command_line(pid, error);
    g_autoptr(QmpEndpoint) endpoint = argv ? find_endpoint(argv, error) : NULL;
    g_autoptr(GPtrArray) places = endpoint ? qmp_places_of(pid, endpoint) : NULL;
    g_autoptr(GError) problem = NULL;

    for (guint i = 0; places && i < places->len; i++) {
        int fd;

        g_clear_error(&problem);
        fd = unix_socket_connect(places->pdata[i], &problem);
        if (fd >= 0)
            return fd;
    }
    if (problem)
        g_propagate_error(error, g_steal_pointer(&problem));
    return -1;
}
