#include "agent/trace_queue.h"

#include <string.h>

#include "base/json.h"
#include "base/lock_guard.h"

#define PIECE_BYTES (256u << 10)

struct TraceQueue {
    gsize limit;
    GMutex lock; /* protects all below */
    GQueue lines;
    gsize bytes;
    guint64 dropped; /* since the last line that fitted */
    gboolean closed;
};

TraceQueue *trace_queue_new(gsize limit_bytes)
{
    TraceQueue *queue = g_new0(TraceQueue, 1);

    queue->limit = limit_bytes;
    g_mutex_init(&queue->lock);
    g_queue_init(&queue->lines);
    return queue;
}

void trace_queue_free(TraceQueue *queue)
{
    if (!queue)
        return;
    g_queue_clear_full(&queue->lines, g_free);
    g_mutex_clear(&queue->lock);
    g_free(queue);
}

/* The object's text with a line's end; takes *object*. */
static char *dump(json_t *object)
{
    g_autoptr(json_t) own = object;
    char *text = own ? json_dumps(own, JSON_LINE) : NULL;
    char *line = text ? g_strconcat(text, "\n", NULL) : NULL;

    free(text);
    return line;
}

static void push(TraceQueue *queue, char *line)
{
    queue->bytes += strlen(line);
    g_queue_push_tail(&queue->lines, line);
}

static void push_dropped(TraceQueue *queue)
{
    if (queue->dropped > 0)
        push(queue,
             dump(json_pack("{s:s, s:I}", "type", "trace", "dropped", (json_int_t)queue->dropped)));
    queue->dropped = 0;
}

void trace_queue_add(TraceQueue *queue, const char *line)
{
    g_autofree char *text = dump(json_pack("{s:s, s:s}", "type", "trace", "line", line));
    lock_guard(&queue->lock);

    if (queue->closed)
        return;
    if (!text || queue->bytes + strlen(text) > queue->limit) {
        queue->dropped++;
        return;
    }
    push_dropped(queue);
    push(queue, g_steal_pointer(&text));
}

char *trace_queue_take(TraceQueue *queue)
{
    g_autoptr(GString) text = g_string_new(NULL);
    lock_guard(&queue->lock);

    if (g_queue_is_empty(&queue->lines))
        push_dropped(queue);
    while (!g_queue_is_empty(&queue->lines) && text->len < PIECE_BYTES) {
        g_autofree char *line = g_queue_pop_head(&queue->lines);

        queue->bytes -= strlen(line);
        g_string_append(text, line);
    }
    return text->len > 0 ? g_string_free(g_steal_pointer(&text), FALSE) : NULL;
}

void trace_queue_close(TraceQueue *queue)
{
    lock_guard(&queue->lock);

    queue->closed = TRUE;
    queue->bytes = 0;
    queue->dropped = 0;
    g_queue_clear_full(&queue->lines, g_free);
}
