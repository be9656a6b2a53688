#include "vmm/qemu/qmp_endpoints.h"

#include <string.h>

#include "vmm/qemu/options.h"

/* More than any real command line has; the rest is not read. */
#define MAX_ENDPOINTS 64

void qmp_endpoint_free(QmpEndpoint *endpoint)
{
    if (!endpoint)
        return;
    g_free(endpoint->text);
    g_free(endpoint);
}

/* Takes *text*. */
static QmpEndpoint *endpoint_new(QmpEndpointKind kind, char *text)
{
    QmpEndpoint *endpoint = g_new0(QmpEndpoint, 1);

    endpoint->kind = kind;
    endpoint->text = text;
    return endpoint;
}

static QmpEndpoint *other(const char *text)
{
    return endpoint_new(QMP_AT_OTHER, g_strdup(text));
}

/* "tight" is on unless it is said to be off. */
static gboolean is_padded(const QemuParameters *parameters)
{
    return qemu_parameters_get(parameters, "tight") && !qemu_parameters_flag(parameters, "tight");
}

/* A socket's parameters, "path" for a Unix one. */
static QmpEndpoint *socket_endpoint(const QemuParameters *parameters)
{
    const char *path = qemu_parameters_get(parameters, "path");
    const char *port = qemu_parameters_get(parameters, "port");
    const char *host = qemu_parameters_get(parameters, "host");
    const char *fd = qemu_parameters_get(parameters, "fd");
    QmpEndpoint *endpoint;

    if (fd)
        return endpoint_new(QMP_AT_DESCRIPTOR, g_strdup(fd));
    if (!qemu_parameters_flag(parameters, "server"))
        return other("a socket that QEMU connects to");
    if (port)
        return endpoint_new(QMP_AT_TCP, g_strdup_printf("%s:%s", host ? host : "", port));
    if (!path)
        return other("a socket");
    if (!qemu_parameters_flag(parameters, "abstract"))
        return endpoint_new(QMP_AT_PATH, g_strdup(path));
    endpoint = endpoint_new(QMP_AT_ABSTRACT, g_strdup(path));
    endpoint->padded = is_padded(parameters);
    return endpoint;
}

/* "HOST:PORT,server=on", the host perhaps in brackets. */
static QmpEndpoint *tcp_endpoint(const char *value)
{
    g_autoptr(QemuParameters) parameters = qemu_parameters_parse(value, "address");
    const char *address = qemu_parameters_get(parameters, "address");

    if (!address || !qemu_parameters_flag(parameters, "server"))
        return other("a socket that QEMU connects to");
    return endpoint_new(QMP_AT_TCP, g_strdup(address));
}

/* A character device as -qmp and -serial have it. */
static QmpEndpoint *compat_endpoint(const char *value)
{
    g_autoptr(QemuParameters) parameters = NULL;

    if (g_str_has_prefix(value, "mon:"))
        value += 4;
    if (g_str_has_prefix(value, "tcp:"))
        return tcp_endpoint(value + 4);
    if (g_str_has_prefix(value, "telnet:"))
        return tcp_endpoint(value + 7);
    if (!g_str_has_prefix(value, "unix:"))
        return other(value);
    parameters = qemu_parameters_parse(value + 5, "path");
    return socket_endpoint(parameters);
}

QmpEndpoint *qmp_endpoint_of_chardev(char *const *argv, const char *id)
{
    QemuOption option = {0};

    while (qemu_option_next(argv, &option)) {
        g_autoptr(QemuParameters) parameters = NULL;
        const char *backend;

        if (g_strcmp0(option.name, "chardev") != 0 || !option.value)
            continue;
        parameters = qemu_parameters_parse(option.value, "backend");
        if (g_strcmp0(qemu_parameters_get(parameters, "id"), id) != 0)
            continue;
        backend = qemu_parameters_get(parameters, "backend");
        if (g_strcmp0(backend, "socket") == 0)
            return socket_endpoint(parameters);
        return other(backend ? backend : "an unknown device");
    }
    return NULL;
}

/* The chardev of a "-mon" in control mode; NULL for other monitors. */
static char *control_chardev(const QemuOption *option)
{
    g_autoptr(QemuParameters) parameters = NULL;

    if (g_strcmp0(option->name, "mon") != 0 || !option->value)
        return NULL;
    parameters = qemu_parameters_parse(option->value, "chardev");
    if (g_strcmp0(qemu_parameters_get(parameters, "mode"), "control") != 0)
        return NULL;
    return g_strdup(qemu_parameters_get(parameters, "chardev"));
}

static QmpEndpoint *endpoint_of(char *const *argv, const QemuOption *option)
{
    g_autofree char *id = control_chardev(option);

    if (id)
        return qmp_endpoint_of_chardev(argv, id);
    if (!option->value ||
        (g_strcmp0(option->name, "qmp") != 0 && g_strcmp0(option->name, "qmp-pretty") != 0))
        return NULL;
    if (g_str_has_prefix(option->value, "chardev:"))
        return qmp_endpoint_of_chardev(argv, option->value + 8);
    if (strcmp(option->value, "none") == 0)
        return NULL;
    return compat_endpoint(option->value);
}

GPtrArray *qmp_endpoints_find(char *const *argv)
{
    GPtrArray *endpoints = g_ptr_array_new_with_free_func((GDestroyNotify)qmp_endpoint_free);
    QemuOption option = {0};

    while (endpoints->len < MAX_ENDPOINTS && qemu_option_next(argv, &option)) {
        QmpEndpoint *endpoint = endpoint_of(argv, &option);

        if (endpoint)
            g_ptr_array_add(endpoints, endpoint);
    }
    return endpoints;
}
