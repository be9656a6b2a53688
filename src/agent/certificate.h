/*
 * This host's certificate, checked while the agent runs
 *
 * It is read again whenever its files change (wire/tls.h).  Here, in the main
 * loop, an event says in time that it ends, that it has ended, or that
 * what was put in its place cannot be used.
 */
#pragma once

#include "agent/context.h"

typedef enum { CERTIFICATE_GOOD, CERTIFICATE_ENDS_SOON, CERTIFICATE_EXPIRED } CertificateState;

/* Of one that is valid for *seconds* more. */
CertificateState certificate_judge(gint64 seconds);

/* Checks at once and then every hour, for as long as the source lives; an event
 * (`certificate`) says what is new, and once a day what has not changed.  NULL
 * where there is no certificate.  Destroy and unreference it before the context
 * goes. */
GSource *certificate_watch(AgentContext *context);
