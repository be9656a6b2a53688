/*
 * Images of guests that are kept on this host (migrate/image_host.h)
 *
 * Whoever may bring a guest here may bring an image, to any file that is not there yet: a peer that this agent lets in
 * could make disks of that name, too.
 */
#pragma once

#include "agent/context.h"
#include "wire/session.h"

/* Serves one save to its end. */
gboolean images_receive(AgentContext *context, Session *session, GError **error);

/* The same for a guest of this agent itself: the file may be a FIFO. */
gboolean images_receive_own(AgentContext *context, Session *session, GError **error);
