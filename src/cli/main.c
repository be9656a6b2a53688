#include <locale.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "vmferry-config.h"

static int verb_help(int argc, char **argv);
static int verb_version(int argc, char **argv);

static const Verb verbs[] = {
    {"agent", "Serve this host's guests (the daemon)", verb_agent},
    {"pki", "Make certificates for agents", verb_pki},
    {"run", "Start a guest from a QEMU command line", verb_run},
    {"adopt", "Manage a QEMU that runs already", verb_adopt},
    {"list", "Show the guests of this host", verb_list},
    {"status", "Show a guest, or the agent", verb_status},
    {"top", "Show what this host and its guests use", verb_top},
    {"disk", "Show the disks of a guest", verb_disk},
    {"image", "Show, check and merge saved images", verb_image},
    {"state", "Show, compare and check the state of processors and devices", verb_state},
    {"debug", "Look into a copy of a guest with a debugger", verb_debug},
    {"stop", "End a guest", verb_stop},
    {"events", "Show what happened", verb_events},
    {"estimate", "Tell what a move of a guest would take", verb_estimate},
    {"migrate", "Move a guest to another host, live", verb_migrate},
    {"save", "Save a guest into an image", verb_save},
    {"restore", "Go on with a guest from its image", verb_restore},
    {"protect", "Keep a standby of a guest on another host", verb_protect},
    {"unprotect", "End that", verb_unprotect},
    {"failover", "Have the standby go on with a guest", verb_failover},
    {"bandwidth", "Change the rate limit of a move", verb_bandwidth},
    {"cancel", "Stop a move or a save", verb_cancel},
    {"resolve", "Decide where a guest in doubt goes on", verb_resolve},
    {"engine", "Watch all hosts and move guests (the daemon)", verb_engine},
    {"cluster", "Show what the engine knows, plans and does", verb_cluster},
    {"drain", "Empty a host", verb_drain},
    {"undrain", "Let a host take guests again", verb_undrain},
    {"freeze", "Have the engine leave a guest, or all, alone", verb_freeze},
    {"thaw", "End that", verb_thaw},
    {"rule", "Say which guests belong together, or where", verb_rule},
    {"sla", "Promise a guest what it shall have", verb_sla},
    {"check", "Find out what works on this host", verb_check},
    {"version", "Show the version", verb_version},
    {"help", "Show help for a verb", verb_help},
    {NULL, NULL, NULL},
};

static const Verb *find_verb(const char *name)
{
    for (const Verb *verb = verbs; verb->name; verb++)
        if (strcmp(verb->name, name) == 0)
            return verb;
    return NULL;
}

static void print_usage(FILE *out)
{
    fprintf(out, "Usage: vmferry VERB [OPTIONS]\n\n"
                 "Moves virtual machines between hosts while they run, from outside of QEMU.\n\n");
    for (const Verb *verb = verbs; verb->name; verb++)
        fprintf(out, "  %-10s %s\n", verb->name, verb->summary);
    fprintf(out, "\n`vmferry VERB --help` tells more; so do the man pages (man vmferry).\n");
}

static int verb_version(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    CliSpec spec = {.description = "Shows the version.", .common = &common};

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_arguments(argc, 0, 0, "nothing"))
        return EXIT_USAGE;
    if (common.json) {
        g_autoptr(json_t) object = json_pack("{s:s}", "version", VMFERRY_VERSION);

        cli_print_json(object);
    } else {
        printf("vmferry %s\n", VMFERRY_VERSION);
    }
    return EXIT_DONE;
}

static int run_verb(const Verb *verb, int argc, char **argv)
{
    g_autofree char *name = g_strdup_printf("vmferry %s", verb->name);

    g_set_prgname(name);
    return verb->main(argc, argv);
}

static gboolean has_page(const char *page)
{
    const char *arguments[] = {"man", "-w", page, NULL};
    const GSpawnFlags flags =
        G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL | G_SPAWN_STDERR_TO_DEV_NULL;
    int status;

    return g_spawn_sync(NULL, (char **)arguments, NULL, flags, NULL, NULL, NULL, NULL, &status,
                        NULL) &&
           status == 0;
}

static int show_verb(const char *name)
{
    const Verb *verb = find_verb(name);
    g_autofree char *page = g_strdup_printf("vmferry-%s", name);
    char *arguments[] = {(char *)name, (char *)"--help", NULL};

    if (!verb)
        return cli_usage_error("there is no verb \"%s\"", name);
    /* For users the whole page, for programs the short text. */
    if (isatty(STDOUT_FILENO) && has_page(page))
        execlp("man", "man", page, (char *)NULL);
    return run_verb(verb, 2, arguments);
}

/* All verbs with all options, for those who make something of it (completions/generate). */
static int list_verbs(void)
{
    g_autoptr(json_t) object = json_pack("{s:s, s:[]}", "version", VMFERRY_VERSION, "verbs");
    json_t *list = json_object_get(object, "verbs");

    for (const Verb *verb = verbs; verb->name; verb++)
        json_array_append_new(list, cli_describe(verb));
    cli_print_json(object);
    return EXIT_DONE;
}

static int verb_help(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    CliSpec spec = {.parameters = "[VERB]",
                    .description = "Shows what there is, or the manual of a verb; with --json all "
                                   "verbs and their options.",
                    .common = &common};

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_arguments(argc, 0, 1, "one verb"))
        return EXIT_USAGE;
    if (argc == 2)
        return show_verb(argv[1]);
    if (common.json)
        return list_verbs();
    print_usage(stdout);
    return EXIT_DONE;
}

int main(int argc, char **argv)
{
    const Verb *verb;

    setlocale(LC_ALL, "");
    g_set_prgname("vmferry");
    if (argc < 2) {
        print_usage(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_usage(stdout);
        return EXIT_DONE;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("vmferry %s\n", VMFERRY_VERSION);
        return EXIT_DONE;
    }
    verb = find_verb(argv[1]);
    if (!verb && argv[1][0] == '-')
        return cli_usage_error("options follow the verb: vmferry VERB %s", argv[1]);
    if (!verb)
        return cli_usage_error("there is no verb \"%s\"", argv[1]);
    return run_verb(verb, argc - 1, argv + 1);
}
