#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/quantity.h"
#include "base/rate.h"
#include "cli/check.h"
#include "cli/cli.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "client/client.h"

static const char description[] =
    "Without HOST: tries out what moving guests needs on this host and says what to change.\n"
    "With HOST: measures the way from this host's agent to the agent there (for a few seconds, as\n"
    "fast as it goes and `bandwidth` in agent.conf allows), and says what a guest will take.\n"
    "Exit code 0: moves are possible; 1: they are not.\n\n"
    "SIZE: 500M, 4Gi.\n\n"
    "Example: vmferry check hostb --guest web1";

typedef struct {
    CommonOptions common;
    char *pki, *guest, *memory;
    double seconds;
} Options;

static void options_clear(Options *options)
{
    common_options_clear(&options->common);
    g_free(options->pki);
    g_free(options->guest);
    g_free(options->memory);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Options, options_clear)

static void check_agent(Findings *findings, json_t *agent, const GError *error)
{
    const char *listening = json_text_or(agent, "listening", NULL);
    gboolean alone =
        agent && !json_flag_or(agent, "secure", FALSE) && !json_flag_or(agent, "insecure", FALSE);
    g_autofree char *text = NULL;

    if (!agent) {
        findings_add(findings, "agent", FINDING_NOTE, error->message,
                     error_is(error, VMFERRY_ERROR_DISCONNECTED)
                         ? "start it: `systemctl enable --now vmferry-agent`, or `vmferry agent`"
                         : NULL);
        return;
    }
    text = g_strdup_printf("version %s, listens on %s", json_text_or(agent, "version", "?"),
                           listening ? listening : "no address");
    if (alone)
        findings_add(findings, "agent", FINDING_BAD, text,
                     "it was started without a certificate: it can neither send guests nor take "
                     "any; give it one and restart it");
    else if (!listening)
        findings_add(findings, "agent", FINDING_NOTE, text,
                     "guests can leave this host and none can come: restart it without "
                     "--listen none");
    else
        findings_add(findings, "agent", FINDING_GOOD, text, NULL);
}

static const char *choose_verdict(Findings *findings, json_t *agent)
{
    if (!findings_are_good(findings))
        return "Guests cannot be moved from or to this host as it is; see above.";
    if (!agent)
        return "Guests can be moved from and to this host once its agent runs.";
    return json_text_or(agent, "listening", NULL)
               ? "Guests can be moved from and to this host."
               : "Guests can be moved from this host, but not to it; see above.";
}

static void load_settings(Findings *findings, AgentSettings *settings)
{
    g_autoptr(GError) error = NULL;

    if (!agent_settings_load(settings, SETTINGS_DEFAULT_FILE, FALSE, &error))
        findings_add(findings, "configuration", FINDING_BAD, error->message,
                     "the agent does not start with it; see man 5 vmferry-agent.conf");
}

static Findings *check(const CommonOptions *common, const char *pki, const char **ret_verdict)
{
    g_autoptr(AgentSettings) settings = agent_settings_new();
    Findings *findings = findings_new();
    g_autoptr(Client) client = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) agent = NULL;

    /* First, while this process has but one thread: it makes a child. */
    check_kernel(findings);
    check_qemu(findings);
    check_libvirt(findings);
    load_settings(findings, settings);
    if (pki) {
        g_free(settings->pki_dir);
        settings->pki_dir = g_strdup(pki);
    }
    client = client_new(common->socket);
    agent = client_call(client, "GET", "/v1/status", NULL, &error);
    check_pki(findings, settings, pki != NULL, agent);
    check_agent(findings, agent, error);
    *ret_verdict = choose_verdict(findings, agent);
    return findings;
}

static int check_host(const Options *o)
{
    g_autoptr(Findings) findings = NULL;
    const char *verdict;

    findings = check(&o->common, o->pki, &verdict);
    if (o->common.json) {
        g_autoptr(json_t) object = findings_to_json(findings);

        cli_print_json(object);
    } else {
        findings_print(findings, verdict);
    }
    return findings_are_good(findings) ? EXIT_DONE : EXIT_FAILED;
}

/* ---- the way to another host ---- */

typedef struct {
    const Options *options;
    Progress progress;
    json_t *report; /* NULL until it came */
} PathRun;

static gboolean on_line(json_t *object, gpointer user)
{
    PathRun *run = user;

    if (json_object_get(object, "status")) {
        run->report = json_incref(object);
        return FALSE;
    }
    if (!run->options->common.json)
        progress_show(&run->progress, object);
    return TRUE;
}

/* NULL after a usage error was shown. */
static json_t *make_request(const Options *o, const char *destination)
{
    g_autoptr(json_t) request = json_pack("{s:s}", "destination", destination);
    g_autoptr(GError) error = NULL;
    double bytes;

    if (o->seconds > 0)
        json_object_set_new(request, "seconds", json_real(o->seconds));
    if (!o->memory)
        return g_steal_pointer(&request);
    if (!size_parse(o->memory, &bytes, &error)) {
        cli_usage_error("--memory: %s", error->message);
        return NULL;
    }
    json_object_set_new(request, "memory_bytes", json_real(bytes));
    return g_steal_pointer(&request);
}

/* What the guest would take at the rate that was found; NULL with *error*. */
static json_t *estimate_guest(const Options *o, json_t *report, const char *path, GError **error)
{
    double rate = json_number_value(json_object_get(report, "bytes_per_second"));

    return cli_call(&o->common, "POST", path,
                    json_pack("{s:s, s:I}", "destination", json_text_or(report, "destination", ""),
                              "bandwidth", (json_int_t)rate),
                    error);
}

/* "1 GiB of memory: about 12 s, and a pause of about 20 ms"; free with g_free(). */
static char *describe_forecast(json_t *report, json_t *guest, const char *name)
{
    json_t *from = guest ? guest : report;
    double ms = json_number_value(json_object_get(from, guest ? "ms" : "move_ms"));
    double pause_ms = json_number_value(json_object_get(from, "pause_ms"));
    g_autofree char *size = size_format(json_count_or(report, "memory_bytes", 0));
    g_autofree char *time = format_ms(ms);
    const char *obstacle = guest ? json_text_or(guest, "not_movable", NULL) : NULL;

    if (obstacle)
        return g_strdup_printf("%s cannot be moved as it is: %s", name, obstacle);
    if (ms <= 0)
        return g_strdup_printf("No end of a move of %s is in sight over this way.",
                               guest ? name : "a guest");
    if (guest)
        return g_strdup_printf("%s: about %s; a pause of about %.0f ms.", name, time, pause_ms);
    return g_strdup_printf(
        "%sB of guest memory: about %s; a pause of about %.0f ms (a quiet guest; "
        "memory that packs well, or is empty, takes less).",
        size, time, pause_ms);
}

static int show_path(const Options *o, json_t *report, json_t *guest)
{
    g_autoptr(Findings) findings = findings_new();
    g_autofree char *verdict = NULL;

    check_path(findings, report);
    if (o->common.json) {
        if (o->guest)
            json_object_set(report, "estimate", guest ? guest : json_null());
        cli_print_json(findings_to_path_json(findings, report));
    } else {
        verdict = findings_are_good(findings)
                      ? describe_forecast(report, guest, o->guest)
                      : g_strdup_printf("Guests cannot be moved to %s as it is; see above.",
                                        json_text_or(report, "destination", "?"));
        findings_print(findings, verdict);
    }
    return findings_are_good(findings) ? EXIT_DONE : EXIT_FAILED;
}

static gboolean has_failed(json_t *report)
{
    return json_is_object(json_object_get(report, "error"));
}

static int check_way(const Options *o, const char *destination)
{
    g_autofree char *estimate_path = o->guest ? cli_guest_path(o->guest, "/estimate") : NULL;
    json_t *request = o->guest && !estimate_path ? NULL : make_request(o, destination);
    PathRun run = {.options = o};
    g_autoptr(Client) client = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) report = NULL, guest = NULL;

    if (!request)
        return EXIT_USAGE;
    client = client_new(o->common.socket);
    progress_init(&run.progress);
    client_stream(client, "POST", "/v1/check", request, on_line, &run, &error);
    progress_end(&run.progress);
    report = run.report;
    if (!report) {
        if (!error)
            error_set(&error, VMFERRY_ERROR_DISCONNECTED, "the agent went away");
        return cli_fail(&o->common, error);
    }
    if (o->guest && !has_failed(report)) {
        guest = estimate_guest(o, report, estimate_path, &error);
        if (!guest)
            return cli_fail(&o->common, error);
    }
    return show_path(o, report, guest);
}

/* What belongs to the other form of the verb. */
static gboolean check_options(const Options *o, gboolean with_host)
{
    if (with_host && o->pki)
        cli_usage_error("--pki is of this host: leave HOST out, or --pki");
    else if (!with_host && (o->guest || o->memory || o->seconds > 0))
        cli_usage_error("--guest, --memory and --seconds are about the way to a HOST: name it");
    else if (o->guest && o->memory)
        cli_usage_error("give --guest or --memory");
    else
        return TRUE;
    return FALSE;
}

int verb_check(int argc, char **argv)
{
    g_auto(Options) o = {0};
    const GOptionEntry entries[] = {
        {"pki", 0, 0, G_OPTION_ARG_FILENAME, &o.pki,
         "This host's certificate (default: the agent's)", "DIR"},
        {"guest", 0, 0, G_OPTION_ARG_STRING, &o.guest,
         "With HOST: look at this guest and say what it would take", "NAME"},
        {"memory", 0, 0, G_OPTION_ARG_STRING, &o.memory,
         "With HOST: say what a guest of this size would take (default: 1Gi)", "SIZE"},
        {"seconds", 0, 0, G_OPTION_ARG_DOUBLE, &o.seconds,
         "With HOST: how long to send (default: 3)", "N"},
        {NULL},
    };
    CliSpec spec = {.parameters = "[HOST[:PORT]]",
                    .description = description,
                    .entries = entries,
                    .common = &o.common,
                    .talks = TRUE};

    if (!cli_parse(&spec, &argc, &argv) ||
        !cli_check_arguments(argc, 0, 1, "HOST[:PORT] at most") || !check_options(&o, argc == 2))
        return EXIT_USAGE;
    return argc == 2 ? check_way(&o, argv[1]) : check_host(&o);
}
