/*
 * A ProcessIdentity as JSON
 *
 * It becomes arguments of system calls and parts of paths at the destination,
 * so everything is checked here: names are names, paths do not lead upwards,
 * nothing is longer than it may be.  Whether it can be set is spawn_plan.c's.
 */
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "identity/identity.h"

#define MAX_NAME_BYTES 255
#define MAX_PATH_BYTES 4095
#define MAX_LABEL_BYTES 4095
#define MAX_LIMIT_TEXT_BYTES 1023
#define CAPABILITY_DIGITS 16
#define MAX_ID 0xfffffffeu /* the last one means "none" */

static const IdentityNamespace namespaces[] = {
    IDENTITY_NAMESPACE_MNT, IDENTITY_NAMESPACE_USER, IDENTITY_NAMESPACE_PID,
    IDENTITY_NAMESPACE_IPC, IDENTITY_NAMESPACE_UTS,  IDENTITY_NAMESPACE_CGROUP,
    IDENTITY_NAMESPACE_NET,
};

static const struct {
    const char *key;
    size_t offset;
} capability_sets[] = {
    {"effective", G_STRUCT_OFFSET(IdentityCapabilities, effective)},
    {"permitted", G_STRUCT_OFFSET(IdentityCapabilities, permitted)},
    {"inheritable", G_STRUCT_OFFSET(IdentityCapabilities, inheritable)},
    {"bounding", G_STRUCT_OFFSET(IdentityCapabilities, bounding)},
    {"ambient", G_STRUCT_OFFSET(IdentityCapabilities, ambient)},
};

/* ---- encoding ---- */

static json_t *encode_owner(const IdentityOwner *owner)
{
    json_t *object = json_pack("{s:I}", "id", (json_int_t)owner->id);

    if (owner->name)
        json_object_set_new(object, "name", json_string(owner->name));
    return object;
}

static json_t *encode_owners(const GPtrArray *owners)
{
    json_t *array = json_array();

    for (guint i = 0; i < owners->len; i++)
        json_array_append_new(array, encode_owner(owners->pdata[i]));
    return array;
}

static json_t *encode_capabilities(const IdentityCapabilities *capabilities)
{
    json_t *object = json_object();

    for (guint i = 0; i < G_N_ELEMENTS(capability_sets); i++) {
        uint64_t set = G_STRUCT_MEMBER(uint64_t, capabilities, capability_sets[i].offset);
        g_autofree char *text = g_strdup_printf("%016" G_GINT64_MODIFIER "x", (guint64)set);

        json_object_set_new(object, capability_sets[i].key, json_string(text));
    }
    return object;
}

static json_t *encode_namespaces(guint set)
{
    json_t *array = json_array();

    for (guint i = 0; i < G_N_ELEMENTS(namespaces); i++)
        if (set & namespaces[i])
            json_array_append_new(array, json_string(identity_namespace_name(namespaces[i])));
    return array;
}

static json_t *encode_cgroup(const IdentityCgroup *cgroup)
{
    json_t *limits = json_object();

    for (guint i = 0; i < cgroup->limits->len; i++) {
        const IdentityCgroupLimit *limit = cgroup->limits->pdata[i];

        json_object_set_new(limits, limit->file, json_string(limit->text));
    }
    return json_pack("{s:s, s:s, s:o}", "hierarchy", cgroup->hierarchy, "path", cgroup->path,
                     "limits", limits);
}

static json_t *encode_cgroups(const GPtrArray *cgroups)
{
    json_t *array = json_array();

    for (guint i = 0; i < cgroups->len; i++)
        json_array_append_new(array, encode_cgroup(cgroups->pdata[i]));
    return array;
}

static json_t *encode_limit_value(uint64_t value)
{
    return value >= G_MAXINT64 ? json_null() : json_integer((json_int_t)value);
}

static json_t *encode_limits(const IdentityLimit *limits)
{
    json_t *object = json_object();

    for (guint i = 0; i < RLIM_NLIMITS; i++)
        if (limits[i].told && identity_limit_name(i))
            json_object_set_new(object, identity_limit_name(i),
                                json_pack("[o, o]", encode_limit_value(limits[i].soft),
                                          encode_limit_value(limits[i].hard)));
    return object;
}

static void encode_confinement(const ProcessIdentity *identity, json_t *object)
{
    if (identity->capabilities_told)
        json_object_set_new(object, "capabilities", encode_capabilities(&identity->capabilities));
    json_object_set_new(object, "no_new_privs", json_boolean(identity->no_new_privs));
    json_object_set_new(object, "seccomp", json_boolean(identity->seccomp));
    if (identity->label_kind)
        json_object_set_new(
            object, "label",
            json_pack("{s:s, s:s}", "kind", identity->label_kind, "text", identity->label));
    if (identity->netns)
        json_object_set_new(object, "netns", json_string(identity->netns));
    json_object_set_new(object, "namespaces", encode_namespaces(identity->namespaces));
    json_object_set_new(object, "cgroups", encode_cgroups(identity->cgroups));
}

json_t *process_identity_to_json(const ProcessIdentity *identity)
{
    json_t *object = json_object();

    json_object_set_new(object, "user", encode_owner(&identity->user));
    json_object_set_new(object, "group", encode_owner(&identity->group));
    json_object_set_new(object, "groups", encode_owners(identity->groups));
    json_object_set_new(object, "mixed_ids", json_boolean(identity->mixed_ids));
    encode_confinement(identity, object);
    json_object_set_new(object, "limits", encode_limits(identity->limits));
    json_object_set_new(object, "oom_score_adj", json_integer(identity->oom_score_adj));
    json_object_set_new(object, "nice", json_integer(identity->nice));
    return object;
}

/* ---- decoding ---- */

static gboolean has_control_characters(const char *text)
{
    for (; *text; text++)
        if (g_ascii_iscntrl(*text))
            return TRUE;
    return FALSE;
}

/* A text that is not empty; borrowed. */
static gboolean get_plain_text(json_t *object, const char *key, size_t max, const char **ret,
                               GError **error)
{
    if (!json_get_text(object, key, ret, error))
        return FALSE;
    if (**ret && strlen(*ret) <= max && !has_control_characters(*ret))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID,
              "\"%s\" is empty, longer than %zu bytes or has control characters", key, max);
    return FALSE;
}

static gboolean get_flag(json_t *object, const char *key, gboolean *ret, GError **error)
{
    json_t *value = json_object_get(object, key);

    if (!json_is_boolean(value)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is missing or neither true nor false", key);
        return FALSE;
    }
    *ret = json_is_true(value);
    return TRUE;
}

static gboolean get_object(json_t *object, const char *key, json_t **ret, GError **error)
{
    *ret = json_object_get(object, key);
    if (json_is_object(*ret))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is missing or not an object", key);
    return FALSE;
}

static gboolean get_number(json_t *object, const char *key, int least, int most, int *ret,
                           GError **error)
{
    json_t *value = json_object_get(object, key);

    if (!json_is_integer(value) || json_integer_value(value) < least ||
        json_integer_value(value) > most) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is missing or not from %d to %d", key,
                  least, most);
        return FALSE;
    }
    *ret = (int)json_integer_value(value);
    return TRUE;
}

static gboolean decode_owner(json_t *object, IdentityOwner *ret, GError **error)
{
    const char *name = NULL;
    uint64_t id;

    if (!json_get_count(object, "id", MAX_ID, &id, error) ||
        (json_object_get(object, "name") &&
         !get_plain_text(object, "name", MAX_NAME_BYTES, &name, error)))
        return FALSE;
    *ret = (IdentityOwner){(uint32_t)id, g_strdup(name)};
    return TRUE;
}

static gboolean decode_owner_at(json_t *object, const char *key, IdentityOwner *ret, GError **error)
{
    json_t *owner;

    if (!get_object(object, key, &owner, error))
        return FALSE;
    if (decode_owner(owner, ret, error))
        return TRUE;
    g_prefix_error(error, "%s: ", key);
    return FALSE;
}

static gboolean decode_groups(json_t *object, ProcessIdentity *identity, GError **error)
{
    json_t *array, *entry;
    size_t i;

    if (!json_get_array(object, "groups", IDENTITY_MAX_GROUPS, &array, error))
        return FALSE;
    json_array_foreach(array, i, entry)
    {
        IdentityOwner group = {0};

        if (!decode_owner(entry, &group, error)) {
            g_prefix_error(error, "groups: entry %zu: ", i);
            return FALSE;
        }
        g_ptr_array_add(identity->groups, identity_owner_new(group.id, group.name));
        g_free(group.name);
    }
    return TRUE;
}

static gboolean decode_capabilities(json_t *object, ProcessIdentity *identity, GError **error)
{
    json_t *sets;

    if (!json_object_get(object, "capabilities"))
        return TRUE;
    if (!get_object(object, "capabilities", &sets, error))
        return FALSE;
    for (guint i = 0; i < G_N_ELEMENTS(capability_sets); i++) {
        const char *key = capability_sets[i].key, *text;

        if (!json_get_text(sets, key, &text, error))
            return FALSE;
        if (strlen(text) != CAPABILITY_DIGITS ||
            strspn(text, "0123456789abcdef") != CAPABILITY_DIGITS) {
            error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not of %d hex digits", key,
                      CAPABILITY_DIGITS);
            return FALSE;
        }
        G_STRUCT_MEMBER(uint64_t, &identity->capabilities, capability_sets[i].offset) =
            g_ascii_strtoull(text, NULL, 16);
    }
    identity->capabilities_told = TRUE;
    return TRUE;
}

static gboolean decode_label(json_t *object, ProcessIdentity *identity, GError **error)
{
    const char *kind, *text;
    json_t *label;

    if (!json_object_get(object, "label"))
        return TRUE;
    if (!get_object(object, "label", &label, error) ||
        !json_get_text(label, "kind", &kind, error) ||
        !get_plain_text(label, "text", MAX_LABEL_BYTES, &text, error))
        return FALSE;
    if (strcmp(kind, "apparmor") != 0 && strcmp(kind, "selinux") != 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%.32s\" is not a valid kind of label", kind);
        return FALSE;
    }
    identity->label_kind = g_strdup(kind);
    identity->label = g_strdup(text);
    return TRUE;
}

static gboolean decode_netns(json_t *object, ProcessIdentity *identity, GError **error)
{
    const char *name;

    if (!json_object_get(object, "netns"))
        return TRUE;
    if (!get_plain_text(object, "netns", MAX_NAME_BYTES, &name, error))
        return FALSE;
    if (name[0] == '.' || strchr(name, '/')) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"netns\" is not a valid name");
        return FALSE;
    }
    identity->netns = g_strdup(name);
    return TRUE;
}

static gboolean decode_namespaces(json_t *object, ProcessIdentity *identity, GError **error)
{
    json_t *array, *entry;
    size_t i;

    if (!json_get_array(object, "namespaces", G_N_ELEMENTS(namespaces), &array, error))
        return FALSE;
    json_array_foreach(array, i, entry)
    {
        const char *name = json_string_value(entry);
        guint bit = 0;

        for (guint j = 0; name && j < G_N_ELEMENTS(namespaces); j++)
            if (strcmp(name, identity_namespace_name(namespaces[j])) == 0)
                bit = namespaces[j];
        if (!bit) {
            error_set(error, VMFERRY_ERROR_INVALID,
                      "\"namespaces\": entry %zu does not name a namespace", i);
            return FALSE;
        }
        identity->namespaces |= bit;
    }
    return TRUE;
}

/* "/a/b", and nothing that leads out of it again. */
static gboolean check_cgroup_path(const char *path, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(path, "/", -1);
    gboolean good = path[0] == '/' && path[1];

    for (char **part = parts + 1; good && *part; part++)
        good = **part && strcmp(*part, ".") != 0 && strcmp(*part, "..") != 0;
    if (!good)
        error_set(error, VMFERRY_ERROR_INVALID, "\"path\" is not a valid control group");
    return good;
}

static gboolean check_hierarchy(const char *hierarchy, GError **error)
{
    if (strlen(hierarchy) <= MAX_NAME_BYTES &&
        !hierarchy[strspn(hierarchy, "abcdefghijklmnopqrstuvwxyz0123456789_,")])
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"hierarchy\" is not a valid list of controllers");
    return FALSE;
}

static gboolean decode_cgroup_limits(json_t *object, IdentityCgroup *cgroup, GError **error)
{
    const char *file, *text;
    json_t *limits, *value;

    if (!get_object(object, "limits", &limits, error))
        return FALSE;
    json_object_foreach(limits, file, value)
    {
        if (!g_strv_contains(identity_cgroup_files, file)) {
            error_set(error, VMFERRY_ERROR_INVALID, "\"%.64s\" is not a valid limit of a group",
                      file);
            return FALSE;
        }
        if (!get_plain_text(limits, file, MAX_LIMIT_TEXT_BYTES, &text, error))
            return FALSE;
        g_ptr_array_add(cgroup->limits, identity_cgroup_limit_new(file, text));
    }
    return TRUE;
}

static gboolean decode_cgroup(json_t *object, ProcessIdentity *identity, GError **error)
{
    const char *hierarchy, *path;
    IdentityCgroup *cgroup;

    if (!json_get_text(object, "hierarchy", &hierarchy, error) ||
        !check_hierarchy(hierarchy, error) ||
        !get_plain_text(object, "path", MAX_PATH_BYTES, &path, error) ||
        !check_cgroup_path(path, error))
        return FALSE;
    cgroup = identity_cgroup_new(hierarchy, path);
    g_ptr_array_add(identity->cgroups, cgroup);
    return decode_cgroup_limits(object, cgroup, error);
}

static gboolean decode_cgroups(json_t *object, ProcessIdentity *identity, GError **error)
{
    json_t *array, *entry;
    size_t i;

    if (!json_get_array(object, "cgroups", IDENTITY_MAX_CGROUPS, &array, error))
        return FALSE;
    json_array_foreach(array, i, entry)
    {
        if (!decode_cgroup(entry, identity, error)) {
            g_prefix_error(error, "cgroups: entry %zu: ", i);
            return FALSE;
        }
    }
    return TRUE;
}

static gboolean decode_limit_value(json_t *value, uint64_t *ret)
{
    if (!json_is_null(value) && (!json_is_integer(value) || json_integer_value(value) < 0))
        return FALSE;
    *ret = json_is_null(value) ? RLIM_INFINITY : (uint64_t)json_integer_value(value);
    return TRUE;
}

static gboolean decode_limit(json_t *pair, IdentityLimit *ret)
{
    ret->told = json_is_array(pair) && json_array_size(pair) == 2 &&
                decode_limit_value(json_array_get(pair, 0), &ret->soft) &&
                decode_limit_value(json_array_get(pair, 1), &ret->hard) && ret->soft <= ret->hard;
    return ret->told;
}

static gboolean decode_limits(json_t *object, ProcessIdentity *identity, GError **error)
{
    json_t *limits, *pair;
    const char *name;

    if (!get_object(object, "limits", &limits, error))
        return FALSE;
    json_object_foreach(limits, name, pair)
    {
        gboolean known = FALSE;

        for (guint i = 0; i < RLIM_NLIMITS; i++)
            if (g_strcmp0(name, identity_limit_name(i)) == 0)
                known = decode_limit(pair, &identity->limits[i]);
        if (!known) {
            error_set(error, VMFERRY_ERROR_INVALID, "\"limits\": \"%.64s\" is not a valid limit",
                      name);
            return FALSE;
        }
    }
    return TRUE;
}

static gboolean decode_all(json_t *object, ProcessIdentity *identity, GError **error)
{
    return decode_owner_at(object, "user", &identity->user, error) &&
           decode_owner_at(object, "group", &identity->group, error) &&
           decode_groups(object, identity, error) &&
           get_flag(object, "mixed_ids", &identity->mixed_ids, error) &&
           decode_capabilities(object, identity, error) &&
           get_flag(object, "no_new_privs", &identity->no_new_privs, error) &&
           get_flag(object, "seccomp", &identity->seccomp, error) &&
           decode_label(object, identity, error) && decode_netns(object, identity, error) &&
           decode_namespaces(object, identity, error) && decode_cgroups(object, identity, error) &&
           decode_limits(object, identity, error) &&
           get_number(object, "oom_score_adj", -1000, 1000, &identity->oom_score_adj, error) &&
           get_number(object, "nice", -20, 19, &identity->nice, error);
}

ProcessIdentity *process_identity_from_json(json_t *object, GError **error)
{
    g_autoptr(ProcessIdentity) identity = process_identity_new();

    if (json_is_object(object) && decode_all(object, identity, error))
        return g_steal_pointer(&identity);
    if (!json_is_object(object))
        error_set(error, VMFERRY_ERROR_INVALID, "missing or not an object");
    g_prefix_error(error, "process: ");
    return NULL;
}
