#include <stdio.h>

#include "base/rate.h"
#include "cli/cli.h"
#include "client/client.h"
#include "cli/output.h"

static const char description[] = "Shows the guests that this host's agent manages.";

static void add_guest(Table *table, json_t *guest)
{
    int64_t now = g_get_real_time() / G_USEC_PER_SEC;
    g_autofree char *age = format_age(now - (int64_t)json_count_or(guest, "since", (uint64_t)now));
    g_autofree char *pid =
        g_strdup_printf("%" G_GUINT64_FORMAT, (guint64)json_count_or(guest, "pid", 0));
    const char *destination = json_text_or(json_object_get(guest, "activity"), "destination",
                                           json_text_or(guest, "destination", NULL));
    const char *note = json_text_or(guest, "problem", NULL);
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

static void add_departure(Table *table, json_t *departure)
{
    int64_t now = g_get_real_time() / G_USEC_PER_SEC;
    int64_t then = (int64_t)json_count_or(departure, "moved_at", (uint64_t)now);
    g_autofree char *age = format_age(now - then);
    g_autofree char *text = g_strconcat(age, " ago", NULL);

    table_add(table, json_text_or(departure, "name", "?"),
              json_text_or(departure, "destination", "?"), text, NULL);
}

static void print_departures(json_t *departures)
{
    static const char *const titles[] = {"NAME", "MOVED TO", "WHEN", NULL};
    g_autoptr(Table) table = table_new(titles);
    json_t *departure;
    size_t i;

    if (json_array_size(departures) == 0) {
        printf("No guest has moved away from here that did not come back.\n");
        return;
    }
    json_array_foreach(departures, i, departure) add_departure(table, departure);
    table_print(table);
}

static void print_names(json_t *guests)
{
    json_t *guest;
    size_t i;

    json_array_foreach(guests, i, guest) printf("%s\n", json_text_or(guest, "name", "?"));
}

static int list(const CommonOptions *common, gboolean names, gboolean moved)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) answer =
        cli_call(common, "GET", moved ? "/v1/departures" : "/v1/guests", NULL, &error);
    json_t *entries = json_object_get(answer, moved ? "departures" : "guests");

    if (!answer)
        return cli_fail(common, error);
    if (common->json)
        cli_print_json(answer);
    else if (names)
        print_names(entries);
    else if (moved)
        print_departures(entries);
    else
        print_table(entries);
    return EXIT_DONE;
}

int verb_list(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    gboolean names = FALSE, moved = FALSE;
    const GOptionEntry entries[] = {
        {"names", 0, 0, G_OPTION_ARG_NONE, &names, "Print names only, one a line", NULL},
        {"moved", 0, 0, G_OPTION_ARG_NONE, &moved,
         "Show those that have moved away instead, and where to", NULL},
        {NULL},
    };
    CliSpec spec = {.description = description,
                    .entries = entries,
                    .common = &common,
                    .talks = TRUE,
                    .remote = TRUE};

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_arguments(argc, 0, 0, "options only"))
        return EXIT_USAGE;
    return list(&common, names, moved);
}
