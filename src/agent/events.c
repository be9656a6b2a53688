#include "agent/events.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/lock_guard.h"

#define EVENT_TEXT_LIMIT 4096
#define EVENT_LINE_LIMIT 65536

typedef struct {
    uint64_t number;
    char *line; /* one JSON object without a newline */
} Event;

struct EventLog {
    char *path; /* NULL: in memory only */
    GMutex lock;
    GQueue ring; /* of Event, oldest first */
    uint64_t last;
    size_t file_bytes;
    gboolean disk_failed; /* said so once */
    void (*listener)(gpointer user);
    gpointer listener_user;
};

static void event_free(gpointer data)
{
    Event *event = data;

    g_free(event->line);
    g_free(event);
}

static void push(EventLog *log, uint64_t number, char *line)
{
    Event *event = g_new0(Event, 1);

    event->number = number;
    event->line = line;
    g_queue_push_tail(&log->ring, event);
    log->last = number;
    if (log->ring.length > EVENT_RING_SIZE)
        event_free(g_queue_pop_head(&log->ring));
}

/* Takes a line of the file where it is an event that continues the order. */
static void load_line(EventLog *log, const char *line, size_t length)
{
    g_autoptr(json_t) object = json_parse_object(line, length, EVENT_LINE_LIMIT, NULL);
    uint64_t number = object ? json_count_or(object, "seq", 0) : 0;

    if (number > log->last && number < G_MAXINT64 / 2)
        push(log, number, g_strndup(line, length));
}

/* Returns the file's length; where it cannot be read, one that makes the next
 * event begin a new file. */
static size_t load_file(EventLog *log, const char *path)
{
    size_t length = 0;
    g_autofree char *text = file_read(path, 2 * EVENT_FILE_LIMIT, &length, NULL);

    for (size_t at = 0; text && at < length;) {
        const char *end = memchr(text + at, '\n', length - at);
        size_t size = end ? (size_t)(end - text) - at : length - at;

        load_line(log, text + at, size);
        at += size + 1;
    }
    if (!text)
        return access(path, F_OK) == 0 ? EVENT_FILE_LIMIT : 0;
    /* A crash may have left half a line behind, which would spoil the next. */
    return length > 0 && text[length - 1] != '\n' ? EVENT_FILE_LIMIT : length;
}

EventLog *event_log_open(const char *directory)
{
    EventLog *log = g_new0(EventLog, 1);

    g_mutex_init(&log->lock);
    g_queue_init(&log->ring);
    if (directory) {
        g_autofree char *older = g_build_filename(directory, "events.ndjson.1", NULL);

        log->path = g_build_filename(directory, "events.ndjson", NULL);
        load_file(log, older);
        log->file_bytes = load_file(log, log->path);
    }
    return log;
}

void event_log_close(EventLog *log)
{
    if (!log)
        return;
    g_queue_clear_full(&log->ring, event_free);
    g_mutex_clear(&log->lock);
    g_free(log->path);
    g_free(log);
}

static gboolean append_line(EventLog *log, const char *line, GError **error)
{
    g_autofree char *text = g_strconcat(line, "\n", NULL);
    size_t length = strlen(text);
    autofd int fd = -1;

    if (log->file_bytes + length > EVENT_FILE_LIMIT) {
        g_autofree char *older = g_strconcat(log->path, ".1", NULL);

        if (rename(log->path, older) < 0 && errno != ENOENT) {
            error_set_errno(error, errno, "rename %s", log->path);
            return FALSE;
        }
        log->file_bytes = 0;
    }
    fd = open(log->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) {
        error_set_errno(error, errno, "open %s", log->path);
        return FALSE;
    }
    if (!fd_write_all(fd, text, length, error)) {
        /* Half a line would spoil the next one too. */
        if (ftruncate(fd, (off_t)log->file_bytes) < 0)
            log_debug("truncate %s: %s", log->path, g_strerror(errno));
        return FALSE;
    }
    log->file_bytes += length;
    return TRUE;
}

static void append_or_complain(EventLog *log, const char *line)
{
    g_autoptr(GError) error = NULL;

    if (!log->path)
        return;
    if (append_line(log, line, &error)) {
        log->disk_failed = FALSE;
    } else if (!log->disk_failed) {
        log_warning("events are kept in memory only: %s", error->message);
        log->disk_failed = TRUE;
    }
}

/* The event as one line; takes *data*. */
static char *make_line(uint64_t number, const char *guest, const char *type, const char *text,
                       json_t *data)
{
    g_autofree char *shown = g_utf8_make_valid(text, (gssize)strnlen(text, EVENT_TEXT_LIMIT));
    g_autoptr(GDateTime) now = g_date_time_new_now_utc();
    g_autofree char *time = g_date_time_format(now, "%Y-%m-%dT%H:%M:%S.%fZ");
    g_autoptr(json_t) object = json_object();
    g_autofree char *copy = NULL;
    char *line;

    json_object_set_new(object, "seq", json_integer((json_int_t)number));
    json_object_set_new(object, "time", json_string(time));
    json_object_set_new(object, "guest", guest ? json_string(guest) : json_null());
    json_object_set_new(object, "type", json_string(type));
    json_object_set_new(object, "text", json_string(shown));
    json_object_set_new(object, "data", data ? data : json_null());
    line = json_dumps(object, JSON_LINE);
    if (line && strlen(line) > EVENT_LINE_LIMIT) {
        free(line);
        json_object_set_new(object, "data", json_null());
        line = json_dumps(object, JSON_LINE);
    }
    copy = g_strdup(line ? line : "{}");
    free(line);
    return g_steal_pointer(&copy);
}

void event_log_add(EventLog *log, const char *guest, const char *type, json_t *data,
                   const char *format, ...)
{
    void (*listener)(gpointer user);
    g_autofree char *text = NULL;
    gpointer user;
    va_list args;
    char *line;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    log_info("%s%s%s", guest ? guest : "", guest ? ": " : "", text);

    g_mutex_lock(&log->lock);
    line = make_line(log->last + 1, guest, type, text, data);
    append_or_complain(log, line);
    push(log, log->last + 1, line);
    listener = log->listener;
    user = log->listener_user;
    g_mutex_unlock(&log->lock);
    if (listener)
        listener(user);
}

GPtrArray *event_log_read(EventLog *log, uint64_t since, guint limit, uint64_t *ret_last)
{
    GPtrArray *lines = g_ptr_array_new_with_free_func(g_free);
    lock_guard(&log->lock);
    GList *from = log->ring.tail;

    *ret_last = since;
    while (from && ((Event *)from->data)->number > since)
        from = from->prev;
    for (from = from ? from->next : log->ring.head; from && lines->len < limit; from = from->next) {
        Event *event = from->data;

        g_ptr_array_add(lines, g_strdup(event->line));
        *ret_last = event->number;
    }
    return lines;
}

uint64_t event_log_get_last(EventLog *log)
{
    lock_guard(&log->lock);

    return log->last;
}

void event_log_set_listener(EventLog *log, void (*listener)(gpointer user), gpointer user)
{
    lock_guard(&log->lock);

    log->listener = listener;
    log->listener_user = user;
}
