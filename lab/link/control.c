#include "control.h"

#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "settings.h"

static const char *const names[LINK_WAYS] = {
    [LINK_FORWARD] = "forward",
    [LINK_BACKWARD] = "backward",
};

/* The words of a line, without empty ones. */
static GStrv split(const char *line)
{
    g_auto(GStrv) all = g_strsplit_set(line, " \t\r\n", -1);
    g_autoptr(GPtrArray) words = g_ptr_array_new();

    for (guint i = 0; all[i]; i++) {
        if (*all[i] != '\0')
            g_ptr_array_add(words, g_strdup(all[i]));
    }
    g_ptr_array_add(words, NULL);
    return (GStrv)g_ptr_array_steal(words, NULL);
}

static json_t *stats(const Way *ways, guint64 now_ns)
{
    json_t *object = json_object();

    for (guint i = 0; i < LINK_WAYS; i++)
        json_object_set_new(object, names[i], way_stats(&ways[i], now_ns));
    return object;
}

static gboolean change(Way *ways, const gboolean chosen[LINK_WAYS], char *const *words,
                       guint64 now_ns, GError **error)
{
    LinkSettings settings[LINK_WAYS] = {0};
    gboolean good = TRUE;

    for (guint i = 0; good && i < LINK_WAYS; i++) {
        link_settings_copy(&settings[i], &ways[i].model.settings);
        good = !chosen[i] || link_settings_apply(&settings[i], words, now_ns, error);
        if (!good)
            g_prefix_error(error, "%s: ", names[i]);
    }
    for (guint i = 0; i < LINK_WAYS; i++) {
        if (good && chosen[i])
            way_set(&ways[i], &settings[i], now_ns);
        link_settings_clear(&settings[i]);
    }
    return good;
}

json_t *control_answer(Way ways[LINK_WAYS], const char *line, guint64 now_ns, GError **error)
{
    g_auto(GStrv) words = split(line);
    gboolean chosen[LINK_WAYS] = {TRUE, TRUE};
    guint at = 0;

    if (g_strv_length(words) == 1 && strcmp(words[0], "stats") == 0)
        return stats(ways, now_ns);
    for (guint i = 0; words[0] && i < LINK_WAYS; i++) {
        if (strcmp(words[0], names[i]) == 0) {
            chosen[!i] = FALSE;
            at = 1;
        }
    }
    if (!words[at]) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "nothing to do: write [forward|backward] NAME VALUE …, or stats");
        return NULL;
    }
    return change(ways, chosen, words + at, now_ns, error) ? json_object() : NULL;
}

/* A line of *length* bytes, which need be neither whole nor text, and its answer. */
static json_t *answer_message(Way ways[LINK_WAYS], const char *line, size_t length)
{
    g_autoptr(GError) error = NULL;
    json_t *answer = NULL;

    if (length > LINK_LINE_MOST)
        error_set(&error, VMFERRY_ERROR_INVALID, "a line has at most %d bytes", LINK_LINE_MOST);
    else if (!g_utf8_validate(line, (gssize)length, NULL))
        error_set(&error, VMFERRY_ERROR_INVALID, "a line is text in UTF-8");
    else
        answer = control_answer(ways, line, clock_now_ns(), &error);
    if (error)
        return json_pack("{s:s}", "error", error->message);
    if (json_object_size(answer) == 0)
        json_object_set_new(answer, "ok", json_true());
    return answer;
}

gboolean control_serve(int client, Way ways[LINK_WAYS])
{
    char line[LINK_LINE_MOST + 1] = {0};
    ssize_t length = recv(client, line, LINK_LINE_MOST, MSG_TRUNC);
    g_autofree char *text = NULL;
    json_t *answer;

    if (length <= 0)
        return FALSE;
    answer = answer_message(ways, line, (size_t)length);
    text = json_dumps(answer, JSON_COMPACT);
    json_decref(answer);
    /* Who does not read his answers loses them. */
    return send(client, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL) > 0;
}
