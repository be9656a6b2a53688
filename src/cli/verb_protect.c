#include <stdio.h>
#include <string.h>

#include "base/quantity.h"
#include "base/rate.h"
#include "cli/cli.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "client/client.h"

#define LEAST_MS 10.0
#define MOST_MS 5000.0
#define MOST_OVERHEAD 50 /* percent */

/* ---- protect ---- */

static const char protect_description[] =
    "Keeps a standby of a running guest on another host, which goes on with it where this host\n"
    "dies: nothing that the guest has sent, and no write that it was told of, is forgotten.\n"
    "No storage need be shared.  Returns when the standby has all of it; the guest runs on\n"
    "meanwhile, and whatever comes of it.\n\n"
    "Without a witness (a third host with an agent, or etcd) the standby does not go on by itself\n"
    "where this host is not heard any more: it cannot know whether it is only cut off.";

typedef struct {
    CommonOptions common;
    char *witness, *interval, *disks, *overhead, *disk_sync, *sync;
    gboolean overwrite, detach;
} ProtectArguments;

typedef struct {
    const ProtectArguments *arguments;
    Progress progress;
    json_t *report; /* NULL until it came */
} Following;

static gboolean on_line(json_t *object, gpointer user)
{
    Following *following = user;

    if (json_object_get(object, "status")) {
        following->report = json_incref(object);
        return FALSE;
    }
    if (!following->arguments->common.json)
        progress_show(&following->progress, object);
    return TRUE;
}

static void print_protected(json_t *report, const char *name)
{
    double same = (double)json_count_or(report, "disk_same_bytes", 0);
    g_autofree char *bytes = bytes_format(same);

    printf("%s is protected by %s%s%s%s.\n", name, json_text_or(report, "standby", "?"),
           same > 0 ? "; " : "", same > 0 ? bytes : "",
           same > 0 ? " of its disks were there already" : "");
}

static int finish(const Following *following, const char *name, const GError *error)
{
    const CommonOptions *common = &following->arguments->common;
    const char *status = json_text_or(following->report, "status", "");
    gboolean protected = strcmp(status, "protected") == 0;

    if (!following->report)
        return cli_fail(common, error);
    if (common->json)
        cli_print_json(following->report);
    else if (protected)
        print_protected(following->report, name);
    else
        fprintf(stderr, "%s: %s\n", g_get_prgname(),
                json_text_or(following->report, "error", status));
    return protected ? EXIT_DONE : EXIT_FAILED;
}

static int follow(const ProtectArguments *arguments, const char *name, const char *path,
                  json_t *request)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Client) client = cli_connect(&arguments->common, &error);
    Following following = {.arguments = arguments};
    int code;

    if (!client) {
        json_decref(request);
        return cli_fail(&arguments->common, error);
    }
    interrupt_watch(&arguments->common, name);
    progress_init(&following.progress);
    client_stream(client, "POST", path, request, on_line, &following, &error);
    progress_end(&following.progress);
    if (!following.report && !error)
        error_set(&error, VMFERRY_ERROR_DISCONNECTED,
                  "the agent went away; see `vmferry status %s`", name);
    code = finish(&following, name, error);
    json_decref(following.report);
    return code;
}

static int detach(const ProtectArguments *arguments, const char *name, const char *path,
                  json_t *request)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) answer = cli_call(&arguments->common, "POST", path, request, &error);

    if (!answer)
        return cli_fail(&arguments->common, error);
    if (arguments->common.json)
        cli_print_json(answer);
    else
        printf("%s begins to be protected; see `vmferry status %s`.\n", name, name);
    return EXIT_DONE;
}

static json_t *make_request(const ProtectArguments *arguments, const char *standby)
{
    json_t *request = json_pack("{s:s, s:b, s:b}", "standby", standby, "overwrite",
                                arguments->overwrite, "detach", arguments->detach);

    if (arguments->witness)
        json_object_set_new(request, "witness", json_string(arguments->witness));
    if (arguments->disks)
        json_object_set_new(request, "disks", json_string(arguments->disks));
    if (arguments->sync)
        json_object_set_new(request, "sync", json_string(arguments->sync));
    if (arguments->disk_sync)
        json_object_set_new(request, "disk_sync", json_string(arguments->disk_sync));
    return request;
}

/* "10" and "10%". */
static gboolean add_overhead(json_t *request, const char *text)
{
    static const QuantityUnit units[] = {{"", 1}, {"%", 1}, {NULL, 0}};
    double percent;

    if (!text)
        return TRUE;
    if (!quantity_parse(text, units, &percent) || percent < 1 || percent > MOST_OVERHEAD) {
        cli_usage_error("--overhead: a percentage from 1 to %d", MOST_OVERHEAD);
        return FALSE;
    }
    json_object_set_new(request, "overhead_percent", json_integer((json_int_t)percent));
    return TRUE;
}

static gboolean add_interval(json_t *request, const char *text)
{
    g_autoptr(GError) error = NULL;
    double ms;

    if (!text)
        return TRUE;
    if (!time_parse(text, &ms, &error) || ms < LEAST_MS || ms > MOST_MS) {
        cli_usage_error("--interval: %s", error ? error->message : "10 ms to 5 s");
        return FALSE;
    }
    json_object_set_new(request, "interval_ms", json_integer((json_int_t)ms));
    return TRUE;
}

static int protect(const ProtectArguments *arguments, const char *name, const char *standby)
{
    g_autofree char *path = cli_guest_path(name, "/protect");
    g_autoptr(json_t) request = make_request(arguments, standby);

    if (!path || !add_interval(request, arguments->interval) ||
        !add_overhead(request, arguments->overhead))
        return EXIT_USAGE;
    return (arguments->detach ? detach : follow)(arguments, name, path, g_steal_pointer(&request));
}

static void arguments_clear(ProtectArguments *arguments)
{
    common_options_clear(&arguments->common);
    g_free(arguments->witness);
    g_free(arguments->interval);
    g_free(arguments->disks);
    g_free(arguments->overhead);
    g_free(arguments->disk_sync);
    g_free(arguments->sync);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ProtectArguments, arguments_clear)

int verb_protect(int argc, char **argv)
{
    g_auto(ProtectArguments) arguments = {0};
    const GOptionEntry entries[] = {
        {"witness", 0, 0, G_OPTION_ARG_STRING, &arguments.witness,
         "who says who may go on where the two cannot reach each other: a third host's agent, or "
         "members of an etcd cluster",
         "HOST[:PORT]|etcd://HOST[:PORT],..."},
        {"interval", 0, 0, G_OPTION_ARG_STRING, &arguments.interval,
         "from one epoch to the next, where the guest sends nothing (50ms)", "TIME"},
        {"sync", 0, 0, G_OPTION_ARG_STRING, &arguments.sync,
         "when epochs are cut: output: where the guest sends; timed: at the interval (auto)",
         "auto|output|timed"},
        {"disks", 0, 0, G_OPTION_ARG_STRING, &arguments.disks,
         "auto: those that both hosts do not share are copied; copy: all are", "auto|copy"},
        {"overhead", 0, 0, G_OPTION_ARG_STRING, &arguments.overhead,
         "for how much of its time the guest may stand, at most (15)", "PERCENT"},
        {"disk-sync", 0, 0, G_OPTION_ARG_STRING, &arguments.disk_sync,
         "replay: disk writes whose data the standby has in memory are not sent; copy: all are",
         "replay|copy"},
        {"overwrite", 0, 0, G_OPTION_ARG_NONE, &arguments.overwrite,
         "replace disk images that are there", NULL},
        {"detach", 0, 0, G_OPTION_ARG_NONE, &arguments.detach, "do not wait", NULL},
        {NULL},
    };
    CliSpec spec = {.parameters = "NAME HOST[:PORT]",
                    .description = protect_description,
                    .entries = entries,
                    .common = &arguments.common,
                    .talks = TRUE,
                    .remote = TRUE};

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_arguments(argc, 2, 2, "NAME and HOST[:PORT]"))
        return EXIT_USAGE;
    interrupt_block();
    return protect(&arguments, argv[1], argv[2]);
}

/* ---- unprotect, failover ---- */

/* *said* follows the name. */
static int call(const CommonOptions *common, const char *name, const char *suffix, json_t *request,
                const char *said)
{
    g_autofree char *path = cli_guest_path(name, suffix);
    g_autoptr(json_t) answer = NULL;
    g_autoptr(GError) error = NULL;

    if (!path) {
        json_decref(request);
        return EXIT_USAGE;
    }
    answer = cli_call(common, "POST", path, request, &error);
    if (!answer)
        return cli_fail(common, error);
    if (common->json)
        cli_print_json(answer);
    else
        printf("%s %s.\n", name, said);
    return EXIT_DONE;
}

int verb_unprotect(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    gboolean force = FALSE;
    const GOptionEntry entries[] = {
        {"force", 0, 0, G_OPTION_ARG_NONE, &force,
         "the standby does not answer, there is no witness, and nobody goes on with the guest "
         "there",
         NULL},
        {NULL},
    };
    CliSpec spec = {.parameters = "NAME",
                    .description =
                        "Ends a guest's protection; it runs on here, and its standby drops "
                        "what it has of it.",
                    .entries = entries,
                    .common = &common,
                    .talks = TRUE,
                    .remote = TRUE};

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_arguments(argc, 1, 1, "one NAME"))
        return EXIT_USAGE;
    return call(&common, argv[1], "/unprotect", json_pack("{s:b}", "force", force),
                "is not protected any more");
}

int verb_failover(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    CliSpec spec = {.parameters = "NAME",
                    .description =
                        "Has the standby of a protected guest of this host go on with it, as "
                        "if this host had died:\nnothing that anybody has heard of is lost. "
                        "Where this host has died, say `vmferry resolve NAME --keep\nhere` "
                        "on the standby, unless a witness has decided already.",
                    .common = &common,
                    .talks = TRUE,
                    .remote = TRUE};

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_arguments(argc, 1, 1, "one NAME"))
        return EXIT_USAGE;
    return call(&common, argv[1], "/failover", json_object(), "goes on at its standby");
}
