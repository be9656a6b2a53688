#include "engine/daemon.h"

#include <glib-unix.h>
#include <signal.h>
#include <systemd/sd-daemon.h>

#include "base/log.h"
#include "engine/engine.h"
#include "engine/server.h"

static gboolean on_signal(gpointer user)
{
    g_main_loop_quit(user);
    return G_SOURCE_CONTINUE;
}

gboolean engine_daemon_run(const EngineSettings *settings, GError **error)
{
    g_autoptr(Engine) engine = engine_new(settings, error);
    g_autoptr(EngineServer) server = engine ? engine_server_new(engine, settings, error) : NULL;
    g_autoptr(GMainLoop) loop = NULL;
    guint terminate, interrupt;

    if (!server)
        return FALSE;
    loop = g_main_loop_new(NULL, FALSE);
    terminate = g_unix_signal_add(SIGTERM, on_signal, loop);
    interrupt = g_unix_signal_add(SIGINT, on_signal, loop);
    log_info("engine %s ready on %s, %u hosts", settings->name, settings->listen,
             settings->hosts->len);
    sd_notify(0, "READY=1");
    g_main_loop_run(loop);
    sd_notify(0, "STOPPING=1");
    log_info("stopping; moves under way go on");
    g_source_remove(terminate);
    g_source_remove(interrupt);
    return TRUE;
}
