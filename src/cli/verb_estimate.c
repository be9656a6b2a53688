#include <stdio.h>

#include "base/rate.h"
#include "cli/cli.h"
#include "cli/output.h"

static const char description[] =
    "Looks at a guest for a moment and tells what a move of it would take: time, bytes and pause.\n"
    "The guest runs on.  Disks that would be copied come on top.\n\n"
    "RATE: bytes per second as 100M, 1.5G, 64Ki; bits per second as 100mbit, 1gbit.\n\n"
    "Example: vmferry estimate web1 hostb --bandwidth 1gbit";

typedef struct {
    CommonOptions common;
    char *bandwidth;
    double seconds;
} Options;

static void options_clear(Options *options)
{
    common_options_clear(&options->common);
    g_free(options->bandwidth);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Options, options_clear)

static void print_estimate(json_t *answer, const char *name)
{
    double ms = json_number_value(json_object_get(answer, "ms"));
    double pause_ms = json_number_value(json_object_get(answer, "pause_ms"));
    g_autofree char *bytes = bytes_format((double)json_count_or(answer, "bytes", 0));
    g_autofree char *populated = bytes_format((double)json_count_or(answer, "populated_bytes", 0));
    g_autofree char *dirty =
        bytes_format(json_number_value(json_object_get(answer, "dirty_bytes_per_s")));
    g_autofree char *rate = rate_format((double)json_count_or(answer, "bandwidth", 0));
    const char *obstacle = json_text_or(answer, "not_movable", NULL);

    if (obstacle) {
        printf("%s cannot be moved as it is: %s\n", name, obstacle);
        return;
    }
    printf("A move of %s at %s would take about %.1f s, %s on the wire, and pause it for about "
           "%.0f ms%s.\n",
           name, rate, ms / 1000, bytes, pause_ms,
           json_flag_or(answer, "fits", TRUE) ? "" : ", which is more than its limit");
    printf("It has %s of memory and writes to %s of it within a second%s.\n", populated, dirty,
           json_flag_or(answer, "memory_intensive", FALSE)
               ? ", more than the link carries (memory-intensive)"
               : "");
    printf("Confidence: %s (%s).\n", json_text_or(answer, "confidence", "?"),
           json_text_or(answer, "why", "?"));
}

/* NULL after a usage error was shown. */
static json_t *make_request(const Options *o, const char *destination)
{
    g_autoptr(json_t) request = json_object();
    g_autoptr(GError) error = NULL;
    uint64_t rate;

    if (destination)
        json_object_set_new(request, "destination", json_string(destination));
    if (o->seconds > 0)
        json_object_set_new(request, "seconds", json_real(o->seconds));
    if (!o->bandwidth)
        return g_steal_pointer(&request);
    if (!rate_parse(o->bandwidth, &rate, &error)) {
        cli_usage_error("--bandwidth: %s", error->message);
        return NULL;
    }
    json_object_set_new(request, "bandwidth", json_integer((json_int_t)rate));
    return g_steal_pointer(&request);
}

static int estimate(const Options *o, const char *name, const char *destination)
{
    g_autofree char *path = cli_guest_path(name, "/estimate");
    json_t *request = path ? make_request(o, destination) : NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) answer = NULL;

    if (!request)
        return EXIT_USAGE;
    answer = cli_call(&o->common, "POST", path, request, &error);
    if (!answer)
        return cli_fail(&o->common, error);
    if (o->common.json)
        cli_print_json(answer);
    else
        print_estimate(answer, name);
    return json_text_or(answer, "not_movable", NULL) ? EXIT_FAILED : EXIT_DONE;
}

int verb_estimate(int argc, char **argv)
{
    g_auto(Options) o = {0};
    const GOptionEntry entries[] = {
        {"bandwidth", 0, 0, G_OPTION_ARG_STRING, &o.bandwidth,
         "What the link carries, or the move may use (default: the agent's `bandwidth`, or else "
         "a gigabit)",
         "RATE"},
        {"seconds", 0, 0, G_OPTION_ARG_DOUBLE, &o.seconds, "How long to look (default: 2)", "N"},
        {NULL},
    };
    CliSpec spec = {.parameters = "NAME [HOST[:PORT]]",
                    .description = description,
                    .entries = entries,
                    .common = &o.common,
                    .talks = TRUE,
                    .remote = TRUE};

    if (!cli_parse(&spec, &argc, &argv) ||
        !cli_check_arguments(argc, 1, 2, "NAME and perhaps HOST[:PORT]"))
        return EXIT_USAGE;
    return estimate(&o, argv[1], argc == 3 ? argv[2] : NULL);
}
