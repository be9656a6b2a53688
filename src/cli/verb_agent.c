#include <stdio.h>
#include <unistd.h>

#include "agent/agent.h"
#include "base/rate.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "cli/cli.h"

static const char description[] =
    "Manages the guests of this host, receives guests from other hosts, and serves the\n"
    "other verbs.  Guests outlive it; a restarted agent finds them again.\n\n"
    "Options win over the configuration file (man 5 vmferry-agent.conf).";

typedef struct {
    char *config, *listen, *api, *socket, *state_dir, *runtime_dir, *pki;
    gboolean insecure, list_faults, debug, json;
} Options;

static void options_clear(Options *options)
{
    g_free(options->config);
    g_free(options->listen);
    g_free(options->api);
    g_free(options->socket);
    g_free(options->state_dir);
    g_free(options->runtime_dir);
    g_free(options->pki);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Options, options_clear)

static void replace(char **field, char *value)
{
    if (!value)
        return;
    g_free(*field);
    *field = value;
}

static void replace_path(char **field, char *value)
{
    replace(field, value ? g_canonicalize_filename(value, NULL) : NULL);
    g_free(value);
}

static gboolean check_address(const char *address, GError **error)
{
    g_autofree char *host = NULL;
    guint16 port;

    return g_str_equal(address, "none") ||
           settings_split_address(address, CLIENT_DEFAULT_PORT, &host, &port, error);
}

static AgentSettings *make_settings(Options *options, GError **error)
{
    g_autoptr(AgentSettings) settings = agent_settings_new();
    const char *path = options->config ? options->config : SETTINGS_DEFAULT_FILE;

    if (!agent_settings_load(settings, path, options->config != NULL, error))
        return NULL;
    replace(&settings->listen, g_steal_pointer(&options->listen));
    replace(&settings->api, g_steal_pointer(&options->api));
    replace_path(&settings->socket, g_steal_pointer(&options->socket));
    replace_path(&settings->state_dir, g_steal_pointer(&options->state_dir));
    replace_path(&settings->runtime_dir, g_steal_pointer(&options->runtime_dir));
    replace_path(&settings->pki_dir, g_steal_pointer(&options->pki));
    settings->insecure |= options->insecure;
    return check_address(settings->listen, error) && check_address(settings->api, error)
               ? g_steal_pointer(&settings)
               : NULL;
}

static int list_faults(void)
{
    for (const char *const *point = fault_list_points(); *point; point++)
        printf("%s\n", *point);
    return EXIT_DONE;
}

static int serve(Options *options)
{
    CommonOptions common = {.json = options->json};
    g_autoptr(GError) error = NULL;
    g_autoptr(AgentSettings) settings = make_settings(options, &error);
    g_autoptr(Agent) agent = NULL;

    if (!settings) {
        cli_fail(&common, error);
        return EXIT_USAGE;
    }
    agent = agent_new(settings, &error);
    if (!agent && geteuid() != 0)
        cli_add_hint(&error, VMFERRY_ERROR_PERMISSION, "the agent commonly runs as root");
    if (!agent)
        return cli_fail(&common, error);
    agent_run(agent, TRUE);
    return EXIT_DONE;
}

int verb_agent(int argc, char **argv)
{
    g_auto(Options) o = {0};
    g_auto(CommonOptions) common = {0};
    const GOptionEntry entries[] = {
        {"config", 0, 0, G_OPTION_ARG_FILENAME, &o.config,
         "Configuration file (default: " SETTINGS_DEFAULT_FILE ")", "FILE"},
        {"listen", 0, 0, G_OPTION_ARG_STRING, &o.listen,
         "Where other agents reach this one, or \"none\" (default: 0.0.0.0:4747)", "ADDR:PORT"},
        {"api", 0, 0, G_OPTION_ARG_STRING, &o.api,
         "Where those that [api] in the configuration file names reach the API over the network "
         "(default: \"none\"; the port is 4748 by default)",
         "ADDR:PORT"},
        {"socket", 0, 0, G_OPTION_ARG_FILENAME, &o.socket,
         "Control socket (default: /run/vmferry/agent.sock)", "PATH"},
        {"state-dir", 0, 0, G_OPTION_ARG_FILENAME, &o.state_dir,
         "Records and events (default: /var/lib/vmferry)", "DIR"},
        {"runtime-dir", 0, 0, G_OPTION_ARG_FILENAME, &o.runtime_dir,
         "Sockets and logs of guests (default: /run/vmferry)", "DIR"},
        {"pki", 0, 0, G_OPTION_ARG_FILENAME, &o.pki,
         "ca.crt, host.crt and host.key (default: /etc/vmferry/pki)", "DIR"},
        {"insecure", 0, 0, G_OPTION_ARG_NONE, &o.insecure,
         "Speak plain text with other agents, with no proof of who they are", NULL},
        {"debug", 0, 0, G_OPTION_ARG_NONE, &o.debug, "Log more", NULL},
        {"list-faults", 0, 0, G_OPTION_ARG_NONE, &o.list_faults,
         "List the fault points for tests and exit", NULL},
        {NULL},
    };
    CliSpec spec = {.description = description, .entries = entries, .common = &common};

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_arguments(argc, 0, 0, "options only"))
        return EXIT_USAGE;
    o.json = common.json;
    if (o.list_faults)
        return list_faults();
    if (o.debug)
        log_set_level(LOG_LEVEL_DEBUG);
    return serve(&o);
}
