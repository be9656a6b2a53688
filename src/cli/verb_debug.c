#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "cli/cli.h"
#include "cli/debug_console.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "migrate/debug_copy.h"

/* A guest may be in the middle of something that has no form in the other VMM. */
#define ATTEMPTS 10u

static const char description[] =
    "Looks into a copy of a running guest, or of a saved image, with Bochs and its debugger.\n\n"
    "The copy has the guest's memory, processor and devices of one moment (two pauses of some ms), "
    "and\n"
    "stands still there. The guest runs on, and is not touched: the copy reads the guest's disks, "
    "as\n"
    "they are by then, and does not write to them, and its network card is connected to "
    "nothing.\n\n"
    "Commands are those of Bochs's debugger, one a line: help; r (registers); u /10 "
    "(disassemble);\n"
    "x /4gx ADDRESS (memory); s (a step); b ADDRESS, watch w ADDRESS, c (run until there); info "
    "tab;\n"
    "q ends. Ctrl-C stops a copy that runs.";

typedef struct {
    CommonOptions common;
    char *image, *key_file, *exec, *folder;
    GBytes *key;
    char *directory; /* of this run, removed at the end */
    DebugConsole *console;
    Progress progress;
    json_t *report; /* of the save; NULL until it came */
} Debug;

static void debug_clear(Debug *debug)
{
    g_free(debug->image);
    g_free(debug->key_file);
    g_free(debug->exec);
    g_free(debug->folder);
    g_clear_pointer(&debug->key, g_bytes_unref);
    if (debug->directory)
        g_rmdir(debug->directory);
    g_free(debug->directory);
    debug_console_free(debug->console);
    json_decref(debug->report);
    common_options_clear(&debug->common);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Debug, debug_clear)

/* ---- the image of a guest that runs ---- */

static gboolean on_line(json_t *object, gpointer user)
{
    Debug *debug = user;

    if (json_object_get(object, "status")) {
        debug->report = json_incref(object);
        return FALSE;
    }
    progress_show(&debug->progress, object);
    return !debug_console_wants_end(debug->console);
}

static gboolean cancel(Debug *debug, const char *name, GError **error)
{
    g_autofree char *path = cli_guest_path(name, "/cancel");
    g_autoptr(json_t) answer = cli_call(&debug->common, "POST", path, NULL, NULL);

    error_set(error, VMFERRY_ERROR_CANCELLED, "cancelled");
    return FALSE;
}

static gboolean save(Debug *debug, const char *name, const char *file, GError **error)
{
    g_autofree char *path = cli_guest_path(name, "/save");
    g_autoptr(Client) client = cli_connect(&debug->common, error);
    gboolean streamed;

    g_clear_pointer(&debug->report, json_decref);
    if (!client)
        return FALSE;
    progress_init(&debug->progress);
    streamed = client_stream(
        client, "POST", path,
        json_pack("{s:s, s:s, s:s}", "file", file, "disks", "live", "compress", "lz4"), on_line,
        debug, error);
    progress_end(&debug->progress);
    if (!streamed)
        return FALSE;
    if (!debug->report)
        return cancel(debug, name, error);
    if (report_get_exit(debug->report) == EXIT_DONE)
        return TRUE;
    error_set(error, vmferry_error_code_from_name(json_text_or(debug->report, "reason", "failed")),
              "%s", json_text_or(debug->report, "error", "it could not be saved"));
    return FALSE;
}

/* ---- the copy ---- */

static void warn(const char *text)
{
    fprintf(stderr, "%s: %s\n", g_get_prgname(), text);
}

static VmmDebugger *open_image(const Debug *debug, const char *path, gboolean warns, GError **error)
{
    const DebugCopyJob job = {.path = path,
                              .directory = debug->directory,
                              .key = debug->key,
                              .warn = warns ? warn : NULL};

    return debug_copy_open(&job, error);
}

/* Before it is saved.  At another moment it may be possible, and what is not known now will be told. */
static gboolean check(const Debug *debug, const char *name, GError **error)
{
    g_autofree char *path = cli_guest_path(name, "/state");
    g_autoptr(GError) failure = NULL;
    g_autoptr(json_t) told = cli_call(&debug->common, "GET", path, NULL, &failure);

    if (!told &&
        (error_is(failure, VMFERRY_ERROR_UNSUPPORTED) || error_is(failure, VMFERRY_ERROR_REFUSED)))
        return TRUE;
    if (told && (debug_copy_check(told, &failure) || error_is(failure, VMFERRY_ERROR_BUSY)))
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

/* Of one moment; BUSY: not of this one. */
static VmmDebugger *open_guest(Debug *debug, const char *name, GError **error)
{
    g_autofree char *file = g_build_filename(debug->directory, "image", NULL);
    VmmDebugger *debugger = NULL;

    for (guint i = 0; !debugger && i < ATTEMPTS; i++) {
        g_autoptr(GError) failure = NULL;

        if (save(debug, name, file, &failure))
            debugger = open_image(debug, file, FALSE, &failure);
        g_unlink(file);
        if (debugger || (error_is(failure, VMFERRY_ERROR_BUSY) && i + 1 < ATTEMPTS))
            continue;
        g_propagate_error(error, g_steal_pointer(&failure));
        return NULL;
    }
    return debugger;
}

static gboolean prepare(Debug *debug, GError **error)
{
    g_autofree char *template = NULL;
    size_t length;

    if (geteuid() != 0) {
        error_set(error, VMFERRY_ERROR_PERMISSION,
                  "needs root: Bochs is put into a network namespace of its own");
        return FALSE;
    }
    if (debug->key_file) {
        char *bytes = file_read(debug->key_file, IMAGE_MAX_KEY_BYTES, &length, error);

        if (!bytes)
            return FALSE;
        debug->key = g_bytes_new_take(bytes, length);
    }
    template = g_build_filename(debug->folder ? debug->folder : g_get_tmp_dir(),
                                "vmferry-debug-XXXXXX", NULL);
    debug->directory = g_mkdtemp(template) ? g_canonicalize_filename(template, NULL) : NULL;
    if (!debug->directory)
        error_set(error, VMFERRY_ERROR_FAILED, "%s: cannot be made", template);
    return debug->directory != NULL;
}

static int look(Debug *debug, VmmDebugger *debugger)
{
    g_autoptr(GError) error = NULL;
    gboolean ended = debug->exec
                         ? debug_console_execute(debug->console, debugger, debug->exec, &error)
                         : debug_console_talk(debug->console, debugger, &error);

    return ended ? EXIT_DONE : cli_fail(&debug->common, error);
}

static int run(Debug *debug, const char *name)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VmmDebugger) debugger = NULL;

    debug->console = debug_console_new(&error);
    if (!debug->console || !prepare(debug, &error))
        return cli_fail(&debug->common, error);
    debugger = debug->image                 ? open_image(debug, debug->image, TRUE, &error)
               : check(debug, name, &error) ? open_guest(debug, name, &error)
                                            : NULL;
    if (!debugger)
        return cli_fail(&debug->common, error);
    if (!debug->exec && isatty(STDIN_FILENO))
        fprintf(stderr, "The copy of %s stands still; q ends, help tells the commands.\n",
                debug->image ? debug->image : name);
    return look(debug, debugger);
}

int verb_debug(int argc, char **argv)
{
    g_auto(Debug) debug = {0};
    const GOptionEntry entries[] = {
        {"image", 'i', 0, G_OPTION_ARG_FILENAME, &debug.image, "A saved image, and no guest",
         "FILE"},
        {"key-file", 0, 0, G_OPTION_ARG_FILENAME, &debug.key_file,
         "The key that the image was written with", "FILE"},
        {"exec", 'x', 0, G_OPTION_ARG_STRING, &debug.exec,
         "These commands, with ; between them, and then the end", "COMMANDS"},
        {"folder", 0, 0, G_OPTION_ARG_FILENAME, &debug.folder,
         "Where the copy's files are while it lasts (/tmp)", "FOLDER"},
        {NULL},
    };
    const CliSpec spec = {.parameters = "NAME | --image FILE",
                          .description = description,
                          .entries = entries,
                          .common = &debug.common,
                          .talks = TRUE};
    gboolean parsed = cli_parse(&spec, &argc, &argv);
    g_autofree char *path = NULL;

    if (!parsed || !cli_check_arguments(argc, debug.image ? 0 : 1, debug.image ? 0 : 1,
                                        debug.image ? "--image FILE and nothing else" : "NAME"))
        return EXIT_USAGE;
    if (debug.key_file && !debug.image)
        return cli_usage_error("--key-file goes with --image");
    path = debug.image ? NULL : cli_guest_path(argv[1], "");
    if (!debug.image && !path)
        return EXIT_USAGE;
    return run(&debug, debug.image ? NULL : argv[1]);
}
