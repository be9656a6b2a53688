#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "client/client.h"

static const char description[] =
    "Decides about a guest in doubt: its switchover was under way when the destination became\n"
    "silent.  Look there first: a guest that is kept on both hosts is two guests on one disk.\n"
    "The agent asks once more; a definite answer of the destination wins over the decision.";

static int resolve(const CommonOptions *common, const char *name, const char *path,
                   const char *keep)
{
    g_autoptr(Client) client = client_new(common->socket);
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) answer =
        client_call(client, "POST", path, json_pack("{s:s}", "keep", keep), &error);
    const char *kept;

    if (!answer)
        return cli_fail(common, error);
    kept = json_text_or(answer, "kept", "?");
    if (common->json)
        cli_print_json(answer);
    else
        printf("%s goes on %s.%s\n", name, strcmp(kept, "here") == 0 ? "here" : "there",
               strcmp(kept, keep) == 0 ? "" : " The destination had answered after all.");
    return strcmp(kept, keep) == 0 ? EXIT_DONE : EXIT_ATTENTION;
}

int verb_resolve(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    g_autofree char *keep = NULL;
    const GOptionEntry entries[] = {
        {"keep", 0, 0, G_OPTION_ARG_STRING, &keep,
         "\"here\" resumes the guest on this host; \"there\" ends this host's copy", "here|there"},
        {NULL},
    };
    CliSpec spec = {.parameters = "NAME --keep here|there",
                    .description = description,
                    .entries = entries,
                    .common = &common,
                    .talks = TRUE};
    g_autofree char *path = NULL;

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_arguments(argc, 1, 1, "one NAME"))
        return EXIT_USAGE;
    if (!keep || (strcmp(keep, "here") != 0 && strcmp(keep, "there") != 0))
        return cli_usage_error("--keep here or --keep there is missing");
    path = cli_guest_path(argv[1], "/resolve");
    return path ? resolve(&common, argv[1], path, keep) : EXIT_USAGE;
}
