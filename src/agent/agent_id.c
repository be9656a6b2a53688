#include "agent/agent_id.h"

#include "base/error.h"
#include "base/fd.h"
#include "base/name.h"

#define MAX_FILE_BYTES 256

static char *write_new(const char *path, GError **error)
{
    g_autofree char *id = random_id_new();
    g_autofree char *text = g_strdup_printf("%s\n", id);
    g_autoptr(GError) problem = NULL;

    if (g_file_set_contents_full(path, text, -1,
                                 G_FILE_SET_CONTENTS_CONSISTENT | G_FILE_SET_CONTENTS_DURABLE, 0600,
                                 &problem))
        return g_steal_pointer(&id);
    error_set(error, VMFERRY_ERROR_FAILED, "the agent's id: %s", problem->message);
    return NULL;
}

char *agent_id_open(const char *state_directory, GError **error)
{
    g_autofree char *path = g_build_filename(state_directory, "agent-id", NULL);
    g_autoptr(GError) problem = NULL;
    g_autofree char *text = file_read(path, MAX_FILE_BYTES, NULL, &problem);

    if (text && random_id_is_valid(g_strchomp(text)))
        return g_steal_pointer(&text);
    if (error_is(problem, VMFERRY_ERROR_NOT_FOUND))
        return write_new(path, error);
    if (problem)
        g_propagate_error(error, g_steal_pointer(&problem));
    else
        error_set(error, VMFERRY_ERROR_INVALID,
                  "%s does not hold %d hexadecimal digits; without it no peer believes what this "
                  "host says of earlier moves: put it back, or remove it if no guest is in doubt",
                  path, AGENT_ID_DIGITS);
    return NULL;
}
