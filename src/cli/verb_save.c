#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/quantity.h"
#include "base/rate.h"
#include "cli/cli.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "migrate/options.h"

#define PIPE_BYTES 65536

static const char description[] =
    "Saves a running guest, its memory, devices and disks, into an image.  It runs on meanwhile,\n"
    "but for one short pause at the end, and afterwards (--stop: it is ended).\n\n"
    "FILE: a path; HOST[:PORT]:PATH on another host, with an agent; - for standard output.\n"
    "Copies of its disks go beside it (FILE.01234567.disk0, …).\n"
    "Ctrl-C cancels the save.";

typedef struct {
    CommonOptions common;
    char *base, *disks, *bandwidth, *downtime, *cap, *deadline, *retry, *compress;
    gboolean stop, replace, detach;
} SaveArguments;

typedef struct {
    const SaveArguments *arguments;
    Progress progress;
    json_t *report; /* NULL until it came */
} Following;

/* ---- the request ---- */

/* What another host, or the agent here, is to be told. */
static char *make_target(const char *file)
{
    const char *host = strstr(file, ":/");
    g_autofree char *folder = NULL;

    if (g_path_is_absolute(file) || host)
        return g_strdup(file);
    folder = g_get_current_dir();
    return g_build_filename(folder, file, NULL);
}

static gboolean add_options(const SaveArguments *arguments, json_t *request)
{
    const struct {
        const char *name, *text;
    } given[] = {{"bandwidth", arguments->bandwidth}, {"max-downtime", arguments->downtime},
                 {"downtime-cap", arguments->cap},    {"deadline", arguments->deadline},
                 {"retry-for", arguments->retry},     {"compress", arguments->compress}};
    MigrateOptionSet set = 0;
    MigrateOptions options;

    migrate_options_init(&options);
    for (guint i = 0; i < G_N_ELEMENTS(given); i++) {
        const MigrateOption *option = migrate_option_find(given[i].name);
        g_autoptr(GError) error = NULL;

        if (!given[i].text)
            continue;
        set |= migrate_option_bit(option);
        if (!migrate_option_set_text(option, MIGRATE_FROM_COMMAND, given[i].text, &options,
                                     &error)) {
            cli_usage_error("%s", error->message);
            return FALSE;
        }
    }
    migrate_options_write(&options, set, request);
    return TRUE;
}

/* A name without folders is beside the image; free with g_free(). */
static char *make_base(const char *base, const char *target)
{
    const char *path = *target == '/' ? target : strstr(target, ":/") + 1;
    g_autofree char *folder = g_path_get_dirname(path);

    if (g_path_is_absolute(base))
        return g_strdup(base);
    return strchr(base, '/') ? g_canonicalize_filename(base, NULL)
                             : g_build_filename(folder, base, NULL);
}

static json_t *make_request(const SaveArguments *arguments, const char *target)
{
    g_autofree char *base = arguments->base ? make_base(arguments->base, target) : NULL;
    g_autoptr(json_t) request =
        json_pack("{s:s, s:b, s:b, s:b}", "file", target, "stop", arguments->stop, "replace",
                  arguments->replace, "detach", arguments->detach);

    if (arguments->disks && strcmp(arguments->disks, "copy") != 0 &&
        strcmp(arguments->disks, "reference") != 0) {
        cli_usage_error("--disks: copy or reference");
        return NULL;
    }
    if (arguments->base)
        json_object_set_new(request, "base", json_string(base));
    if (arguments->disks)
        json_object_set_new(request, "disks", json_string(arguments->disks));
    return add_options(arguments, request) ? g_steal_pointer(&request) : NULL;
}

/* ---- standard output ---- */

/* The agent writes to a FIFO of ours, which a thread reads. */
typedef struct {
    char *folder, *path;
    GThread *thread;
    int error; /* of writing; 0: none */
} Outlet;

static gpointer outlet_main(gpointer data)
{
    Outlet *outlet = data;
    autofd int fd = open(outlet->path, O_RDONLY | O_CLOEXEC);
    g_autofree char *buffer = g_malloc(PIPE_BYTES);
    ssize_t came = -1;

    while (fd >= 0 && (came = read(fd, buffer, PIPE_BYTES)) > 0)
        for (ssize_t done = 0, wrote; done < came; done += wrote) {
            wrote = write(STDOUT_FILENO, buffer + done, (size_t)(came - done));
            if (wrote < 0 && errno == EINTR)
                wrote = 0;
            if (wrote < 0) {
                outlet->error = errno;
                return NULL;
            }
        }
    if (came < 0)
        outlet->error = errno;
    return NULL;
}

static gboolean outlet_begin(Outlet *outlet, GError **error)
{
    outlet->folder = g_dir_make_tmp("vmferry-save-XXXXXX", error);
    if (!outlet->folder)
        return FALSE;
    outlet->path = g_build_filename(outlet->folder, "image", NULL);
    if (mkfifo(outlet->path, 0600) < 0) {
        error_set_errno(error, errno, "%s", outlet->path);
        return FALSE;
    }
    outlet->thread = g_thread_new("outlet", outlet_main, outlet);
    return TRUE;
}

/* FALSE where not all of it was written. */
static gboolean outlet_end(Outlet *outlet, GError **error)
{
    /* It may wait for a writer that will not come. */
    int fd = outlet->thread ? open(outlet->path, O_RDWR | O_NONBLOCK | O_CLOEXEC) : -1;

    if (fd >= 0)
        close(fd);
    g_clear_pointer(&outlet->thread, g_thread_join);
    if (outlet->path)
        unlink(outlet->path);
    if (outlet->folder)
        rmdir(outlet->folder);
    g_free(outlet->path);
    g_free(outlet->folder);
    if (outlet->error == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_FAILED, "standard output: %s", g_strerror(outlet->error));
    return FALSE;
}

/* ---- the answer ---- */

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

static void print_compared(FILE *out, json_t *base)
{
    if (base)
        fprintf(out,
                "Above %s: of %" G_GUINT64_FORMAT " pages with content %" G_GUINT64_FORMAT
                " are as there, %" G_GUINT64_FORMAT " were stored.\n",
                json_text_or(base, "file", "?"), json_count_or(base, "compared_pages", 0),
                json_count_or(base, "equal_pages", 0), json_count_or(base, "stored_pages", 0));
}

static void print_whole(FILE *out, json_t *copies)
{
    json_t *copy;
    size_t i;

    json_array_foreach(copies, i, copy)
    {
        const char *why = json_text_or(copy, "whole", NULL);

        if (why)
            fprintf(out, "Disk %s was copied whole: %s.\n", json_text_or(copy, "id", "?"), why);
    }
}

static void print_saved(const SaveArguments *arguments, json_t *report, const char *name,
                        const char *file)
{
    json_t *image = json_object_get(report, "image");
    g_autofree char *bytes = bytes_format((double)json_count_or(image, "bytes", 0));
    g_autofree char *total = format_ms(json_number_value(json_object_get(report, "total_ms")));
    g_autofree char *pause = format_ms(json_number_value(json_object_get(report, "downtime_ms")));
    FILE *out = strcmp(file, "-") == 0 ? stderr : stdout;

    print_compared(out, json_object_get(image, "base"));
    print_whole(out, json_object_get(report, "copies"));
    fprintf(out, "%s was saved into %s: %s in %s%s%s.\n", name, file, bytes, total,
            arguments->stop ? "; it has ended" : ", paused for ", arguments->stop ? "" : pause);
}

static int finish(const Following *following, const char *name, const char *file,
                  const GError *error)
{
    const SaveArguments *arguments = following->arguments;
    json_t *report = following->report;
    const char *problem = report ? json_text_or(report, "error", NULL) : NULL;
    int code;

    if (!report)
        return cli_fail(&arguments->common, error);
    code = report_get_exit(report);
    if (arguments->common.json)
        cli_print_json(report);
    else if (code == EXIT_DONE)
        print_saved(arguments, report, name, file);
    if (!arguments->common.json && problem)
        fprintf(stderr, "%s: %s\n", g_get_prgname(), problem);
    return code;
}

static int follow(const SaveArguments *arguments, const char *name, const char *file,
                  const char *path, json_t *request)
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
    code = finish(&following, name, file, error);
    json_decref(following.report);
    return code;
}

static int detach(const SaveArguments *arguments, const char *name, const char *path,
                  json_t *request)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) answer = cli_call(&arguments->common, "POST", path, request, &error);

    if (!answer)
        return cli_fail(&arguments->common, error);
    if (arguments->common.json)
        cli_print_json(answer);
    else
        printf("%s begins to be saved; see `vmferry events --follow`.\n", name);
    return EXIT_DONE;
}

static int save_to_output(const SaveArguments *arguments, const char *name, const char *path)
{
    g_autoptr(GError) error = NULL;
    Outlet outlet = {0};
    json_t *request;
    int code = EXIT_USAGE;

    if (arguments->common.json || arguments->detach || cli_is_remote(&arguments->common))
        return cli_usage_error("- goes with none of --json, --detach and --host");
    if (arguments->base)
        return cli_usage_error("--base needs a file beside the base, and - is none");
    if (isatty(STDOUT_FILENO))
        return cli_usage_error("an image is not for a terminal: send it to a pipe");
    if (outlet_begin(&outlet, &error)) {
        request = make_request(arguments, outlet.path);
        if (request)
            code = follow(arguments, name, "-", path, request);
    }
    if (!outlet_end(&outlet, &error) || error)
        return cli_fail(&arguments->common, error);
    return code;
}

static int save(const SaveArguments *arguments, const char *name, const char *file)
{
    g_autofree char *path = cli_guest_path(name, "/save");
    g_autofree char *target = make_target(file);
    json_t *request;

    if (!path)
        return EXIT_USAGE;
    if (strcmp(file, "-") == 0)
        return save_to_output(arguments, name, path);
    request = make_request(arguments, target);
    if (!request)
        return EXIT_USAGE;
    return arguments->detach ? detach(arguments, name, path, request)
                             : follow(arguments, name, file, path, request);
}

int verb_save(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    SaveArguments arguments = {0};
    const GOptionEntry entries[] = {
        {"stop", 0, 0, G_OPTION_ARG_NONE, &arguments.stop,
         "End the guest once its image is complete", NULL},
        {"base", 0, 0, G_OPTION_ARG_STRING, &arguments.base,
         "Store only what differs from this image, beside FILE", "BASE"},
        {"disks", 0, 0, G_OPTION_ARG_STRING, &arguments.disks,
         "copy (default), or reference: as they are (default with --stop)", "copy|reference"},
        {"replace", 0, 0, G_OPTION_ARG_NONE, &arguments.replace, "Replace a file that is there",
         NULL},
        {"bandwidth", 0, 0, G_OPTION_ARG_STRING, &arguments.bandwidth,
         "Limit the rate (100M, 1gbit)", "RATE"},
        {"max-downtime", 0, 0, G_OPTION_ARG_STRING, &arguments.downtime, "The pause to aim at",
         "TIME"},
        {"downtime-cap", 0, 0, G_OPTION_ARG_STRING, &arguments.cap,
         "The pause that is not exceeded knowingly", "TIME"},
        {"retry-for", 0, 0, G_OPTION_ARG_STRING, &arguments.retry,
         "Connect again for that long where the connection to another host breaks", "TIME"},
        {"deadline", 0, 0, G_OPTION_ARG_STRING, &arguments.deadline, "End within that time",
         "TIME"},
        {"compress", 0, 0, G_OPTION_ARG_STRING, &arguments.compress,
         "How it is compressed (default: zstd)", "auto|none|lz4|zstd"},
        {"detach", 0, 0, G_OPTION_ARG_NONE, &arguments.detach, "Do not wait for the end", NULL},
        {NULL, 0, 0, 0, NULL, NULL, NULL},
    };
    CliSpec spec = {.parameters = "NAME FILE",
                    .description = description,
                    .entries = entries,
                    .common = &common,
                    .talks = TRUE,
                    .remote = TRUE};
    int code = EXIT_USAGE;

    if (cli_parse(&spec, &argc, &argv) && cli_check_arguments(argc, 2, 2, "NAME and FILE")) {
        interrupt_block();
        arguments.common = common;
        code = save(&arguments, argv[1], argv[2]);
    }
    g_free(arguments.base);
    g_free(arguments.disks);
    g_free(arguments.bandwidth);
    g_free(arguments.downtime);
    g_free(arguments.cap);
    g_free(arguments.deadline);
    g_free(arguments.retry);
    g_free(arguments.compress);
    return code;
}
