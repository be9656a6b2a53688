/* `vmferry engine`: an engine and its server, until a signal ends them. */
#pragma once

#include "engine/settings.h"

/* Returns when SIGTERM or SIGINT has come; FALSE with *error* where it could not begin. */
gboolean engine_daemon_run(const EngineSettings *settings, GError **error);
