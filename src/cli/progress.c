#include "cli/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/rate.h"
#include "base/json.h"
#include "cli/output.h"

#define BAR_WIDTH 24

void progress_init(Progress *progress)
{
    *progress = (Progress){.terminal = isatty(STDERR_FILENO) != 0};
}

char *progress_format_bar(double share, guint width)
{
    g_autofree char *bar = g_malloc(width + 1);
    guint full;

    share = CLAMP(share, 0, 1);
    full = (guint)(share * width + 0.5);
    memset(bar, '#', full);
    memset(bar + full, ' ', width - full);
    bar[width] = '\0';
    return g_strdup_printf("[%s] %3.0f %%", bar, share * 100);
}

static gboolean is_about_disks(json_t *object)
{
    return strcmp(json_text_or(object, "phase", ""), "disks") == 0;
}

/* Of `vmferry check HOST`: it tells its share itself. */
static gboolean is_check(json_t *object)
{
    return json_object_get(object, "share") != NULL;
}

static double get_share(json_t *object)
{
    gboolean disks = is_about_disks(object);
    double all = (double)json_count_or(object, disks ? "disk_bytes" : "round_bytes", 0);
    double done = (double)json_count_or(object, disks ? "disk_bytes_done" : "round_bytes_done", 0);

    if (is_check(object))
        return json_number_value(json_object_get(object, "share"));
    return all > 0 ? done / all : 0;
}

static const char *describe_phase(const char *phase)
{
    static const struct {
        const char *name, *text;
    } phases[] = {
        {"connect", "connecting"},
        {"disks", "copying disks"},
        {"precopy", "copying"},
        {"memory", "first epoch"},
        {"store", "filling the store"},
        {"stopped", "stopped, last round"},
        {"switchover", "switching over"},
        {"postcopy", "runs there, memory follows"},
        {"image", "goes on, the image is completed"},
        {"address", "connecting"},
        {"tls", "connecting"},
        {"hello", "connecting"},
        {"round-trips", "round trips"},
        {"segments", "size of packets"},
        {"rate", "rate"},
        {"done", "done"},
    };

    for (guint i = 0; i < G_N_ELEMENTS(phases); i++)
        if (strcmp(phase, phases[i].name) == 0)
            return phases[i].text;
    return phase;
}

static double get_run_share(json_t *object)
{
    json_t *share = json_object_get(object, "run_share");

    return json_is_number(share) ? json_number_value(share) : 1;
}

/* What is done about a guest that is hard to move.  Free with g_free(). */
static char *describe_means(json_t *object)
{
    double run_share = get_run_share(object);
    uint64_t deferred = json_count_or(object, "deferred_bytes", 0);
    g_autofree char *bytes = deferred > 0 ? bytes_format((double)deferred) : NULL;
    GString *text = g_string_new(NULL);

    if (run_share < 1)
        g_string_append_printf(text, ", guest slowed to %.0f %%", 100 * run_share);
    if (bytes)
        g_string_append_printf(text, ", %s deferred", bytes);
    return g_string_free(text, FALSE);
}

/* There are no rounds in these. */
static gboolean is_one_pass(json_t *object)
{
    const char *phase = json_text_or(object, "phase", "");

    return strcmp(phase, "postcopy") == 0 || strcmp(phase, "store") == 0 ||
           strcmp(phase, "memory") == 0;
}

/* How far the phase is: "round 2", "512 MB of 2.0 GB".  Free with g_free(). */
static char *describe_position(json_t *object)
{
    g_autofree char *done = NULL, *all = NULL;

    if (is_one_pass(object)) {
        done = bytes_format((double)json_count_or(object, "round_bytes_done", 0));
        all = bytes_format((double)json_count_or(object, "round_bytes", 0));
        return g_strdup_printf("%s of %s", done, all);
    }
    if (!is_about_disks(object))
        return g_strdup_printf("round %d", (int)json_count_or(object, "round", 0) + 1);
    done = bytes_format((double)json_count_or(object, "disk_bytes_done", 0));
    all = bytes_format((double)json_count_or(object, "disk_bytes", 0));
    return g_strdup_printf("%s of %s", done, all);
}

char *progress_describe(json_t *object)
{
    const char *phase = json_text_or(object, "phase", "?");
    g_autofree char *sent = bytes_format((double)json_count_or(object, "wire_bytes", 0));
    g_autofree char *rate =
        rate_format(json_number_value(json_object_get(object, "bytes_per_second")));
    json_t *left = json_object_get(object, "eta_ms");
    g_autofree char *eta = json_is_number(left) ? format_ms(json_number_value(left)) : NULL;
    g_autofree char *position = describe_position(object);
    g_autofree char *means = describe_means(object);

    if (is_check(object))
        return g_strdup_printf("%s, %s", describe_phase(phase), sent);
    if (json_flag_or(object, "disconnected", FALSE))
        return g_strdup_printf("%s, %s, %s, connection lost, connecting again",
                               describe_phase(phase), position, sent);
    return g_strdup_printf("%s, %s, %s, %s%s%s%s", describe_phase(phase), position, sent, rate,
                           eta ? ", left " : "", eta ? eta : "", means);
}

static void draw(Progress *progress, json_t *object)
{
    g_autofree char *text = progress_describe(object);
    g_autofree char *bar = progress_format_bar(get_share(object), BAR_WIDTH);
    guint width = (guint)(strlen(bar) + 1 + strlen(text));

    fprintf(stderr, "\r%s %s%*s", bar, text,
            progress->width > width ? (int)(progress->width - width) : 0, "");
    fflush(stderr);
    progress->width = width;
}

static gboolean is_news(Progress *progress, json_t *object)
{
    const char *phase = json_text_or(object, "phase", "?");
    guint round = (guint)json_count_or(object, "round", 0);
    gboolean slowed = get_run_share(object) < 1;
    gboolean news = strcmp(phase, progress->phase) != 0 || round != progress->round ||
                    slowed != progress->slowed;

    g_strlcpy(progress->phase, phase, sizeof progress->phase);
    progress->round = round;
    progress->slowed = slowed;
    return news;
}

void progress_show(Progress *progress, json_t *object)
{
    g_autofree char *text = NULL;
    gboolean news = is_news(progress, object);

    if (progress->terminal) {
        draw(progress, object);
    } else if (news) {
        text = progress_describe(object);
        fprintf(stderr, "%s\n", text);
    }
}

void progress_end(Progress *progress)
{
    if (progress->terminal && progress->width > 0)
        fprintf(stderr, "\r%*s\r", (int)progress->width, "");
    progress->width = 0;
}
