/* Answers that go on: the events, the progress of an activity (see api.h). */
#pragma once

#include <libsoup/soup.h>

#include "agent/activity.h"
#include "agent/context.h"

typedef struct ApiStreams ApiStreams;

ApiStreams *api_streams_new(AgentContext *context);
void api_streams_free(ApiStreams *streams);

/* Each takes over the answer of *message*; FALSE where there are too many.  On success
 * *subscription* is taken. */
gboolean api_streams_add_events(ApiStreams *streams, SoupServerMessage *message, uint64_t since,
                                gboolean follow);
gboolean api_streams_add_activity(ApiStreams *streams, SoupServerMessage *message,
                                  ActivitySubscription *subscription);

/* Sends what is new. */
void api_streams_pump(ApiStreams *streams);

/* From now on the streams of events end. */
void api_streams_finish(ApiStreams *streams);

guint api_streams_count(ApiStreams *streams);
