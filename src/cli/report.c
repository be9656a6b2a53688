#include "cli/report.h"

#include <stdio.h>
#include <string.h>

#include "agent/rate.h"
#include "cli/output.h"
#include "migrate/report.h"

static gboolean has_status(json_t *report, const char *status)
{
    return strcmp(json_text_or(report, "status", ""), status) == 0;
}

CliExit report_get_exit(json_t *report)
{
    gboolean has_error = json_is_string(json_object_get(report, "error"));

    if (json_flag_or(report, "in_doubt", FALSE))
        return EXIT_LOOK;
    if (has_status(report, "completed"))
        return has_error ? EXIT_LOOK : EXIT_DONE;
    return EXIT_FAILED;
}

CliExit report_get_cancel_exit(json_t *report)
{
    CliExit code = report_get_exit(report);

    if (has_status(report, "cancelled"))
        return EXIT_DONE;
    /* It is elsewhere, which is not what was asked for. */
    return code == EXIT_DONE ? EXIT_LOOK : code;
}

json_t *report_make(const char *guest, const char *destination, const char *reason,
                    const char *error)
{
    g_autoptr(MigrateReport) report = migrate_report_new();
    json_t *object;

    report->source = g_strdup(g_get_host_name());
    report->destination = g_strdup(destination);
    report->reason = g_strdup(reason);
    report->error = g_utf8_make_valid(error, -1);
    object = migrate_report_to_json(report);
    json_object_set_new(object, "guest", json_string(guest));
    return object;
}

static double get_number(json_t *report, const char *key)
{
    return json_number_value(json_object_get(report, key));
}

static void print_completed(json_t *report, const char *guest)
{
    g_autofree char *total = format_ms(get_number(report, "total_ms"));
    g_autofree char *downtime = format_ms(get_number(report, "downtime_ms"));
    g_autofree char *wire = bytes_format(get_number(report, "wire_bytes"));
    g_autofree char *ram = bytes_format(get_number(report, "ram_bytes"));
    size_t rounds = json_array_size(json_object_get(report, "rounds"));

    printf("%s runs on %s now.\n", guest, json_text_or(report, "destination", "?"));
    printf("  total time  %s\n", total);
    printf("  downtime    %s\n", downtime);
    printf("  sent        %s for %s of memory, in %zu round%s (%s)\n", wire, ram, rounds,
           rounds == 1 ? "" : "s", json_text_or(report, "reason", "?"));
    if (json_is_boolean(json_object_get(report, "verified")))
        printf("  memory      %s\n", json_flag_or(report, "verified", FALSE)
                                         ? "verified, every page is the same"
                                         : "NOT verified");
}

void report_print(json_t *report, const char *guest)
{
    const char *error = json_text_or(report, "error", NULL);

    if (has_status(report, "completed"))
        print_completed(report, guest);
    if (error)
        fprintf(stderr, "%s: %s\n", g_get_prgname(), error);
    /* Where the agent was lost, the error has said all that is known. */
    if (strcmp(json_text_or(report, "reason", ""), REPORT_REASON_AGENT_LOST) == 0)
        return;
    if (json_flag_or(report, "in_doubt", FALSE))
        fprintf(stderr,
                "%s is in doubt: paused here until %s answers; see `vmferry status %s` and "
                "`vmferry resolve --help`.\n",
                guest, json_text_or(report, "destination", "its destination"), guest);
    else if (has_status(report, "cancelled"))
        fprintf(stderr, "The move was cancelled; %s runs on here.\n", guest);
    else if (has_status(report, "failed"))
        fprintf(stderr, "%s was not moved.\n", guest);
}
