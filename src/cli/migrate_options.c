#include "cli/migrate_options.h"

#include <string.h>

#include "base/error.h"

/* ---- the options and their help ---- */

static void add_range(const MigrateOption *option, GString *help)
{
    if (option->kind == MIGRATE_OPTION_COUNT)
        g_string_append_printf(help, ", %" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT,
                               (guint64)option->least, (guint64)option->limit);
}

static void add_default(const MigrateOption *option, GString *help)
{
    const char *fallback = option->automatic ? option->automatic : option->fallback;

    if (option->kind == MIGRATE_OPTION_FLAG || option->kind == MIGRATE_OPTION_FILE)
        return;
    g_string_append_printf(help, " (default: %s%s)", option->file_key ? "the agent's, " : "",
                           fallback ? fallback : "none");
}

static char *make_help(const MigrateOption *option)
{
    GString *help = g_string_new(option->help);

    add_range(option, help);
    add_default(option, help);
    return g_string_free(help, FALSE);
}

/* "TIME", or "auto|none|lz4"; NULL where it takes none. */
static char *make_value(const MigrateOption *option)
{
    g_autoptr(GString) text = NULL;

    if (option->kind != MIGRATE_OPTION_CHOICE)
        return g_strdup(option->argument);
    text = g_string_new(option->choice(0));
    for (guint i = 1; i < option->choices; i++)
        g_string_append_printf(text, "|%s", option->choice(i));
    return g_strdup(text->str);
}

static GOptionEntry make_entry(const MigrateOption *option, guint row, MigrateArguments *arguments)
{
    GOptionEntry entry = {
        .long_name = option->name,
        .arg = G_OPTION_ARG_STRING,
        .arg_data = &arguments->texts[row],
        .description = arguments->help[row],
        .arg_description = arguments->values[row],
    };

    if (option->kind == MIGRATE_OPTION_FILE) {
        entry.arg = G_OPTION_ARG_FILENAME;
    } else if (option->kind == MIGRATE_OPTION_FLAG) {
        entry.arg = G_OPTION_ARG_NONE;
        entry.arg_data = &arguments->flags[row];
    }
    return entry;
}

void migrate_arguments_init(MigrateArguments *arguments)
{
    const MigrateOption *option;
    guint row = 0;

    *arguments = (MigrateArguments){0};
    for (; (option = migrate_option_at(row)); row++) {
        arguments->help[row] = make_help(option);
        arguments->values[row] = make_value(option);
        arguments->entries[row] = make_entry(option, row, arguments);
    }
    arguments->entries[row++] = (GOptionEntry){
        .long_name = "disk",
        .arg = G_OPTION_ARG_STRING_ARRAY,
        .arg_data = &arguments->disks,
        .description = "As --disks, for one disk (vmferry disk list NAME); may be given again",
        .arg_description = "ID=HOW",
    };
    arguments->entries[row] = (GOptionEntry){
        .long_name = "progress",
        .arg = G_OPTION_ARG_NONE,
        .arg_data = &arguments->progress,
        .description = "With --json: progress as JSON lines on standard error",
    };
}

void migrate_arguments_clear(MigrateArguments *arguments)
{
    for (guint i = 0; i < MIGRATE_OPTIONS_LIMIT; i++) {
        g_clear_pointer(&arguments->texts[i], g_free);
        g_clear_pointer(&arguments->help[i], g_free);
        g_clear_pointer(&arguments->values[i], g_free);
    }
    g_clear_pointer(&arguments->disks, g_strfreev);
    common_options_clear(&arguments->common);
}

/* ---- the request ---- */

/* What migrate_option_set_text() takes, or NULL where the option was not given. */
static const char *get_text(const MigrateArguments *arguments, const MigrateOption *option,
                            guint row)
{
    gboolean given = arguments->flags[row];

    if (option->kind == MIGRATE_OPTION_FILE)
        given = arguments->texts[row] != NULL;
    else if (option->kind != MIGRATE_OPTION_FLAG)
        return arguments->texts[row];
    return given ? "true" : NULL;
}

static gboolean parse(const MigrateArguments *arguments, MigrateOptions *options,
                      MigrateOptionSet *ret_given, GError **error)
{
    const MigrateOption *option;

    for (guint row = 0; (option = migrate_option_at(row)); row++) {
        const char *text = get_text(arguments, option, row);

        if (!text)
            continue;
        if (!migrate_option_set_text(option, MIGRATE_FROM_COMMAND, text, options, error))
            return FALSE;
        *ret_given |= migrate_option_bit(option);
    }
    return migrate_options_agree(options, *ret_given, MIGRATE_FROM_COMMAND, error);
}

/* ID=HOW; an id may hold "=". */
static gboolean add_disk(json_t *modes, const char *text, GError **error)
{
    const char *how = strrchr(text, '=');
    g_autofree char *id = how ? g_strndup(text, (gsize)(how - text)) : NULL;
    DiskMode mode;

    if (id && *id && disk_mode_from_name(how + 1, &mode) &&
        json_object_set_new(modes, id, json_string(how + 1)) == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "--disk %s: give a disk's id, \"=\", and auto, shared, copy or top", text);
    return FALSE;
}

static gboolean add_disks(const MigrateArguments *arguments, json_t *request, GError **error)
{
    json_t *modes;

    if (!arguments->disks)
        return TRUE;
    modes = json_object();
    json_object_set_new(request, "disk_modes", modes);
    for (guint i = 0; arguments->disks[i]; i++)
        if (!add_disk(modes, arguments->disks[i], error))
            return FALSE;
    return TRUE;
}

json_t *migrate_arguments_to_request(const MigrateArguments *arguments, const char *destination,
                                     MigrateOptions *ret_options)
{
    g_autoptr(GError) error = NULL;
    MigrateOptionSet given = 0;
    g_autoptr(json_t) request = json_pack("{s:s}", "destination", destination);

    migrate_options_init(ret_options);
    if (!parse(arguments, ret_options, &given, &error) || !add_disks(arguments, request, &error)) {
        cli_usage_error("%s", error->message);
        return NULL;
    }
    migrate_options_write(ret_options, given, request);
    return g_steal_pointer(&request);
}

const char *migrate_arguments_get_record(const MigrateArguments *arguments)
{
    const MigrateOption *option;

    for (guint row = 0; (option = migrate_option_at(row)); row++)
        if (option->kind == MIGRATE_OPTION_FILE)
            return arguments->texts[row];
    return NULL;
}
