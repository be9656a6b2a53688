/* The engine's requests, and what answers them. */
#pragma once

#include "engine/engine.h"

typedef struct {
    Engine *engine;
    const char *name;  /* NAME of the path, or NULL */
    GHashTable *query; /* or NULL */
    json_t *body;      /* an object, or NULL where there was none */
    char *text;        /* an answer that is a text; free with g_free() */
    guint status;
} EngineCall;

/* The answer, or NULL with *error* (or with call->text). */
typedef json_t *(*EngineHandler)(EngineCall *call, GError **error);

typedef struct {
    const char *method;
    const char *path; /* NAME stands for a name */
    EngineHandler handle;
} EngineRoute;

/* The route for a request, or NULL; *ret_known: the path exists with another method.  Free *ret_name with g_free(). */
const EngineRoute *engine_route_find(const char *method, const char *path, char **ret_name,
                                     gboolean *ret_known);
