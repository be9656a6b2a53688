#include "trace.h"

#include <string.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/rate.h"

#define FILE_LIMIT (16u << 20)
#define LONGEST_S 1e6

typedef struct {
    guint64 from_ns;
    guint64 rate; /* bytes per second */
    LinkWork before;
} Step;

struct LinkTrace {
    guint references;
    guint64 length_ns;
    LinkWork total; /* of one pass */
    GArray *steps;
};

static const Step *step_at(const LinkTrace *trace, guint i)
{
    return &g_array_index(trace->steps, Step, i);
}

LinkTrace *link_trace_ref(LinkTrace *trace)
{
    if (trace)
        trace->references++;
    return trace;
}

void link_trace_unref(LinkTrace *trace)
{
    if (!trace || --trace->references > 0)
        return;
    g_array_unref(trace->steps);
    g_free(trace);
}

guint64 link_trace_length_ns(const LinkTrace *trace)
{
    return trace->length_ns;
}

static gboolean parse_seconds(const char *text, guint64 *ret_ns)
{
    char *end = NULL;
    double seconds;

    if (!g_ascii_isdigit(text[0]))
        return FALSE;
    seconds = g_ascii_strtod(text, &end);
    if (*end != '\0' || !(seconds <= LONGEST_S))
        return FALSE;
    *ret_ns = (guint64)(seconds * 1e9 + 0.5);
    return TRUE;
}

/* Closes the last step at *time_ns*. */
static gboolean reach(LinkTrace *trace, guint64 time_ns, GError **error)
{
    const Step *last;

    if (trace->steps->len == 0)
        return TRUE;
    last = step_at(trace, trace->steps->len - 1);
    if (time_ns <= last->from_ns) {
        error_set(error, VMFERRY_ERROR_INVALID, "this time is not after the one before it");
        return FALSE;
    }
    trace->total = last->before + (LinkWork)last->rate * (time_ns - last->from_ns);
    return TRUE;
}

static gboolean add_step(LinkTrace *trace, guint64 time_ns, const char *rate, GError **error)
{
    Step step = {.from_ns = time_ns};

    if (trace->steps->len == 0 && time_ns != 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "the first step is not at 0");
        return FALSE;
    }
    if (!rate_parse(rate, &step.rate, error))
        return FALSE;
    if (g_ascii_strcasecmp(rate, "unlimited") == 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "a step of a trace cannot be unlimited");
        return FALSE;
    }
    if (!reach(trace, time_ns, error))
        return FALSE;
    step.before = trace->total;
    g_array_append_val(trace->steps, step);
    return TRUE;
}

static gboolean add_line(LinkTrace *trace, char *line, GError **error)
{
    char *comment = strchr(line, '#');
    char *rate;
    guint64 time_ns;

    if (comment)
        *comment = '\0';
    g_strstrip(line);
    if (*line == '\0')
        return TRUE;
    if (trace->length_ns > 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "there is more behind the line with \"end\"");
        return FALSE;
    }
    rate = line + strcspn(line, " \t");
    if (*rate != '\0')
        *rate++ = '\0';
    g_strstrip(rate);
    if (!parse_seconds(line, &time_ns)) {
        error_set(error, VMFERRY_ERROR_INVALID, "\"%s\" is not a time: write seconds, as 12.5",
                  line);
        return FALSE;
    }
    if (g_ascii_strcasecmp(rate, "end") != 0)
        return add_step(trace, time_ns, rate, error);
    if (!reach(trace, time_ns, error))
        return FALSE;
    trace->length_ns = time_ns;
    return TRUE;
}

static gboolean check_whole(const LinkTrace *trace, GError **error)
{
    if (trace->length_ns == 0 || trace->steps->len == 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "no step, or no line \"SECONDS end\" behind them");
        return FALSE;
    }
    if (trace->total == 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "all its rates are 0: nothing would ever arrive");
        return FALSE;
    }
    return TRUE;
}

LinkTrace *link_trace_parse(const char *text, GError **error)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    g_autoptr(LinkTrace) trace = g_new0(LinkTrace, 1);

    trace->references = 1;
    trace->steps = g_array_new(FALSE, FALSE, sizeof(Step));
    for (guint i = 0; lines[i]; i++) {
        if (!add_line(trace, lines[i], error)) {
            g_prefix_error(error, "line %u: ", i + 1);
            return NULL;
        }
    }
    if (!check_whole(trace, error))
        return NULL;
    return g_steal_pointer(&trace);
}

LinkTrace *link_trace_load(const char *path, GError **error)
{
    size_t length;
    g_autofree char *text = file_read(path, FILE_LIMIT, &length, error);
    LinkTrace *trace;

    if (!text)
        return NULL;
    trace = link_trace_parse(text, error);
    if (!trace)
        g_prefix_error(error, "trace %s: ", path);
    return trace;
}

/* The last step that begins at or before *time_ns* of a pass. */
static const Step *step_by_time(const LinkTrace *trace, guint64 time_ns)
{
    guint low = 0, high = trace->steps->len;

    while (high - low > 1) {
        guint middle = low + (high - low) / 2;

        if (step_at(trace, middle)->from_ns <= time_ns)
            low = middle;
        else
            high = middle;
    }
    return step_at(trace, low);
}

/* The last step before which less than *work* was carried, so that it ends in there. */
static const Step *step_by_work(const LinkTrace *trace, LinkWork work)
{
    guint low = 0, high = trace->steps->len;

    while (high - low > 1) {
        guint middle = low + (high - low) / 2;

        if (step_at(trace, middle)->before < work)
            low = middle;
        else
            high = middle;
    }
    return step_at(trace, low);
}

guint64 link_trace_rate(const LinkTrace *trace, guint64 time_ns)
{
    return step_by_time(trace, time_ns % trace->length_ns)->rate;
}

LinkWork link_trace_work(const LinkTrace *trace, guint64 time_ns)
{
    guint64 in_pass = time_ns % trace->length_ns;
    const Step *step = step_by_time(trace, in_pass);

    return trace->total * (time_ns / trace->length_ns) + step->before +
           (LinkWork)step->rate * (in_pass - step->from_ns);
}

guint64 link_trace_time(const LinkTrace *trace, LinkWork work)
{
    LinkWork passes, in_pass;
    const Step *step;

    if (work == 0)
        return 0;
    /* What ends with a pass belongs to it: some work of 1..total is left in the last one. */
    passes = (work - 1) / trace->total;
    in_pass = work - passes * trace->total;
    step = step_by_work(trace, in_pass);
    return (guint64)passes * trace->length_ns + step->from_ns +
           (guint64)((in_pass - step->before + step->rate - 1) / step->rate);
}
