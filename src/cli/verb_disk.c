#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/output.h"
#include "client/client.h"

static const char description[] =
    "Shows the disks of a guest: how --disk of `vmferry migrate` calls each of them, its image, "
    "the\n"
    "backing files below that, and whether it can be copied to another host.";

static char *make_note(json_t *disk)
{
    const char *obstacle = json_text_or(disk, "obstacle", NULL);
    g_autoptr(GString) note = g_string_new(NULL);

    if (json_flag_or(disk, "firmware", FALSE))
        g_string_append(note, "firmware, ");
    if (json_flag_or(disk, "read_only", FALSE))
        g_string_append(note, "read-only, ");
    g_string_append(note, obstacle ? "cannot be copied: " : "can be copied");
    if (obstacle)
        g_string_append(note, obstacle);
    return g_strdup(note->str);
}

static char *format_bytes(json_t *file, const char *key)
{
    return g_format_size_full(json_count_or(file, key, 0), G_FORMAT_SIZE_IEC_UNITS);
}

/* The image in the disk's row, each backing file in one of its own below. */
static void add_files(Table *table, json_t *disk, const char *note)
{
    json_t *files = json_object_get(disk, "files"), *file;
    size_t i;

    json_array_foreach(files, i, file)
    {
        g_autofree char *size = format_bytes(file, "size_bytes");
        g_autofree char *allocated = format_bytes(file, "allocated_bytes");

        table_add(table, i == 0 ? json_text_or(disk, "id", "?") : "",
                  i == 0 ? json_text_or(disk, "device", "?") : "",
                  json_text_or(file, "format", "?"), size, allocated,
                  json_text_or(file, "file", "?"), i == 0 ? note : "backing file of that", NULL);
    }
}

static void print_disks(json_t *disks, const char *guest)
{
    static const char *const titles[] = {"ID",        "DEVICE", "FORMAT", "SIZE",
                                         "ALLOCATED", "FILE",   "NOTE",   NULL};
    g_autoptr(Table) table = table_new(titles);
    json_t *disk;
    size_t i;

    if (json_array_size(disks) == 0) {
        printf("%s has no disks.\n", guest);
        return;
    }
    json_array_foreach(disks, i, disk)
    {
        g_autofree char *note = make_note(disk);

        if (json_array_size(json_object_get(disk, "files")) == 0)
            table_add(table, json_text_or(disk, "id", "?"), json_text_or(disk, "device", "?"), NULL,
                      NULL, NULL, NULL, note, NULL);
        else
            add_files(table, disk, note);
    }
    table_print(table);
}

static int list(const CommonOptions *common, const char *guest)
{
    g_autofree char *path = cli_guest_path(guest, "/disks");
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) answer = NULL;

    if (!path)
        return EXIT_USAGE;
    answer = cli_call(common, "GET", path, NULL, &error);
    if (!answer)
        return cli_fail(common, error);
    if (common->json)
        cli_print_json(answer);
    else
        print_disks(json_object_get(answer, "disks"), guest);
    return EXIT_DONE;
}

int verb_disk(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    CliSpec spec = {.parameters = "list NAME",
                    .description = description,
                    .common = &common,
                    .talks = TRUE,
                    .remote = TRUE};

    if (!cli_parse(&spec, &argc, &argv))
        return EXIT_USAGE;
    if (argc < 2 || strcmp(argv[1], "list") != 0)
        return cli_usage_error("wanted `list NAME`");
    if (!cli_check_arguments(argc - 1, 1, 1, "one NAME"))
        return EXIT_USAGE;
    return list(&common, argv[2]);
}
