#include "sim/cluster_command.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include <math.h>

#include "base/json.h"
#include "sim/cluster_policy.h"
#include "sim/cluster_recording.h"

#define EXIT_USAGE 2
#define SCALE_LEAST_HOSTS 625
#define SCALE_MOST_HOSTS 10000
#define SCALE_GUESTS 10
#define SCALE_STEPS 15
#define SCALE_RUNS 5

typedef struct {
    char *trace, *file, *policy;
    double hours;
    int hosts, guests, seed;
    gboolean table, scale, record, json, verbose;
} Arguments;

static void arguments_clear(Arguments *arguments)
{
    g_free(arguments->trace);
    g_free(arguments->file);
    g_free(arguments->policy);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Arguments, arguments_clear)

static gboolean parse_arguments(Arguments *a, int *argc, char ***argv, GError **error)
{
    const GOptionEntry entries[] = {
        {"trace", 't', 0, G_OPTION_ARG_STRING, &a->trace,
         "diurnal, bursts, flapping, hot-guest, leak, oscillation, loss, spikes, idle", "KIND"},
        {"file", 'f', 0, G_OPTION_ARG_FILENAME, &a->file, "Replay a recorded trace", "FILE"},
        {"policy", 'p', 0, G_OPTION_ARG_STRING, &a->policy,
         "engine (default), threshold, proxmox, sandpiper, sandpiper-5s, none", "POLICY"},
        {"hosts", 0, 0, G_OPTION_ARG_INT, &a->hosts, "Hosts (40)", "N"},
        {"guests", 0, 0, G_OPTION_ARG_INT, &a->guests, "Guests (400)", "N"},
        {"hours", 0, 0, G_OPTION_ARG_DOUBLE, &a->hours, "Length (that of the trace)", "HOURS"},
        {"seed", 0, 0, G_OPTION_ARG_INT, &a->seed, "Of the trace's chance (1)", "N"},
        {"table", 0, 0, G_OPTION_ARG_NONE, &a->table, "All traces and policies", NULL},
        {"scale", 0, 0, G_OPTION_ARG_NONE, &a->scale,
         "How long a decision takes, up to 10000 hosts", NULL},
        {"record", 0, 0, G_OPTION_ARG_NONE, &a->record, "Print the trace instead", NULL},
        {"json", 0, 0, G_OPTION_ARG_NONE, &a->json, "JSON, an object a line", NULL},
        {"verbose", 'v', 0, G_OPTION_ARG_NONE, &a->verbose, "Each decision, explained", NULL},
        {NULL},
    };
    g_autoptr(GOptionContext) context =
        g_option_context_new("- plays the control engine over a simulated cluster");

    g_option_context_add_main_entries(context, entries, NULL);
    return g_option_context_parse(context, argc, argv, error);
}

static gboolean check(gboolean good, const char *words, GError **error)
{
    if (!good)
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE, "%s", words);
    return good;
}

static gboolean check_arguments(const Arguments *a, GError **error)
{
    return check(a->table || a->scale || !a->trace != !a->file,
                 "give --trace, --file, --table or --scale", error) &&
           check(a->hosts >= 1 && a->hosts <= CLUSTER_RECORDING_MOST_HOSTS,
                 "--hosts takes 1 to 20000", error) &&
           check(a->guests >= 1 && a->guests <= CLUSTER_RECORDING_MOST_GUESTS,
                 "--guests takes 1 to 200000", error) &&
           check(a->hours >= 0 && a->hours <= 1000, "--hours takes up to 1000", error);
}

static void print_explanation(double now_ms, const char *text)
{
    printf("%8.0f s  %s\n", now_ms / 1000, text);
}

static void print_result(const Arguments *a, const char *trace, const char *policy,
                         const ClusterWorldResult *r)
{
    g_autoptr(json_t) object = NULL;
    char *line;

    if (!a->json) {
        printf("%-12s %-10s %12.0f %7u %8u %10u %10.1f %12.2f\n", trace, policy, r->violation_s,
               r->moves, r->spoiled, r->most_per_guest, r->pause_s, r->decide_ms_most);
        fflush(stdout);
        return;
    }
    object = json_pack("{s:s, s:s, s:f, s:i, s:i, s:i, s:i, s:f, s:f, s:f}", "trace", trace,
                       "policy", policy, "violation_s", r->violation_s, "moves", (int)r->moves,
                       "failed", (int)r->failed, "spoiled", (int)r->spoiled, "most_per_guest",
                       (int)r->most_per_guest, "pause_s", r->pause_s, "moved_bytes", r->moved_bytes,
                       "decide_ms", r->decide_ms_most);
    line = json_dumps(object, JSON_LINE);
    puts(line);
    fflush(stdout);
    free(line);
}

static void print_heading(const Arguments *a)
{
    if (!a->json)
        printf("%-12s %-10s %12s %7s %8s %10s %10s %12s\n", "trace", "policy", "SLA missed s",
               "moves", "spoiled", "most/guest", "paused s", "decision ms");
}

static ClusterWorldOptions world_options(const Arguments *a, ClusterTraceKind kind)
{
    return (ClusterWorldOptions){.kind = kind,
                                 .hosts = (guint)a->hosts,
                                 .guests = (guint)a->guests,
                                 .hours = a->hours,
                                 .seed = (guint64)a->seed};
}

static void run_table(const Arguments *a)
{
    print_heading(a);
    for (guint kind = 0; kind < CLUSTER_TRACES; kind++)
        for (guint policy = 0; policy < CLUSTER_POLICIES; policy++) {
            ClusterWorldOptions options = world_options(a, (ClusterTraceKind)kind);
            ClusterWorldResult result = cluster_play(&options, (ClusterPolicyKind)policy, NULL);

            print_result(a, cluster_trace_name((ClusterTraceKind)kind),
                         cluster_policy_name((ClusterPolicyKind)policy), &result);
        }
}

/* ---- how long a decision takes ---- */

static double cpu_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

/* The least of some runs: what else the machine does is no part of it. */
static double measure(const ClusterView *view, guint *ret_hotspots, guint *ret_moves)
{
    const ClusterThresholds thresholds = cluster_thresholds_default();
    ClusterLimits limits = cluster_limits_default();
    double least = INFINITY;

    limits.moves = 0;
    for (guint run = 0; run < SCALE_RUNS; run++) {
        g_autoptr(GArray) hotspots = g_array_new(FALSE, FALSE, sizeof(ClusterHotspot));
        g_autoptr(ClusterPlan) plan = NULL;
        double before = cpu_ms();

        cluster_find_hotspots(view, &thresholds, hotspots);
        plan = cluster_plan_make(view, &thresholds, &limits, hotspots);
        least = MIN(least, cpu_ms() - before);
        *ret_hotspots = hotspots->len;
        *ret_moves = plan->moves->len;
    }
    return least;
}

static double peak_mib(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_maxrss / 1024;
}

static void run_scale(const Arguments *a)
{
    if (!a->json)
        printf("%8s %8s %10s %8s %12s %16s %10s\n", "hosts", "guests", "hot spots", "moves",
               "decision ms", "ns per n log2 n", "peak MiB");
    for (guint hosts = SCALE_LEAST_HOSTS; hosts <= SCALE_MOST_HOSTS; hosts *= 2) {
        ClusterWorldOptions options = {.kind = CLUSTER_TRACE_LOSS,
                                       .hosts = hosts,
                                       .guests = hosts * SCALE_GUESTS,
                                       .hours = 1,
                                       .seed = (guint64)a->seed};
        g_autoptr(ClusterWorld) world = cluster_world_new(&options);
        guint n = options.hosts + options.guests, hotspots, moves;
        double ms;

        for (guint step = 0; step < SCALE_STEPS; step++)
            cluster_world_step(world);
        ms = measure(cluster_world_view(world), &hotspots, &moves);
        printf(a->json
                   ? "{\"hosts\":%u,\"guests\":%u,\"hotspots\":%u,\"moves\":%u,\"decide_ms\":%.3f,"
                     "\"ns_per_n_log_n\":%.3f,\"peak_mib\":%.1f}\n"
                   : "%8u %8u %10u %8u %12.1f %16.2f %10.0f\n",
               options.hosts, options.guests, hotspots, moves, ms, ms * 1e6 / (n * log2(n)),
               peak_mib());
        fflush(stdout);
    }
}

/* ---- one trace ---- */

static void record(const ClusterWorldOptions *options)
{
    g_autoptr(ClusterWorld) world = cluster_world_new(options);
    g_autofree char *header = cluster_world_record_header(world);

    puts(header);
    while (cluster_world_step(world)) {
        g_autofree char *line = cluster_world_record_step(world);

        puts(line);
    }
}

static ClusterRecording *read_recording(const char *path, GError **error)
{
    g_autofree char *text = NULL;
    gsize length;
    ClusterRecording *recording;

    if (!g_file_get_contents(path, &text, &length, error))
        return NULL;
    recording = cluster_recording_parse(text, length, error);
    if (!recording)
        g_prefix_error(error, "%s: ", path);
    return recording;
}

static gboolean run_trace(const Arguments *a, GError **error)
{
    g_autoptr(ClusterRecording) recording = NULL;
    ClusterTraceKind kind = CLUSTER_TRACE_RECORDED;
    ClusterPolicyKind policy = CLUSTER_POLICY_ENGINE;
    ClusterWorldOptions options;
    ClusterWorldResult result;

    if (!check(!a->trace || cluster_trace_from_name(a->trace, &kind),
               "--trace: not a valid kind (see --help)", error) ||
        !check(!a->policy || cluster_policy_from_name(a->policy, &policy),
               "--policy: not a valid one (see --help)", error) ||
        (a->file && !(recording = read_recording(a->file, error))))
        return FALSE;
    options = world_options(a, kind);
    options.recording = recording;
    if (a->record) {
        record(&options);
        return TRUE;
    }
    result = cluster_play(&options, policy, a->verbose ? print_explanation : NULL);
    print_heading(a);
    print_result(a, cluster_trace_name(kind), cluster_policy_name(policy), &result);
    return TRUE;
}

int cluster_command(int argc, char **argv)
{
    g_auto(Arguments) arguments = {.hosts = 40, .guests = 400, .seed = 1};
    g_autoptr(GError) error = NULL;

    if (!parse_arguments(&arguments, &argc, &argv, &error) ||
        !check(argc == 1, "takes options only", &error) || !check_arguments(&arguments, &error)) {
        fprintf(stderr, "vmferry-sim cluster: %s\n", error->message);
        return EXIT_USAGE;
    }
    if (arguments.table) {
        run_table(&arguments);
        return 0;
    }
    if (arguments.scale) {
        run_scale(&arguments);
        return 0;
    }
    if (run_trace(&arguments, &error))
        return 0;
    fprintf(stderr, "vmferry-sim cluster: %s\n", error->message);
    return EXIT_USAGE;
}
