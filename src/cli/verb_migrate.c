#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "cli/cli.h"
#include "client/client.h"
#include "cli/interrupt.h"
#include "cli/migrate_options.h"
#include "cli/progress.h"
#include "cli/recording.h"
#include "cli/report.h"

/* After the agent went away: how long it may take to come back. */
#define RETURN_ATTEMPTS 20
#define RETURN_PAUSE_NS 250000000ULL

static const char description[] =
    "Moves a running guest to another host.  It runs on here unless the exit code says\n"
    "otherwise: 0 it runs there, 1 it was not moved, 3 its place changed or is in doubt.\n\n"
    "TIME: milliseconds as 300, or 500ms, 2s, 1m.  BYTES: 500M, 64Mi, 1Gi.\n"
    "RATE: bytes per second as 100M, 1.5G, 64Ki; bits per second as 100mbit, 1gbit.\n"
    "Ctrl-C cancels the move.";

typedef struct {
    const MigrateArguments *arguments;
    const char *guest, *destination;
    Progress progress;
    Recording recording;
    json_t *report; /* NULL until it came */
    char phase[16]; /* the last one seen */
    pid_t pid;      /* the guest's on this host, before the move; 0: not known */
} Run;

/* ---- while it moves ---- */

static gboolean on_line(json_t *object, gpointer user)
{
    Run *run = user;

    if (json_object_get(object, "status")) {
        run->report = json_incref(object);
        return FALSE;
    }
    if (recording_take(&run->recording, object))
        return TRUE;
    g_strlcpy(run->phase, json_text_or(object, "phase", ""), sizeof run->phase);
    if (!run->arguments->common.json) {
        progress_show(&run->progress, object);
    } else if (run->arguments->progress) {
        char *text = json_dumps(object, JSON_LINE);

        fprintf(stderr, "%s\n", text);
        free(text);
    }
    return TRUE;
}

static void note_pid(Run *run, Client *client)
{
    g_autofree char *path = cli_guest_path(run->guest, NULL);
    g_autoptr(json_t) guest = client_call(client, "GET", path, NULL, NULL);

    run->pid = (pid_t)(guest ? json_count_or(guest, "pid", 0) : 0);
}

/* The agent comes back and knows, or does not come back.  NULL with
 * *ret_gone: it is back and has no such guest. */
static json_t *ask_returned_agent(Run *run, gboolean *ret_gone)
{
    g_autoptr(Client) client = cli_connect(&run->arguments->common, NULL);
    g_autofree char *path = cli_guest_path(run->guest, NULL);

    *ret_gone = FALSE;
    for (int i = 0; client && i < RETURN_ATTEMPTS; i++) {
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
    return strcmp(run->phase, "switchover") != 0 && strcmp(run->phase, "postcopy") != 0 &&
           strcmp(run->phase, "done") != 0 && run->pid > 0 && kill(run->pid, 0) == 0;
}

/* A report for a move whose agent went away under it. */
static void report_lost_agent(Run *run)
{
    gboolean gone;
    g_autoptr(json_t) guest = ask_returned_agent(run, &gone);
    const char *state = guest ? json_text_or(guest, "state", "?") : NULL;
    g_autofree char *text = NULL;
    gboolean attention = FALSE;

    if (guest) {
        attention = strcmp(state, "in-doubt") == 0 || strcmp(state, "postcopy-source") == 0;
        text = g_strdup_printf("the agent was restarted during the move; %s is %s here", run->guest,
                               state);
    } else if (gone) {
        attention = TRUE;
        text = g_strdup_printf("the agent was restarted during the move and %s is not here any "
                               "more: see `vmferry events`, and `vmferry list` on %s",
                               run->guest, run->destination);
    } else if (is_still_here(run)) {
        text = g_strdup_printf("the agent went away during the move; %s is still here as process "
                               "%d: start the agent again, it finds its guests",
                               run->guest, (int)run->pid);
    } else {
        attention = TRUE;
        text = g_strdup_printf("the agent went away during the switchover: start it again, then "
                               "see `vmferry list` here and on %s",
                               run->destination);
    }
    run->report = report_make(run->guest, run->destination, REPORT_REASON_AGENT_LOST, text);
    if (attention)
        json_object_set_new(run->report, "in_doubt", json_true());
}

static int finish(Run *run)
{
    int code = report_get_exit(run->report);
    g_autoptr(GError) error = NULL;

    if (run->arguments->common.json)
        cli_print_json(run->report);
    else
        report_print(run->report, run->guest);
    if (!recording_close(&run->recording, &error))
        fprintf(stderr, "%s: %s\n", g_get_prgname(), error->message);
    json_decref(run->report);
    return code;
}

static int follow(Run *run, json_t *request, const char *path)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Client) client = cli_connect(&run->arguments->common, &error);

    if (!client) {
        json_decref(request);
        return cli_fail(&run->arguments->common, error);
    }
    if (!cli_is_remote(&run->arguments->common))
        note_pid(run, client);
    interrupt_watch(&run->arguments->common, run->guest);
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

static int detach(const MigrateArguments *arguments, const char *guest, json_t *request,
                  const char *path)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) answer = cli_call(&arguments->common, "POST", path, request, &error);

    if (!answer)
        return cli_fail(&arguments->common, error);
    if (arguments->common.json)
        cli_print_json(answer);
    else
        printf("%s begins to move; see `vmferry events --follow` and `vmferry status %s`.\n", guest,
               guest);
    return EXIT_DONE;
}

static int migrate(const MigrateArguments *arguments, const char *guest, const char *destination)
{
    Run run = {.arguments = arguments, .guest = guest, .destination = destination};
    MigrateOptions options;
    json_t *request = migrate_arguments_to_request(arguments, destination, &options);
    g_autofree char *path = request ? cli_guest_path(guest, "/migrate") : NULL;
    g_autoptr(GError) error = NULL;

    if (!path) {
        json_decref(request);
        return EXIT_USAGE;
    }
    if (options.detach)
        return detach(arguments, guest, request, path);
    /* Before the move: one that cannot be recorded as asked does not begin. */
    if (!recording_open(&run.recording, migrate_arguments_get_record(arguments), &error)) {
        json_decref(request);
        return cli_fail(&arguments->common, error);
    }
    return follow(&run, request, path);
}

int verb_migrate(int argc, char **argv)
{
    g_auto(MigrateArguments) arguments;
    CliSpec spec = {.parameters = "NAME HOST[:PORT]",
                    .description = description,
                    .entries = arguments.entries,
                    .common = &arguments.common,
                    .talks = TRUE,
                    .remote = TRUE};

    migrate_arguments_init(&arguments);
    if (!cli_parse(&spec, &argc, &argv) || !cli_check_arguments(argc, 2, 2, "NAME and HOST[:PORT]"))
        return EXIT_USAGE;
    interrupt_block();
    return migrate(&arguments, argv[1], argv[2]);
}
