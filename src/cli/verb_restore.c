#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cli/cli.h"

#define LOOK_NS 200000000ULL

static const char description[] =
    "Starts a guest that was saved into an image (vmferry save).  It goes on at once where it "
    "was,\n"
    "while its memory still comes out of the image, which is not changed and may be restored "
    "again;\n"
    "the file is needed until all of it is there (vmferry status).\n\n"
    "Disks that were copied stay as they are: the guest gets disks of its own above them.  Disks "
    "by\n"
    "reference are used, unless they have changed since.";

typedef struct {
    CommonOptions common;
    char *name, *disks_in, *clock;
    char **maps;
    gboolean full, trust_disks, share_memory, new_mac;
} RestoreArguments;

static gboolean add_maps(const RestoreArguments *arguments, json_t *request)
{
    json_t *list = json_array();

    json_object_set_new(request, "maps", list);
    for (char **map = arguments->maps; map && *map; map++) {
        g_auto(GStrv) parts = g_strsplit(*map, "=", 2);

        if (g_strv_length(parts) != 2 || !*parts[0]) {
            cli_usage_error("--map: FROM=TO");
            return FALSE;
        }
        json_array_append_new(list, json_pack("{s:s, s:s}", "from", parts[0], "to", parts[1]));
    }
    return TRUE;
}

static char *make_absolute(const char *path)
{
    g_autofree char *folder = g_get_current_dir();

    return g_path_is_absolute(path) ? g_strdup(path) : g_build_filename(folder, path, NULL);
}

static json_t *make_request(const RestoreArguments *arguments, const char *file)
{
    g_autofree char *path = make_absolute(file);
    g_autofree char *folder = arguments->disks_in ? make_absolute(arguments->disks_in) : NULL;
    g_autoptr(json_t) request =
        json_pack("{s:s, s:b, s:b, s:b}", "file", path, "trust_disks", arguments->trust_disks,
                  "share_memory", arguments->share_memory, "new_mac", arguments->new_mac);

    if (arguments->clock && strcmp(arguments->clock, "keep") != 0 &&
        strcmp(arguments->clock, "host") != 0) {
        cli_usage_error("--clock: keep or host");
        return NULL;
    }
    if (arguments->clock)
        json_object_set_new(request, "clock", json_string(arguments->clock));
    if (arguments->name)
        json_object_set_new(request, "name", json_string(arguments->name));
    if (folder)
        json_object_set_new(request, "disks_in", json_string(folder));
    return add_maps(arguments, request) ? g_steal_pointer(&request) : NULL;
}

static void show_left(json_t *guest)
{
    json_t *progress = json_object_get(json_object_get(guest, "activity"), "progress");
    double all = (double)json_count_or(progress, "pages", 0);
    double left = (double)json_count_or(progress, "pages_left", 0);

    if (all > 0)
        fprintf(stderr, "\rmemory from the image: %3.0f %%", 100 * (all - left) / all);
}

/* NULL with *error*; else as it is once it has all of its memory, or cannot get it. */
static json_t *await_whole(const RestoreArguments *arguments, const char *name, gboolean shows,
                           GError **error)
{
    g_autoptr(Client) client = cli_connect(&arguments->common, error);
    g_autofree char *path = cli_guest_path(name, NULL);

    while (client) {
        json_t *guest = client_call(client, "GET", path, NULL, error);
        gboolean restoring = guest && strcmp(json_text_or(guest, "state", ""), "restoring") == 0;

        if (!restoring || json_text_or(guest, "problem", NULL))
            return guest;
        if (shows)
            show_left(guest);
        json_decref(guest);
        clock_sleep_ns(LOOK_NS);
    }
    return NULL;
}

static int show(const RestoreArguments *arguments, json_t *guest)
{
    const char *problem = json_text_or(guest, "problem", NULL);

    if (arguments->common.json)
        cli_print_json(guest);
    else
        printf("%s goes on from its image, as process %d%s.\n", json_text_or(guest, "name", "?"),
               (int)json_count_or(guest, "pid", 0),
               arguments->full ? ", with all of its memory" : "; its memory follows");
    if (!problem)
        return EXIT_DONE;
    fprintf(stderr, "%s: %s\n", g_get_prgname(), problem);
    return EXIT_ATTENTION;
}

static int restore(const RestoreArguments *arguments, const char *file)
{
    json_t *request = make_request(arguments, file);
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) guest = NULL;
    g_autofree char *name = NULL;

    if (!request)
        return EXIT_USAGE;
    guest = cli_call(&arguments->common, "POST", "/v1/restore", request, &error);
    if (!guest)
        return cli_fail(&arguments->common, error);
    name = g_strdup(json_text_or(guest, "name", ""));
    if (arguments->full) {
        gboolean shows = !arguments->common.json;
        json_t *whole = await_whole(arguments, name, shows, &error);

        if (shows)
            fprintf(stderr, "\r\033[K");
        if (!whole)
            return cli_fail(&arguments->common, error);
        json_decref(guest);
        guest = whole;
    }
    return show(arguments, guest);
}

int verb_restore(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    RestoreArguments arguments = {0};
    const GOptionEntry entries[] = {
        {"name", 0, 0, G_OPTION_ARG_STRING, &arguments.name, "Call the guest that", "NEW"},
        {"full", 0, 0, G_OPTION_ARG_NONE, &arguments.full, "Wait until all of its memory is there",
         NULL},
        {"map", 0, 0, G_OPTION_ARG_STRING_ARRAY, &arguments.maps,
         "What is called FROM in its command line is TO here (repeatable)", "FROM=TO"},
        {"disks-in", 0, 0, G_OPTION_ARG_FILENAME, &arguments.disks_in,
         "Folder for disks of its own", "FOLDER"},
        {"share-memory", 0, 0, G_OPTION_ARG_NONE, &arguments.share_memory,
         "Have memory that is only read in common with other guests of this image", NULL},
        {"trust-disks", 0, 0, G_OPTION_ARG_NONE, &arguments.trust_disks,
         "Disks by reference have not changed: do not look", NULL},
        {"clock", 0, 0, G_OPTION_ARG_STRING, &arguments.clock,
         "keep (default): its own goes on; host: its agent sets it", "keep|host"},
        {"new-mac", 0, 0, G_OPTION_ARG_NONE, &arguments.new_mac,
         "Exchange its network cards for ones with new addresses", NULL},
        {NULL, 0, 0, 0, NULL, NULL, NULL},
    };
    CliSpec spec = {.parameters = "FILE",
                    .description = description,
                    .entries = entries,
                    .common = &common,
                    .talks = TRUE};
    int code = EXIT_USAGE;

    if (cli_parse(&spec, &argc, &argv) && cli_check_arguments(argc, 1, 1, "FILE")) {
        arguments.common = common;
        code = restore(&arguments, argv[1]);
    }
    g_free(arguments.name);
    g_free(arguments.disks_in);
    g_free(arguments.clock);
    g_strfreev(arguments.maps);
    return code;
}
