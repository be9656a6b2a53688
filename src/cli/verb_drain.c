#include <stdio.h>

#include "cli/cli.h"

static const char description[] =
    "Empties a host, for maintenance, and keeps it empty: tells first which guests cannot leave,\n"
    "and why; the engine moves the others, one after the other.  Given again it tells what is\n"
    "left.  The exit code is 1 where some cannot leave.";

static const char undrain_description[] = "Lets a drained host take guests again.";

static void print_list(json_t *list, gboolean stays)
{
    json_t *entry;
    size_t i;

    json_array_foreach(list, i, entry)
    {
        if (stays)
            printf("  %s: %s\n", json_text_or(entry, "guest", "?"),
                   json_text_or(entry, "why", "?"));
        else
            printf("  %s -> %s\n", json_text_or(entry, "guest", "?"),
                   json_text_or(entry, "to", "?"));
    }
}

static void print_drain(json_t *answer, const char *host)
{
    json_t *stays = json_object_get(answer, "cannot_leave");
    json_t *moves = json_object_get(answer, "moves");
    gboolean dry_run = json_flag_or(answer, "dry_run", FALSE);

    if (json_text_or(answer, "problem", NULL))
        printf("%s %s; nothing is moved until that is over.\n", host,
               json_text_or(answer, "problem", NULL));
    if (json_array_size(stays) > 0)
        printf("Cannot leave %s:\n", host);
    print_list(stays, TRUE);
    if (json_array_size(moves) > 0)
        printf(dry_run ? "Would leave, in this order:\n" : "Leave, in this order:\n");
    print_list(moves, FALSE);
    if (json_count_or(answer, "under_way", 0) > 0)
        printf("Already on their way: %d\n", (int)json_count_or(answer, "under_way", 0));
    else if (json_array_size(stays) == 0 && json_array_size(moves) == 0)
        printf("%s is empty%s.\n", host, dry_run ? "" : " and takes no guests");
}

/* The engine's answer, printed where a program listens; NULL after an error was shown. */
static json_t *order(const CommonOptions *common, const char *host, const char *what, json_t *body)
{
    g_autofree char *escaped = g_uri_escape_string(host, NULL, FALSE);
    g_autofree char *path = g_strdup_printf("/v1/hosts/%s/%s", escaped, what);
    g_autoptr(GError) error = NULL;
    json_t *answer = cli_call_engine(common, "POST", path, body, &error);

    if (!answer)
        (void)cli_fail(common, error);
    else if (common->json)
        cli_print_json(answer);
    return answer;
}

int verb_drain(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    gboolean dry_run = FALSE;
    const GOptionEntry entries[] = {
        {"dry-run", 0, 0, G_OPTION_ARG_NONE, &dry_run, "Only tell what would be done", NULL},
        {NULL},
    };
    CliSpec spec = {.parameters = "HOST",
                    .description = description,
                    .entries = entries,
                    .common = &common,
                    .engine = TRUE};
    g_autoptr(json_t) answer = NULL;

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_arguments(argc, 1, 1, "one HOST"))
        return EXIT_USAGE;
    answer = order(&common, argv[1], "drain", json_pack("{s:b}", "dry_run", dry_run));
    if (!answer)
        return EXIT_FAILED;
    if (!common.json)
        print_drain(answer, argv[1]);
    return json_array_size(json_object_get(answer, "cannot_leave")) > 0 ? EXIT_FAILED : EXIT_DONE;
}

int verb_undrain(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    CliSpec spec = {.parameters = "HOST",
                    .description = undrain_description,
                    .common = &common,
                    .engine = TRUE};
    g_autoptr(json_t) answer = NULL;

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_arguments(argc, 1, 1, "one HOST"))
        return EXIT_USAGE;
    answer = order(&common, argv[1], "undrain", NULL);
    if (!answer)
        return EXIT_FAILED;
    if (!common.json)
        printf("%s takes guests again.\n", argv[1]);
    return EXIT_DONE;
}
