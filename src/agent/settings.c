#include "agent/settings.h"

#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/quantity.h"
#include "identity/confinement.h"
#include "wire/channel.h"
#include "wire/messages.h"

#define MAP_RULE_LIMIT 256
#define MAP_ARROW " => "

static void map_rule_free(gpointer data)
{
    SettingsMapRule *rule = data;

    g_free(rule->name);
    g_free(rule->from);
    g_free(rule->to);
    g_free(rule);
}

AgentSettings *agent_settings_new(void)
{
    AgentSettings *settings = g_new0(AgentSettings, 1);

    settings->listen = g_strdup_printf("0.0.0.0:%d", CHANNEL_DEFAULT_PORT);
    settings->socket = g_strdup(CLIENT_DEFAULT_SOCKET);
    settings->state_dir = g_strdup("/var/lib/vmferry");
    settings->runtime_dir = g_strdup("/run/vmferry");
    settings->pki_dir = g_strdup("/etc/vmferry/pki");
    settings->allow = g_new0(char *, 1);
    settings->api = g_strdup("none");
    settings->api_read = g_new0(char *, 1);
    settings->api_operate = g_new0(char *, 1);
    settings->store_memory = SETTINGS_STORE_AUTO;
    settings->alone_after = SETTINGS_DEFAULT_ALONE_S;
    settings->protect_again = SETTINGS_DEFAULT_PROTECT_AGAIN_S;
    settings->launch_ahead = TRUE;
    migrate_options_init(&settings->moves);
    settings->rules = g_ptr_array_new_with_free_func(map_rule_free);
    return settings;
}

void agent_settings_free(AgentSettings *settings)
{
    if (!settings)
        return;
    g_free(settings->listen);
    g_free(settings->socket);
    g_free(settings->state_dir);
    g_free(settings->runtime_dir);
    g_free(settings->pki_dir);
    g_free(settings->metrics_root);
    g_strfreev(settings->allow);
    g_free(settings->api);
    g_strfreev(settings->api_read);
    g_strfreev(settings->api_operate);
    g_ptr_array_unref(settings->rules);
    g_free(settings);
}

static gboolean set_path(char **field, const char *value, GError **error)
{
    if (!g_path_is_absolute(value)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not an absolute path", value);
        return FALSE;
    }
    g_free(*field);
    *field = g_strdup(value);
    return TRUE;
}

static gboolean set_address(char **field, guint16 default_port, const char *value, GError **error)
{
    g_autofree char *host = NULL;
    guint16 port;

    if (strcmp(value, "none") != 0 &&
        !settings_split_address(value, default_port, &host, &port, error))
        return FALSE;
    g_free(*field);
    *field = g_strdup(value);
    return TRUE;
}

static gboolean set_listen(AgentSettings *settings, const char *value, GError **error)
{
    return set_address(&settings->listen, CHANNEL_DEFAULT_PORT, value, error);
}

static gboolean set_api(AgentSettings *settings, const char *value, GError **error)
{
    return set_address(&settings->api, CLIENT_DEFAULT_PORT, value, error);
}

static gboolean set_socket(AgentSettings *settings, const char *value, GError **error)
{
    return set_path(&settings->socket, value, error);
}

static gboolean set_state_dir(AgentSettings *settings, const char *value, GError **error)
{
    return set_path(&settings->state_dir, value, error);
}

static gboolean set_runtime_dir(AgentSettings *settings, const char *value, GError **error)
{
    return set_path(&settings->runtime_dir, value, error);
}

static gboolean set_pki(AgentSettings *settings, const char *value, GError **error)
{
    return set_path(&settings->pki_dir, value, error);
}

static gboolean read_flag(const char *value, gboolean *ret, GError **error)
{
    if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is neither true nor false", value);
        return FALSE;
    }
    *ret = strcmp(value, "true") == 0;
    return TRUE;
}

static gboolean set_insecure(AgentSettings *settings, const char *value, GError **error)
{
    return read_flag(value, &settings->insecure, error);
}

static gboolean set_launch_ahead(AgentSettings *settings, const char *value, GError **error)
{
    return read_flag(value, &settings->launch_ahead, error);
}

/* *empty*: what is wrong with a list of nobody. */
static gboolean set_names(char ***field, const char *value, const char *empty, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    g_auto(GStrv) parts = g_strsplit_set(value, ", \t", -1);

    for (char **part = parts; *part; part++)
        if (**part)
            g_ptr_array_add(names, g_strdup(*part));
    if (names->len == 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s", empty);
        return FALSE;
    }
    g_ptr_array_add(names, NULL);
    g_strfreev(*field);
    *field = (char **)g_ptr_array_free(g_steal_pointer(&names), FALSE);
    return TRUE;
}

static gboolean set_allow(AgentSettings *settings, const char *value, GError **error)
{
    /* An empty list would allow every peer, which is hardly meant by it. */
    return set_names(
        &settings->allow, value,
        "names no peer; leave the key out to allow all with a certificate of the same CA", error);
}

static gboolean set_allow_unconfined(AgentSettings *settings, const char *value, GError **error)
{
    return confinement_parse_list(value, &settings->allow_unconfined, error);
}

/* "none": this agent keeps nothing for others. */
static gboolean set_store_memory(AgentSettings *settings, const char *value, GError **error)
{
    double bytes = 0;

    if (strcmp(value, "auto") == 0) {
        settings->store_memory = SETTINGS_STORE_AUTO;
        return TRUE;
    }
    if (strcmp(value, "none") != 0 && !size_parse(value, &bytes, error))
        return FALSE;
    if (bytes > (double)MESSAGE_MAX_MEMORY_BYTES) {
        error_set(error, VMFERRY_ERROR_INVALID, "the value must be auto, none, or up to 64 TiB");
        return FALSE;
    }
    settings->store_memory = (uint64_t)bytes;
    return TRUE;
}

static gboolean set_alone_after(AgentSettings *settings, const char *value, GError **error)
{
    guint64 seconds = 0;

    if (!g_ascii_string_to_unsigned(value, 10, SETTINGS_LEAST_ALONE_S, 86400, &seconds, NULL)) {
        error_set(error, VMFERRY_ERROR_INVALID, "the value must be %d to 86400 (seconds)",
                  SETTINGS_LEAST_ALONE_S);
        return FALSE;
    }
    settings->alone_after = (guint)seconds;
    return TRUE;
}

static gboolean set_protect_again(AgentSettings *settings, const char *value, GError **error)
{
    guint64 seconds = 0;

    if (!g_ascii_string_to_unsigned(value, 10, 0, 86400, &seconds, NULL)) {
        error_set(error, VMFERRY_ERROR_INVALID, "the value must be 0 (never) to 86400 (seconds)");
        return FALSE;
    }
    settings->protect_again = (guint)seconds;
    return TRUE;
}

static const struct {
    const char *key;
    gboolean (*set)(AgentSettings *settings, const char *value, GError **error);
} keys[] = {
    {"listen", set_listen},
    {"socket", set_socket},
    {"state-dir", set_state_dir},
    {"runtime-dir", set_runtime_dir},
    {"pki", set_pki},
    {"insecure", set_insecure},
    {"api", set_api},
    {"allow", set_allow},
    {"allow-unconfined", set_allow_unconfined},
    {"store-memory", set_store_memory},
    {"alone-after", set_alone_after},
    {"protect-again", set_protect_again},
    {"launch-ahead", set_launch_ahead},
};

static gboolean set_metrics_key(AgentSettings *settings, const char *key, const char *value,
                                GError **error)
{
    if (strcmp(key, "root") == 0)
        return set_path(&settings->metrics_root, value, error);
    error_set(error, VMFERRY_ERROR_INVALID, "unknown key; there is root");
    return FALSE;
}

static gboolean refuse_key(GError **error)
{
    g_autoptr(GString) known = g_string_new(NULL);
    const MigrateOption *option;

    for (guint i = 0; i < G_N_ELEMENTS(keys); i++)
        g_string_append_printf(known, "%s%s", i ? ", " : "", keys[i].key);
    for (guint i = 0; (option = migrate_option_at(i)); i++)
        if (option->file_key)
            g_string_append_printf(known, ", %s", option->file_key);
    error_set(error, VMFERRY_ERROR_INVALID, "unknown key; there are %s", known->str);
    return FALSE;
}

static gboolean set_key(AgentSettings *settings, const char *key, const char *value, GError **error)
{
    const MigrateOption *option;

    for (guint i = 0; i < G_N_ELEMENTS(keys); i++)
        if (strcmp(key, keys[i].key) == 0)
            return keys[i].set(settings, value, error);
    for (guint i = 0; (option = migrate_option_at(i)); i++)
        if (g_strcmp0(option->file_key, key) == 0)
            return migrate_option_set_text(option, MIGRATE_FROM_FILE, value, &settings->moves,
                                           error);
    return refuse_key(error);
}

/* After the whole file was read: the defaults of moves in it must agree. */
static gboolean match_moves(AgentSettings *settings, GKeyFile *file, const char *origin,
                            GError **error)
{
    MigrateOptionSet given = 0;
    const MigrateOption *option;

    for (guint i = 0; (option = migrate_option_at(i)); i++)
        if (option->file_key && g_key_file_has_key(file, "agent", option->file_key, NULL))
            given |= migrate_option_bit(option);
    if (migrate_options_agree(&settings->moves, given, MIGRATE_FROM_FILE, error))
        return TRUE;
    g_prefix_error(error, "%s: [agent]: ", origin);
    return FALSE;
}

static gboolean add_map_rule(AgentSettings *settings, const char *key, const char *value,
                             GError **error)
{
    const char *arrow = strstr(value, MAP_ARROW);
    SettingsMapRule *rule;

    if (!arrow || arrow == value || arrow[strlen(MAP_ARROW)] == '\0' ||
        strstr(arrow + 1, MAP_ARROW)) {
        error_set(error, VMFERRY_ERROR_INVALID, "write a rule as FROM => TO");
        return FALSE;
    }
    if (settings->rules->len >= MAP_RULE_LIMIT) {
        error_set(error, VMFERRY_ERROR_INVALID, "more than %d rules", MAP_RULE_LIMIT);
        return FALSE;
    }
    rule = g_new0(SettingsMapRule, 1);
    rule->name = g_strdup(key);
    rule->from = g_strndup(value, (gsize)(arrow - value));
    rule->to = g_strdup(arrow + strlen(MAP_ARROW));
    g_strstrip(rule->from);
    g_strstrip(rule->to);
    g_ptr_array_add(settings->rules, rule);
    return TRUE;
}

static gboolean set_api_key(AgentSettings *settings, const char *key, const char *value,
                            GError **error)
{
    const char *empty = "names nobody; leave the key out";

    if (strcmp(key, "read") == 0)
        return set_names(&settings->api_read, value, empty, error);
    if (strcmp(key, "operate") == 0)
        return set_names(&settings->api_operate, value, empty, error);
    error_set(error, VMFERRY_ERROR_INVALID, "unknown key; there are read, operate");
    return FALSE;
}

typedef gboolean (*ApplyKey)(AgentSettings *settings, const char *key, const char *value,
                             GError **error);

static gboolean apply_group(AgentSettings *settings, GKeyFile *file, const char *group,
                            ApplyKey apply, const char *origin, GError **error)
{
    g_auto(GStrv) names = g_key_file_get_keys(file, group, NULL, NULL);

    for (char **name = names; name && *name; name++) {
        g_autoptr(GError) problem = NULL;
        g_autofree char *value = g_key_file_get_string(file, group, *name, &problem);

        /* GLib gives a value back even where it has a complaint about it. */
        if (problem)
            error_set(error, VMFERRY_ERROR_INVALID, "%s: [%s] %s: %s", origin, group, *name,
                      problem->message);
        else if (apply(settings, *name, g_strstrip(value), error))
            continue;
        else
            g_prefix_error(error, "%s: [%s] %s: ", origin, group, *name);
        return FALSE;
    }
    return TRUE;
}

gboolean agent_settings_parse(AgentSettings *settings, const char *text, size_t length,
                              const char *origin, GError **error)
{
    g_autoptr(GKeyFile) file = g_key_file_new();
    g_autoptr(GError) problem = NULL;
    g_auto(GStrv) groups = NULL;

    if (!g_key_file_load_from_data(file, text, length, G_KEY_FILE_NONE, &problem) &&
        !(g_error_matches(problem, G_KEY_FILE_ERROR, G_KEY_FILE_ERROR_PARSE) && length == 0)) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s: %s", origin, problem->message);
        return FALSE;
    }
    groups = g_key_file_get_groups(file, NULL);
    for (char **group = groups; *group; group++) {
        if (strcmp(*group, "agent") == 0) {
            if (!apply_group(settings, file, *group, set_key, origin, error))
                return FALSE;
        } else if (strcmp(*group, "map") == 0) {
            if (!apply_group(settings, file, *group, add_map_rule, origin, error))
                return FALSE;
        } else if (strcmp(*group, "metrics") == 0) {
            if (!apply_group(settings, file, *group, set_metrics_key, origin, error))
                return FALSE;
        } else if (strcmp(*group, "api") == 0) {
            if (!apply_group(settings, file, *group, set_api_key, origin, error))
                return FALSE;
        } else {
            error_set(error, VMFERRY_ERROR_INVALID,
                      "%s: [%s]: unknown group; there are [agent], [api], [map] and [metrics]",
                      origin, *group);
            return FALSE;
        }
    }
    return match_moves(settings, file, origin, error);
}

gboolean agent_settings_load(AgentSettings *settings, const char *path, gboolean required,
                             GError **error)
{
    g_autofree char *text = NULL;
    size_t length;

    if (!required && access(path, F_OK) != 0)
        return TRUE;
    text = file_read(path, SETTINGS_FILE_LIMIT, &length, error);
    return text && agent_settings_parse(settings, text, length, path, error);
}

gboolean settings_split_address(const char *address, guint16 default_port, char **ret_host,
                                guint16 *ret_port, GError **error)
{
    const char *colon = strrchr(address, ':');
    const char *bracket = strrchr(address, ']');
    g_autofree char *host = NULL;
    guint64 port = default_port;

    /* More than one colon without brackets is an IPv6 address without a port. */
    if (colon && (bracket ? colon < bracket : strchr(address, ':') != colon))
        colon = NULL;
    host = colon ? g_strndup(address, (gsize)(colon - address)) : g_strdup(address);
    if (host[0] == '[' && g_str_has_suffix(host, "]")) {
        memmove(host, host + 1, strlen(host));
        host[strlen(host) - 1] = '\0';
    }
    if ((colon && !g_ascii_string_to_unsigned(colon + 1, 10, 0, 65535, &port, NULL)) ||
        (!colon && host[0] == '\0')) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "\"%s\" is not a valid address: write ADDR:PORT, [V6]:PORT or none", address);
        return FALSE;
    }
    *ret_host = host[0] ? g_steal_pointer(&host) : g_strdup("0.0.0.0");
    *ret_port = (guint16)port;
    return TRUE;
}
