#include "cli/report.h"

#include <stdio.h>
#include <string.h>

#include "base/page.h"
#include "base/rate.h"
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
        return EXIT_ATTENTION;
    if (has_status(report, "split"))
        return EXIT_ATTENTION;
    if (has_status(report, "ended"))
        return EXIT_ENDED;
    if (has_status(report, "completed"))
        return has_error ? EXIT_ATTENTION : EXIT_DONE;
    return EXIT_FAILED;
}

CliExit report_get_cancel_exit(json_t *report)
{
    CliExit code = report_get_exit(report);

    if (has_status(report, "cancelled"))
        return EXIT_DONE;
    /* It is elsewhere, which is not what was asked for. */
    return code == EXIT_DONE ? EXIT_ATTENTION : code;
}

static const char *get_noun(json_t *report)
{
    const char *kind = json_text_or(report, "kind", "migrate");

    if (strcmp(kind, "migrate") == 0)
        return "move";
    return strcmp(kind, "protect") == 0 ? "protection" : kind;
}

static char *describe_too_late(json_t *report, const char *guest, const char *noun)
{
    if (strcmp(noun, "move") == 0)
        return g_strdup_printf("Too late: %s has moved to %s.", guest,
                               json_text_or(report, "destination", "?"));
    return g_strdup_printf("Too late: the %s of %s is complete.", noun, guest);
}

char *report_describe_cancel(json_t *report, const char *guest)
{
    const char *noun = get_noun(report);

    if (report_get_cancel_exit(report) == EXIT_DONE)
        return g_strdup_printf("The %s of %s is cancelled; it runs on here.", noun, guest);
    if (has_status(report, "completed") || has_status(report, "protected"))
        return describe_too_late(report, guest, noun);
    return g_strdup_printf("The %s of %s ended by itself: %s", noun, guest,
                           json_text_or(report, "error", "?"));
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

/* " (1.2 s expected)", or nothing where that is not known.  Free with g_free(). */
static char *expectation(json_t *report, const char *key)
{
    json_t *expected = json_object_get(report, key);
    g_autofree char *time =
        json_is_number(expected) ? format_ms(json_number_value(expected)) : NULL;

    return time ? g_strdup_printf(" (%s expected)", time) : g_strdup("");
}

static guint64 sum_over_rounds(json_t *report, const char *key)
{
    json_t *rounds = json_object_get(report, "rounds"), *round;
    guint64 sum = 0;
    size_t i;

    json_array_foreach(rounds, i, round) sum += json_count_or(round, key, 0);
    return sum;
}

char **report_describe_guest(json_t *report)
{
    GStrvBuilder *sentences = g_strv_builder_new();
    json_t *throttle = json_object_get(report, "throttle");
    char **all;

    if (json_flag_or(report, "memory_intensive", FALSE)) {
        g_autofree char *deferred =
            bytes_format((double)json_count_or(report, "deferred_bytes", 0));
        g_autofree char *text = g_strdup_printf(
            "writes its memory faster than it can be sent (memory-intensive); %s of it waited for "
            "the pause",
            deferred);

        g_strv_builder_add(sentences, text);
    }
    if (json_is_object(throttle)) {
        g_autofree char *time = format_ms(get_number(throttle, "ms"));
        g_autofree char *text = g_strdup_printf(
            "was slowed for %s, to %.0f %% of its time at the least (%s)", time,
            100 * get_number(throttle, "least_run_share"), json_text_or(throttle, "means", "?"));

        g_strv_builder_add(sentences, text);
    }
    all = g_strv_builder_end(sentences);
    g_strv_builder_unref(sentences);
    return all;
}

static void print_times(json_t *report)
{
    g_autofree char *total = format_ms(get_number(report, "total_ms"));
    g_autofree char *downtime = format_ms(get_number(report, "downtime_ms"));
    g_autofree char *wanted_total = expectation(report, "predicted_total_ms");
    g_autofree char *wanted_downtime = expectation(report, "predicted_downtime_ms");

    printf("  total time  %s%s\n", total, wanted_total);
    printf("  downtime    %s%s\n", downtime, wanted_downtime);
}

static void print_reclaimed(json_t *report)
{
    guint64 bytes = json_count_or(report, "reclaimed_bytes", 0);
    g_autofree char *amount = bytes_format((double)bytes);
    const char *how = json_text_or(report, "reclaim", NULL);

    if (!how)
        return;
    if (bytes > 0)
        printf("  reclaimed   %s of free memory, which was not sent\n", amount);
    else if (strcmp(how, "no-answer") == 0)
        printf("  reclaimed   nothing: the guest does not tell what is free\n");
    else
        printf("  reclaimed   nothing: %s\n", strcmp(how, "little-free") == 0
                                                  ? "too little memory is free"
                                                  : "the guest's balloon did not move");
}

/* How each of its images, or of the files that it was started with, was seen to
 * be the same on both hosts. */
static void print_proofs(json_t *report, const char *key, const char *noun)
{
    static const struct {
        const char *same_by, *text;
    } proofs[] = {
        {"lock", "the same there: a lock set by one host was seen by the other"},
        {"token", "the same there: an access time set by one host was seen by the other"},
        {"device", "the same there: the device has the same worldwide name on both hosts"},
        {"address", "the same there: both hosts open the same address"},
        {"content", "with the same content there: all of it was compared"},
        {"copied", "made there"},
        {"none", "NOT proven to be the same there"},
    };
    json_t *disks = json_object_get(report, key), *disk;

    for (guint i = 0; i < G_N_ELEMENTS(proofs); i++) {
        guint count = 0;
        size_t j;

        json_array_foreach(disks, j, disk) count +=
            strcmp(json_text_or(disk, "same_by", ""), proofs[i].same_by) == 0;
        if (count > 0)
            printf("  %-11s %u %s%s, %s\n", key, count, noun, count == 1 ? "" : "s",
                   proofs[i].text);
    }
}

/* The disks that moved along. */
static void print_copies(json_t *report)
{
    json_t *copies = json_object_get(report, "copies"), *copy;
    size_t i;

    json_array_foreach(copies, i, copy)
    {
        g_autofree char *copied = bytes_format(get_number(copy, "copied_bytes"));
        g_autofree char *zero = bytes_format(get_number(copy, "zero_bytes"));
        g_autofree char *wire = bytes_format(get_number(copy, "wire_bytes"));
        double there = get_number(copy, "same_bytes");
        g_autofree char *same = bytes_format(there);
        gboolean verified = json_flag_or(copy, "verified", FALSE);

        printf("  disk        %s copied to %s: %s (%s sent), %s of zeros left out%s%s%s%s\n",
               json_text_or(copy, "id", "?"), json_text_or(copy, "destination", "?"), copied, wire,
               zero, there > 0 ? ", " : "", there > 0 ? same : "",
               there > 0 ? " were there already" : "", verified ? "; verified" : "");
    }
}

/* What followed the guest. */
static void print_postcopy(json_t *report)
{
    json_t *postcopy = json_object_get(report, "postcopy");
    g_autofree char *bytes = NULL, *time = NULL;
    guint64 breaks;

    if (!json_is_object(postcopy))
        return;
    bytes = bytes_format(get_number(postcopy, "outstanding_pages") * PAGE_BYTES);
    time = format_ms(get_number(postcopy, "ms"));
    breaks = json_count_or(postcopy, "breaks", 0);
    printf("  followed    %s of its memory in %s; it waited for %" G_GUINT64_FORMAT " pages", bytes,
           time, json_count_or(postcopy, "answered_pages", 0));
    if (breaks > 0)
        printf("; the connection broke %" G_GUINT64_FORMAT " time%s", breaks,
               breaks == 1 ? "" : "s");
    printf("\n");
}

static void print_breaks(json_t *report)
{
    guint64 breaks = json_count_or(report, "breaks", 0);
    guint64 retractions = json_count_or(report, "retractions", 0);

    if (breaks > 0)
        printf("  breaks      the connection was lost %" G_GUINT64_FORMAT
               " time%s, and made again\n",
               breaks, breaks == 1 ? "" : "s");
    if (retractions > 0)
        printf("  retracted   %" G_GUINT64_FORMAT
               " pause%s, for %.0f ms in all: the connection was "
               "no good\n",
               retractions, retractions == 1 ? "" : "s",
               json_number_value(json_object_get(report, "retracted_ms")));
}

static void print_seed(json_t *report)
{
    json_t *seed = json_object_get(report, "seed");
    guint64 lacking = json_count_or(seed, "lacking_pages", 0);
    g_autofree char *taken = NULL;

    if (!json_is_object(seed))
        return;
    taken = bytes_format((double)json_count_or(seed, "bytes", 0));
    printf("  not sent    %" G_GUINT64_FORMAT " pages (%s) that %s there has\n",
           json_count_or(seed, "pages", 0), taken, json_text_or(seed, "image", "the seed"));
    if (lacking > 0)
        printf("  seed        it was changed meanwhile: %" G_GUINT64_FORMAT
               " pages were sent after all\n",
               lacking);
}

static void print_completed(json_t *report, const char *guest)
{
    g_autofree char *wire = bytes_format(get_number(report, "wire_bytes"));
    g_autofree char *ram = bytes_format(get_number(report, "ram_bytes"));
    g_auto(GStrv) behaviour = report_describe_guest(report);
    size_t rounds = json_array_size(json_object_get(report, "rounds"));
    guint64 parts = sum_over_rounds(report, "pages_segments");
    guint64 copied = sum_over_rounds(report, "pages_copied");

    printf("%s %s on %s now.\n", guest,
           json_flag_or(report, "paused", FALSE) ? "is, paused as it was," : "runs",
           json_text_or(report, "destination", "?"));
    print_times(report);
    printf("  sent        %s for %s of memory, in %zu round%s (%s)\n", wire, ram, rounds,
           rounds == 1 ? "" : "s", json_text_or(report, "reason", "?"));
    print_breaks(report);
    print_postcopy(report);
    print_reclaimed(report);
    if (parts > 0)
        printf("  in parts    %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT
               " pages, only what had changed in them\n",
               parts, parts + sum_over_rounds(report, "pages_whole"));
    if (copied > 0)
        printf("  not sent    %" G_GUINT64_FORMAT " pages that are equal to others\n", copied);
    print_seed(report);
    for (char **sentence = behaviour; *sentence; sentence++)
        printf("  the guest   %s\n", *sentence);
    if (json_is_boolean(json_object_get(report, "verified")))
        printf("  memory      %s\n", json_flag_or(report, "verified", FALSE)
                                         ? "verified: every page of RAM is the same there"
                                         : "NOT verified");
    print_copies(report);
    print_proofs(report, "disks", "image");
    print_proofs(report, "files", "file");
}

/* A move that failed may have met such a guest, too: that is what to change. */
static void print_failed(json_t *report, const char *guest)
{
    g_auto(GStrv) behaviour = report_describe_guest(report);

    for (char **sentence = behaviour; *sentence; sentence++)
        fprintf(stderr, "%s %s.\n", guest, *sentence);
    fprintf(stderr, "%s was not moved.\n", guest);
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
    else if (has_status(report, "split"))
        fprintf(stderr,
                "%s runs on %s and lacks memory that is here: leave it here; see `vmferry status "
                "%s`.\n",
                guest, json_text_or(report, "destination", "its destination"), guest);
    else if (has_status(report, "ended"))
        return;
    else if (has_status(report, "cancelled"))
        fprintf(stderr, "The move was cancelled; %s runs on here.\n", guest);
    else if (has_status(report, "failed"))
        print_failed(report, guest);
}
