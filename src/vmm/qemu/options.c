#include "vmm/qemu/options.h"

#include <stdlib.h>
#include <string.h>

/* More is not a parameter list but an attack on our time. */
#define MAX_PARAMETERS 256
#define MAX_JSON_DEPTH 8

/* QEMU options that take no value; all others take one. */
static const char *const bare_options[] = {
    "S",
    "alt-grab",
    "async-teardown",
    "ctrl-grab",
    "curses",
    "daemonize",
    "enable-fips",
    "enable-kvm",
    "full-screen",
    "h",
    "help",
    "mem-prealloc",
    "no-acpi",
    "no-fd-bootchk",
    "no-frame",
    "no-hpet",
    "no-quit",
    "no-reboot",
    "no-shutdown",
    "no-user-config",
    "nodefaults",
    "nodefconfig",
    "nographic",
    "old-param",
    "only-migratable",
    "portrait",
    "preconfig",
    "rtc-td-hack",
    "sdl",
    "semihosting",
    "singlestep",
    "snapshot",
    "usb",
    "version",
    "win2k-hack",
    "xen-attach",
    "xen-domid-restrict",
};

static gboolean takes_value(const char *name)
{
    for (guint i = 0; i < G_N_ELEMENTS(bare_options); i++)
        if (strcmp(name, bare_options[i]) == 0)
            return FALSE;
    return TRUE;
}

gboolean qemu_option_next(char *const *argv, QemuOption *option)
{
    guint at = option->words == 0 ? 1 : option->first + option->words;
    const char *word;

    if (!argv[0] || !argv[at])
        return FALSE;
    word = argv[at];
    *option = (QemuOption){.first = at, .words = 1};
    if (word[0] != '-' || word[1] == '\0')
        return TRUE;
    option->name = word[1] == '-' ? word + 2 : word + 1;
    if (takes_value(option->name) && argv[at + 1]) {
        option->value = argv[at + 1];
        option->words = 2;
    }
    return TRUE;
}

typedef struct {
    char *key;
    char *value; /* NULL: given without "=" */
} Parameter;

struct QemuParameters {
    GArray *list; /* of Parameter; of a JSON object, what flatten() makes of it */
    json_t *json; /* NULL: it was a list */
};

static void clear_parameter(gpointer data)
{
    Parameter *parameter = data;

    g_free(parameter->key);
    g_free(parameter->value);
}

static void add_parameter(QemuParameters *parameters, char *key, char *value)
{
    Parameter parameter = {.key = key, .value = value};

    if (parameters->list->len < MAX_PARAMETERS)
        g_array_append_val(parameters->list, parameter);
    else
        clear_parameter(&parameter);
}

/* Takes text up to a single comma; *at* moves behind it. */
static char *take_piece(const char **at)
{
    GString *piece = g_string_new(NULL);
    const char *c = *at;

    for (; *c; c++) {
        if (*c == ',') {
            if (c[1] != ',')
                break;
            c++;
        }
        g_string_append_c(piece, *c);
    }
    *at = *c ? c + 1 : c;
    return g_string_free(piece, FALSE);
}

static void parse_list(QemuParameters *parameters, const char *value, const char *implied)
{
    const char *at = value;

    while (*at && parameters->list->len < MAX_PARAMETERS) {
        gboolean first = at == value;
        char *piece = take_piece(&at);
        char *equals = strchr(piece, '=');

        if (equals) {
            add_parameter(parameters, g_strndup(piece, (gsize)(equals - piece)),
                          g_strdup(equals + 1));
            g_free(piece);
        } else if (first && implied) {
            add_parameter(parameters, g_strdup(implied), piece);
        } else {
            add_parameter(parameters, piece, NULL);
        }
    }
}

static char *scalar_text(json_t *value)
{
    if (json_is_string(value))
        return g_strdup(json_string_value(value));
    if (json_is_integer(value))
        return g_strdup_printf("%" JSON_INTEGER_FORMAT, json_integer_value(value));
    return g_strdup(json_is_true(value) ? "on" : "off");
}

static void flatten(QemuParameters *parameters, const char *prefix, json_t *value, int depth)
{
    void *iter = json_is_object(value) ? json_object_iter(value) : NULL;
    size_t index;
    json_t *entry;

    if (depth > MAX_JSON_DEPTH || parameters->list->len >= MAX_PARAMETERS)
        return;
    if (json_is_array(value)) {
        json_array_foreach(value, index, entry) flatten(parameters, prefix, entry, depth + 1);
        return;
    }
    if (!json_is_object(value)) {
        add_parameter(parameters, g_strdup(prefix), scalar_text(value));
        return;
    }
    for (; iter; iter = json_object_iter_next(value, iter)) {
        const char *key = json_object_iter_key(iter);
        g_autofree char *name = *prefix ? g_strdup_printf("%s.%s", prefix, key) : g_strdup(key);

        flatten(parameters, name, json_object_iter_value(iter), depth + 1);
    }
}

QemuParameters *qemu_parameters_parse(const char *value, const char *implied)
{
    QemuParameters *parameters = g_new0(QemuParameters, 1);
    json_t *object = value[0] == '{' ? json_loads(value, 0, NULL) : NULL;

    parameters->list = g_array_new(FALSE, FALSE, sizeof(Parameter));
    g_array_set_clear_func(parameters->list, clear_parameter);
    if (object)
        flatten(parameters, "", object, 0);
    else
        parse_list(parameters, value, implied);
    if (json_is_object(object))
        parameters->json = json_incref(object);
    json_decref(object);
    return parameters;
}

void qemu_parameters_free(QemuParameters *parameters)
{
    if (!parameters)
        return;
    g_array_unref(parameters->list);
    json_decref(parameters->json);
    g_free(parameters);
}

static const Parameter *find(const QemuParameters *parameters, const char *key)
{
    for (guint i = parameters->list->len; i > 0; i--) {
        const Parameter *parameter = &g_array_index(parameters->list, Parameter, i - 1);

        if (strcmp(parameter->key, key) == 0)
            return parameter;
    }
    return NULL;
}

const char *qemu_parameters_get(const QemuParameters *parameters, const char *key)
{
    const Parameter *parameter = find(parameters, key);

    return parameter ? parameter->value : NULL;
}

gboolean qemu_parameters_flag(const QemuParameters *parameters, const char *key)
{
    const Parameter *parameter = find(parameters, key);

    if (!parameter)
        return FALSE;
    return !parameter->value || strcmp(parameter->value, "on") == 0 ||
           strcmp(parameter->value, "yes") == 0 || strcmp(parameter->value, "true") == 0 ||
           strcmp(parameter->value, "y") == 0;
}

gboolean qemu_parameters_has_leaf(const QemuParameters *parameters, const char *key)
{
    for (guint i = 0; i < parameters->list->len; i++) {
        const char *name = g_array_index(parameters->list, Parameter, i).key;
        const char *dot = strrchr(name, '.');

        if (strcmp(dot ? dot + 1 : name, key) == 0)
            return TRUE;
    }
    return FALSE;
}

/* TRUE for "file" and "file.…" where *key* is "file". */
static gboolean is_below(const char *name, const char *key)
{
    size_t length = strlen(key);

    return strncmp(name, key, length) == 0 && (name[length] == '\0' || name[length] == '.');
}

static void remove_from_list(QemuParameters *parameters, const char *key)
{
    for (guint i = parameters->list->len; i > 0; i--)
        if (is_below(g_array_index(parameters->list, Parameter, i - 1).key, key))
            g_array_remove_index(parameters->list, i - 1);
}

/* The object that holds the last component of "a.b.c"; made where *make* says
 * so, else NULL where it is missing. */
static json_t *find_holder(json_t *object, char **components, gboolean make)
{
    for (guint i = 0; components[i + 1] && object; i++) {
        json_t *below = json_object_get(object, components[i]);

        if (!json_is_object(below) && make) {
            below = json_object();
            json_object_set_new(object, components[i], below);
        }
        object = json_is_object(below) ? below : NULL;
    }
    return object;
}

static void flatten_again(QemuParameters *parameters)
{
    g_array_set_size(parameters->list, 0);
    flatten(parameters, "", parameters->json, 0);
}

static void change_json(QemuParameters *parameters, const char *key, json_t *value)
{
    g_auto(GStrv) components = g_strsplit(key, ".", MAX_JSON_DEPTH);
    json_t *holder = find_holder(parameters->json, components, value != NULL);
    const char *last = components[g_strv_length(components) - 1];

    if (value)
        json_object_set(holder, last, value);
    else
        json_object_del(holder, last);
    flatten_again(parameters);
}

void qemu_parameters_set(QemuParameters *parameters, const char *key, json_t *value)
{
    if (parameters->json) {
        change_json(parameters, key, value);
    } else {
        remove_from_list(parameters, key);
        add_parameter(parameters, g_strdup(key), scalar_text(value));
    }
    json_decref(value);
}

void qemu_parameters_remove(QemuParameters *parameters, const char *key)
{
    if (parameters->json)
        change_json(parameters, key, NULL);
    else
        remove_from_list(parameters, key);
}

json_t *qemu_parameters_get_json(const QemuParameters *parameters)
{
    return parameters->json;
}

char *qemu_parameters_to_text(const QemuParameters *parameters)
{
    GString *text = g_string_new(NULL);

    if (parameters->json) {
        char *dump = json_dumps(parameters->json, JSON_COMPACT);

        g_string_append(text, dump);
        free(dump);
    }
    for (guint i = 0; !parameters->json && i < parameters->list->len; i++) {
        const Parameter *parameter = &g_array_index(parameters->list, Parameter, i);
        g_autofree char *value = parameter->value ? qemu_escape_commas(parameter->value) : NULL;

        g_string_append_printf(text, "%s%s%s%s", i ? "," : "", parameter->key, value ? "=" : "",
                               value ? value : "");
    }
    return g_string_free(text, FALSE);
}

char *qemu_escape_commas(const char *text)
{
    GString *escaped = g_string_new(text);

    g_string_replace(escaped, ",", ",,", 0);
    return g_string_free(escaped, FALSE);
}
