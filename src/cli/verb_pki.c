#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "cli/cli.h"
#include "wire/pki.h"

#define DEFAULT_CA_DIR "/etc/vmferry/ca"
#define DEFAULT_CA_DAYS 3650
#define DEFAULT_HOST_DAYS 825

static const char description[] =
    "vmferry pki init makes a small certificate authority; vmferry pki issue HOST makes a\n"
    "folder with all that the agent of HOST needs: copy it to /etc/vmferry/pki there.\n"
    "HOST is the name or address by which other hosts migrate to it; more of them may\n"
    "follow.  vmferry pki engine NAME makes such a folder for who uses the agents' API over\n"
    "the network and is no host: NAME is what [api] in agent.conf names.\n\n"
    "Example: vmferry pki issue hostb hostb.example.org 10.0.0.2";

typedef struct {
    char *directory, *out;
    gint days;
    CommonOptions common;
} Options;

static void options_clear(Options *options)
{
    g_free(options->directory);
    g_free(options->out);
    common_options_clear(&options->common);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Options, options_clear)

static int fail(const Options *o, GError **error)
{
    cli_add_hint(error, VMFERRY_ERROR_PERMISSION, "be root, or choose other folders with --dir");
    return cli_fail(&o->common, *error);
}

static int init(const Options *o)
{
    g_autoptr(GError) error = NULL;

    if (!pki_init(o->directory, (guint)(o->days ? o->days : DEFAULT_CA_DAYS), &error))
        return fail(o, &error);
    if (o->common.json) {
        g_autoptr(json_t) object = json_pack("{s:s}", "ca", o->directory);

        cli_print_json(object);
    } else {
        printf("A new certificate authority is in %s.\n"
               "Keep ca.key there and to yourself. Next: vmferry pki issue HOST, for each host.\n",
               o->directory);
    }
    return EXIT_DONE;
}

/* *names*: what it is called besides *host*, up to NULL. */
static int issue(const Options *o, const char *host, char **names)
{
    g_autofree char *out = o->out ? g_strdup(o->out) : g_build_filename(o->directory, host, NULL);
    g_autoptr(GError) error = NULL;

    if (!pki_issue(o->directory, host, (const char *const *)names,
                   (guint)(o->days ? o->days : DEFAULT_HOST_DAYS), out, &error))
        return fail(o, &error);
    if (o->common.json) {
        g_autoptr(json_t) object = json_pack("{s:s, s:s}", "host", host, "directory", out);

        cli_print_json(object);
    } else {
        g_autofree char *more = g_strjoinv(", ", names);

        printf("The certificate of %s%s%s is in %s.\n"
               "Copy ca.crt, host.crt and host.key from there to /etc/vmferry/pki on %s.\n",
               host, *more ? ", " : "", more, out, host);
    }
    return EXIT_DONE;
}

static int issue_engine(const Options *o, const char *name)
{
    g_autofree char *out = o->out ? g_strdup(o->out) : g_build_filename(o->directory, name, NULL);
    g_autoptr(GError) error = NULL;

    if (!pki_issue_engine(o->directory, name, (guint)(o->days ? o->days : DEFAULT_HOST_DAYS), out,
                          &error))
        return fail(o, &error);
    if (o->common.json) {
        g_autoptr(json_t) object = json_pack("{s:s, s:s}", "engine", name, "directory", out);

        cli_print_json(object);
    } else {
        printf("The certificate of %s is in %s; it is for clients of agents only.\n"
               "Use it with --pki %s, and name %s in [api] of the agents' agent.conf.\n",
               name, out, out, name);
    }
    return EXIT_DONE;
}

static int dispatch(const Options *o, int argc, char **argv)
{
    if (o->days < 0)
        return cli_usage_error("--days must be above 0");
    if (argc == 2 && strcmp(argv[1], "init") == 0)
        return init(o);
    if (argc >= 3 && (!argv[2][0] || strchr(argv[2], '/')))
        return cli_usage_error("\"%s\" is not the name or address of a host", argv[2]);
    if (argc >= 3 && strcmp(argv[1], "issue") == 0)
        return issue(o, argv[2], argv + 3);
    if (argc == 3 && strcmp(argv[1], "engine") == 0)
        return issue_engine(o, argv[2]);
    return cli_usage_error("wanted `init`, `issue HOST [NAME...]` or `engine NAME`");
}

int verb_pki(int argc, char **argv)
{
    g_auto(Options) o = {0};
    const GOptionEntry entries[] = {
        {"dir", 0, 0, G_OPTION_ARG_FILENAME, &o.directory,
         "The authority's folder (default: " DEFAULT_CA_DIR ")", "DIR"},
        {"out", 0, 0, G_OPTION_ARG_FILENAME, &o.out,
         "Where the files go (default: HOST or NAME in the authority's folder)", "DIR"},
        {"days", 0, 0, G_OPTION_ARG_INT, &o.days,
         "How long it is valid (default: 3650 for init, else 825)", "N"},
        {NULL},
    };
    CliSpec spec = {.parameters = "init | issue HOST [NAME...] | engine NAME",
                    .description = description,
                    .entries = entries,
                    .common = &o.common};

    if (!cli_parse(&spec, &argc, &argv))
        return EXIT_USAGE;
    if (!o.directory)
        o.directory = g_strdup(DEFAULT_CA_DIR);
    return dispatch(&o, argc, argv);
}
