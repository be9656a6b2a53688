#include <stdio.h>
#include <string.h>

#include "base/name.h"
#include "cli/cli.h"
#include "client/client.h"
#include "cli/output.h"

static const char description[] =
    "Starts a guest from a plain command line of QEMU, or of Bochs (see vmferry-run(1)); the\n"
    "agent manages it.  With --vmm bochs the machine of a QEMU command line runs in Bochs.  To\n"
    "QEMU's the agent adds only a\n"
    "QMP socket of its own.  Paths should be absolute and mean the same on the hosts\n"
    "the guest will move to (or have map rules there, man 5 vmferry-agent.conf).\n\n"
    "Example: vmferry run web1 -- qemu-system-x86_64 -accel kvm -m 1G -hda /srv/web1.qcow2";

static json_t *make_request(const char *name, const char *vmm, int count, char **arguments)
{
    g_autofree char *directory = g_get_current_dir();
    json_t *list = json_array();

    for (int i = 0; i < count; i++)
        json_array_append_new(list, json_string(arguments[i]));
    return json_pack("{s:s, s:o, s:s, s:s*}", "name", name, "command_line", list, "directory",
                     directory, "vmm", vmm);
}

static int run(const CommonOptions *common, const char *name, const char *vmm, int count,
               char **arguments)
{
    g_autoptr(Client) client = client_new(common->socket);
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) guest = client_call(client, "POST", "/v1/guests",
                                          make_request(name, vmm, count, arguments), &error);

    if (!guest)
        return cli_fail(common, error);
    if (common->json) {
        cli_print_json(guest);
        return EXIT_DONE;
    }
    printf("%s runs as process %d.\n", name, (int)json_count_or(guest, "pid", 0));
    cli_warn_not_movable(guest);
    return EXIT_DONE;
}

/* Everything behind "--" is the command line; the place of "--", or 0. */
static int find_separator(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--") == 0)
            return i;
    return 0;
}

int verb_run(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    g_autofree char *vmm = NULL;
    const GOptionEntry entries[] = {
        {"vmm", 0, 0, G_OPTION_ARG_STRING, &vmm,
         "Run it in this virtual machine monitor (default: qemu)", "qemu|bochs"},
        {NULL},
    };
    int separator = find_separator(argc, argv);
    CliSpec spec = {.parameters = "NAME [--] QEMU-COMMAND-LINE",
                    .description = description,
                    .entries = entries,
                    .common = &common,
                    .talks = TRUE,
                    .stops_at_argument = separator == 0};
    int own = separator ? separator : argc;
    char **arguments = argv, **line;
    int count;
    g_autoptr(GError) error = NULL;

    if (!cli_parse(&spec, &own, &arguments))
        return EXIT_USAGE;
    if (own < 2 || (separator && own > 2))
        return cli_usage_error("wanted one NAME and a QEMU command line");
    if (!guest_name_check(arguments[1], &error))
        return cli_usage_error("%s", error->message);
    count = separator ? argc - separator - 1 : own - 2;
    line = separator ? argv + separator + 1 : arguments + 2;
    if (count < 1)
        return cli_usage_error("the QEMU command line is missing");
    if (line[0][0] == '-')
        return cli_usage_error("the QEMU command line begins with the program's name, as "
                               "qemu-system-x86_64, not with \"%s\"",
                               line[0]);
    return run(&common, arguments[1], vmm, count, line);
}
