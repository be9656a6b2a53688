#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/output.h"

static const char description[] =
    "Says where guests may be:\n\n"
    "  add together GUEST GUEST...             on one host\n"
    "  add apart GUEST GUEST...                no two of them on one host\n"
    "  add hosts GUEST... --on HOST[,HOST...]  on these hosts only\n"
    "  add never GUEST...                      the engine does not move them\n"
    "  list                                    shows the rules\n"
    "  remove ID                               takes one away\n\n"
    "A rule that contradicts another one is refused.";

static void print_rules(json_t *answer)
{
    static const char *const titles[] = {"ID", "KIND", "GUESTS", "HOSTS", "", NULL};
    g_autoptr(Table) table = table_new(titles);
    json_t *rules = json_object_get(answer, "rules"), *rule, *name;
    size_t i, j;

    if (json_array_size(rules) == 0) {
        printf("There are no rules.\n");
        return;
    }
    json_array_foreach(rules, i, rule)
    {
        g_autoptr(GString) guests = g_string_new(NULL);
        g_autoptr(GString) hosts = g_string_new(NULL);

        json_array_foreach(json_object_get(rule, "guests"), j, name)
            g_string_append_printf(guests, "%s%s", j ? ", " : "", json_string_value(name));
        json_array_foreach(json_object_get(rule, "hosts"), j, name)
            g_string_append_printf(hosts, "%s%s", j ? ", " : "", json_string_value(name));
        table_add(table, json_text_or(rule, "id", "?"), json_text_or(rule, "kind", "?"),
                  guests->str, hosts->len ? hosts->str : "-",
                  json_flag_or(rule, "strict", TRUE) ? "strict" : "preferred", NULL);
    }
    table_print(table);
}

static int list_rules(const CommonOptions *common)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) answer = cli_call_engine(common, "GET", "/v1/rules", NULL, &error);

    if (!answer)
        return cli_fail(common, error);
    if (common->json)
        cli_print_json(answer);
    else
        print_rules(answer);
    return EXIT_DONE;
}

static int remove_rule(const CommonOptions *common, const char *id)
{
    g_autofree char *escaped = g_uri_escape_string(id, NULL, FALSE);
    g_autofree char *path = g_strconcat("/v1/rules/", escaped, NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) answer = cli_call_engine(common, "DELETE", path, NULL, &error);

    if (!answer)
        return cli_fail(common, error);
    if (common->json)
        cli_print_json(answer);
    else
        printf("Rule %s is removed.\n", id);
    return EXIT_DONE;
}

static json_t *make_rule(int count, char **words, const char *on, gboolean preferred)
{
    json_t *guests = json_array(), *hosts = json_array();
    g_auto(GStrv) names = g_strsplit_set(on ? on : "", ", ", -1);

    for (int i = 1; i < count; i++)
        json_array_append_new(guests, json_string(words[i]));
    for (char **name = names; *name; name++)
        if (**name)
            json_array_append_new(hosts, json_string(*name));
    return json_pack("{s:s, s:o, s:o, s:b}", "kind", words[0], "guests", guests, "hosts", hosts,
                     "strict", !preferred);
}

static int add_rule(const CommonOptions *common, json_t *rule)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) answer = cli_call_engine(common, "POST", "/v1/rules", rule, &error);

    if (!answer)
        return cli_fail(common, error);
    if (common->json)
        cli_print_json(answer);
    else
        printf("Rule %s is in force.\n", json_text_or(answer, "id", "?"));
    return EXIT_DONE;
}

int verb_rule(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    g_autofree char *on = NULL;
    gboolean preferred = FALSE;
    const GOptionEntry entries[] = {
        {"on", 0, 0, G_OPTION_ARG_STRING, &on, "Of `add hosts`: these hosts", "HOST,..."},
        {"preferred", 0, 0, G_OPTION_ARG_NONE, &preferred,
         "A wish: it may be broken where nothing else helps", NULL},
        {NULL},
    };
    CliSpec spec = {.parameters = "add together|apart|hosts|never GUEST... | list | remove ID",
                    .description = description,
                    .entries = entries,
                    .common = &common,
                    .engine = TRUE};

    if (!cli_parse(&spec, &argc, &argv) ||
        !cli_check_arguments(argc, 1, 300, "add, list or remove"))
        return EXIT_USAGE;
    if (strcmp(argv[1], "list") == 0 && argc == 2)
        return list_rules(&common);
    if (strcmp(argv[1], "remove") == 0 && argc == 3)
        return remove_rule(&common, argv[2]);
    if (strcmp(argv[1], "add") == 0 && argc >= 4)
        return add_rule(&common, make_rule(argc - 2, argv + 2, on, preferred));
    return cli_usage_error("write `add KIND GUEST...`, `list` or `remove ID`");
}
