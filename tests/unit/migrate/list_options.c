/* The table of migrate/options.h as JSON, for test_option_documents.py. */
#include <stdio.h>

#include "migrate/options.h"

static const char *const kinds[] = {
    [MIGRATE_OPTION_FLAG] = "flag",     [MIGRATE_OPTION_FILE] = "file",
    [MIGRATE_OPTION_COUNT] = "count",   [MIGRATE_OPTION_DURATION] = "duration",
    [MIGRATE_OPTION_CHOICE] = "choice", [MIGRATE_OPTION_SIZE] = "size",
    [MIGRATE_OPTION_RATE] = "rate",     [MIGRATE_OPTION_HOST] = "host",
    [MIGRATE_OPTION_PATH] = "path",
};

G_STATIC_ASSERT(G_N_ELEMENTS(kinds) == MIGRATE_OPTION_PATH + 1);

static json_t *make_row(const MigrateOption *option)
{
    json_t *choices = json_array();

    for (guint i = 0; i < option->choices; i++)
        json_array_append_new(choices, json_string(option->choice(i)));
    return json_pack("{s:s, s:s, s:s?, s:s, s:s?, s:I, s:I, s:s?, s:o}", "name", option->name,
                     "api_key", option->api_key, "file_key", option->file_key, "kind",
                     kinds[option->kind], "argument", option->argument, "least",
                     (json_int_t)option->least, "limit", (json_int_t)option->limit, "default",
                     option->fallback, "choices", choices);
}

int main(void)
{
    g_autoptr(json_t) rows = json_array();
    const MigrateOption *option;

    for (guint i = 0; (option = migrate_option_at(i)); i++)
        json_array_append_new(rows, make_row(option));
    json_dumpf(rows, stdout, JSON_LINE);
    return 0;
}
