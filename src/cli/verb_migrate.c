#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/rate.h"
#include "base/clock.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "memory/tracker_kind.h"
#include "migrate/packing.h"

/* After the agent went away: how long it may take to come back. */
#define RETURN_ATTEMPTS 20
#define RETURN_PAUSE_NS 250000000ULL

static const char description[] =
    "Moves a running guest to another host.  It runs on here unless the exit code says\n"
    "otherwise: 0 it runs there, 1 it was not moved, 3 its place changed or is in doubt.\n\n"
    "RATE: bytes a second as 100M, 1.5G, 64Ki; bits a second as 100mbit, 1gbit.\n"
    "Ctrl-C cancels the move.";

typedef struct {
    CommonOptions common;
    char *mode, *bandwidth, *compress, *tracker;
    gint max_downtime;
    gboolean verify, detach, progress;
} Options;

typedef struct {
    const Options *options;
    const char *guest, *destination;
    Progress progress;
    json_t *report; /* NULL until it came */
    char phase[16]; /* the last one seen */
    pid_t pid;      /* the guest's, before the move */
} Run;

/* ---- options ---- */

static void options_clear(Options *options)
{
    g_free(options->mode);
    g_free(options->bandwidth);
    g_free(options->compress);
    g_free(options->tracker);
    common_options_clear(&options->common);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Options, options_clear)

static gboolean check_mode(const char *mode)
{
    if (!mode || strcmp(mode, "auto") == 0 || strcmp(mode, "precopy") == 0)
        return TRUE;
    if (strcmp(mode, "postcopy") == 0 || strcmp(mode, "hybrid") == 0)
        cli_usage_error("--mode %s is not available in this version; use auto or precopy", mode);
    else
        cli_usage_error("\"%s\" is no mode; use auto or precopy", mode);
    return FALSE;
}

static gboolean add_bandwidth(json_t *request, const char *text)
{
    g_autoptr(GError) error = NULL;
    uint64_t rate;

    if (!text)
        return TRUE;
    if (!rate_parse(text, &rate, &error)) {
        cli_usage_error("--bandwidth: %s", error->message);
        return FALSE;
    }
    json_object_set_new(request, "bandwidth", json_integer((json_int_t)rate));
    return TRUE;
}

static gboolean add_compression(json_t *request, const char *text)
{
    PackingMode mode;

    if (!text)
        return TRUE;
    if (!packing_mode_from_name(text, &mode)) {
        cli_usage_error("\"%s\" is no compression; use auto, none or lz4", text);
        return FALSE;
    }
    json_object_set_new(request, "compress", json_string(text));
    return TRUE;
}

static gboolean add_tracker(json_t *request, const char *text)
{
    TrackerKind kind;

    if (!text)
        return TRUE;
    if (!tracker_kind_from_name(text, &kind)) {
        cli_usage_error("\"%s\" is no tracker; use auto, pagemap-scan or uffd-sync", text);
        return FALSE;
    }
    json_object_set_new(request, "tracker", json_string(text));
    return TRUE;
}

/* NULL after a usage error was shown. */
static json_t *make_request(const Options *o, const char *destination)
{
    g_autoptr(json_t) request = json_pack("{s:s, s:b, s:b}", "destination", destination, "verify",
                                          o->verify, "detach", o->detach);

    if (!check_mode(o->mode) || !add_bandwidth(request, o->bandwidth) ||
        !add_compression(request, o->compress) || !add_tracker(request, o->tracker))
        return NULL;
    if (o->max_downtime < 0 || o->max_downtime > 3600000) {
        cli_usage_error("--max-downtime is from 1 to 3600000 milliseconds");
        return NULL;
    }
    if (o->max_downtime > 0)
        json_object_set_new(request, "max_downtime_ms", json_integer(o->max_downtime));
    return g_steal_pointer(&request);
}

/* ---- while it moves ---- */

static gboolean on_line(json_t *object, gpointer user)
{
    Run *run = user;

    if (json_object_get(object, "status")) {
        run->report = json_incref(object);
        return FALSE;
    }
    g_strlcpy(run->phase, json_text_or(object, "phase", ""), sizeof run->phase);
    if (!run->options->common.json) {
        progress_show(&run->progress, object);
    } else if (run->options->progress) {
        char *text = json_dumps(object, JSON_LINE);

        fprintf(stderr, "%s\n", text);
        free(text);
    }
    return TRUE;
}

static void note_pid(Run *run, Client *client)
{
    g_autofree char *path = client_guest_path(run->guest, NULL);
    g_autoptr(json_t) guest = client_call(client, "GET", path, NULL, NULL);

    run->pid = (pid_t)(guest ? json_count_or(guest, "pid", 0) : 0);
}

/* The agent comes back and knows, or does not come back.  NULL with
 * *ret_gone: it is back and has no such guest. */
static json_t *ask_returned_agent(Run *run, gboolean *ret_gone)
{
    g_autoptr(Client) client = client_new(&run->options->common);
    g_autofree char *path = client_guest_path(run->guest, NULL);

    *ret_gone = FALSE;
    for (int i = 0; i < RETURN_ATTEMPTS; i++) {
        g_autoptr(GError) error = NULL;
        json_t *guest = client_call(client, "GET", path, NULL, &error);
        const char *state = guest ? json_text_or(guest, "state", "") : "";

        if (guest && strcmp(state, "recovering") != 0 && strcmp(state, "unreachable") != 0)
            return guest;
        json_decref(guest);
        if (error_is(error, VMFERRY_ERROR_NOT_FOUND)) {
            *ret_gone = TRUE;
            return NULL;
        }
        clock_sleep_ns(RETURN_PAUSE_NS);
    }
    return NULL;
}

/* Before the last round the guest had not left; after it, its process tells:
 * it is ended when the guest has gone. */
static gboolean is_still_here(Run *run)
{
    return strcmp(run->phase, "handover") != 0 && strcmp(run->phase, "done") != 0 && run->pid > 0 &&
           kill(run->pid, 0) == 0;
}

/* A report for a move whose agent went away under it. */
static void report_lost_agent(Run *run)
{
    gboolean gone;
    g_autoptr(json_t) guest = ask_returned_agent(run, &gone);
    const char *state = guest ? json_text_or(guest, "state", "?") : NULL;
    g_autofree char *text = NULL;
    gboolean look = FALSE;

    if (guest) {
        look = strcmp(state, "in-doubt") == 0;
        text = g_strdup_printf("the agent was restarted during the move; %s is %s here", run->guest,
                               state);
    } else if (gone) {
        look = TRUE;
        text = g_strdup_printf("the agent was restarted during the move and %s is not here any "
                               "more: look on %s and at `vmferry events`",
                               run->guest, run->destination);
    } else if (is_still_here(run)) {
        text = g_strdup_printf("the agent went away during the move; %s is still here as process "
                               "%d: start the agent again, it finds its guests",
                               run->guest, (int)run->pid);
    } else {
        look = TRUE;
        text = g_strdup_printf("the agent went away during the hand-over: start it again, then "
                               "look at `vmferry list` here and on %s",
                               run->destination);
    }
    run->report = report_make(run->guest, run->destination, REPORT_REASON_AGENT_LOST, text);
    if (look)
        json_object_set_new(run->report, "in_doubt", json_true());
}

static int finish(Run *run)
{
    int code = report_get_exit(run->report);

    if (run->options->common.json)
        cli_print_json(run->report);
    else
        report_print(run->report, run->guest);
    json_decref(run->report);
    return code;
}

static int follow(Run *run, json_t *request, const char *path)
{
    g_autoptr(Client) client = client_new(&run->options->common);
    g_autoptr(GError) error = NULL;

    note_pid(run, client);
    interrupt_watch(&run->options->common, run->guest);
    progress_init(&run->progress);
    client_stream(client, "POST", path, request, on_line, run, &error);
    progress_end(&run->progress);
    if (!run->report && run->phase[0])
        report_lost_agent(run);
    else if (!run->report)
        run->report = report_make(run->guest, run->destination, "not-started",
                                  error ? error->message : "the agent went away");
    return finish(run);
}

static int detach(const Options *o, const char *guest, json_t *request, const char *path)
{
    g_autoptr(Client) client = client_new(&o->common);
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) answer = client_call(client, "POST", path, request, &error);

    if (!answer)
        return cli_fail(&o->common, error);
    if (o->common.json)
        cli_print_json(answer);
    else
        printf("%s begins to move; see `vmferry events --follow` and `vmferry status %s`.\n", guest,
               guest);
    return EXIT_DONE;
}

static int migrate(const Options *o, const char *guest, const char *destination)
{
    Run run = {.options = o, .guest = guest, .destination = destination};
    json_t *request = make_request(o, destination);
    g_autofree char *path = request ? client_guest_path(guest, "/migrate") : NULL;

    if (!path) {
        json_decref(request);
        return EXIT_USAGE;
    }
    return o->detach ? detach(o, guest, request, path) : follow(&run, request, path);
}

int verb_migrate(int argc, char **argv)
{
    g_auto(Options) o = {0};
    const GOptionEntry entries[] = {
        {"mode", 0, 0, G_OPTION_ARG_STRING, &o.mode, "How: auto or precopy (default: auto)",
         "MODE"},
        {"max-downtime", 0, 0, G_OPTION_ARG_INT, &o.max_downtime,
         "Longest pause to aim at (default: the agent's, 300)", "MS"},
        {"bandwidth", 0, 0, G_OPTION_ARG_STRING, &o.bandwidth,
         "Send no faster than this (default: the agent's, unlimited)", "RATE"},
        {"compress", 0, 0, G_OPTION_ARG_STRING, &o.compress,
         "auto, none or lz4 (default: auto, as path and data make it worthwhile)", "HOW"},
        {"verify", 0, 0, G_OPTION_ARG_NONE, &o.verify,
         "Compare all memory before the guest starts there (longer downtime)", NULL},
        {"tracker", 0, 0, G_OPTION_ARG_STRING, &o.tracker,
         "How writes are followed: auto, pagemap-scan, uffd-sync (default: the agent's)", "KIND"},
        {"progress", 0, 0, G_OPTION_ARG_NONE, &o.progress,
         "With --json: progress as JSON lines on standard error", NULL},
        {"detach", 0, 0, G_OPTION_ARG_NONE, &o.detach, "Begin the move and return", NULL},
        {NULL},
    };
    CliSpec spec = {.parameters = "NAME HOST[:PORT]",
                    .description = description,
                    .entries = entries,
                    .common = &o.common,
                    .talks = TRUE};

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_words(argc, 2, 2, "NAME and HOST[:PORT]"))
        return EXIT_USAGE;
    interrupt_block();
    return migrate(&o, argv[1], argv[2]);
}
