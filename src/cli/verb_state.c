#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/output.h"
#include "cli/state_source.h"
#include "state/schema.h"
#include "state/state_machine.h"

static const char description[] =
    "Shows, compares and checks the state of a guest's processors and devices, in a form that\n"
    "belongs to no VMM.\n\n"
    "  show NAME|FILE    what it is, one value a line\n"
    "  diff A B          what differs; the exit code is 1 where something does\n"
    "  check NAME|FILE   can all of it be represented?  What cannot is named; then it is 1, too\n\n"
    "Of a guest (NAME), the state is that of this moment: it is paused for some milliseconds.\n"
    "A FILE is a saved image, or a state that `show --json` has written.";

/* A line shows so much of long bytes. */
#define SHOWN_CHARACTERS 72

typedef struct {
    char *key_file;
    CommonOptions common;
} Options;

static void options_clear(Options *options)
{
    g_free(options->key_file);
    common_options_clear(&options->common);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Options, options_clear)

static StateNode *read_state(const Options *o, const char *name, GError **error)
{
    return state_source_read(&o->common, name, o->key_file, error);
}

/* ---- show ---- */

static char *shortened(const char *text)
{
    size_t length = strlen(text);

    if (length <= SHOWN_CHARACTERS)
        return g_strdup(text);
    return g_strdup_printf("%.*s… (%zu bytes)", SHOWN_CHARACTERS, text,
                           (length - strlen("hex:")) / 2);
}

static void print_node(const StateNode *node, GString *path)
{
    gsize length = path->len;

    for (guint i = 0; i < state_length(node); i++) {
        const StateNode *child = state_child(node, i);

        if (state_kind(node) == STATE_LIST)
            g_string_append_printf(path, "[%u]", i);
        else
            g_string_append_printf(path, "%s%s", length ? "." : "", state_name(child));
        print_node(child, path);
        g_string_truncate(path, length);
    }
    if (state_kind(node) != STATE_GROUP && state_kind(node) != STATE_LIST) {
        g_autofree char *text = state_leaf_text(node);
        g_autofree char *shown = shortened(text);

        printf("%s = %s\n", path->str, shown);
    }
}

static int show(const Options *o, char **names, GError **error)
{
    g_autoptr(StateNode) root = read_state(o, names[0], error);
    g_autoptr(GString) path = g_string_new(NULL);
    g_autoptr(json_t) json = NULL;

    if (!root)
        return cli_fail(&o->common, *error);
    if (o->common.json) {
        json = state_to_json(root);
        cli_print_json(json);
    } else {
        print_node(root, path);
    }
    return EXIT_DONE;
}

/* ---- diff ---- */

static json_t *differences_to_json(const GPtrArray *found)
{
    json_t *list = json_array();

    for (guint i = 0; i < found->len; i++) {
        const StateDifference *difference = found->pdata[i];

        json_array_append_new(list, json_pack("{s:s, s:s?, s:s?}", "path", difference->path, "left",
                                              difference->left, "right", difference->right));
    }
    return json_pack("{s:o}", "differences", list);
}

static void print_differences(const GPtrArray *found)
{
    for (guint i = 0; i < found->len; i++) {
        const StateDifference *difference = found->pdata[i];
        g_autofree char *left = shortened(difference->left ? difference->left : "not there");
        g_autofree char *right = shortened(difference->right ? difference->right : "not there");

        printf("%s: %s, %s\n", difference->path, left, right);
    }
}

static int diff(const Options *o, char **names, GError **error)
{
    g_autoptr(StateNode) left = read_state(o, names[0], error);
    g_autoptr(StateNode) right = left ? read_state(o, names[1], error) : NULL;
    g_autoptr(GPtrArray) found = NULL;
    g_autoptr(json_t) json = NULL;

    if (!right)
        return cli_fail(&o->common, *error);
    state_drop_unknown(left, right);
    found = state_compare(left, right);
    json = differences_to_json(found);
    if (o->common.json)
        cli_print_json(json);
    else
        print_differences(found);
    return found->len ? EXIT_FAILED : EXIT_DONE;
}

/* ---- check ---- */

/* All devices that no other VMM has; without these, what else is wrong. */
static json_t *find_problems(const StateNode *root)
{
    g_autoptr(StateNode) known = state_copy(root);
    g_autoptr(GError) error = NULL;
    json_t *problems = json_array();
    guint count = state_find(root, "devices") ? state_length(state_find(root, "devices")) : 0;

    for (guint i = count; i-- > 0;) {
        g_autofree char *path = g_strdup_printf("devices[%u]", i);
        const StateNode *device = state_find(known, path);
        const char *type = state_get_text(device, "type"), *at = state_get_text(device, "at");
        g_autofree char *text = NULL;

        if (!type || state_schema_device(type))
            continue;
        text =
            g_strdup_printf("there is no common form of the device %s at %s", type, at ? at : "?");
        json_array_insert_new(problems, 0, json_string(text));
        state_remove(known, path);
    }
    if (!state_check(known, &error))
        json_array_append_new(problems, json_string(error->message));
    return problems;
}

static int check(const Options *o, char **names, GError **error)
{
    g_autoptr(StateNode) root = read_state(o, names[0], error);
    g_autoptr(json_t) problems = NULL, answer = NULL;
    json_t *problem;
    size_t i;

    if (!root)
        return cli_fail(&o->common, *error);
    problems = find_problems(root);
    answer =
        json_pack("{s:b, s:O}", "complete", json_array_size(problems) == 0, "problems", problems);
    if (o->common.json)
        cli_print_json(answer);
    else if (json_array_size(problems) == 0)
        printf("%s: all of it can be represented\n", names[0]);
    json_array_foreach(problems, i, problem)
    {
        if (!o->common.json)
            printf("%s: %s\n", names[0], json_string_value(problem));
    }
    return json_array_size(problems) ? EXIT_FAILED : EXIT_DONE;
}

static const struct {
    const char *name;
    int arguments;
    const char *wanted;
    int (*run)(const Options *o, char **names, GError **error);
} actions[] = {
    {"show", 1, "one NAME or FILE", show},
    {"diff", 2, "two of NAME or FILE", diff},
    {"check", 1, "one NAME or FILE", check},
};

int verb_state(int argc, char **argv)
{
    g_auto(Options) o = {0};
    const GOptionEntry entries[] = {
        {"key-file", 0, 0, G_OPTION_ARG_FILENAME, &o.key_file,
         "The key that an image was written with", "FILE"},
        {NULL},
    };
    CliSpec spec = {.parameters = "show NAME|FILE | diff A B | check NAME|FILE",
                    .description = description,
                    .entries = entries,
                    .common = &o.common,
                    .talks = TRUE};
    g_autoptr(GError) error = NULL;

    if (!cli_parse(&spec, &argc, &argv))
        return EXIT_USAGE;
    for (guint i = 0; argc > 1 && i < G_N_ELEMENTS(actions); i++)
        if (strcmp(argv[1], actions[i].name) == 0)
            return cli_check_arguments(argc - 1, actions[i].arguments, actions[i].arguments,
                                       actions[i].wanted)
                       ? actions[i].run(&o, argv + 2, &error)
                       : EXIT_USAGE;
    return cli_usage_error("wanted show, diff or check");
}
