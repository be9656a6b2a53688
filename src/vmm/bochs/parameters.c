#include "vmm/bochs/parameters.h"

#include <string.h>

#include "base/error.h"
#include "base/fd.h"
#include "vmm/bochs/folder.h"

#define MAX_PATH 120u

static gboolean check_path(const char *path, GError **error)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.";

    /* An empty one would end Bochs. */
    if (*path && strlen(path) <= MAX_PATH && path[strspn(path, allowed)] == '\0')
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not a valid path of a parameter", path);
    return FALSE;
}

BochsNode *bochs_show_parse(const char *answer, const char *path, GError **error)
{
    g_autofree char *heading = g_strdup_printf("show param name: <%s>\n", path);
    g_autofree char *missing = g_strdup_printf("can't find param <%s> ", path);

    if (!g_str_has_prefix(answer, heading)) {
        error_set(error, VMFERRY_ERROR_INVALID, "Bochs's answer does not show %s", path);
        return NULL;
    }
    answer += strlen(heading);
    if (!g_str_has_prefix(answer, missing))
        return bochs_tree_parse(answer, strlen(answer), error);
    error_set(error, VMFERRY_ERROR_NOT_FOUND, "this Bochs has no %s", path);
    return NULL;
}

BochsNode *bochs_show(BochsConsole *console, const char *path, GError **error)
{
    g_autofree char *command = g_strdup_printf("show \"%s\"", path);
    g_autofree char *answer = NULL;

    if (!check_path(path, error))
        return NULL;
    answer = bochs_console_run(console, command, BOCHS_COMMAND_MS, error);
    return answer ? bochs_show_parse(answer, path, error) : NULL;
}

static gboolean check_folder(const char *folder, GError **error)
{
    if (!strpbrk(folder, " \"\t\n\\"))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "Bochs cannot read from the folder %s", folder);
    return FALSE;
}

/* ---- several at once ---- */

#define SHOW_FILE "show"

static gboolean write_commands(const char *folder, const char *const *paths, GError **error)
{
    g_autofree char *file = g_build_filename(folder, SHOW_FILE, NULL);
    g_autoptr(GString) commands = g_string_new(NULL);

    for (; *paths; paths++) {
        if (!check_path(*paths, error))
            return FALSE;
        g_string_append_printf(commands, "show \"%s\"\n", *paths);
    }
    return bochs_folder_write(file, commands->str, error);
}

static void free_node(gpointer node)
{
    bochs_node_free(node);
}

/* Of one path, up to the heading of the next one.  TRUE with *ret NULL: it has none. */
static gboolean parse_next(const char **text, const char *const *path, BochsNode **ret,
                           GError **error)
{
    g_autofree char *next = path[1] ? g_strdup_printf("\nshow param name: <%s>\n", path[1]) : NULL;
    const char *end = next ? strstr(*text, next) : NULL;
    g_autofree char *answer = end ? g_strndup(*text, (gsize)(end + 1 - *text)) : g_strdup(*text);
    g_autoptr(GError) failure = NULL;

    *ret = bochs_show_parse(answer, *path, &failure);
    *text += strlen(answer);
    if (*ret || error_is(failure, VMFERRY_ERROR_NOT_FOUND))
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
}

GPtrArray *bochs_show_all(BochsConsole *console, const char *folder, const char *const *paths,
                          GError **error)
{
    g_autofree char *base = g_path_get_basename(folder);
    g_autofree char *command = g_strdup_printf("source %s/" SHOW_FILE, base);
    g_autoptr(GPtrArray) nodes = g_ptr_array_new_with_free_func(free_node);
    g_autofree char *answer = NULL;
    const char *at;

    if (!check_folder(base, error) || !write_commands(folder, paths, error))
        return NULL;
    answer = bochs_console_run(console, command, BOCHS_COMMAND_MS, error);
    if (!answer)
        return NULL;
    at = answer;
    for (; *paths; paths++) {
        BochsNode *node;

        if (!parse_next(&at, paths, &node, error))
            return NULL;
        g_ptr_array_add(nodes, node);
    }
    return g_steal_pointer(&nodes);
}

/* ---- setting ---- */

gboolean bochs_restore_text(BochsConsole *console, const char *folder, const char *name,
                            const char *text, GError **error)
{
    /* As Bochs, which runs in the folder around it, finds it: its line editor shows no line in one piece that is longer
     * than a terminal's. */
    g_autofree char *base = g_path_get_basename(folder);
    g_autofree char *command = g_strdup_printf("restore \"%s\" \"%s\"", name, base);
    g_autofree char *file = g_build_filename(folder, name, NULL);
    g_autofree char *answer = NULL;

    if (!check_path(name, error) || !check_folder(base, error) ||
        !bochs_folder_write(file, text, error))
        return FALSE;
    answer = bochs_console_run(console, command, BOCHS_COMMAND_MS, error);
    if (!answer)
        return FALSE;
    if (g_str_has_prefix(answer, "restoring param (") && !strstr(answer, "\nError: "))
        return TRUE;
    error_set(error, VMFERRY_ERROR_FAILED, "Bochs did not take the state of %s", name);
    return FALSE;
}

gboolean bochs_restore(BochsConsole *console, const char *folder, const BochsNode *wanted,
                       GError **error)
{
    g_autofree char *text = bochs_tree_format(wanted);

    return bochs_restore_text(console, folder, wanted->name, text, error);
}
