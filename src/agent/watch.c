#include "agent/watch.h"

#include <glib-unix.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/postcopy.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/process.h"

typedef struct {
    AgentContext *context;
    Guest *guest;
    int pidfd;
} Watch;

static void watch_free(gpointer data)
{
    Watch *watch = data;

    close(watch->pidfd);
    guest_unref(watch->guest);
    g_free(watch);
}

void watch_remove_dead(AgentContext *context, Guest *guest)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);
    Vmm *vmm = registry_get_vmm(guest, NULL);
    g_autofree char *tail = vmm ? vmm_get_stderr_tail(vmm) : NULL;
    g_autofree char *shown = tail ? g_utf8_make_valid(tail, -1) : NULL;
    g_autoptr(json_t) data = json_object();

    /* It may be a child of ours; then its exit status has to be taken. */
    if (record->pid > 0)
        waitpid(record->pid, NULL, WNOHANG);
    if (shown)
        g_strstrip(shown);
    if (shown && *shown)
        json_object_set_new(data, "stderr_tail", json_string(shown));
    postcopy_drop_writes(context, guest);
    registry_remove(guest);
    event_log_add(context->events, guest->name, "ended", json_incref(data),
                  "its process %d has ended%s%s", (int)record->pid, shown && *shown ? ": " : "",
                  shown ? shown : "");
}

static gboolean claim_dead(Guest *guest)
{
    return registry_claim_gone(guest, "remove");
}

static gboolean on_process_ended(gint fd, GIOCondition condition, gpointer data)
{
    Watch *watch = data;
    g_autoptr(Guest) guest = guest_ref(watch->guest);

    if (claim_dead(guest))
        watch_remove_dead(watch->context, guest);
    return G_SOURCE_REMOVE;
}

void watch_guest(AgentContext *context, Guest *guest)
{
    g_autoptr(GuestRecord) record = registry_get_record(guest);
    int pidfd = (int)syscall(SYS_pidfd_open, record->pid, 0);
    Watch *watch;
    GSource *source;

    /* Checked once there is a pidfd: the pid may be another process's by now. */
    if (pidfd < 0 || !process_is_same(record->pid, record->start_time)) {
        fd_close(&pidfd);
        if (claim_dead(guest))
            watch_remove_dead(context, guest);
        return;
    }
    watch = g_new0(Watch, 1);
    *watch = (Watch){context, guest_ref(guest), pidfd};
    source = g_unix_fd_source_new(pidfd, G_IO_IN);
    g_source_set_callback(source, G_SOURCE_FUNC(on_process_ended), watch, watch_free);
    if (registry_set_watch(guest, source))
        g_source_attach(source, context->main);
    g_source_unref(source);
}

void watch_release(AgentContext *context, Guest *guest)
{
    if (registry_release_if_alive(guest))
        watch_remove_dead(context, guest);
}

void watch_release_from_activity(AgentContext *context, Guest *guest)
{
    if (registry_release_from_activity(guest))
        watch_remove_dead(context, guest);
}

static void poll_guest(AgentContext *context, Guest *guest)
{
    VmmRunState state;

    if (!registry_is_watched(guest) ||
        !vmm_get_run_state(registry_get_vmm(guest, NULL), &state, NULL) ||
        state == VMM_RUN_STATE_GONE || !registry_note_run_state(guest, state))
        return;
    event_log_add(context->events, guest->name, vmm_run_state_name(state), NULL, "is %s",
                  vmm_run_state_name(state));
}

static gboolean is_stopping(gpointer user)
{
    return agent_context_is_stopping(user);
}

static void wait_for_next_turn(AgentContext *context)
{
    gint64 until = g_get_monotonic_time() + WATCH_INTERVAL_MS * 1000;

    registry_await(context->registry, until, is_stopping, context);
}

static gpointer poll_guests(gpointer data)
{
    AgentContext *context = data;

    while (!agent_context_is_stopping(context)) {
        g_autoptr(GPtrArray) guests = registry_list(context->registry);

        for (guint i = 0; i < guests->len && !agent_context_is_stopping(context); i++)
            poll_guest(context, guests->pdata[i]);
        wait_for_next_turn(context);
    }
    return NULL;
}

void watch_start_polling(AgentContext *context)
{
    agent_context_spawn_surely(context, "poll-guests", poll_guests, context);
}
