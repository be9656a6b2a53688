#include "cli/cli.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/name.h"

void common_options_clear(CommonOptions *common)
{
    g_clear_pointer(&common->socket, g_free);
    g_clear_pointer(&common->host, g_free);
    g_clear_pointer(&common->pki, g_free);
    g_clear_pointer(&common->engine, g_free);
    g_clear_pointer(&common->token_file, g_free);
}

typedef void (*TakeEntries)(void *to, const GOptionEntry *entries);

/* Of verbs that talk to the engine. */
static void add_engine_options(TakeEntries take, void *to, CommonOptions *common)
{
    const GOptionEntry entries[] = {
        {"engine", 0, 0, G_OPTION_ARG_STRING, &common->engine,
         "The engine (default: $VMFERRY_ENGINE, then " CLIENT_DEFAULT_ENGINE ")", "HOST[:PORT]"},
        {"token-file", 0, 0, G_OPTION_ARG_FILENAME, &common->token_file,
         "A file with its token (default: $VMFERRY_TOKEN_FILE, then none)", "FILE"},
        {"pki", 0, 0, G_OPTION_ARG_FILENAME, &common->pki,
         "The certificate for one of another host (default: $VMFERRY_PKI, then /etc/vmferry/pki)",
         "DIR"},
        {NULL},
    };

    take(to, entries);
}

/* Hands all options of a verb out, its own ones first. */
static void add_options(const CliSpec *spec, TakeEntries take, void *to)
{
    GOptionEntry common[] = {
        {"json", 0, 0, G_OPTION_ARG_NONE, &spec->common->json, "Print JSON instead of text", NULL},
        {"socket", 0, 0, G_OPTION_ARG_FILENAME, &spec->common->socket,
         "The agent's control socket (default: $VMFERRY_SOCKET, then /run/vmferry/agent.sock)",
         "PATH"},
        {"host", 0, 0, G_OPTION_ARG_STRING, &spec->common->host,
         "Another host's agent, over the network (default: $VMFERRY_HOST, then this host's)",
         "HOST[:PORT]"},
        {"pki", 0, 0, G_OPTION_ARG_FILENAME, &spec->common->pki,
         "The certificate for that (default: $VMFERRY_PKI, then /etc/vmferry/pki)", "DIR"},
        {NULL},
    };

    common[spec->remote ? 4 : spec->talks ? 2 : 1] = (GOptionEntry){NULL};
    if (spec->entries)
        take(to, spec->entries);
    take(to, common);
    if (spec->engine)
        add_engine_options(take, to, spec->common);
}

static void take_for_parsing(void *to, const GOptionEntry *entries)
{
    g_option_context_add_main_entries(to, entries, NULL);
}

static GOptionContext *make_context(const CliSpec *spec)
{
    GOptionContext *context = g_option_context_new(spec->parameters);

    g_option_context_set_description(context, spec->description);
    g_option_context_set_strict_posix(context, spec->stops_at_argument);
    add_options(spec, take_for_parsing, context);
    return context;
}

/* ---- the list of all options ---- */

/* Where cli_parse() writes what a verb takes, instead of parsing; NULL: it parses. */
static json_t *described;

static void take_for_listing(void *to, const GOptionEntry *entries)
{
    for (; entries->long_name; entries++) {
        const char short_name[] = {entries->short_name, 0};

        json_array_append_new(to,
                              json_pack("{s:s, s:s*, s:s?, s:s}", "name", entries->long_name,
                                        "short", *short_name ? short_name : NULL, "value",
                                        entries->arg_description, "text", entries->description));
    }
}

static void describe(const CliSpec *spec)
{
    json_t *options = json_array();

    add_options(spec, take_for_listing, options);
    json_object_set_new(described, "arguments",
                        json_string(spec->parameters ? spec->parameters : ""));
    json_object_set_new(described, "options", options);
}

json_t *cli_describe(const Verb *verb)
{
    char *argv[] = {(char *)verb->name, NULL};
    json_t *object = json_pack("{s:s, s:s}", "verb", verb->name, "summary", verb->summary);

    described = object;
    verb->main(1, argv);
    described = NULL;
    return object;
}

static const char *find_host(const CommonOptions *common)
{
    const char *host = common->host ? common->host : g_getenv("VMFERRY_HOST");

    return host && *host && !common->socket ? host : NULL;
}

gboolean cli_is_remote(const CommonOptions *common)
{
    return find_host(common) != NULL;
}

Client *cli_connect(const CommonOptions *common, GError **error)
{
    const char *host = find_host(common);

    return host ? client_new_tls(host, common->pki, error) : client_new(common->socket);
}

json_t *cli_call(const CommonOptions *common, const char *method, const char *path, json_t *body,
                 GError **error)
{
    g_autoptr(Client) client = cli_connect(common, error);

    if (client)
        return client_call(client, method, path, body, error);
    json_decref(body);
    return NULL;
}

Client *cli_connect_engine(const CommonOptions *common, GError **error)
{
    return client_new_engine(common->engine, common->pki, common->token_file, error);
}

json_t *cli_call_engine(const CommonOptions *common, const char *method, const char *path,
                        json_t *body, GError **error)
{
    g_autoptr(json_t) owned = body;
    g_autoptr(Client) client = cli_connect_engine(common, error);

    return client ? client_call(client, method, path, g_steal_pointer(&owned), error) : NULL;
}

/* A guest must not be ended here because its user thinks of another host. */
static gboolean check_host(const CliSpec *spec)
{
    if (spec->remote && spec->common->host && spec->common->socket)
        cli_usage_error("--host and --socket exclude each other");
    else if (spec->talks && !spec->remote && cli_is_remote(spec->common))
        cli_usage_error("this works with the agent of this host only, and VMFERRY_HOST names "
                        "another: unset it, or give --socket");
    else
        return TRUE;
    return FALSE;
}

gboolean cli_parse(const CliSpec *spec, int *argc, char ***argv)
{
    GOptionContext *context;
    g_autoptr(GError) error = NULL;
    gboolean done;

    if (described) {
        describe(spec);
        return FALSE;
    }
    context = make_context(spec);
    done = g_option_context_parse(context, argc, argv, &error);
    g_option_context_free(context);
    /* GLib leaves a "--" that ended the options in its place. */
    if (done && *argc > 1 && strcmp((*argv)[1], "--") == 0) {
        memmove(*argv + 1, *argv + 2, (size_t)(*argc - 1) * sizeof(char *));
        (*argc)--;
    }
    if (!done)
        cli_usage_error("%s", error->message);
    return done && check_host(spec);
}

int cli_usage_error(const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    fprintf(stderr, "%s: %s\nTry `%s --help`.\n", g_get_prgname(), text, g_get_prgname());
    return EXIT_USAGE;
}

gboolean cli_check_arguments(int argc, int min, int max, const char *wanted)
{
    if (argc - 1 < min)
        cli_usage_error("%s is missing", wanted);
    else if (argc - 1 > max)
        cli_usage_error("too many arguments; wanted %s", wanted);
    else
        return TRUE;
    return FALSE;
}

void cli_add_hint(GError **error, VmferryErrorCode code, const char *hint)
{
    g_autoptr(GError) plain = NULL;

    if (!error_is(*error, code))
        return;
    plain = g_steal_pointer(error);
    error_set(error, code, "%s (%s)", plain->message, hint);
}

int cli_fail(const CommonOptions *common, const GError *error)
{
    fprintf(stderr, "%s: %s\n", g_get_prgname(), error->message);
    if (common->json) {
        const char *code = error->domain == VMFERRY_ERROR
                               ? vmferry_error_code_name((VmferryErrorCode)error->code)
                               : "failed";
        g_autofree char *message = g_utf8_make_valid(error->message, -1);
        g_autoptr(json_t) object =
            json_pack("{s:{s:s, s:s}}", "error", "code", code, "message", message);

        cli_print_json(object);
    }
    return EXIT_FAILED;
}

void cli_warn_not_movable(json_t *guest)
{
    const char *why = json_text_or(guest, "not_movable", NULL);

    fflush(stdout);
    if (why)
        fprintf(stderr, "%s: warning: %s cannot be moved as it is: %s\n", g_get_prgname(),
                json_text_or(guest, "name", "?"), why);
}

void cli_print_json(json_t *object)
{
    char *text = json_dumps(object, JSON_LINE);

    printf("%s\n", text ? text : "{}");
    fflush(stdout);
    free(text);
}

char *cli_guest_path(const char *name, const char *suffix)
{
    g_autoptr(GError) error = NULL;

    if (guest_name_check(name, &error))
        return g_strconcat("/v1/guests/", name, suffix, NULL);
    cli_usage_error("%s", error->message);
    return NULL;
}
