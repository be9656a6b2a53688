#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "sim/cluster_command.h"
#include "sim/simulator.h"
#include "vmferry-config.h"

#define EXIT_USAGE 2
#define MB 1e6

typedef struct {
    char *workload, *trace, *policy, *mode;
    double ram_mib, set_mib, rate, bandwidth, jitter, device_ms, burst_ms, quiet_ms, limit_s,
        queue_ms, fault_us;
    int max_downtime_ms, downtime_cap_ms, deadline_ms, seed;
    gboolean throttle, json, verbose, record, version;
} Arguments;

static void arguments_clear(Arguments *arguments)
{
    g_free(arguments->workload);
    g_free(arguments->trace);
    g_free(arguments->policy);
    g_free(arguments->mode);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Arguments, arguments_clear)

static gboolean parse_arguments(Arguments *arguments, int *argc, char ***argv, GError **error)
{
    Arguments *a = arguments;
    const GOptionEntry entries[] = {
        {"workload", 'w', 0, G_OPTION_ARG_STRING, &a->workload,
         "idle, sparse, dense, intensive, sequential, skewed, phases, text, read-heavy", "KIND"},
        {"trace", 't', 0, G_OPTION_ARG_FILENAME, &a->trace, "Replay a recorded trace", "FILE"},
        {"policy", 'p', 0, G_OPTION_ARG_STRING, &a->policy,
         "work-set (default), or pages: usual pre-copy", "POLICY"},
        {"mode", 0, 0, G_OPTION_ARG_STRING, &a->mode,
         "precopy (default), postcopy, hybrid, auto: what is cheaper", "MODE"},
        {"ram", 0, 0, G_OPTION_ARG_DOUBLE, &a->ram_mib, "Populated memory (640)", "MIB"},
        {"set", 0, 0, G_OPTION_ARG_DOUBLE, &a->set_mib, "Memory the workload writes", "MIB"},
        {"rate", 'r', 0, G_OPTION_ARG_DOUBLE, &a->rate, "What it writes, whole pages counted",
         "MB/S"},
        {"burst", 0, 0, G_OPTION_ARG_DOUBLE, &a->burst_ms, "Phases: busy for (1000)", "MS"},
        {"quiet", 0, 0, G_OPTION_ARG_DOUBLE, &a->quiet_ms, "Phases: quiet for (4000)", "MS"},
        {"bandwidth", 'b', 0, G_OPTION_ARG_DOUBLE, &a->bandwidth, "What the link carries (117)",
         "MB/S"},
        {"jitter", 0, 0, G_OPTION_ARG_DOUBLE, &a->jitter, "More or less by up to this share (0)",
         "SHARE"},
        {"device", 0, 0, G_OPTION_ARG_DOUBLE, &a->device_ms, "Device state, switchover (12)", "MS"},
        {"queue", 0, 0, G_OPTION_ARG_DOUBLE, &a->queue_ms,
         "What was read waits for the link for up to (10)", "MS"},
        {"fault", 0, 0, G_OPTION_ARG_DOUBLE, &a->fault_us,
         "What a write to a protected page takes from the guest (0)", "US"},
        {"max-downtime", 0, 0, G_OPTION_ARG_INT, &a->max_downtime_ms, "Aim (300)", "MS"},
        {"downtime-cap", 0, 0, G_OPTION_ARG_INT, &a->downtime_cap_ms, "Longest pause (2000)", "MS"},
        {"deadline", 0, 0, G_OPTION_ARG_INT, &a->deadline_ms, "For the whole move", "MS"},
        {"throttle", 0, 0, G_OPTION_ARG_NONE, &a->throttle, "The guest may be slowed", NULL},
        {"limit", 0, 0, G_OPTION_ARG_DOUBLE, &a->limit_s, "Given up after (300)", "S"},
        {"seed", 0, 0, G_OPTION_ARG_INT, &a->seed, "Of the workload's chance (1)", "N"},
        {"json", 0, 0, G_OPTION_ARG_NONE, &a->json, "The result as JSON", NULL},
        {"verbose", 'v', 0, G_OPTION_ARG_NONE, &a->verbose, "Each decision", NULL},
        {"record", 0, 0, G_OPTION_ARG_NONE, &a->record, "Print a trace instead", NULL},
        {"version", 0, 0, G_OPTION_ARG_NONE, &a->version, "Show the version", NULL},
        {NULL},
    };
    g_autoptr(GOptionContext) context =
        g_option_context_new("- plays a move of a guest in simulated time");

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
    return check(!a->workload != !a->trace, "give --workload or --trace", error) &&
           check(a->ram_mib >= 4 && a->ram_mib <= 65536, "--ram takes 4 to 65536 MiB", error) &&
           check(a->set_mib >= 0 && a->set_mib <= a->ram_mib, "--set takes up to --ram", error) &&
           check(a->rate >= 0 && a->rate <= 1e6, "--rate takes up to 1000000 MB/s", error) &&
           check(a->bandwidth >= 0.01 && a->bandwidth <= 1e5,
                 "--bandwidth takes 0.01 to 100000 MB/s", error) &&
           check(a->jitter >= 0 && a->jitter <= 0.9, "--jitter takes 0 to 0.9", error) &&
           check(a->burst_ms >= 1 && a->quiet_ms >= 1, "--burst and --quiet take 1 ms or more",
                 error) &&
           check(a->device_ms >= 0 && a->device_ms <= 1e6, "--device takes up to 1000000 ms",
                 error) &&
           check(a->fault_us >= 0 && a->fault_us <= 1e4, "--fault takes up to 10000 us", error) &&
           check(a->queue_ms >= 0 && a->queue_ms <= 1e6, "--queue takes up to 1000000 ms", error) &&
           check(a->max_downtime_ms > 0 && a->downtime_cap_ms > 0 && a->deadline_ms >= 0,
                 "times are positive", error) &&
           check(a->limit_s > 0 && a->limit_s <= 1e5, "--limit takes up to 100000 s", error);
}

static gboolean get_mode(const char *name, guint *ret_means, GError **error)
{
    static const struct {
        const char *name;
        guint means;
    } modes[] = {{"precopy", 0},
                 {"postcopy", CONVERGENCE_MEANS_POSTCOPY_NOW},
                 {"hybrid", CONVERGENCE_MEANS_POSTCOPY},
                 {"auto", CONVERGENCE_MEANS_POSTCOPY_IF_CHEAPER}};

    for (guint i = 0; i < G_N_ELEMENTS(modes); i++)
        if (strcmp(name, modes[i].name) == 0) {
            *ret_means = modes[i].means;
            return TRUE;
        }
    return check(FALSE, "--mode takes precopy, postcopy, hybrid or auto", error);
}

static gboolean make_options(const Arguments *a, Trace **ret_trace, SimOptions *ret, GError **error)
{
    SimWorkloadOptions *workload = &ret->workload;
    guint means = 0;

    if (a->mode && !get_mode(a->mode, &means, error))
        return FALSE;
    *ret = (SimOptions){.bytes_per_ms = a->bandwidth * 1000,
                        .jitter = a->jitter,
                        .device_ms = a->device_ms,
                        .queue_ms = a->queue_ms,
                        .fault_ms = a->fault_us / 1000,
                        .limit_ms = a->limit_s * 1000,
                        .limits = {(guint)a->max_downtime_ms, (guint)a->downtime_cap_ms,
                                   (guint)a->deadline_ms,
                                   means | (a->throttle ? CONVERGENCE_MEANS_THROTTLE : 0)}};
    *workload = (SimWorkloadOptions){.ram_bytes = (uint64_t)(a->ram_mib * (1 << 20)),
                                     .set_bytes = (uint64_t)(a->set_mib * (1 << 20)),
                                     .bytes_per_second = a->rate * MB,
                                     .burst_ms = a->burst_ms,
                                     .quiet_ms = a->quiet_ms,
                                     .seed = (guint64)a->seed};
    if (a->policy && !check(strcmp(a->policy, "work-set") == 0 || strcmp(a->policy, "pages") == 0,
                            "--policy takes work-set or pages", error))
        return FALSE;
    ret->policy = a->policy && strcmp(a->policy, "pages") == 0 ? SIM_PAGES : SIM_WORK_SET;
    if (a->trace) {
        g_autofree char *text = NULL;
        gsize length;

        if (!g_file_get_contents(a->trace, &text, &length, error))
            return FALSE;
        *ret_trace = trace_parse(text, length, error);
        if (!*ret_trace) {
            g_prefix_error(error, "%s: ", a->trace);
            return FALSE;
        }
        workload->kind = SIM_TRACE;
        workload->trace = *ret_trace;
        return TRUE;
    }
    return check(sim_workload_from_name(a->workload, &workload->kind) &&
                     workload->kind != SIM_TRACE,
                 "--workload: not a valid kind (see --help)", error);
}

static void print_decision(double ms, const ConvergenceDecision *decision, gpointer user)
{
    static const char *const verdicts[] = {"go on", "stop", "switch over", "give up"};

    fprintf(stderr, "%8.0f ms: %s%s%s; pause now %.0f ms, expected %.0f ms, total %.0f ms%s%s", ms,
            verdicts[decision->verdict], decision->reason ? ": " : "",
            decision->reason ? decision->reason : "", decision->pause_ms,
            decision->expected_downtime_ms, decision->expected_total_ms,
            decision->memory_intensive ? "; memory-intensive" : "",
            isfinite(decision->defer_rate) ? "; deferring" : "");
    if (decision->postcopy_lost_ms > 0)
        fprintf(stderr, "; post-copy would take %.0f ms from it", decision->postcopy_lost_ms);
    if (decision->probe)
        fprintf(stderr, "; probing");
    if (decision->run_share < 1)
        fprintf(stderr, "; guest runs at %.2f", decision->run_share);
    fprintf(stderr, "\n");
}

static void print_line(const char *line, gpointer user)
{
    puts(line);
}

static void print_json(const SimResult *result)
{
    g_autoptr(json_t) object = json_pack(
        "{s:b, s:s, s:f, s:f, s:f, s:f, s:i, s:b, s:i, s:f, s:f, s:f, s:f, s:b, s:f, s:f, s:i}",
        "done", result->done, "reason", result->reason, "total_ms", result->total_ms, "downtime_ms",
        result->downtime_ms, "sent_bytes", result->sent_bytes, "populated_bytes",
        result->populated_bytes, "rounds", (int)result->rounds, "memory_intensive",
        result->memory_intensive, "hot_pages_sent", (int)result->hot_pages_sent, "least_run_share",
        result->least_run_share, "throttled_ms", result->throttled_ms, "predicted_downtime_ms",
        result->predicted_downtime_ms, "predicted_total_ms", result->predicted_total_ms, "switched",
        result->switched, "postcopy_ms", result->postcopy_ms, "postcopy_lost_ms",
        result->postcopy_lost_ms, "postcopy_faults", (int)result->postcopy_faults);
    char *text = json_dumps(object, JSON_LINE);

    puts(text);
    free(text);
}

static void print_result(const SimResult *result)
{
    printf("%s: %s\n", result->done ? "moved" : "not moved", result->reason);
    printf("  total     %8.0f ms (forecast at 1 s: %.0f)\n", result->total_ms,
           result->predicted_total_ms);
    printf("  downtime  %8.0f ms (forecast at 1 s: %.0f)\n", result->downtime_ms,
           result->predicted_downtime_ms);
    printf("  sent      %8.1f MB, %.2f of what is populated\n", result->sent_bytes / MB,
           result->sent_bytes / MAX(result->populated_bytes, 1));
    printf("  rounds    %8u\n", result->rounds);
    if (result->memory_intensive)
        printf("  memory-intensive; hot pages sent before the pause: %u\n", result->hot_pages_sent);
    if (result->switched)
        printf("  post-copy %8.0f ms, of which the guest waited %.0f ms, for %u pages\n",
               result->postcopy_ms, result->postcopy_lost_ms, result->postcopy_faults);
    if (result->throttled_ms > 0)
        printf("  slowed for %.0f ms, down to %.2f\n", result->throttled_ms,
               result->least_run_share);
}

static void run(const Arguments *arguments, SimOptions *options, const Trace *trace)
{
    SimResult result;

    if (arguments->verbose)
        options->decided = print_decision;
    if (arguments->record)
        options->trace = print_line;
    result = sim_run(options);
    if (arguments->record)
        return;
    if (arguments->json)
        print_json(&result);
    else
        print_result(&result);
}

int main(int argc, char **argv)
{
    g_auto(Arguments) arguments = {.ram_mib = 640,
                                   .bandwidth = 117,
                                   .device_ms = 12,
                                   .burst_ms = 1000,
                                   .quiet_ms = 4000,
                                   .limit_s = 300,
                                   .max_downtime_ms = 300,
                                   .downtime_cap_ms = 2000,
                                   .seed = 1};
    g_autoptr(GError) error = NULL;
    g_autoptr(Trace) trace = NULL;
    SimOptions options;

    if (argc > 1 && strcmp(argv[1], "cluster") == 0)
        return cluster_command(argc - 1, argv + 1);
    if (!parse_arguments(&arguments, &argc, &argv, &error) ||
        !check(argc == 1, "takes options only", &error)) {
        fprintf(stderr, "vmferry-sim: %s\n", error->message);
        return EXIT_USAGE;
    }
    if (arguments.version) {
        printf("vmferry-sim %s\n", VMFERRY_VERSION);
        return 0;
    }
    if (!check_arguments(&arguments, &error) ||
        !make_options(&arguments, &trace, &options, &error)) {
        fprintf(stderr, "vmferry-sim: %s\n", error->message);
        return EXIT_USAGE;
    }
    run(&arguments, &options, trace);
    return 0;
}
