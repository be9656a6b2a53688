/*
 * The command line of `vmferry migrate`
 *
 * Theory of operation: the options and their help are made from the table of migrate/options.h, one
 * GOptionEntry per row; --progress, which no request carries, is added here.  GLib leaves what the
 * user wrote in *texts* and *flags*, by the table's rows; migrate_arguments_to_request() checks
 * that and makes the request, which holds only what was given.
 *
 * A MigrateArguments must not be moved in memory once it is initialised: the entries point into it.
 */
#pragma once

#include "base/json.h"
#include "cli/cli.h"
#include "migrate/options.h"

typedef struct {
    CommonOptions common;
    gboolean progress;
    char *texts[MIGRATE_OPTIONS_LIMIT]; /* by row; NULL where not given */
    gboolean flags[MIGRATE_OPTIONS_LIMIT];
    char **disks; /* of --disk, or NULL */
    char *help[MIGRATE_OPTIONS_LIMIT];
    char *values[MIGRATE_OPTIONS_LIMIT];             /* what may stand behind "=" */
    GOptionEntry entries[MIGRATE_OPTIONS_LIMIT + 3]; /* for cli_parse() */
} MigrateArguments;

void migrate_arguments_init(MigrateArguments *arguments);
void migrate_arguments_clear(MigrateArguments *arguments);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(MigrateArguments, migrate_arguments_clear)

/* The request's body for the agent, and the same as values in *ret_options.  NULL after a usage
 * error was shown.  Free with json_decref(). */
json_t *migrate_arguments_to_request(const MigrateArguments *arguments, const char *destination,
                                     MigrateOptions *ret_options);

/* Path of the trace to write, or NULL; borrowed. */
const char *migrate_arguments_get_record(const MigrateArguments *arguments);
