#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

static const char freeze_description[] =
    "Has the engine begin no move by itself: of one guest, or of none at all where no GUEST is\n"
    "given.  What is under way goes on.  It lasts until `vmferry thaw`.";

static const char thaw_description[] =
    "Ends `vmferry freeze`; of a guest, also what the engine has frozen since somebody else had\n"
    "moved it.";

static int set_frozen(int argc, char **argv, const char *word, const char *description)
{
    g_auto(CommonOptions) common = {0};
    CliSpec spec = {
        .parameters = "[GUEST]", .description = description, .common = &common, .engine = TRUE};
    g_autofree char *path = g_strconcat("/v1/", word, NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) answer = NULL;

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_arguments(argc, 0, 1, "at most one GUEST"))
        return EXIT_USAGE;
    answer = cli_call_engine(&common, "POST", path,
                             argc == 2 ? json_pack("{s:s}", "guest", argv[1]) : NULL, &error);
    if (!answer)
        return cli_fail(&common, error);
    if (common.json)
        cli_print_json(answer);
    else
        printf("%s is %s.\n", argc == 2 ? argv[1] : "The engine",
               strcmp(word, "freeze") == 0 ? "frozen" : "not frozen any more");
    return EXIT_DONE;
}

int verb_freeze(int argc, char **argv)
{
    return set_frozen(argc, argv, "freeze", freeze_description);
}

int verb_thaw(int argc, char **argv)
{
    return set_frozen(argc, argv, "thaw", thaw_description);
}
