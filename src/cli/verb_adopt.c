#include <stdio.h>

#include "agent/name.h"
#include "cli/cli.h"
#include "cli/client.h"

static const char description[] =
    "Makes a QEMU that runs already a guest of this host's agent, without a restart.  It\n"
    "needs a QMP socket that no other program is connected to, as by\n"
    "  -qmp unix:/run/web1.qmp,server=on,wait=off\n"
    "Its command line is searched for one unless --qmp names it.  `vmferry stop` ends it,\n"
    "nothing else does.";

static int adopt(const CommonOptions *common, const char *name, int pid, const char *qmp)
{
    g_autoptr(Client) client = client_new(common);
    g_autofree char *path = qmp ? g_canonicalize_filename(qmp, NULL) : NULL;
    g_autoptr(GError) error = NULL;
    json_t *request = json_pack("{s:s, s:i}", "name", name, "pid", pid);
    g_autoptr(json_t) guest = NULL;

    if (path)
        json_object_set_new(request, "qmp", json_string(path));
    guest = client_call(client, "POST", "/v1/guests", request, &error);
    if (!guest)
        return cli_fail(common, error);
    if (common->json) {
        cli_print_json(guest);
        return EXIT_DONE;
    }
    printf("The agent manages %s now: process %d.\n", name, pid);
    cli_warn_not_movable(guest);
    return EXIT_DONE;
}

int verb_adopt(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    g_autofree char *qmp = NULL;
    gint pid = 0;
    const GOptionEntry entries[] = {
        {"pid", 0, 0, G_OPTION_ARG_INT, &pid, "The QEMU process", "PID"},
        {"qmp", 0, 0, G_OPTION_ARG_FILENAME, &qmp, "Its QMP socket (default: found)", "PATH"},
        {NULL},
    };
    CliSpec spec = {.parameters = "NAME --pid PID",
                    .description = description,
                    .entries = entries,
                    .common = &common,
                    .talks = TRUE};
    g_autoptr(GError) error = NULL;

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_words(argc, 1, 1, "one NAME"))
        return EXIT_USAGE;
    if (!guest_name_check(argv[1], &error))
        return cli_usage_error("%s", error->message);
    if (pid <= 0)
        return cli_usage_error("--pid PID is missing");
    return adopt(&common, argv[1], pid, qmp);
}
