#include <stdio.h>
#include <string.h>

#include "base/rate.h"
#include "cli/cli.h"
#include "cli/output.h"

static const char description[] =
    "Shows what the engine knows and does:\n\n"
    "  status            the engine, and how much there is\n"
    "  hosts             the hosts, what they have, and what suffers\n"
    "  guests            the guests, and whether they have what they were promised\n"
    "  plan              what would be done, and why; does nothing\n"
    "  moves             moves under way, and past ones\n"
    "  explain ID        why a move was made, what was expected, and what came of it\n"
    "  history HOST      figures of the last hour (--minutes)\n"
    "  events            what happened (--follow)\n"
    "  move GUEST HOST   orders a move\n"
    "  cancel ID         calls a move off";

typedef struct {
    int minutes;
    gboolean follow;
} Options;

/* ---- figures ---- */

static double number_of(json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);

    return json_is_number(value) ? json_number_value(value) : -1;
}

/* Each "-" where it is not known; free with g_free(). */
static char *format_share(double share)
{
    return share < 0 ? g_strdup("-") : g_strdup_printf("%.0f %%", share * 100);
}

static char *format_cpus(double used, double all)
{
    if (used < 0)
        return g_strdup("-");
    return all < 0 ? g_strdup_printf("%.2f", used) : g_strdup_printf("%.2f of %.3g", used, all);
}

static char *format_bytes_or_none(double bytes)
{
    return bytes < 0 ? g_strdup("-") : bytes_format(bytes);
}

static char *format_rate_or_none(double bytes)
{
    return bytes < 0 ? g_strdup("-") : rate_format(bytes);
}

/* The texts of a list with "; " between them; free with g_free(). */
static char *join(json_t *list)
{
    g_autoptr(GString) text = g_string_new(NULL);
    json_t *entry;
    size_t i;

    json_array_foreach(list, i, entry)
        g_string_append_printf(text, "%s%s", text->len ? "; " : "",
                               json_string_value(entry) ? json_string_value(entry) : "?");
    return g_strdup(text->str);
}

/* ---- status ---- */

/* "yes, for 8.1 s more if etcd is away", "no, engine1 does" */
static char *describe_lead(json_t *cluster)
{
    const char *led_by = json_text_or(cluster, "led_by", NULL);
    double lease_ms = number_of(cluster, "lease_ms");

    if (!json_flag_or(cluster, "leader", FALSE))
        return led_by ? g_strdup_printf("no, %s does", led_by) : g_strdup("no");
    return lease_ms > 0 ? g_strdup_printf("yes, for %.1f s more if etcd is away", lease_ms / 1e3)
                        : g_strdup("yes");
}

static void print_status(json_t *cluster)
{
    static const char *const columns[] = {"", "", NULL};
    g_autoptr(Table) table = table_new(columns);
    json_t *hits = json_object_get(cluster, "hit_rate");
    g_autofree char *hosts =
        g_strdup_printf("%d, %d of them usable", (int)number_of(cluster, "hosts"),
                        (int)number_of(cluster, "usable"));
    g_autofree char *lead = describe_lead(cluster);
    g_autofree char *guests = g_strdup_printf("%d", (int)number_of(cluster, "guests"));
    g_autofree char *hot = g_strdup_printf("%d", (int)number_of(cluster, "hot"));
    g_autofree char *moves = g_strdup_printf("%d", (int)number_of(cluster, "moves"));
    g_autofree char *rate =
        g_strdup_printf("%d of %d", (int)number_of(hits, "hits"), (int)number_of(hits, "of"));

    table_add(table, "engine", json_text_or(cluster, "engine", "?"), NULL);
    table_add(table, "leads", lead, NULL);
    table_add(table, "store", json_text_or(cluster, "store", "?"), NULL);
    table_add(table, "moves by itself", json_flag_or(cluster, "automatic", FALSE) ? "yes" : "no",
              NULL);
    if (json_flag_or(cluster, "frozen", FALSE))
        table_add(table, "frozen", json_text_or(cluster, "hold", "yes"), NULL);
    else if (json_text_or(cluster, "hold", NULL))
        table_add(table, "begins nothing", json_text_or(cluster, "hold", "?"), NULL);
    table_add(table, "hosts", hosts, NULL);
    table_add(table, "guests", guests, NULL);
    table_add(table, "hot hosts", hot, NULL);
    table_add(table, "moves under way", moves, NULL);
    table_add(table, "forecasts that came true", rate, NULL);
    table_print(table);
}

/* ---- hosts ---- */

static void add_host(Table *table, json_t *host)
{
    g_autofree char *cpu = format_cpus(number_of(host, "cpu_used"), number_of(host, "cpus"));
    g_autofree char *pressure = format_share(number_of(host, "cpu_pressure"));
    g_autofree char *memory = format_bytes_or_none(number_of(host, "memory_available_bytes"));
    g_autofree char *network = format_rate_or_none(number_of(host, "network_bytes_per_s"));
    g_autofree char *guests = g_strdup_printf("%d", (int)number_of(host, "guests"));
    g_autofree char *hot = join(json_object_get(host, "hot"));
    const char *problem = json_text_or(host, "problem", NULL);

    table_add(table, json_text_or(host, "name", "?"), guests, cpu, pressure, memory, network,
              problem                                ? problem
              : json_flag_or(host, "drained", FALSE) ? "drained"
              : *hot                                 ? hot
                                                     : "ok",
              NULL);
}

static void print_hosts(json_t *answer)
{
    static const char *const titles[] = {"NAME",        "GUESTS",  "CPU",   "PRESSURE",
                                         "MEMORY FREE", "NETWORK", "STATE", NULL};
    g_autoptr(Table) table = table_new(titles);
    json_t *hosts = json_object_get(answer, "hosts"), *host;
    size_t i;

    json_array_foreach(hosts, i, host) add_host(table, host);
    table_print(table);
}

/* ---- guests ---- */

static const char *describe_guest(json_t *guest)
{
    if (json_flag_or(guest, "stale", FALSE))
        return "its host's figures cannot be used";
    if (json_flag_or(guest, "frozen", FALSE))
        return json_text_or(guest, "frozen_why", "frozen");
    if (json_flag_or(guest, "moving", FALSE))
        return "moving";
    if (json_text_or(guest, "stuck", NULL))
        return json_text_or(guest, "stuck", NULL);
    return number_of(guest, "cooldown_ms") > 0 ? "has moved lately" : "ok";
}

static void add_guest(Table *table, json_t *guest)
{
    g_autofree char *cpu = format_cpus(number_of(guest, "cpu_used"), number_of(guest, "vcpus"));
    g_autofree char *wait = format_share(number_of(guest, "cpu_wait"));
    g_autofree char *memory = format_bytes_or_none(number_of(guest, "memory_bytes"));
    json_t *met = json_object_get(guest, "sla_met");

    table_add(table, json_text_or(guest, "name", "?"), json_text_or(guest, "host", "?"), cpu, wait,
              memory,
              json_is_true(met)    ? "met"
              : json_is_false(met) ? "MISSED"
                                   : "-",
              describe_guest(guest), NULL);
}

static void print_guests(json_t *answer)
{
    static const char *const titles[] = {"NAME",   "HOST", "CPU",   "WAITS",
                                         "MEMORY", "SLA",  "STATE", NULL};
    g_autoptr(Table) table = table_new(titles);
    json_t *guests = json_object_get(answer, "guests"), *guest;
    size_t i;

    json_array_foreach(guests, i, guest) add_guest(table, guest);
    table_print(table);
}

/* ---- the plan ---- */

static void print_plan(json_t *plan)
{
    json_t *moves = json_object_get(plan, "moves"), *move;
    json_t *hot = json_object_get(plan, "hot"), *answer;
    size_t i;

    json_array_foreach(moves, i, move) printf(
        "%s: %s -> %s\n%s\n\n", json_text_or(move, "guest", "?"), json_text_or(move, "from", "?"),
        json_text_or(move, "to", "?"), json_text_or(move, "text", ""));
    if (json_array_size(moves) == 0) {
        printf("No move: %s.\n", json_text_or(plan, "nothing", "nothing is known yet"));
        return;
    }
    json_array_foreach(hot, i, answer) printf("%s\n", json_text_or(answer, "text", ""));
}

/* ---- moves ---- */

static char *format_time(json_t *move, const char *key)
{
    double seconds = number_of(move, key);
    g_autoptr(GDateTime) then =
        seconds > 0 ? g_date_time_new_from_unix_local((gint64)seconds) : NULL;

    return then ? g_date_time_format(then, "%Y-%m-%d %H:%M:%S") : g_strdup("-");
}

static void add_move(Table *table, json_t *move)
{
    g_autofree char *id = g_strdup_printf("%d", (int)number_of(move, "id"));
    g_autofree char *made = format_time(move, "made_at");

    table_add(table, id, made, json_text_or(move, "guest", "?"), json_text_or(move, "from", "?"),
              json_text_or(move, "to", "?"), json_text_or(move, "ordered_by", "?"),
              json_text_or(move, "state", "?"), json_text_or(move, "problem", ""), NULL);
}

static void print_moves(json_t *answer)
{
    static const char *const titles[] = {"ID", "WHEN",  "GUEST", "FROM", "TO",
                                         "BY", "STATE", "",      NULL};
    g_autoptr(Table) table = table_new(titles);
    json_t *moves = json_object_get(answer, "moves"), *move;
    size_t i;

    if (json_array_size(moves) == 0) {
        printf("No moves yet.\n");
        return;
    }
    json_array_foreach(moves, i, move) add_move(table, move);
    table_print(table);
}

static char *format_ms_or_none(double ms)
{
    return ms < 0 ? g_strdup("?") : format_ms(ms);
}

static void print_explanation(json_t *move)
{
    json_t *forecast = json_object_get(move, "forecast");
    json_t *outcome = json_object_get(move, "outcome");
    json_t *hit = json_object_get(move, "hit");
    g_autofree char *expected = format_ms_or_none(number_of(forecast, "ms"));
    g_autofree char *pause = format_ms_or_none(number_of(forecast, "pause_ms"));
    g_autofree char *took = format_ms_or_none(number_of(outcome, "total_ms"));
    g_autofree char *stood = format_ms_or_none(number_of(outcome, "downtime_ms"));
    g_autofree char *made = format_time(move, "made_at");

    printf("Move %d of %s: %s -> %s, by %s, %s: %s", (int)number_of(move, "id"),
           json_text_or(move, "guest", "?"), json_text_or(move, "from", "?"),
           json_text_or(move, "to", "?"), json_text_or(move, "ordered_by", "?"), made,
           json_text_or(move, "state", "?"));
    if (json_text_or(move, "problem", NULL))
        printf(" (%s)", json_text_or(move, "problem", NULL));
    printf("\n\n%s\n",
           json_text_or(json_object_get(move, "explanation"), "text", "No reason is known."));
    if (forecast && !json_is_null(forecast))
        printf("\nExpected: %s in all, a pause of %s.\n", expected, pause);
    if (json_is_object(outcome))
        printf("Was: %s in all, a pause of %s.\n", took, stood);
    if (json_is_boolean(hit))
        printf("%s\n", json_is_true(hit)
                           ? "It has helped: neither host was hot a minute later."
                           : "It has not helped: one of the hosts was hot a minute later.");
}

/* ---- history ---- */

static void print_history(json_t *history)
{
    static const char *const titles[] = {"WHEN", "CPU", "MEMORY", "NETWORK", "PRESSURE", NULL};
    g_autoptr(Table) table = table_new(titles);
    json_t *times = json_object_get(history, "time"), *time;
    size_t i;

    json_array_foreach(times, i, time)
    {
        g_autoptr(GDateTime) then = g_date_time_new_from_unix_local(json_integer_value(time));
        g_autofree char *when = then ? g_date_time_format(then, "%H:%M:%S") : g_strdup("?");
        g_autofree char *cells[4] = {NULL};
        static const char *const keys[] = {"cpu", "memory", "network", "pressure"};

        for (guint j = 0; j < G_N_ELEMENTS(keys); j++) {
            json_t *value = json_array_get(json_object_get(history, keys[j]), i);
            double number = json_is_number(value) ? json_number_value(value) : -1;

            cells[j] = j == 2 ? format_rate_or_none(number) : format_share(number);
        }
        table_add(table, when, cells[0], cells[1], cells[2], cells[3], NULL);
        for (guint j = 1; j < G_N_ELEMENTS(keys); j++)
            g_free(cells[j]);
    }
    table_print(table);
}

/* ---- events ---- */

static gboolean print_event(json_t *event, gpointer user)
{
    const CommonOptions *common = user;

    if (common->json)
        cli_print_json(event);
    else
        printf("%s  %-12s %-16s %s\n", json_text_or(event, "time", "?"),
               json_text_or(event, "guest", "-"), json_text_or(event, "type", "?"),
               json_text_or(event, "text", ""));
    fflush(stdout);
    return TRUE;
}

static int show_events(const CommonOptions *common, const Options *options)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Client) client = cli_connect_engine(common, &error);
    const char *path = options->follow ? "/v1/events?follow=1" : "/v1/events";

    if (!client || !client_stream(client, "GET", path, NULL, print_event, (gpointer)common, &error))
        return cli_fail(common, error);
    return EXIT_DONE;
}

/* ---- the verbs below it ---- */

static void print_ordered(json_t *answer)
{
    printf(
        "Move %d of %s to %s is ordered; `vmferry cluster explain %d` tells what becomes of it.\n",
        (int)number_of(answer, "id"), json_text_or(answer, "guest", "?"),
        json_text_or(answer, "to", "?"), (int)number_of(answer, "id"));
}

static void print_cancelled(json_t *answer)
{
    printf("Move %d is called off.\n", (int)number_of(answer, "id"));
}

static const struct {
    const char *name, *method, *path; /* %s: the first argument, quoted for a path */
    int arguments;
    void (*print)(json_t *answer);
} words[] = {
    {"status", "GET", "/v1/cluster", 0, print_status},
    {"hosts", "GET", "/v1/hosts", 0, print_hosts},
    {"guests", "GET", "/v1/guests", 0, print_guests},
    {"plan", "GET", "/v1/plan", 0, print_plan},
    {"moves", "GET", "/v1/moves", 0, print_moves},
    {"explain", "GET", "/v1/moves/", 1, print_explanation},
    {"history", "GET", "/v1/history?host=", 1, print_history},
    {"move", "POST", "/v1/moves", 2, print_ordered},
    {"cancel", "DELETE", "/v1/moves/", 1, print_cancelled},
};

static int run_word(const CommonOptions *common, const Options *options, guint word,
                    char **arguments)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *argument =
        words[word].arguments == 1 ? g_uri_escape_string(arguments[0], NULL, FALSE) : g_strdup("");
    g_autofree char *minutes = strcmp(words[word].name, "history") == 0
                                   ? g_strdup_printf("&minutes=%d", options->minutes)
                                   : g_strdup("");
    g_autofree char *path = g_strconcat(words[word].path, argument, minutes, NULL);
    json_t *body = words[word].arguments == 2
                       ? json_pack("{s:s, s:s}", "guest", arguments[0], "to", arguments[1])
                       : NULL;
    g_autoptr(json_t) answer = cli_call_engine(common, words[word].method, path, body, &error);

    if (!answer)
        return cli_fail(common, error);
    if (common->json)
        cli_print_json(answer);
    else
        words[word].print(answer);
    return EXIT_DONE;
}

int verb_cluster(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    Options options = {.minutes = 60};
    const GOptionEntry entries[] = {
        {"minutes", 0, 0, G_OPTION_ARG_INT, &options.minutes, "Of `history`: how far back", "N"},
        {"follow", 0, 0, G_OPTION_ARG_NONE, &options.follow, "Of `events`: go on with new ones",
         NULL},
        {NULL},
    };
    CliSpec spec = {.parameters =
                        "status | hosts | guests | plan | moves | explain ID | history HOST | "
                        "events | move GUEST HOST | cancel ID",
                    .description = description,
                    .entries = entries,
                    .common = &common,
                    .engine = TRUE};

    if (!cli_parse(&spec, &argc, &argv) ||
        !cli_check_arguments(argc, 1, 3,
                             "status, hosts, guests, plan, moves, explain, history, "
                             "events, move or cancel"))
        return EXIT_USAGE;
    if (strcmp(argv[1], "events") == 0 && argc == 2)
        return show_events(&common, &options);
    for (guint i = 0; i < G_N_ELEMENTS(words); i++) {
        if (strcmp(argv[1], words[i].name) != 0)
            continue;
        if (argc - 2 != words[i].arguments)
            return cli_usage_error("\"%s\" takes %d arguments", words[i].name, words[i].arguments);
        return run_word(&common, &options, i, argv + 2);
    }
    return cli_usage_error("\"%s\" is not known", argv[1]);
}
