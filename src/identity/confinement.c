#include "identity/confinement.h"

#include <string.h>

#include "base/error.h"

static const struct {
    Confinement kind;
    const char *name;
} kinds[] = {
    {CONFINEMENT_USER, "user"},
    {CONFINEMENT_CAPABILITIES, "capabilities"},
    {CONFINEMENT_SECCOMP, "seccomp"},
    {CONFINEMENT_APPARMOR, "apparmor"},
    {CONFINEMENT_SELINUX, "selinux"},
    {CONFINEMENT_NETNS, "netns"},
    {CONFINEMENT_NAMESPACES, "namespaces"},
    {CONFINEMENT_CGROUP, "cgroup"},
    {CONFINEMENT_LIMITS, "limits"},
};

const char *confinement_name(Confinement kind)
{
    for (guint i = 0; i < G_N_ELEMENTS(kinds); i++)
        if (kinds[i].kind == kind)
            return kinds[i].name;
    return "unknown";
}

static gboolean parse_name(const char *name, guint *set, GError **error)
{
    g_autoptr(GString) known = g_string_new(NULL);

    for (guint i = 0; i < G_N_ELEMENTS(kinds); i++) {
        if (strcmp(name, kinds[i].name) == 0) {
            *set |= kinds[i].kind;
            return TRUE;
        }
        g_string_append_printf(known, "%s%s", i ? ", " : "", kinds[i].name);
    }
    error_set(error, VMFERRY_ERROR_INVALID,
              "\"%s\" does not name anything that confines; there are %s", name, known->str);
    return FALSE;
}

gboolean confinement_parse_list(const char *text, guint *ret_set, GError **error)
{
    g_auto(GStrv) words = g_strsplit_set(text, ", \t", -1);
    guint set = 0;

    for (char **word = words; *word; word++)
        if (**word && !parse_name(*word, &set, error))
            return FALSE;
    if (set == 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "names nothing; leave the key out");
        return FALSE;
    }
    *ret_set = set;
    return TRUE;
}
