#include "base/error.h"
#include "cli/check.h"
#include "cli/cli.h"
#include "client/client.h"

static const char description[] =
    "Tries out what moving guests needs on this host and says what to change.  Exit code 0:\n"
    "moves are possible; 1: they are not.";

static void check_agent(Findings *findings, json_t *agent, const GError *error)
{
    const char *listening = json_text_or(agent, "listening", NULL);
    gboolean alone =
        agent && !json_flag_or(agent, "secure", FALSE) && !json_flag_or(agent, "insecure", FALSE);
    g_autofree char *text = NULL;

    if (!agent) {
        findings_add(findings, "agent", FINDING_NOTE, error->message,
                     error_is(error, VMFERRY_ERROR_DISCONNECTED)
                         ? "start it: `systemctl enable --now vmferry-agent`, or `vmferry agent`"
                         : NULL);
        return;
    }
    text = g_strdup_printf("version %s, listens on %s", json_text_or(agent, "version", "?"),
                           listening ? listening : "no address");
    if (alone)
        findings_add(findings, "agent", FINDING_BAD, text,
                     "it was started without a certificate: it can neither send guests nor take "
                     "any; give it one and restart it");
    else if (!listening)
        findings_add(findings, "agent", FINDING_NOTE, text,
                     "guests can leave this host and none can come: restart it without "
                     "--listen none");
    else
        findings_add(findings, "agent", FINDING_GOOD, text, NULL);
}

static const char *choose_verdict(Findings *findings, json_t *agent)
{
    if (!findings_are_good(findings))
        return "Guests cannot be moved from or to this host as it is; see above.";
    if (!agent)
        return "Guests can be moved from and to this host once its agent runs.";
    return json_text_or(agent, "listening", NULL)
               ? "Guests can be moved from and to this host."
               : "Guests can be moved from this host, but not to it; see above.";
}

static void load_settings(Findings *findings, AgentSettings *settings)
{
    g_autoptr(GError) error = NULL;

    if (!agent_settings_load(settings, SETTINGS_DEFAULT_FILE, FALSE, &error))
        findings_add(findings, "configuration", FINDING_BAD, error->message,
                     "the agent does not start with it; see man 5 vmferry-agent.conf");
}

static Findings *check(const CommonOptions *common, const char *pki, const char **ret_verdict)
{
    g_autoptr(AgentSettings) settings = agent_settings_new();
    Findings *findings = findings_new();
    g_autoptr(Client) client = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) agent = NULL;

    /* First, while this process has but one thread: it makes a child. */
    check_kernel(findings);
    check_qemu(findings);
    load_settings(findings, settings);
    if (pki) {
        g_free(settings->pki_dir);
        settings->pki_dir = g_strdup(pki);
    }
    client = client_new(common->socket);
    agent = client_call(client, "GET", "/v1/status", NULL, &error);
    check_pki(findings, settings, pki != NULL, agent);
    check_agent(findings, agent, error);
    *ret_verdict = choose_verdict(findings, agent);
    return findings;
}

int verb_check(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    g_autofree char *pki = NULL;
    const GOptionEntry entries[] = {
        {"pki", 0, 0, G_OPTION_ARG_FILENAME, &pki, "This host's certificate (default: the agent's)",
         "DIR"},
        {NULL},
    };
    CliSpec spec = {
        .description = description, .entries = entries, .common = &common, .talks = TRUE};
    g_autoptr(Findings) findings = NULL;
    const char *verdict;

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_arguments(argc, 0, 0, "options only"))
        return EXIT_USAGE;
    findings = check(&common, pki, &verdict);
    if (common.json) {
        g_autoptr(json_t) object = findings_to_json(findings);

        cli_print_json(object);
    } else {
        findings_print(findings, verdict);
    }
    return findings_are_good(findings) ? EXIT_DONE : EXIT_FAILED;
}
