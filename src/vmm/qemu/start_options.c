#include "vmm/qemu/start_options.h"

#include <string.h>

#include "vmm/qemu/options.h"

static void set_text(char **field, const char *value)
{
    g_free(*field);
    *field = g_strdup(value);
}

static void read_run_with(const char *value, QemuStartOptions *options)
{
    g_autoptr(QemuParameters) parameters = qemu_parameters_parse(value, NULL);
    const char *root = qemu_parameters_get(parameters, "chroot");

    if (root)
        set_text(&options->root, root);
    if (qemu_parameters_get(parameters, "user"))
        options->changes_user = TRUE;
}

static void read_sandbox(const char *value, QemuStartOptions *options)
{
    g_autoptr(QemuParameters) parameters = qemu_parameters_parse(value, "enable");

    options->filters = qemu_parameters_flag(parameters, "enable");
}

static void read_option(const QemuOption *option, QemuStartOptions *options)
{
    if (strcmp(option->name, "runas") == 0)
        options->changes_user = TRUE;
    else if (strcmp(option->name, "chroot") == 0)
        set_text(&options->root, option->value);
    else if (strcmp(option->name, "pidfile") == 0)
        set_text(&options->pidfile, option->value);
    else if (strcmp(option->name, "run-with") == 0)
        read_run_with(option->value, options);
    else if (strcmp(option->name, "sandbox") == 0)
        read_sandbox(option->value, options);
}

void qemu_start_options_read(char *const *argv, QemuStartOptions *ret)
{
    QemuOption option = {0};

    *ret = (QemuStartOptions){0};
    while (qemu_option_next(argv, &option))
        if (option.name && option.value)
            read_option(&option, ret);
}

void qemu_start_options_clear(QemuStartOptions *options)
{
    g_clear_pointer(&options->root, g_free);
    g_clear_pointer(&options->pidfile, g_free);
}
