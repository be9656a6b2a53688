#include "vmm/qemu/command_line.h"

#include <string.h>

#include "vmm/qemu/options.h"
#include "vmm/qemu/qemu.h"

#define DEFAULT_MEMORY_BYTES (128ull << 20)

gboolean qemu_is_program(const char *path)
{
    g_autofree char *name = g_path_get_basename(path);

    return strstr(name, "qemu") != NULL || strcmp(name, "kvm") == 0;
}

/* TRUE for the options that qemu_command_line_for_*() add. */
static gboolean is_own(const QemuOption *option)
{
    gboolean chardev = g_strcmp0(option->name, "chardev") == 0;
    g_autoptr(QemuParameters) parameters = NULL;

    if (!option->value || (!chardev && g_strcmp0(option->name, "mon") != 0))
        return FALSE;
    parameters = qemu_parameters_parse(option->value, chardev ? "backend" : "chardev");
    return g_strcmp0(qemu_parameters_get(parameters, chardev ? "id" : "chardev"),
                     QEMU_OWN_CHARDEV) == 0;
}

static gboolean is_of_one_start(const QemuOption *option)
{
    static const char *const names[] = {"daemonize", "incoming", "S", "loadvm", NULL};

    return option->name && g_strv_contains(names, option->name);
}

typedef gboolean (*OptionFilter)(const QemuOption *option);

/* A growing copy of argv without the options that *drop* picks. */
static GPtrArray *copy_without(char *const *argv, OptionFilter drop)
{
    GPtrArray *arguments = g_ptr_array_new_with_free_func(g_free);
    QemuOption option = {0};

    if (argv[0])
        g_ptr_array_add(arguments, g_strdup(argv[0]));
    while (qemu_option_next(argv, &option)) {
        if (drop(&option))
            continue;
        for (guint i = 0; i < option.words; i++)
            g_ptr_array_add(arguments, g_strdup(argv[option.first + i]));
    }
    return arguments;
}

static char **to_vector(GPtrArray *arguments)
{
    g_ptr_array_add(arguments, NULL);
    return (char **)g_ptr_array_free(arguments, FALSE);
}

static void add_qmp(GPtrArray *arguments, const char *qmp_path)
{
    g_autofree char *escaped = qemu_escape_commas(qmp_path);

    g_ptr_array_add(arguments, g_strdup("-chardev"));
    g_ptr_array_add(arguments, g_strdup_printf("socket,id=" QEMU_OWN_CHARDEV ",path=%s,server=on,"
                                               "wait=off",
                                               escaped));
    g_ptr_array_add(arguments, g_strdup("-mon"));
    g_ptr_array_add(arguments, g_strdup("chardev=" QEMU_OWN_CHARDEV ",mode=control"));
}

static gboolean drop_for_clean(const QemuOption *option)
{
    return is_own(option) || is_of_one_start(option);
}

char **qemu_command_line_clean(char *const *argv)
{
    return to_vector(copy_without(argv, drop_for_clean));
}

/* We detach QEMU ourselves: a QEMU that forks would leave the wrong pid. */
static gboolean drop_for_start(const QemuOption *option)
{
    return is_own(option) || g_strcmp0(option->name, "daemonize") == 0;
}

char **qemu_command_line_for_start(char *const *argv, const char *qmp_path)
{
    GPtrArray *arguments = copy_without(argv, drop_for_start);

    add_qmp(arguments, qmp_path);
    return to_vector(arguments);
}

static void apply_rules(GPtrArray *arguments, const GPtrArray *rules)
{
    for (guint i = 0; i < arguments->len; i++) {
        char *mapped = vmm_map_text(arguments->pdata[i], rules);

        g_free(arguments->pdata[i]);
        arguments->pdata[i] = mapped;
    }
}

char **qemu_command_line_for_incoming(char *const *argv, const GPtrArray *rules,
                                      const char *qmp_path)
{
    GPtrArray *arguments = copy_without(argv, drop_for_clean);

    apply_rules(arguments, rules);
    add_qmp(arguments, qmp_path);
    g_ptr_array_add(arguments, g_strdup("-incoming"));
    g_ptr_array_add(arguments, g_strdup("defer"));
    g_ptr_array_add(arguments, g_strdup("-S"));
    return to_vector(arguments);
}

/* "512", "512M", "4G": MiB where no unit is given; 0 where it is nonsense. */
static uint64_t parse_size(const char *text)
{
    static const char units[] = "KMGTPE";
    char *end = NULL;
    double number = g_ascii_strtod(text, &end);
    const char *unit = *end ? strchr(units, g_ascii_toupper(*end)) : NULL;
    guint shift = unit ? 10 * (guint)(unit - units + 1) : g_ascii_toupper(*end) == 'B' ? 0 : 20;
    double bytes = number * (double)(1ull << shift);

    return end != text && bytes > 0 && bytes < 1e18 ? (uint64_t)bytes : 0;
}

static gboolean uses_huge_pages(const QemuOption *option)
{
    g_autoptr(QemuParameters) parameters = NULL;

    if (g_strcmp0(option->name, "mem-path") == 0)
        return TRUE;
    if (g_strcmp0(option->name, "object") != 0 || !option->value)
        return FALSE;
    parameters = qemu_parameters_parse(option->value, "qom-type");
    return qemu_parameters_flag(parameters, "hugetlb") ||
           qemu_parameters_get(parameters, "mem-path") != NULL;
}

uint64_t qemu_command_line_memory(char *const *argv)
{
    uint64_t bytes = DEFAULT_MEMORY_BYTES;
    QemuOption option = {0};

    while (qemu_option_next(argv, &option)) {
        g_autoptr(QemuParameters) parameters = NULL;
        const char *size;

        if (uses_huge_pages(&option))
            return 0;
        if (g_strcmp0(option.name, "m") != 0 || !option.value)
            continue;
        parameters = qemu_parameters_parse(option.value, "size");
        size = qemu_parameters_get(parameters, "size");
        if (size)
            bytes = parse_size(size);
    }
    return bytes;
}
