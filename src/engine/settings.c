#include "engine/settings.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/quantity.h"
#include "base/rate.h"
#include "engine/leader.h"
#include "engine/model.h"
#include "migrate/etcd.h"
#include "wire/address.h"

#define UNIX_PREFIX "unix:"
#define HTTP_PREFIX "http://"
#define ETCD_PREFIX_MAX_BYTES 256u
#define EARLY_UNSET (-1.0)
#define HOST_GROUP "host "
#define HOST_NAME_MAX_BYTES 253u

static void host_free(gpointer data)
{
    EngineHostSetting *host = data;

    g_free(host->name);
    g_free(host->address);
    g_free(host->moves);
    g_free(host);
}

EngineSettings *engine_settings_new(void)
{
    EngineSettings *settings = g_new(EngineSettings, 1);

    *settings =
        (EngineSettings){.name = g_strdup(g_get_host_name()),
                         .listen = g_strdup(ENGINE_DEFAULT_LISTEN),
                         .store = g_strdup(ENGINE_DEFAULT_STORE),
                         .etcd_prefix = g_strdup(ENGINE_DEFAULT_ETCD_PREFIX),
                         .etcd_lease_ms = ENGINE_DEFAULT_ETCD_LEASE_MS,
                         .pki_dir = g_strdup("/etc/vmferry/pki"),
                         .allow = g_new0(char *, 1),
                         .names = g_new0(char *, 1),
                         .hosts = g_ptr_array_new_with_free_func(host_free),
                         .automatic = TRUE,
                         .interval_ms = 2000,
                         .reading_ms = MODEL_READING_MS,
                         .judge_ms = 60000,
                         .thresholds = cluster_thresholds_default(),
                         .limits = cluster_limits_default(),
                         .quiet_hours = g_array_new(FALSE, FALSE, sizeof(ClusterQuietHours)),
                         .memory_reserve = 0.05,
                         .bandwidth_share = 0.5};
    return settings;
}

void engine_settings_free(EngineSettings *settings)
{
    if (!settings)
        return;
    g_free(settings->name);
    g_free(settings->listen);
    g_free(settings->store);
    g_free(settings->etcd);
    g_free(settings->etcd_prefix);
    g_free(settings->pki_dir);
    g_free(settings->token_file);
    g_strfreev(settings->allow);
    g_strfreev(settings->names);
    g_ptr_array_unref(settings->hosts);
    g_array_unref(settings->quiet_hours);
    g_free(settings);
}

/* ---- hosts ---- */

static gboolean check_name(const char *name, GError **error)
{
    size_t length = strlen(name);

    if (length > 0 && length <= HOST_NAME_MAX_BYTES && !strpbrk(name, " \t\n,\"/?#%="))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not a valid host's name", name);
    return FALSE;
}

static gboolean check_address(const char *address, GError **error)
{
    g_auto(Address) parsed = {0};

    if (!g_str_has_prefix(address, UNIX_PREFIX))
        return address_parse(address, 1, &parsed, error);
    if (g_path_is_absolute(address + strlen(UNIX_PREFIX)))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" does not name an absolute path", address);
    return FALSE;
}

/* "host1" of "host1:4748"; of a socket its path, until its agent has said what host it is. */
static char *name_from_address(const char *address)
{
    g_auto(Address) parsed = {0};

    if (g_str_has_prefix(address, UNIX_PREFIX) || !address_parse(address, 1, &parsed, NULL))
        return g_path_get_basename(address);
    return g_strdup(parsed.host);
}

static gboolean add_host(EngineSettings *settings, const char *name, const char *address,
                         const char *moves, GError **error)
{
    g_autofree char *own = name ? g_strdup(name) : name_from_address(address);
    EngineHostSetting *host;

    if (!check_address(address, error) || !check_name(own, error))
        return FALSE;
    for (guint i = 0; i < settings->hosts->len; i++) {
        const EngineHostSetting *other = settings->hosts->pdata[i];

        if (strcmp(other->name, own) != 0 && strcmp(other->address, address) != 0)
            continue;
        error_set(error, VMFERRY_ERROR_INVALID,
                  "host %s (%s) is there twice; name hosts as NAME=ADDRESS", own, address);
        return FALSE;
    }
    if (settings->hosts->len >= ENGINE_MAX_HOSTS) {
        error_set(error, VMFERRY_ERROR_INVALID, "more than %u hosts", ENGINE_MAX_HOSTS);
        return FALSE;
    }
    host = g_new0(EngineHostSetting, 1);
    host->name = g_steal_pointer(&own);
    host->address = g_strdup(address);
    host->moves = g_strdup(moves);
    g_ptr_array_add(settings->hosts, host);
    return TRUE;
}

gboolean engine_settings_set_hosts(EngineSettings *settings, const char *list, GError **error)
{
    g_auto(GStrv) parts = g_strsplit_set(list, ", \t\n", -1);

    g_ptr_array_set_size(settings->hosts, 0);
    for (char **part = parts; *part; part++) {
        char *sign = strchr(*part, '=');

        if (!**part)
            continue;
        if (sign)
            *sign = '\0';
        if (!add_host(settings, sign ? *part : NULL, sign ? sign + 1 : *part, NULL, error))
            return FALSE;
    }
    if (settings->hosts->len > 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "names no host");
    return FALSE;
}

static gboolean add_host_group(EngineSettings *settings, GKeyFile *file, const char *group,
                               GError **error)
{
    g_autofree char *address = g_key_file_get_string(file, group, "address", NULL);
    g_autofree char *moves = g_key_file_get_string(file, group, "moves", NULL);
    g_auto(GStrv) keys = g_key_file_get_keys(file, group, NULL, NULL);

    for (char **key = keys; key && *key; key++) {
        if (strcmp(*key, "address") == 0 || strcmp(*key, "moves") == 0)
            continue;
        error_set(error, VMFERRY_ERROR_INVALID, "%s: unknown key; there are address, moves", *key);
        return FALSE;
    }
    if (!address || !*address) {
        error_set(error, VMFERRY_ERROR_INVALID, "has no address");
        return FALSE;
    }
    if (moves && (!*moves || !check_address(moves, error))) {
        g_prefix_error(error, "moves: ");
        return FALSE;
    }
    return add_host(settings, group + strlen(HOST_GROUP), address, moves, error);
}

/* ---- etcd ---- */

/* One of its members, as whoever runs it writes it: HOST[:PORT]. */
static char *read_member(const char *text)
{
    gboolean is_url = g_str_has_prefix(text, HTTP_PREFIX);
    char *member = g_strdup(is_url ? text + strlen(HTTP_PREFIX) : text);

    if (is_url && g_str_has_suffix(member, "/"))
        member[strlen(member) - 1] = '\0';
    return member;
}

gboolean engine_settings_set_etcd(EngineSettings *settings, const char *list, GError **error)
{
    const char *rest = etcd_is_address(list) ? list + strlen(ETCD_SCHEME) : list;
    g_auto(GStrv) parts = g_strsplit_set(rest, ", \t\n", -1);
    g_autoptr(GString) address = g_string_new(ETCD_SCHEME);

    for (char **part = parts; *part; part++) {
        g_autofree char *member = read_member(*part);

        if (!**part)
            continue;
        if (strstr(member, "://")) {
            error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                      "\"%s\": etcd is reached by " HTTP_PREFIX " only", *part);
            return FALSE;
        }
        g_string_append_printf(address, "%s%s", address->len > strlen(ETCD_SCHEME) ? "," : "",
                               member);
    }
    if (strcmp(address->str, ETCD_SCHEME) == 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "names no member of etcd");
        return FALSE;
    }
    if (!etcd_address_check(address->str, error))
        return FALSE;
    g_free(settings->etcd);
    settings->etcd = g_strdup(address->str);
    return TRUE;
}

/* ---- values ---- */

typedef gboolean (*SetValue)(EngineSettings *settings, const char *value, gpointer field,
                             GError **error);

static gboolean set_text(EngineSettings *settings, const char *value, gpointer field,
                         GError **error)
{
    g_free(*(char **)field);
    *(char **)field = g_strdup(value);
    return TRUE;
}

static gboolean set_path(EngineSettings *settings, const char *value, gpointer field,
                         GError **error)
{
    if (g_path_is_absolute(value))
        return set_text(settings, value, field, error);
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not an absolute path", value);
    return FALSE;
}

static gboolean set_flag(EngineSettings *settings, const char *value, gpointer field,
                         GError **error)
{
    *(gboolean *)field = strcmp(value, "true") == 0;
    if (*(gboolean *)field || strcmp(value, "false") == 0)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is neither true nor false", value);
    return FALSE;
}

static gboolean set_share(EngineSettings *settings, const char *value, gpointer field,
                          GError **error)
{
    static const QuantityUnit units[] = {{"", 1}, {"%", 0.01}, {NULL, 0}};

    if (quantity_parse(value, units, field) && *(double *)field > 0 && *(double *)field <= 1)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not a share, as in 85%% or 0.85", value);
    return FALSE;
}

static gboolean set_share_or_off(EngineSettings *settings, const char *value, gpointer field,
                                 GError **error)
{
    *(double *)field = 0;
    return strcmp(value, "0") == 0 || set_share(settings, value, field, error);
}

static gboolean set_count(EngineSettings *settings, const char *value, gpointer field,
                          GError **error)
{
    guint64 count;

    if (!g_ascii_string_to_unsigned(value, 10, 1, 1000, &count, NULL)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not a number from 1 to 1000", value);
        return FALSE;
    }
    *(guint *)field = (guint)count;
    return TRUE;
}

static gboolean set_time(EngineSettings *settings, const char *value, gpointer field,
                         GError **error)
{
    double ms;

    if (!time_parse(value, &ms, error))
        return FALSE;
    if (ms < 1000 || ms > 7 * 86400e3) {
        error_set(error, VMFERRY_ERROR_INVALID, "the value must be 1s to 168h");
        return FALSE;
    }
    *(double *)field = ms;
    return TRUE;
}

/* Figures are stale after MODEL_STALE_MS. */
static gboolean set_interval(EngineSettings *settings, const char *value, gpointer field,
                             GError **error)
{
    double ms;

    if (!time_parse(value, &ms, error))
        return FALSE;
    if (ms < 100 || ms > 5000) {
        error_set(error, VMFERRY_ERROR_INVALID, "the value must be 100ms to 5s");
        return FALSE;
    }
    settings->interval_ms = (guint)ms;
    return TRUE;
}

static gboolean set_reading(EngineSettings *settings, const char *value, gpointer field,
                            GError **error)
{
    double ms;

    if (!time_parse(value, &ms, error))
        return FALSE;
    if (ms < 100 || ms > 60000) {
        error_set(error, VMFERRY_ERROR_INVALID, "the value must be 100ms to 60s");
        return FALSE;
    }
    settings->reading_ms = ms;
    return TRUE;
}

/* "5 of 6" */
static gboolean set_samples(EngineSettings *settings, const char *value, gpointer field,
                            GError **error)
{
    unsigned int hot, all;
    char rest;

    if (sscanf(value, "%3u of %3u %c", &hot, &all, &rest) == 2 && hot > 0 && hot <= all &&
        all <= CLUSTER_SAMPLES) {
        settings->thresholds.k = hot;
        settings->thresholds.n = all;
        return TRUE;
    }
    error_set(error, VMFERRY_ERROR_INVALID, "write it as K of N, with N up to %d", CLUSTER_SAMPLES);
    return FALSE;
}

/* "22:00-06:00" */
static gboolean read_hours(const char *text, ClusterQuietHours *ret)
{
    unsigned int from_hour, from_minute, to_hour, to_minute;
    char rest;

    if (sscanf(text, "%2u:%2u-%2u:%2u%c", &from_hour, &from_minute, &to_hour, &to_minute, &rest) !=
            4 ||
        from_hour > 23 || to_hour > 24 || from_minute > 59 || to_minute > 59)
        return FALSE;
    *ret = (ClusterQuietHours){from_hour * 60 + from_minute, to_hour * 60 + to_minute};
    return TRUE;
}

static gboolean set_quiet_hours(EngineSettings *settings, const char *value, gpointer field,
                                GError **error)
{
    g_auto(GStrv) parts = g_strsplit_set(value, ", \t", -1);

    g_array_set_size(settings->quiet_hours, 0);
    for (char **part = parts; *part; part++) {
        ClusterQuietHours hours;

        if (!**part)
            continue;
        if (!read_hours(*part, &hours)) {
            error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not a time, write it as 22:00-06:00",
                      *part);
            return FALSE;
        }
        g_array_append_val(settings->quiet_hours, hours);
    }
    return TRUE;
}

static gboolean set_number(EngineSettings *settings, const char *value, gpointer field,
                           GError **error)
{
    static const QuantityUnit units[] = {{"", 1}, {NULL, 0}};

    if (quantity_parse(value, units, field))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not a number", value);
    return FALSE;
}

static gboolean set_rate(EngineSettings *settings, const char *value, gpointer field,
                         GError **error)
{
    uint64_t rate;

    if (!rate_parse(value, &rate, error))
        return FALSE;
    *(double *)field = (double)rate;
    return TRUE;
}

static gboolean set_hosts(EngineSettings *settings, const char *value, gpointer field,
                          GError **error)
{
    return engine_settings_set_hosts(settings, value, error);
}

static gboolean set_list(EngineSettings *settings, const char *value, gpointer field,
                         GError **error)
{
    g_auto(GStrv) parts = g_strsplit_set(value, ", \t", -1);
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);

    for (char **part = parts; *part; part++)
        if (**part)
            g_ptr_array_add(names, g_strdup(*part));
    g_ptr_array_add(names, NULL);
    g_strfreev(*(char ***)field);
    *(char ***)field = (char **)g_ptr_array_free(g_steal_pointer(&names), FALSE);
    return TRUE;
}

static gboolean set_etcd(EngineSettings *settings, const char *value, gpointer field,
                         GError **error)
{
    return engine_settings_set_etcd(settings, value, error);
}

static gboolean set_etcd_prefix(EngineSettings *settings, const char *value, gpointer field,
                                GError **error)
{
    g_autofree char *prefix = g_strconcat(value, g_str_has_suffix(value, "/") ? "" : "/", NULL);

    if (strlen(prefix) <= ETCD_PREFIX_MAX_BYTES)
        return set_text(settings, prefix, field, error);
    error_set(error, VMFERRY_ERROR_INVALID, "has more than %u bytes", ETCD_PREFIX_MAX_BYTES);
    return FALSE;
}

/* etcd counts in seconds. */
static gboolean set_etcd_lease(EngineSettings *settings, const char *value, gpointer field,
                               GError **error)
{
    double ms;

    if (!time_parse(value, &ms, error))
        return FALSE;
    if (ms < LEADER_SHORTEST_LEASE_S * 1e3 || ms > LEADER_LONGEST_LEASE_S * 1e3 ||
        (guint)ms % 1000 != 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "the value must be %ds to %ds, in whole seconds",
                  LEADER_SHORTEST_LEASE_S, LEADER_LONGEST_LEASE_S);
        return FALSE;
    }
    *(double *)field = ms;
    return TRUE;
}

#define AT(field) G_STRUCT_OFFSET(EngineSettings, field)

static const struct {
    const char *group, *key;
    SetValue set;
    goffset field;
} keys[] = {
    {"engine", "name", set_text, AT(name)},
    {"engine", "hosts", set_hosts, 0},
    {"engine", "listen", set_text, AT(listen)},
    {"engine", "store", set_path, AT(store)},
    {"engine", "pki", set_path, AT(pki_dir)},
    {"engine", "token-file", set_path, AT(token_file)},
    {"engine", "allow", set_list, AT(allow)},
    {"engine", "names", set_list, AT(names)},
    {"engine", "automatic", set_flag, AT(automatic)},
    {"engine", "interval", set_interval, 0},
    {"store", "etcd", set_etcd, 0},
    {"store", "prefix", set_etcd_prefix, AT(etcd_prefix)},
    {"store", "lease", set_etcd_lease, AT(etcd_lease_ms)},
    {"hot", "reading", set_reading, 0},
    {"engine", "judge-after", set_time, AT(judge_ms)},
    {"hot", "samples", set_samples, 0},
    {"hot", "cpu", set_share, AT(thresholds.cpu)},
    {"hot", "cpu-early", set_share_or_off, AT(thresholds.cpu_early)},
    {"hot", "link", set_share, AT(thresholds.link)},
    {"hot", "swap-out", set_rate, AT(thresholds.swap_out)},
    {"hot", "memory-pressure", set_share, AT(thresholds.memory_pressure)},
    {"limits", "moves", set_count, AT(limits.moves)},
    {"limits", "moves-per-host", set_count, AT(limits.moves_per_host)},
    {"limits", "moves-per-host-hour", set_count, AT(limits.moves_per_host_hour)},
    {"limits", "cool-down", set_time, AT(limits.cool_down_ms)},
    {"limits", "plan-expires", set_time, AT(limits.plan_ms)},
    {"limits", "least-profit", set_number, AT(limits.least_profit)},
    {"limits", "destination-cpu", set_share, AT(limits.destination_cpu)},
    {"limits", "destination-link", set_share, AT(limits.destination_link)},
    {"limits", "look-ahead", set_time, AT(limits.ahead_ms)},
    {"limits", "memory-overcommit", set_number, AT(limits.memory_overcommit)},
    {"limits", "memory-reserve", set_share, AT(memory_reserve)},
    {"limits", "bandwidth-share", set_share, AT(bandwidth_share)},
    {"limits", "quiet-hours", set_quiet_hours, 0},
};

/* ---- the file ---- */

static gboolean refuse_key(const char *group, GError **error)
{
    g_autoptr(GString) known = g_string_new(NULL);

    for (guint i = 0; i < G_N_ELEMENTS(keys); i++)
        if (strcmp(keys[i].group, group) == 0)
            g_string_append_printf(known, "%s%s", known->len ? ", " : "", keys[i].key);
    error_set(error, VMFERRY_ERROR_INVALID, "unknown key; there are %s", known->str);
    return FALSE;
}

static gboolean set_key(EngineSettings *settings, const char *group, const char *key,
                        const char *value, GError **error)
{
    for (guint i = 0; i < G_N_ELEMENTS(keys); i++) {
        if (strcmp(keys[i].group, group) != 0 || strcmp(keys[i].key, key) != 0)
            continue;
        if (*value)
            return keys[i].set(settings, value, G_STRUCT_MEMBER_P(settings, keys[i].field), error);
        error_set(error, VMFERRY_ERROR_INVALID, "is empty; leave the line out to have the default");
        return FALSE;
    }
    return refuse_key(group, error);
}

static gboolean apply_keys(EngineSettings *settings, GKeyFile *file, const char *group,
                           GError **error)
{
    g_auto(GStrv) names = g_key_file_get_keys(file, group, NULL, NULL);

    for (char **name = names; name && *name; name++) {
        g_autoptr(GError) problem = NULL;
        g_autofree char *value = g_key_file_get_string(file, group, *name, &problem);

        if (problem)
            error_set(error, VMFERRY_ERROR_INVALID, "%s: %s", *name, problem->message);
        else if (set_key(settings, group, *name, g_strstrip(value), error))
            continue;
        else
            g_prefix_error(error, "%s: ", *name);
        return FALSE;
    }
    return TRUE;
}

static gboolean apply_group(EngineSettings *settings, GKeyFile *file, const char *group,
                            GError **error)
{
    if (g_str_has_prefix(group, HOST_GROUP))
        return add_host_group(settings, file, group, error);
    for (guint i = 0; i < G_N_ELEMENTS(keys); i++)
        if (strcmp(keys[i].group, group) == 0)
            return apply_keys(settings, file, group, error);
    error_set(error, VMFERRY_ERROR_INVALID,
              "unknown group; there are [engine], [store], [hot], [limits] and [host NAME]");
    return FALSE;
}

/* Where it is not said, it keeps its distance from *cpu*. */
static void match_early(ClusterThresholds *thresholds)
{
    const ClusterThresholds usual = cluster_thresholds_default();

    if (thresholds->cpu_early < 0)
        thresholds->cpu_early = usual.cpu_early / usual.cpu * thresholds->cpu;
}

gboolean engine_settings_parse(EngineSettings *settings, const char *text, size_t length,
                               const char *origin, GError **error)
{
    g_autoptr(GKeyFile) file = g_key_file_new();
    g_autoptr(GError) problem = NULL;
    g_auto(GStrv) groups = NULL;

    if (length > 0 && !g_key_file_load_from_data(file, text, length, G_KEY_FILE_NONE, &problem)) {
        error_set(error, VMFERRY_ERROR_INVALID, "%s: %s", origin, problem->message);
        return FALSE;
    }
    settings->thresholds.cpu_early = EARLY_UNSET;
    groups = g_key_file_get_groups(file, NULL);
    for (char **group = groups; *group; group++) {
        if (apply_group(settings, file, *group, error))
            continue;
        g_prefix_error(error, "%s: [%s]: ", origin, *group);
        return FALSE;
    }
    match_early(&settings->thresholds);
    if (cluster_thresholds_check(&settings->thresholds, error) &&
        cluster_limits_check(&settings->limits, error))
        return TRUE;
    g_prefix_error(error, "%s: ", origin);
    return FALSE;
}

gboolean engine_settings_load(EngineSettings *settings, const char *path, gboolean required,
                              GError **error)
{
    g_autofree char *text = NULL;
    size_t length;

    if (!required && access(path, F_OK) != 0)
        return TRUE;
    text = file_read(path, ENGINE_SETTINGS_LIMIT, &length, error);
    return text && engine_settings_parse(settings, text, length, path, error);
}
