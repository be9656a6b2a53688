#include "agent/images.h"

#include "agent/incoming_private.h"
#include "base/error.h"
#include "migrate/image_host.h"

/* An ImageHostOptions.begin. */
static gboolean on_begin(const char *guest, const char *path, gpointer user, GError **error)
{
    const AgentContext *context = user;

    if (!agent_context_is_stopping((AgentContext *)context))
        return TRUE;
    error_set(error, VMFERRY_ERROR_CANCELLED, "the agent here is being stopped");
    return FALSE;
}

static gboolean receive(AgentContext *context, Session *session, gboolean own, GError **error)
{
    MigrateDestinationHost disks;
    ImageHostOptions options = {.disks = &disks, .begin = on_begin, .user = context, .pipes = own};
    Incoming incoming;
    gboolean done;

    incoming_begin(&incoming, context, session);
    disks = incoming_get_host(&incoming);
    done = image_host_receive(session, &options, error);
    incoming_end(&incoming);
    return done;
}

gboolean images_receive(AgentContext *context, Session *session, GError **error)
{
    return receive(context, session, FALSE, error);
}

gboolean images_receive_own(AgentContext *context, Session *session, GError **error)
{
    return receive(context, session, TRUE, error);
}
