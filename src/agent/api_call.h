/* One request on its way through a worker, and the handlers' table. */
#pragma once

#include "agent/activity.h"
#include "agent/context.h"

/* Each may do what those before it may, too. */
typedef enum {
    API_ACCESS_NONE,
    API_ACCESS_READ,
    API_ACCESS_OPERATE, /* moves guests, protects them, ends both */
    API_ACCESS_LOCAL, /* the Unix socket's: also what runs programs, ends guests, gives files away */
} ApiAccess;

/* Who is at the other end of a connection. */
typedef struct {
    char *name; /* in the certificate */
    ApiAccess access;
} ApiCaller;

ApiCaller *api_caller_new(const char *name, ApiAccess access);
/* NULL-safe. */
void api_caller_free(ApiCaller *caller);

typedef struct {
    AgentContext *context;
    ApiAccess access;  /* of the caller */
    const char *guest; /* NAME of the path, or NULL */
    json_t *body;      /* an object, or NULL where there was none */
    /* The answer: */
    guint status;
    const char *
        text_type; /* NULL: the answer is an object; else a JSON string, sent as text of this type */
    ActivitySubscription *stream; /* what is to follow the answer's headers, or NULL */
} ApiCall;

/* Runs in a worker.  Returns the answer (or NULL with call->stream), or NULL
 * with *error*. */
typedef json_t *(*ApiHandler)(ApiCall *call, GError **error);

typedef struct {
    const char *method;
    const char *path; /* NAME stands for a guest's name */
    ApiAccess access; /* that it takes */
    ApiHandler handle;
} ApiRoute;

/* The route for a request, or NULL; *ret_known: the path exists with another
 * method.  Free *ret_guest with g_free(). */
const ApiRoute *api_route_find(const char *method, const char *path, char **ret_guest,
                               gboolean *ret_known);

/* The HTTP status that fits an error. */
guint api_status_from_error(const GError *error);

/* {"error": {"code": …, "message": …}} */
json_t *api_error_to_json(const GError *error);

/* The same as the answer to *call*; for a guest that is not here any more it
 * says where it went, also in "moved". */
json_t *api_refusal_to_json(const ApiCall *call, const GError *error);
