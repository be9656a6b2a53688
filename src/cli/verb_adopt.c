#include <stdio.h>

#include "base/name.h"
#include "cli/cli.h"
#include "client/client.h"

static const char description[] =
    "Makes a QEMU that runs already a guest of this host's agent, without a restart.  It\n"
    "needs a QMP socket that no other program is connected to, as by\n"
    "  -qmp unix:/run/web1.qmp,server=on,wait=off\n"
    "Its command line is searched for one unless --qmp names it.  `vmferry stop` ends it,\n"
    "nothing else does.\n"
    "A guest of libvirt's is named by its domain, and stays libvirt's: --libvirt DOMAIN.";

typedef struct {
    int pid;
    const char *qmp;
    const char *libvirt, *connect;
    gboolean allow_supervisor;
} AdoptOptions;

/* "@NAME" is an abstract socket; a relative path is this process's, not the agent's. */
static char *whole_qmp(const char *qmp)
{
    return qmp[0] == '@' ? g_strdup(qmp) : g_canonicalize_filename(qmp, NULL);
}

static int adopt(const CommonOptions *common, const char *name, const AdoptOptions *options)
{
    g_autoptr(Client) client = client_new(common->socket);
    g_autofree char *qmp = options->qmp ? whole_qmp(options->qmp) : NULL;
    g_autoptr(GError) error = NULL;
    json_t *request = json_pack("{s:s}", "name", name);
    g_autoptr(json_t) guest = NULL;
    const char *supervisor;

    if (options->libvirt)
        json_object_set_new(request, "libvirt", json_string(options->libvirt));
    else
        json_object_set_new(request, "pid", json_integer(options->pid));
    if (options->connect)
        json_object_set_new(request, "connect", json_string(options->connect));
    if (qmp)
        json_object_set_new(request, "qmp", json_string(qmp));
    if (options->allow_supervisor)
        json_object_set_new(request, "allow_supervisor", json_true());
    guest = client_call(client, "POST", "/v1/guests", request, &error);
    if (!guest)
        return cli_fail(common, error);
    if (common->json) {
        cli_print_json(guest);
        return EXIT_DONE;
    }
    supervisor = json_text_or(guest, "supervisor", NULL);
    printf("The agent manages %s now: process %d.\n", name, (int)json_count_or(guest, "pid", 0));
    if (supervisor)
        printf("Mind that %s.\n", supervisor);
    cli_warn_not_movable(guest);
    return EXIT_DONE;
}

int verb_adopt(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    g_autofree char *qmp = NULL, *libvirt = NULL, *uri = NULL;
    AdoptOptions options = {0};
    const GOptionEntry entries[] = {
        {"pid", 0, 0, G_OPTION_ARG_INT, &options.pid, "The QEMU process", "PID"},
        {"qmp", 0, 0, G_OPTION_ARG_FILENAME, &qmp, "Its QMP socket (default: found)", "PATH"},
        {"libvirt", 0, 0, G_OPTION_ARG_STRING, &libvirt, "The domain that it is for libvirt",
         "DOMAIN"},
        {"connect", 0, 0, G_OPTION_ARG_STRING, &uri,
         "Where libvirt is (default: the agent's LIBVIRT_DEFAULT_URI, or qemu:///system)", "URI"},
        {"allow-supervisor", 0, 0, G_OPTION_ARG_NONE, &options.allow_supervisor,
         "Accept what may start it again: you keep it from that, once the guest has moved", NULL},
        {NULL},
    };
    CliSpec spec = {.parameters = "NAME --pid PID | NAME --libvirt DOMAIN",
                    .description = description,
                    .entries = entries,
                    .common = &common,
                    .talks = TRUE};
    g_autoptr(GError) error = NULL;

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_arguments(argc, 1, 1, "one NAME"))
        return EXIT_USAGE;
    if (!guest_name_check(argv[1], &error))
        return cli_usage_error("%s", error->message);
    if ((options.pid > 0) == (libvirt != NULL))
        return cli_usage_error("give either --pid PID or --libvirt DOMAIN");
    if (libvirt ? qmp != NULL : uri != NULL)
        return cli_usage_error("--connect goes with --libvirt, and --qmp with --pid");
    options.libvirt = libvirt;
    options.connect = uri;
    options.qmp = qmp;
    return adopt(&common, argv[1], &options);
}
