#include <stdio.h>
#include <string.h>

#include "base/rate.h"
#include "cli/cli.h"
#include "client/client.h"
#include "cli/output.h"

static const char description[] =
    "Shows what is known of a guest, or of the agent where no NAME is given.  Of a guest that\n"
    "has moved away it says where to; then the exit code is 1.";

static void add_text(Table *table, const char *title, json_t *object, const char *key)
{
    const char *text = json_text_or(object, key, NULL);

    if (text)
        table_add(table, title, text, NULL);
}

static void add_number(Table *table, const char *title, json_t *object, const char *key)
{
    g_autofree char *text = NULL;

    if (!json_is_integer(json_object_get(object, key)))
        return;
    text = g_strdup_printf("%" G_GUINT64_FORMAT, (guint64)json_count_or(object, key, 0));
    table_add(table, title, text, NULL);
}

static void add_command_line(Table *table, json_t *guest)
{
    g_autoptr(GString) line = g_string_new(NULL);
    json_t *argument;
    size_t i;

    json_array_foreach(json_object_get(guest, "command_line"), i, argument)
    {
        const char *text = json_string_value(argument);
        g_autofree char *quoted = NULL;

        if (text && (strpbrk(text, " '\"\\$&|;<>()*?[]#~`\t\n") || !*text))
            quoted = g_shell_quote(text);
        g_string_append_printf(line, "%s%s", i ? " " : "", quoted ? quoted : text ? text : "");
    }
    table_add(table, "command line", line->str, NULL);
}

/* Who may go on where the hosts lose each other, and whether it stands still for that. */
static void add_witness(Table *table, json_t *progress)
{
    const char *state = json_text_or(progress, "witness", NULL);

    if (!state)
        return;
    table_add(table, "witness", state, NULL);
    if (json_flag_or(progress, "alone", FALSE))
        table_add(table, "survives", "the end of its source", NULL);
    else if (json_flag_or(progress, "held", FALSE))
        table_add(table, "stands still", "neither its source nor the witness can be reached", NULL);
    else
        table_add(table, "survives", "the end of either host, once all is in the store", NULL);
}

/* Of a guest that is split between two hosts. */
static void add_split(Table *table, json_t *progress)
{
    uint64_t uncovered = json_count_or(progress, "uncovered_bytes", 0);
    g_autofree char *left = bytes_format((double)json_count_or(progress, "outstanding_bytes", 0));
    g_autofree char *text = bytes_format((double)uncovered);

    if (strcmp(json_text_or(progress, "phase", ""), "postcopy") != 0)
        return;
    if (json_object_get(progress, "outstanding_bytes"))
        table_add(table, "memory to come", left, NULL);
    table_add(table, "not in a store", text, NULL);
    add_witness(table, progress);
}

/* Of one that is protected. */
static void add_protection(Table *table, json_t *progress)
{
    gboolean connected = json_flag_or(progress, "standby_connected", FALSE);
    json_t *checkpoints = json_object_get(progress, "checkpoints");
    double age_ms = json_number_value(json_object_get(checkpoints, "age_ms"));
    g_autofree char *age = NULL;

    table_add(table, "standby", connected ? "answers" : "does not answer", NULL);
    if (json_count_or(checkpoints, "epochs", 0) > 0) {
        age = g_strdup_printf("%.2f s old", age_ms / 1e3);
        table_add(table, "its last epoch", age, NULL);
    }
    if (json_text_or(progress, "witness", NULL))
        table_add(table, "witness has it as", json_text_or(progress, "witness", "?"), NULL);
    if (json_flag_or(progress, "held", FALSE))
        table_add(table, "stands still", "neither its standby nor the witness can be reached",
                  NULL);
}

static void add_progress(Table *table, json_t *activity)
{
    json_t *progress = json_object_get(activity, "progress");
    g_autofree char *sent = NULL;
    g_autofree char *text = NULL;

    if (!json_is_object(progress))
        return;
    if (strcmp(json_text_or(progress, "phase", ""), "protected") == 0) {
        add_protection(table, progress);
        return;
    }
    sent = bytes_format((double)json_count_or(progress, "wire_bytes", 0));
    text = g_strdup_printf("%s, round %d, %s sent", json_text_or(progress, "phase", "?"),
                           (int)json_count_or(progress, "round", 0) + 1, sent);
    table_add(table, "progress", text, NULL);
    add_split(table, progress);
}

static void add_times(Table *table, json_t *guest)
{
    int64_t now = g_get_real_time() / G_USEC_PER_SEC;
    int64_t since = (int64_t)json_count_or(guest, "since", (uint64_t)now);
    g_autoptr(GDateTime) then = g_date_time_new_from_unix_local(since);
    g_autofree char *date = then ? g_date_time_format(then, "%Y-%m-%d %H:%M:%S") : NULL;
    g_autofree char *age = format_age(now - since);
    g_autofree char *text = g_strdup_printf("%s (for %s)", date ? date : "?", age);

    table_add(table, "here since", text, NULL);
}

static void print_guest(json_t *guest)
{
    static const char *const columns[] = {"", "", NULL};
    g_autoptr(Table) table = table_new(columns);
    json_t *activity = json_object_get(guest, "activity");
    json_t *bound = json_text_or(activity, "destination", NULL) ? activity : guest;

    add_text(table, "name", guest, "name");
    add_text(table, "state", guest, "state");
    add_text(table, "problem", guest, "problem");
    add_text(table, "cannot be moved", guest, "not_movable");
    add_text(table, "destination", bound, "destination");
    add_progress(table, activity);
    add_number(table, "process", guest, "pid");
    add_times(table, guest);
    add_text(table, "came by", guest, "origin");
    add_text(table, "machine", guest, "machine");
    add_text(table, "QEMU", guest, "vmm_version");
    add_text(table, "accelerator", guest, "accelerator");
    add_number(table, "vCPUs", guest, "vcpus");
    if (json_object_get(guest, "memory_bytes")) {
        g_autofree char *memory =
            g_format_size_full(json_count_or(guest, "memory_bytes", 0), G_FORMAT_SIZE_IEC_UNITS);

        table_add(table, "memory", memory, NULL);
    }
    add_text(table, "QMP socket", guest, "qmp_path");
    add_text(table, "log", guest, "log_path");
    add_command_line(table, guest);
    table_print(table);
}

/* What it keeps as a store. */
static void add_stored(Table *table, json_t *agent)
{
    json_t *entry;
    size_t i;

    json_array_foreach(json_object_get(agent, "stored"), i, entry)
    {
        g_autofree char *bytes = bytes_format((double)json_count_or(entry, "stored_bytes", 0));
        g_autofree char *text = g_strdup_printf(
            "%s of %s, from %s to %s", bytes, json_text_or(entry, "guest", "?"),
            json_text_or(entry, "source", "?"), json_text_or(entry, "destination", "?"));

        table_add(table, "keeps pages", text, NULL);
    }
}

static void print_agent(json_t *agent)
{
    static const char *const columns[] = {"", "", NULL};
    g_autoptr(Table) table = table_new(columns);

    add_text(table, "host", agent, "host");
    add_text(table, "version", agent, "version");
    add_number(table, "process", agent, "pid");
    table_add(table, "listens for peers", json_text_or(agent, "listening", "nowhere"), NULL);
    table_add(table, "secured by TLS", json_flag_or(agent, "secure", FALSE) ? "yes" : "no", NULL);
    add_number(table, "guests", agent, "guests");
    add_stored(table, agent);
    add_text(table, "state directory", agent, "state_dir");
    table_print(table);
}

/* The agent's own answer says where a guest has gone, for programs too. */
static int fail(const CommonOptions *common, Client *client, const GError *error)
{
    json_t *refusal = client_get_refusal(client);

    if (!common->json || !refusal)
        return cli_fail(common, error);
    fprintf(stderr, "%s: %s\n", g_get_prgname(), error->message);
    cli_print_json(refusal);
    return EXIT_FAILED;
}

int verb_status(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    CliSpec spec = {.parameters = "[NAME]",
                    .description = description,
                    .common = &common,
                    .talks = TRUE,
                    .remote = TRUE};
    g_autoptr(Client) client = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) answer = NULL;
    g_autofree char *path = NULL;

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_arguments(argc, 0, 1, "one NAME"))
        return EXIT_USAGE;
    path = argc == 2 ? cli_guest_path(argv[1], NULL) : g_strdup("/v1/status");
    if (!path)
        return EXIT_USAGE;
    client = cli_connect(&common, &error);
    answer = client ? client_call(client, "GET", path, NULL, &error) : NULL;
    if (!answer)
        return fail(&common, client, error);
    if (common.json)
        cli_print_json(answer);
    else if (argc == 2)
        print_guest(answer);
    else
        print_agent(answer);
    return EXIT_DONE;
}
