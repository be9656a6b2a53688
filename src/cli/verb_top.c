#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/rate.h"
#include "cli/cli.h"
#include "cli/output.h"
#include "client/client.h"

static const char description[] =
    "Shows what this host and its guests use: CPU, memory, networks, disks, and how long they\n"
    "wait for these.  On a terminal it goes on every two seconds until Ctrl-C; \"-\" is what is\n"
    "not known.";

#define INTERVAL_NS UINT64_C(2000000000)
#define CLEAR_SCREEN "\033[H\033[2J\033[3J"

/* ---- figures as texts; NULL where they are not known ---- */

static char *get_real(json_t *object, const char *key, int decimals)
{
    json_t *value = json_object_get(object, key);

    return json_is_number(value) ? g_strdup_printf("%.*f", decimals, json_number_value(value))
                                 : NULL;
}

static char *get_share(json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);

    return json_is_number(value) ? g_strdup_printf("%.0f %%", 100 * json_number_value(value))
                                 : NULL;
}

static char *get_bytes(json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);

    return json_is_number(value) ? bytes_format(json_number_value(value)) : NULL;
}

static char *get_rate(json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);

    return json_is_number(value) ? rate_format(json_number_value(value)) : NULL;
}

static const char *or_dash(const char *text)
{
    return text ? text : "-";
}

/* ---- the host ---- */

static void add_pressure(Table *table, json_t *load)
{
    json_t *pressure = json_object_get(load, "pressure");
    g_autofree char *cpu = get_share(json_object_get(pressure, "cpu"), "some");
    g_autofree char *memory = get_share(json_object_get(pressure, "memory"), "some");
    g_autofree char *io = get_share(json_object_get(pressure, "io"), "some");
    g_autofree char *text = g_strdup_printf("CPU %s, memory %s, I/O %s of the time", or_dash(cpu),
                                            or_dash(memory), or_dash(io));

    table_add(table, "tasks wait for", text, NULL);
}

static void add_cpu(Table *table, json_t *load)
{
    g_autofree char *used = get_real(load, "cpu_used", 2);
    g_autofree char *cpus = get_real(load, "cpus", 1);
    g_autofree char *queue = get_real(load, "run_queue", 0);
    g_autofree char *text = queue
                                ? g_strdup_printf("%s of %s in use, %s tasks run or want to",
                                                  or_dash(used), or_dash(cpus), queue)
                                : g_strdup_printf("%s of %s in use", or_dash(used), or_dash(cpus));

    table_add(table, "CPUs", text, NULL);
}

static void add_memory(Table *table, json_t *load)
{
    g_autofree char *available = get_bytes(load, "memory_available_bytes");
    g_autofree char *memory = get_bytes(load, "memory_bytes");
    g_autofree char *text =
        g_strdup_printf("%s of %s available", or_dash(available), or_dash(memory));
    g_autofree char *in = get_rate(load, "swap_in_bytes_per_s");
    g_autofree char *out = get_rate(load, "swap_out_bytes_per_s");
    g_autofree char *swapping = g_strdup_printf("%s in, %s out", or_dash(in), or_dash(out));

    table_add(table, "memory", text, NULL);
    table_add(table, "swapping", swapping, NULL);
}

static void add_moves(Table *table, json_t *load)
{
    json_t *moves = json_object_get(load, "moves");
    g_autofree char *received = get_rate(moves, "received_bytes_per_s");
    g_autofree char *sent = get_rate(moves, "sent_bytes_per_s");
    g_autofree char *cpu = get_real(moves, "cpu_used", 2);
    g_autofree char *text = g_strdup_printf("%s received, %s sent, %s CPUs", or_dash(received),
                                            or_dash(sent), or_dash(cpu));

    table_add(table, "of that by moves", text, NULL);
}

static void print_host(json_t *load)
{
    static const char *const columns[] = {"", "", NULL};
    g_autoptr(Table) table = table_new(columns);
    json_t *problem;
    size_t i;

    table_add(table, "host", json_text_or(load, "host", "?"), NULL);
    add_cpu(table, load);
    add_memory(table, load);
    add_pressure(table, load);
    add_moves(table, load);
    json_array_foreach(json_object_get(load, "problems"), i, problem)
        table_add(table, "not known", json_string_value(problem), NULL);
    table_print(table);
}

static void print_links(json_t *links)
{
    static const char *const titles[] = {"LINK", "CARRIES", "RECEIVED", "SENT", "DROPS/S", NULL};
    g_autoptr(Table) table = table_new(titles);
    json_t *link;
    size_t i;

    json_array_foreach(links, i, link)
    {
        g_autofree char *speed = get_rate(link, "speed_bytes_per_s");
        g_autofree char *received = get_rate(link, "received_bytes_per_s");
        g_autofree char *sent = get_rate(link, "sent_bytes_per_s");
        g_autofree char *drops = get_real(link, "drops_per_s", 1);

        table_add(table, json_text_or(link, "name", "?"), speed, received, sent, drops, NULL);
    }
    if (json_array_size(links) > 0) {
        printf("\n");
        table_print(table);
    }
}

/* ---- guests ---- */

static void add_guest(Table *table, json_t *guest)
{
    json_t *network = json_object_get(guest, "network"), *disk = json_object_get(guest, "disk");
    g_autofree char *cpu = get_real(guest, "cpu_used", 2);
    g_autofree char *wait = get_share(guest, "cpu_wait");
    g_autofree char *resident = get_bytes(guest, "resident_bytes");
    g_autofree char *swapped = get_bytes(guest, "swapped_bytes");
    g_autofree char *received = get_rate(network, "received_bytes_per_s");
    g_autofree char *sent = get_rate(network, "sent_bytes_per_s");
    g_autofree char *read = get_rate(disk, "read_bytes_per_s");
    g_autofree char *written = get_rate(disk, "written_bytes_per_s");

    table_add(table, json_text_or(guest, "name", "?"), json_text_or(guest, "state", "?"), cpu, wait,
              resident, swapped, received, sent, read, written, NULL);
}

static void print_guests(json_t *guests)
{
    static const char *const titles[] = {"GUEST",  "STATE",   "CPUS",     "WAITS",
                                         "MEMORY", "SWAPPED", "RECEIVED", "SENT",
                                         "READ",   "WRITTEN", NULL};
    g_autoptr(Table) table = table_new(titles);
    json_t *guest;
    size_t i;

    if (json_array_size(guests) == 0)
        return;
    json_array_foreach(guests, i, guest) add_guest(table, guest);
    printf("\n");
    table_print(table);
}

static void print_load(const CommonOptions *common, json_t *load, gboolean clears)
{
    if (common->json) {
        cli_print_json(load);
        return;
    }
    if (clears)
        printf(CLEAR_SCREEN);
    print_host(load);
    print_links(json_object_get(load, "links"));
    print_guests(json_object_get(load, "guests"));
    fflush(stdout);
}

/* ---- looks ---- */

/* The figures are rates since the look before, and an agent that has just begun has none. */
static json_t *get_load(Client *client, GError **error)
{
    for (guint attempt = 0;; attempt++) {
        json_t *load = client_call(client, "GET", "/v1/load", NULL, error);

        if (!load || attempt > 0 || !json_is_null(json_object_get(load, "interval_ms")))
            return load;
        json_decref(load);
        clock_sleep_ns(INTERVAL_NS);
    }
}

int verb_top(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    gboolean once = FALSE, repeats;
    const GOptionEntry entries[] = {
        {"once", 0, 0, G_OPTION_ARG_NONE, &once, "Show it once and end", NULL},
        {NULL},
    };
    CliSpec spec = {
        .description = description, .entries = entries, .common = &common, .talks = TRUE};
    g_autoptr(Client) client = NULL;

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_arguments(argc, 0, 0, "options only"))
        return EXIT_USAGE;
    client = client_new(common.socket);
    repeats = !once && isatty(STDOUT_FILENO);
    for (;;) {
        g_autoptr(GError) error = NULL;
        g_autoptr(json_t) load = get_load(client, &error);

        if (!load)
            return cli_fail(&common, error);
        print_load(&common, load, repeats);
        if (!repeats || ferror(stdout))
            return EXIT_DONE;
        clock_sleep_ns(INTERVAL_NS);
    }
}
