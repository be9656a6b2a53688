#include <stdio.h>

#include "agent/rate.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/output.h"

static const char description[] = "Shows the guests in the care of this host's agent.";

static void add_guest(Table *table, json_t *guest)
{
    int64_t now = g_get_real_time() / G_USEC_PER_SEC;
    g_autofree char *age = format_age(now - (int64_t)json_count_or(guest, "since", (uint64_t)now));
    g_autofree char *pid =
        g_strdup_printf("%" G_GUINT64_FORMAT, (guint64)json_count_or(guest, "pid", 0));
    const char *destination = json_text_or(guest, "destination", NULL);
    const char *note = json_text_or(guest, "trouble", NULL);
    g_autofree char *place = destination ? g_strconcat("to ", destination, NULL) : NULL;

    table_add(table, json_text_or(guest, "name", "?"), json_text_or(guest, "state", "?"),
              json_count_or(guest, "pid", 0) ? pid : NULL, age, json_text_or(guest, "origin", "?"),
              note    ? note
              : place ? place
                      : "",
              NULL);
}

static void print_table(json_t *guests)
{
    static const char *const titles[] = {"NAME", "STATE", "PID", "HERE FOR", "BY", "NOTE", NULL};
    g_autoptr(Table) table = table_new(titles);
    json_t *guest;
    size_t i;

    if (json_array_size(guests) == 0) {
        printf("No guests here. See `vmferry run --help` and `vmferry adopt --help`.\n");
        return;
    }
    json_array_foreach(guests, i, guest) add_guest(table, guest);
    table_print(table);
}

static void print_names(json_t *guests)
{
    json_t *guest;
    size_t i;

    json_array_foreach(guests, i, guest) printf("%s\n", json_text_or(guest, "name", "?"));
}

int verb_list(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    gboolean names = FALSE;
    const GOptionEntry entries[] = {
        {"names", 0, 0, G_OPTION_ARG_NONE, &names, "Print names only, one a line", NULL},
        {NULL},
    };
    CliSpec spec = {
        .description = description, .entries = entries, .common = &common, .talks = TRUE};
    g_autoptr(Client) client = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) answer = NULL;

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_words(argc, 0, 0, "options only"))
        return EXIT_USAGE;
    client = client_new(&common);
    answer = client_call(client, "GET", "/v1/guests", NULL, &error);
    if (!answer)
        return cli_fail(&common, error);
    if (common.json)
        cli_print_json(answer);
    else if (names)
        print_names(json_object_get(answer, "guests"));
    else
        print_table(json_object_get(answer, "guests"));
    return EXIT_DONE;
}
