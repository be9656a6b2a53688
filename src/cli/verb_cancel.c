#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "client/client.h"
#include "cli/report.h"

static const char description[] =
    "Stops a move and waits until it has stopped.  The guest runs on here.  A move that is\n"
    "past its point of no return is completed instead; then the exit code is 3.";

static void tell(const char *name, json_t *report, int code)
{
    if (code == EXIT_DONE)
        printf("The move of %s is cancelled; it runs on here.\n", name);
    else if (strcmp(json_text_or(report, "status", ""), "completed") == 0)
        printf("Too late: %s has moved to %s.\n", name, json_text_or(report, "destination", "?"));
    else
        printf("The move of %s ended by itself: %s\n", name, json_text_or(report, "error", "?"));
}

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
    g_autofree char *path = NULL;
    int code;

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_arguments(argc, 1, 1, "one NAME"))
        return EXIT_USAGE;
    path = cli_guest_path(argv[1], "/cancel");
    if (!path)
        return EXIT_USAGE;
    report = cli_call(&common, "POST", path, NULL, &error);
    if (!report)
        return cli_fail(&common, error);
    code = report_get_cancel_exit(report);
    if (common.json)
        cli_print_json(report);
    else
        tell(argv[1], report, code);
    return code;
}
