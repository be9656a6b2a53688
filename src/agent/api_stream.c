#include "agent/api_stream.h"

#include <string.h>

#include "agent/api.h"

/* An empty line now and then finds readers that have gone away. */
#define KEEP_ALIVE_SECONDS 10
#define EVENTS_A_PIECE 256

struct ApiStreams {
    AgentContext *context;
    GPtrArray *list; /* of Stream */
    guint keep_alive;
    gboolean finishing;
};

typedef struct {
    ApiStreams *owner;
    SoupServerMessage *message;
    ActivitySubscription *activity; /* NULL: events */
    uint64_t seen;                  /* number of an event */
    gboolean follow;
    gboolean busy;   /* a piece is on its way */
    gboolean closed; /* all is sent */
} Stream;

static void stream_free(gpointer data)
{
    Stream *stream = data;

    g_signal_handlers_disconnect_by_data(stream->message, stream);
    g_object_unref(stream->message);
    activity_unsubscribe(stream->activity);
    g_free(stream);
}

static void send_text(Stream *stream, const char *text)
{
    SoupMessageBody *body = soup_server_message_get_response_body(stream->message);

    soup_message_body_append(body, SOUP_MEMORY_COPY, text, strlen(text));
    stream->busy = TRUE;
    soup_server_message_unpause(stream->message);
}

static void close_stream(Stream *stream)
{
    stream->closed = TRUE;
    soup_message_body_complete(soup_server_message_get_response_body(stream->message));
    soup_server_message_unpause(stream->message);
}

static void pump_events(Stream *stream)
{
    g_autoptr(GPtrArray) lines =
        event_log_read(stream->owner->context->events, stream->seen, EVENTS_A_PIECE, &stream->seen);

    if (lines->len > 0) {
        g_autoptr(GString) text = g_string_new(NULL);

        for (guint i = 0; i < lines->len; i++)
            g_string_append_printf(text, "%s\n", (char *)lines->pdata[i]);
        send_text(stream, text->str);
    } else if (!stream->follow || stream->owner->finishing) {
        close_stream(stream);
    }
}

static void pump_activity(Stream *stream)
{
    gboolean ended;
    g_autofree char *text = activity_subscription_take(stream->activity, &ended);

    if (text)
        send_text(stream, text);
    if (ended)
        close_stream(stream);
}

static void pump(Stream *stream)
{
    if (stream->busy || stream->closed)
        return;
    if (stream->activity)
        pump_activity(stream);
    else
        pump_events(stream);
}

static void on_wrote_chunk(SoupServerMessage *message, gpointer user)
{
    Stream *stream = user;

    stream->busy = FALSE;
    pump(stream);
}

static void on_finished(SoupServerMessage *message, gpointer user)
{
    Stream *stream = user;

    g_ptr_array_remove_fast(stream->owner->list, stream);
}

static gboolean on_keep_alive(gpointer user)
{
    ApiStreams *streams = user;

    for (guint i = 0; i < streams->list->len; i++) {
        Stream *stream = streams->list->pdata[i];

        if (!stream->busy && !stream->closed)
            send_text(stream, "\n");
    }
    return G_SOURCE_CONTINUE;
}

ApiStreams *api_streams_new(AgentContext *context)
{
    ApiStreams *streams = g_new0(ApiStreams, 1);
    GSource *source = g_timeout_source_new_seconds(KEEP_ALIVE_SECONDS);

    streams->context = context;
    streams->list = g_ptr_array_new_with_free_func(stream_free);
    g_source_set_callback(source, on_keep_alive, streams, NULL);
    streams->keep_alive = g_source_attach(source, context->main);
    g_source_unref(source);
    return streams;
}

void api_streams_free(ApiStreams *streams)
{
    GSource *source;

    if (!streams)
        return;
    source = g_main_context_find_source_by_id(streams->context->main, streams->keep_alive);
    if (source)
        g_source_destroy(source);
    g_ptr_array_unref(streams->list);
    g_free(streams);
}

static gboolean add(ApiStreams *streams, SoupServerMessage *message, const Stream *values)
{
    SoupMessageHeaders *headers = soup_server_message_get_response_headers(message);
    Stream *stream;

    if (streams->list->len >= API_STREAM_LIMIT)
        return FALSE;
    soup_server_message_set_status(message, SOUP_STATUS_OK, NULL);
    soup_message_headers_set_content_type(headers, "application/x-ndjson", NULL);
    soup_message_headers_set_encoding(headers, SOUP_ENCODING_CHUNKED);
    soup_message_body_set_accumulate(soup_server_message_get_response_body(message), FALSE);
    stream = g_memdup2(values, sizeof *values);
    stream->owner = streams;
    stream->message = g_object_ref(message);
    g_signal_connect(message, "wrote-chunk", G_CALLBACK(on_wrote_chunk), stream);
    g_signal_connect(message, "finished", G_CALLBACK(on_finished), stream);
    g_ptr_array_add(streams->list, stream);
    soup_server_message_unpause(message);
    pump(stream);
    return TRUE;
}

gboolean api_streams_add_events(ApiStreams *streams, SoupServerMessage *message, uint64_t since,
                                gboolean follow)
{
    return add(streams, message, &(Stream){.seen = since, .follow = follow});
}

gboolean api_streams_add_activity(ApiStreams *streams, SoupServerMessage *message,
                                  ActivitySubscription *subscription)
{
    return add(streams, message, &(Stream){.activity = subscription});
}

void api_streams_pump(ApiStreams *streams)
{
    for (guint i = 0; i < streams->list->len; i++)
        pump(streams->list->pdata[i]);
}

void api_streams_finish(ApiStreams *streams)
{
    streams->finishing = TRUE;
    api_streams_pump(streams);
}

guint api_streams_count(ApiStreams *streams)
{
    return streams->list->len;
}
