#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "client/client.h"

static const char description[] =
    "Shows what happened to the guests of this host, oldest first.  With --json one object\n"
    "a line.  The newest 4096 events are kept.";

typedef struct {
    const CommonOptions *common;
    const char *guest; /* NULL: all */
} Printer;

static gboolean print_event(json_t *event, gpointer user)
{
    const Printer *printer = user;
    const char *guest = json_text_or(event, "guest", NULL);
    g_autoptr(GDateTime) utc = NULL;
    g_autoptr(GDateTime) local = NULL;
    g_autofree char *time = NULL;

    if (printer->guest && g_strcmp0(printer->guest, guest) != 0)
        return TRUE;
    if (printer->common->json) {
        cli_print_json(event);
        return !ferror(stdout);
    }
    utc = g_date_time_new_from_iso8601(json_text_or(event, "time", ""), NULL);
    local = utc ? g_date_time_to_local(utc) : NULL;
    time = local ? g_date_time_format(local, "%Y-%m-%d %H:%M:%S") : g_strdup("?");
    printf("%s  %-12s  %s%s%s\n", time, json_text_or(event, "type", "?"), guest ? guest : "",
           guest ? ": " : "", json_text_or(event, "text", ""));
    fflush(stdout);
    return !ferror(stdout);
}

int verb_events(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    gboolean follow = FALSE;
    gint64 since = 0;
    const GOptionEntry entries[] = {
        {"follow", 'f', 0, G_OPTION_ARG_NONE, &follow, "Go on with new events as they come", NULL},
        {"since", 0, 0, G_OPTION_ARG_INT64, &since, "Only events with a number above N", "N"},
        {NULL},
    };
    CliSpec spec = {.parameters = "[NAME]",
                    .description = description,
                    .entries = entries,
                    .common = &common,
                    .talks = TRUE,
                    .remote = TRUE};
    g_autoptr(Client) client = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree char *path = NULL;
    Printer printer = {.common = &common};

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_arguments(argc, 0, 1, "one NAME"))
        return EXIT_USAGE;
    if (since < 0)
        return cli_usage_error("--since must not be negative");
    printer.guest = argc == 2 ? argv[1] : NULL;
    client = cli_connect(&common, &error);
    path = g_strdup_printf("/v1/events?since=%" G_GINT64_FORMAT "&follow=%d", since, follow);
    if (!client || !client_stream(client, "GET", path, NULL, print_event, &printer, &error))
        return cli_fail(&common, error);
    return EXIT_DONE;
}
