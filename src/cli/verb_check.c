#include <stdio.h>
#include <unistd.h>

#include "cli/check.h"
#include "cli/cli.h"
#include "cli/client.h"

static const char description[] =
    "Tries out what moving guests needs on this host and says what to change.  Exit code 0:\n"
    "moves are possible; 1: they are not.";

static void check_agent(Findings *findings, const CommonOptions *common)
{
    g_autoptr(Client) client = client_new(common);
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) status = client_call(client, "GET", "/v1/status", NULL, &error);
    g_autofree char *text = NULL;

    if (!status) {
        findings_add(findings, "agent", FINDING_NOTE, error->message, NULL);
        return;
    }
    text = g_strdup_printf("version %s, listens on %s", json_text_or(status, "version", "?"),
                           json_text_or(status, "listening", "no address: for this host only"));
    findings_add(findings, "agent", FINDING_GOOD, text, NULL);
}

int verb_check(int argc, char **argv)
{
    g_auto(CommonOptions) common = {0};
    g_autofree char *pki = NULL;
    const GOptionEntry entries[] = {
        {"pki", 0, 0, G_OPTION_ARG_FILENAME, &pki,
         "This host's certificate (default: /etc/vmferry/pki)", "DIR"},
        {NULL},
    };
    CliSpec spec = {
        .description = description, .entries = entries, .common = &common, .talks = TRUE};
    g_autoptr(Findings) findings = NULL;

    if (!cli_parse(&spec, &argc, &argv) || !cli_check_words(argc, 0, 0, "options only"))
        return EXIT_USAGE;
    findings = findings_new();
    /* First, while this process has but one thread: it makes a child. */
    check_kernel(findings);
    check_qemu(findings);
    check_pki(findings, pki ? pki : "/etc/vmferry/pki");
    check_agent(findings, &common);
    if (common.json) {
        g_autoptr(json_t) object = findings_to_json(findings);

        cli_print_json(object);
    } else {
        findings_print(findings);
    }
    return findings_are_good(findings) ? EXIT_DONE : EXIT_FAILED;
}
