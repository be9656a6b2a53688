#include <stdio.h>

#include "cli/cli.h"
#include "client/client.h"

static const char description[] =
    "Ends the guest's QEMU, as if its plug was pulled: shut the guest down inside first\n"
    "where that matters.  The agent forgets the guest.";

int verb_stop(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    CliSpec spec = {
        .parameters = "NAME", .description = description, .common = &common, .talks = TRUE};
    g_autoptr(Client) client = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) answer = NULL;
    g_autofree char *path = NULL;

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_arguments(argc, 1, 1, "one NAME"))
        return EXIT_USAGE;
    path = cli_guest_path(argv[1], NULL);
    if (!path)
        return EXIT_USAGE;
    client = client_new(common.socket);
    answer = client_call(client, "DELETE", path, NULL, &error);
    if (!answer)
        return cli_fail(&common, error);
    if (common.json)
        cli_print_json(answer);
    else
        printf("%s is stopped.\n", argv[1]);
    return EXIT_DONE;
}
