#include <unistd.h>

#include "base/log.h"
#include "cli/cli.h"
#include "engine/daemon.h"

static const char description[] =
    "Watches the agents of all hosts, finds what suffers, decides whether and where to move a\n"
    "guest, and does it.  `vmferry cluster` shows what it knows and plans.\n\n"
    "Options win over the configuration file (man 5 vmferry-engine.conf).";

typedef struct {
    char *config, *hosts, *listen, *store, *pki, *name, *token_file, *etcd;
    gboolean manual, debug;
} Options;

static void options_clear(Options *options)
{
    g_free(options->config);
    g_free(options->hosts);
    g_free(options->listen);
    g_free(options->store);
    g_free(options->pki);
    g_free(options->name);
    g_free(options->token_file);
    g_free(options->etcd);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Options, options_clear)

static void replace(char **field, const char *value)
{
    if (!value)
        return;
    g_free(*field);
    *field = g_strdup(value);
}

static void replace_path(char **field, const char *value)
{
    g_autofree char *path = value ? g_canonicalize_filename(value, NULL) : NULL;

    replace(field, path);
}

static gboolean has_hosts(const EngineSettings *settings, GError **error)
{
    if (settings->hosts->len > 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "there are no hosts: name them with --hosts, or in the configuration file");
    return FALSE;
}

static EngineSettings *make_settings(const Options *options, GError **error)
{
    g_autoptr(EngineSettings) settings = engine_settings_new();
    const char *path = options->config ? options->config : ENGINE_DEFAULT_FILE;

    if (!engine_settings_load(settings, path, options->config != NULL, error) ||
        (options->hosts && !engine_settings_set_hosts(settings, options->hosts, error)) ||
        (options->etcd && !engine_settings_set_etcd(settings, options->etcd, error)) ||
        !has_hosts(settings, error))
        return NULL;
    replace(&settings->listen, options->listen);
    replace(&settings->name, options->name);
    replace_path(&settings->store, options->store);
    replace_path(&settings->pki_dir, options->pki);
    replace_path(&settings->token_file, options->token_file);
    if (options->manual)
        settings->automatic = FALSE;
    return g_steal_pointer(&settings);
}

int verb_engine(int argc, char **argv)
{
    g_auto(Options) o = {0};
    g_auto(CommonOptions) common = {0};
    const GOptionEntry entries[] = {
        {"hosts", 0, 0, G_OPTION_ARG_STRING, &o.hosts,
         "The hosts' agents, separated by commas: HOST[:PORT] or unix:PATH, NAME= before it where "
         "it is to have another name",
         "[NAME=]ADDRESS,..."},
        {"config", 0, 0, G_OPTION_ARG_FILENAME, &o.config,
         "Configuration file (default: " ENGINE_DEFAULT_FILE ")", "FILE"},
        {"listen", 0, 0, G_OPTION_ARG_STRING, &o.listen,
         "Where users and browsers reach it (default: " ENGINE_DEFAULT_LISTEN ")", "ADDR[:PORT]"},
        {"store", 0, 0, G_OPTION_ARG_FILENAME, &o.store,
         "Its database (default: " ENGINE_DEFAULT_STORE ")", "PATH"},
        {"etcd", 0, 0, G_OPTION_ARG_STRING, &o.etcd,
         "Where several engines of one cluster keep what they share: etcd's members, separated by "
         "commas",
         "http://HOST[:PORT],..."},
        {"pki", 0, 0, G_OPTION_ARG_FILENAME, &o.pki,
         "ca.crt, host.crt and host.key (default: /etc/vmferry/pki)", "DIR"},
        {"token-file", 0, 0, G_OPTION_ARG_FILENAME, &o.token_file,
         "A file with a token that users may show in place of a certificate", "FILE"},
        {"name", 0, 0, G_OPTION_ARG_STRING, &o.name, "Its name (default: this host's)", "NAME"},
        {"manual", 0, 0, G_OPTION_ARG_NONE, &o.manual,
         "Plan, and move nothing but what users order", NULL},
        {"debug", 0, 0, G_OPTION_ARG_NONE, &o.debug, "Log more", NULL},
        {NULL},
    };
    CliSpec spec = {.description = description, .entries = entries, .common = &common};
    g_autoptr(GError) error = NULL;
    g_autoptr(EngineSettings) settings = NULL;

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_arguments(argc, 0, 0, "options only"))
        return EXIT_USAGE;
    if (o.debug)
        log_set_level(LOG_LEVEL_DEBUG);
    settings = make_settings(&o, &error);
    if (!settings)
        return cli_usage_error("%s", error->message);
    return engine_daemon_run(settings, &error) ? EXIT_DONE : cli_fail(&common, error);
}
