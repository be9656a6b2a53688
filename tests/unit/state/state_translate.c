/*
 * Takes a machine's state out of one stream of QEMU (STATE), through the neutral state's JSON form, and
 * puts it over another one (TEMPLATE), into OUT.  For tests/system/test_state_qemu.py.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "state/state_qemu.h"

static GBytes *read_bytes(const char *path, GError **error)
{
    char *data;
    gsize length;

    return g_file_get_contents(path, &data, &length, error) ? g_bytes_new_take(data, length) : NULL;
}

static StateNode *read_state(GBytes *stream, GError **error)
{
    g_autoptr(StateNode) root =
        state_from_qemu(g_bytes_get_data(stream, NULL), g_bytes_get_size(stream), error);
    g_autoptr(json_t) json = root ? state_to_json(root) : NULL;

    return json && state_check(root, error) ? state_from_json(json, error) : NULL;
}

static gboolean translate(char **paths, GError **error)
{
    g_autoptr(GBytes) stream = read_bytes(paths[0], error);
    g_autoptr(GBytes) over = stream ? read_bytes(paths[1], error) : NULL;
    g_autoptr(StateNode) root = over ? read_state(stream, error) : NULL;
    g_autoptr(GBytes) out = NULL;

    if (!root)
        return FALSE;
    out = state_to_qemu(root, g_bytes_get_data(over, NULL), g_bytes_get_size(over), error);
    return out && g_file_set_contents(paths[2], g_bytes_get_data(out, NULL),
                                      (gssize)g_bytes_get_size(out), error);
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;

    if (argc != 4)
        return 2;
    if (translate(argv + 1, &error))
        return EXIT_SUCCESS;
    fprintf(stderr, "%s\n", error->message);
    return EXIT_FAILURE;
}
