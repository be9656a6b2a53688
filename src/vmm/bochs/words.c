#include "vmm/bochs/words.h"

#include <string.h>

#include "vmm/vmm_driver.h"

static const char *const path_names[] = {"path", "dev", "file", "journal", NULL};

/* " path=disk.raw" */
static char *resolve_parameter(const char *text, const char *folder)
{
    const char *equals = strchr(text, '=');
    g_autofree char *name =
        equals ? g_strstrip(g_strndup(text, (gsize)(equals - text))) : g_strdup("");
    gboolean quoted = equals && equals[1] == '"';
    const char *path = equals ? equals + 1 + quoted : "";

    if (!g_strv_contains(path_names, name) || *path == '/' || *path == '\0')
        return g_strdup(text);
    return g_strdup_printf("%.*s%s%s/%s", (int)(equals + 1 - text), text, quoted ? "\"" : "",
                           strcmp(folder, "/") == 0 ? "" : folder, path);
}

/* What follows the colon. */
static char *resolve_parameters(const char *text, const char *folder)
{
    g_auto(GStrv) parts = g_strsplit(text, ",", -1);

    for (char **part = parts; *part; part++) {
        char *resolved = resolve_parameter(*part, folder);

        g_free(*part);
        *part = resolved;
    }
    return g_strjoinv(",", parts);
}

static char *resolve(const char *word, const char *folder)
{
    const char *colon = strchr(word, ':');
    g_autofree char *parameters = colon ? resolve_parameters(colon + 1, folder) : NULL;

    if (!parameters)
        return g_strdup(word);
    return g_strdup_printf("%.*s%s", (int)(colon + 1 - word), word, parameters);
}

char **bochs_words_resolve(char *const *words, const GPtrArray *rules, const char *folder)
{
    GPtrArray *resolved = g_ptr_array_new();

    for (guint i = 0; words && words[i]; i++) {
        g_autofree char *mapped = vmm_map_text(words[i], rules);

        g_ptr_array_add(resolved, i > 0 && folder ? resolve(mapped, folder) : g_strdup(mapped));
    }
    g_ptr_array_add(resolved, NULL);
    return (char **)g_ptr_array_free(resolved, FALSE);
}
