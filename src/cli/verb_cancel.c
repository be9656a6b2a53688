#include <stdio.h>

#include "cli/cli.h"
#include "client/client.h"
#include "cli/report.h"

static const char description[] =
    "Stops a move or a save, or what begins to protect a guest, and waits until it has stopped.\n"
    "The guest runs on here.  What is past its point of no return is completed instead; then the\n"
    "exit code is 3.";

int verb_cancel(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    CliSpec spec = {.parameters = "NAME",
                    .description = description,
                    .common = &common,
                    .talks = TRUE,
                    .remote = TRUE};
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) report = NULL;
    g_autofree char *path = NULL, *text = NULL;

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_arguments(argc, 1, 1, "one NAME"))
        return EXIT_USAGE;
    path = cli_guest_path(argv[1], "/cancel");
    if (!path)
        return EXIT_USAGE;
    report = cli_call(&common, "POST", path, NULL, &error);
    if (!report)
        return cli_fail(&common, error);
    text = report_describe_cancel(report, argv[1]);
    if (common.json)
        cli_print_json(report);
    else
        printf("%s\n", text);
    return report_get_cancel_exit(report);
}
