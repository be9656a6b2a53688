/*
 * Takes a machine's state out of one stream of QEMU (STATE), through the neutral state's JSON form, and
 * puts it over another one (TEMPLATE), into OUT.  For tests/system/test_state_qemu.py.  With `--time STATE` prints what that
 * costs in a pause: the first of each way, with page faults and what is set up once, and the best of a hundred, in ms.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
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

typedef struct {
    double first, best;
} Times;

static void note_time(Times *times, uint64_t begin)
{
    double ms = clock_ns_to_ms(clock_now_ns() - begin);

    times->best = times->first > 0 ? MIN(times->best, ms) : ms;
    times->first = times->first > 0 ? times->first : ms;
}

static gboolean take_times(const char *path, GError **error)
{
    g_autoptr(GBytes) stream = read_bytes(path, error);
    Times there = {0}, back = {0};

    for (guint i = 0; stream && i < 100; i++) {
        uint64_t begin = clock_now_ns();
        g_autoptr(StateNode) root =
            state_from_qemu(g_bytes_get_data(stream, NULL), g_bytes_get_size(stream), error);
        g_autoptr(GBytes) encoded = root ? state_encode(root) : NULL;
        g_autoptr(StateNode) decoded = NULL;
        g_autoptr(GBytes) out = NULL;

        note_time(&there, begin);
        begin = clock_now_ns();
        if (encoded)
            decoded =
                state_decode(g_bytes_get_data(encoded, NULL), g_bytes_get_size(encoded), error);
        if (decoded)
            out = state_to_qemu(decoded, g_bytes_get_data(stream, NULL), g_bytes_get_size(stream),
                                error);
        if (!out)
            return FALSE;
        note_time(&back, begin);
    }
    if (stream)
        printf("{\"from_qemu_ms\": %.3f, \"to_qemu_ms\": %.3f, \"first_from_qemu_ms\": %.3f, "
               "\"first_to_qemu_ms\": %.3f}\n",
               there.best, back.best, there.first, back.first);
    return stream != NULL;
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;

    if (argc != 4 && argc != 3)
        return 2;
    if (argc == 3 ? take_times(argv[2], &error) : translate(argv + 1, &error))
        return EXIT_SUCCESS;
    fprintf(stderr, "%s\n", error->message);
    return EXIT_FAILURE;
}
