#include <stdio.h>

#include "base/rate.h"
#include "cli/cli.h"

static const char description[] =
    "Changes the rate limit of a move that is under way; all of it (disks, memory, what\n"
    "follows after a switchover) goes by it from then on.\n\n"
    "RATE: bytes per second as 100M, 1.5G, 64Ki; bits per second as 100mbit, 1gbit; unlimited.\n\n"
    "Example: vmferry bandwidth web1 200mbit";

static int set(const CommonOptions *common, const char *name, const char *text)
{
    g_autofree char *path = cli_guest_path(name, "/migrate");
    g_autofree char *shown = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) answer = NULL;
    uint64_t rate;

    if (!path)
        return EXIT_USAGE;
    if (!rate_parse(text, &rate, &error))
        return cli_usage_error("%s", error->message);
    answer =
        cli_call(common, "PATCH", path, json_pack("{s:I}", "bandwidth", (json_int_t)rate), &error);
    if (!answer)
        return cli_fail(common, error);
    shown = rate ? rate_format((double)rate) : g_strdup("no limit");
    if (common->json)
        cli_print_json(answer);
    else
        printf("The limit of the move of %s is %s now.\n", name, shown);
    return EXIT_DONE;
}

int verb_bandwidth(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    CliSpec spec = {.parameters = "NAME RATE",
                    .description = description,
                    .common = &common,
                    .talks = TRUE,
                    .remote = TRUE};

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_arguments(argc, 2, 2, "NAME and RATE"))
        return EXIT_USAGE;
    return set(&common, argv[1], argv[2]);
}
