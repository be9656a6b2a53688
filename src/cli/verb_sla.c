#include <stdio.h>
#include <string.h>

#include "base/quantity.h"
#include "base/rate.h"
#include "cli/cli.h"
#include "cli/output.h"

static const char description[] =
    "Promises a guest what it shall have; the engine moves guests where that is not so.  Without\n"
    "options it shows what is promised, of all guests where no NAME is given.  What is not among\n"
    "the options is not promised any more.";

typedef struct {
    char *cpu_wait, *network, *swap;
    gboolean none;
} Options;

static void options_clear(Options *options)
{
    g_free(options->cpu_wait);
    g_free(options->network);
    g_free(options->swap);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Options, options_clear)

static void add_sla(Table *table, const char *guest, json_t *sla)
{
    double wait = json_number_value(json_object_get(sla, "cpu_wait"));
    double network = json_number_value(json_object_get(sla, "network_bytes_per_s"));
    g_autofree char *wait_text = wait > 0 ? g_strdup_printf("%.3g %%", wait * 100) : g_strdup("-");
    g_autofree char *network_text = network > 0 ? rate_format(network) : g_strdup("-");

    table_add(table, guest, wait_text, network_text,
              json_flag_or(sla, "no_swap", FALSE) ? "none" : "-", NULL);
}

static int show(const CommonOptions *common, const char *guest)
{
    static const char *const titles[] = {"GUEST", "WAITS FOR A CPU AT MOST", "NETWORK", "SWAP",
                                         NULL};
    g_autoptr(Table) table = table_new(titles);
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) answer = cli_call_engine(common, "GET", "/v1/slas", NULL, &error);
    const char *name;
    json_t *sla;

    if (!answer)
        return cli_fail(common, error);
    if (common->json) {
        cli_print_json(answer);
        return EXIT_DONE;
    }
    json_object_foreach(json_object_get(answer, "slas"), name, sla)
    {
        if (!guest || strcmp(guest, name) == 0)
            add_sla(table, name, sla);
    }
    table_print(table);
    return EXIT_DONE;
}

static gboolean read_share(const char *text, double *ret)
{
    static const QuantityUnit units[] = {{"", 1}, {"%", 0.01}, {NULL, 0}};

    return quantity_parse(text, units, ret) && *ret <= 1;
}

/* NULL after a usage error was shown. */
static json_t *make_sla(const Options *options)
{
    g_autoptr(json_t) sla = json_object();
    g_autoptr(GError) error = NULL;
    double wait = 0;
    uint64_t network = 0;

    if (options->cpu_wait && !read_share(options->cpu_wait, &wait))
        cli_usage_error("--cpu-wait takes a share, as in 5%%");
    else if (options->network && !rate_parse(options->network, &network, &error))
        cli_usage_error("--network: %s", error->message);
    else if (options->swap && strcmp(options->swap, "0") != 0)
        cli_usage_error("--swap takes 0: none of its memory may be swapped out");
    else {
        json_object_set_new(sla, "cpu_wait", json_real(wait));
        json_object_set_new(sla, "network_bytes_per_s", json_integer((json_int_t)network));
        json_object_set_new(sla, "no_swap", json_boolean(options->swap != NULL));
        return g_steal_pointer(&sla);
    }
    return NULL;
}

static int set(const CommonOptions *common, const char *guest, const Options *options)
{
    json_t *sla = make_sla(options);
    g_autofree char *escaped = g_uri_escape_string(guest, NULL, FALSE);
    g_autofree char *path = g_strconcat("/v1/slas/", escaped, NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) answer = NULL;

    if (!sla)
        return EXIT_USAGE;
    answer = cli_call_engine(common, "PUT", path, sla, &error);
    if (!answer)
        return cli_fail(common, error);
    if (common->json)
        cli_print_json(answer);
    else
        printf(options->none ? "%s is promised nothing any more.\n" : "%s is promised that.\n",
               guest);
    return EXIT_DONE;
}

int verb_sla(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    g_auto(Options) o = {0};
    const GOptionEntry entries[] = {
        {"cpu-wait", 0, 0, G_OPTION_ARG_STRING, &o.cpu_wait,
         "The largest share of its time that its vCPUs wait for a CPU", "SHARE"},
        {"network", 0, 0, G_OPTION_ARG_STRING, &o.network,
         "What it can send and receive, both together", "RATE"},
        {"swap", 0, 0, G_OPTION_ARG_STRING, &o.swap, "0: none of its memory is swapped out", "0"},
        {"none", 0, 0, G_OPTION_ARG_NONE, &o.none, "Nothing is promised any more", NULL},
        {NULL},
    };
    CliSpec spec = {.parameters = "[NAME]",
                    .description = description,
                    .entries = entries,
                    .common = &common,
                    .engine = TRUE};

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_arguments(argc, 0, 1, "at most one NAME"))
        return EXIT_USAGE;
    if (!o.cpu_wait && !o.network && !o.swap && !o.none)
        return show(&common, argc == 2 ? argv[1] : NULL);
    if (argc == 1)
        return cli_usage_error("NAME is missing");
    return set(&common, argv[1], &o);
}
