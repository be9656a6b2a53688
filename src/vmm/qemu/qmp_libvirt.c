#include "vmm/qemu/qmp_libvirt.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/log.h"
#include "vmm/libvirt/address.h"
#include "vmm/libvirt/library.h"
#include "vmm/qemu/qmp_private.h"

#define CONNECT_MS 5000
#define MAX_CALLS 32 /* that hang, of one guest; more wait for them */

/* The connection, shared with the calls under way and with libvirt, which calls back. */
typedef struct {
    gatomicrefcount references;
    const LibvirtLibrary *libvirt;
    char *uuid, *uri;
    GMutex lock; /* guards what follows; not held while libvirt is waited for */
    virConnectPtr connection;
    virDomainPtr domain;
    int callback;      /* of events, or -1 */
    int paused_reason; /* that libvirt knew when we paused the guest */
    gboolean ended;
    GMutex reopen_lock; /* held while a new connection is made; guards what follows */
    int id;             /* of this run of the domain, as libvirt counts them */
    gboolean closing;   /* no new connection any more */
    GMutex event_lock;  /* guards *qmp*, and is held while an event is delivered */
    Qmp *qmp;           /* NULL: nobody listens any more */
} Link;

typedef struct {
    Qmp base;
    Link *link;
    GThreadPool *pool;
} Monitor;

/* One call; its thread and who waits for it have it together. */
typedef struct {
    gatomicrefcount references;
    Link *link;
    char *command; /* its name */
    char *text;    /* the whole, as JSON */
    int fd;        /* its own, or -1 */
    GMutex lock;
    GCond done;
    gboolean ended;
    char *reply;
    GError *error;
} Call;

/* ---- the connection ---- */

static void link_unref(Link *link)
{
    if (!g_atomic_ref_count_dec(&link->references))
        return;
    if (link->domain)
        link->libvirt->virDomainFree(link->domain);
    if (link->connection)
        link->libvirt->virConnectClose(link->connection);
    g_mutex_clear(&link->lock);
    g_mutex_clear(&link->reopen_lock);
    g_mutex_clear(&link->event_lock);
    g_free(link->uuid);
    g_free(link->uri);
    g_free(link);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Link, link_unref)

static void link_unref_by_libvirt(void *data)
{
    link_unref(data);
}

static void deliver(Link *link, const char *event, json_t *data)
{
    g_mutex_lock(&link->event_lock);
    if (link->qmp)
        qmp_deliver_event(link->qmp, event, data);
    g_mutex_unlock(&link->event_lock);
}

/* In the thread of libvirt's event loop. */
static void on_event(virConnectPtr connection, virDomainPtr domain, const char *event,
                     long long seconds, unsigned int micros, const char *details, void *user)
{
    g_autoptr(json_t) data = NULL;

    if (details)
        data = json_parse_object(details, strlen(details), QMP_MAX_LINE_BYTES, NULL);
    if (event)
        deliver(user, event, data);
}

/* A reference to the domain, which keeps its connection; NULL with *error* where it has ended. */
static virDomainPtr find_domain(Link *link, virConnectPtr connection, int *ret_id, GError **error)
{
    virDomainPtr domain = link->libvirt->virDomainLookupByUUIDString(connection, link->uuid);
    unsigned int id;

    if (!domain) {
        libvirt_error_set(error, "find the domain");
        return NULL;
    }
    id = link->libvirt->virDomainGetID(domain);
    if (id != (unsigned int)-1) {
        *ret_id = (int)id;
        return domain;
    }
    error_set(error, VMFERRY_ERROR_NOT_FOUND, "libvirt's domain %s does not run",
              link->libvirt->virDomainGetName(domain));
    link->libvirt->virDomainFree(domain);
    return NULL;
}

/* Puts the new connection in place of the old one. */
static void use_connection(Link *link, virConnectPtr connection, virDomainPtr domain, int callback)
{
    virConnectPtr old_connection;
    virDomainPtr old_domain;

    g_mutex_lock(&link->lock);
    old_connection = link->connection;
    old_domain = link->domain;
    link->connection = connection;
    link->domain = domain;
    link->callback = callback;
    g_mutex_unlock(&link->lock);
    if (old_domain)
        link->libvirt->virDomainFree(old_domain);
    if (old_connection)
        link->libvirt->virConnectClose(old_connection);
}

/* *first*: which run of the domain it is is not known yet. */
static gboolean open_connection(Link *link, gboolean first, GError **error)
{
    virConnectPtr connection = libvirt_connect_within(link->uri, CONNECT_MS, error);
    virDomainPtr domain;
    int id = -1, callback;

    if (!connection)
        return FALSE;
    domain = find_domain(link, connection, &id, error);
    if (domain && !first && id != link->id) {
        error_set(error, VMFERRY_ERROR_NOT_FOUND,
                  "libvirt has started the domain anew: this is another machine");
        link->libvirt->virDomainFree(domain);
        domain = NULL;
    }
    if (!domain) {
        link->libvirt->virConnectClose(connection);
        return FALSE;
    }
    g_atomic_ref_count_inc(&link->references);
    callback = link->libvirt->virConnectDomainQemuMonitorEventRegister(
        connection, domain, NULL, on_event, link, link_unref_by_libvirt, 0);
    if (callback < 0) {
        libvirt_error_set(error, "listen to QEMU's events");
        link_unref(link);
        link->libvirt->virDomainFree(domain);
        link->libvirt->virConnectClose(connection);
        return FALSE;
    }
    link->id = id;
    use_connection(link, connection, domain, callback);
    return TRUE;
}

static gboolean is_alive(Link *link)
{
    gboolean alive;

    g_mutex_lock(&link->lock);
    alive = link->connection && link->libvirt->virConnectIsAlive(link->connection) == 1;
    g_mutex_unlock(&link->lock);
    return alive;
}

static void set_ended(Link *link)
{
    g_mutex_lock(&link->lock);
    link->ended = TRUE;
    g_mutex_unlock(&link->lock);
}

static gboolean has_ended(Link *link)
{
    gboolean ended;

    g_mutex_lock(&link->lock);
    ended = link->ended;
    g_mutex_unlock(&link->lock);
    return ended;
}

/* Before a command is given, never behind one: that may have been executed. */
static gboolean ensure_connection(Link *link, GError **error)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&link->reopen_lock);
    g_autoptr(GError) failure = NULL;

    if (is_alive(link))
        return TRUE;
    if (link->closing || !open_connection(link, FALSE, &failure)) {
        if (!failure)
            error_set(&failure, VMFERRY_ERROR_FAILED, "the connection to libvirt was closed by us");
        if (error_is(failure, VMFERRY_ERROR_NOT_FOUND))
            set_ended(link);
        g_propagate_error(error, g_steal_pointer(&failure));
        return FALSE;
    }
    log_info("the connection to libvirt at %s is open again", link->uri);
    deliver(link, QMP_EVENTS_LOST, NULL);
    return TRUE;
}

/* ---- calls ---- */

static void call_unref(Call *call)
{
    if (!g_atomic_ref_count_dec(&call->references))
        return;
    link_unref(call->link);
    g_free(call->command);
    g_free(call->text);
    fd_close(&call->fd);
    g_mutex_clear(&call->lock);
    g_cond_clear(&call->done);
    free(call->reply);
    g_clear_error(&call->error);
    g_free(call);
}

/* The domain to be called, by this thread alone: a connection may be replaced meanwhile. */
static virDomainPtr borrow_domain(Link *link, GError **error)
{
    virDomainPtr domain = NULL;

    g_mutex_lock(&link->lock);
    if (link->domain && link->libvirt->virDomainRef(link->domain) == 0)
        domain = link->domain;
    g_mutex_unlock(&link->lock);
    if (!domain)
        error_set(error, VMFERRY_ERROR_DISCONNECTED, "no connection to libvirt is open");
    return domain;
}

/* One that runs is left as it is, as by QEMU. */
static int resume(const LibvirtLibrary *libvirt, virDomainPtr domain)
{
    int state = -1;

    if (libvirt->virDomainGetState(domain, &state, NULL, 0) == 0 && state == VIR_DOMAIN_RUNNING)
        return 0;
    return libvirt->virDomainResume(domain);
}

/* What libvirt does by itself; TRUE where that is such a command. */
static gboolean call_libvirt(Call *call, virDomainPtr domain, int *ret)
{
    const LibvirtLibrary *libvirt = call->link->libvirt;

    if (strcmp(call->command, "cont") == 0)
        *ret = resume(libvirt, domain);
    else if (strcmp(call->command, "quit") == 0)
        *ret = libvirt->virDomainDestroy(domain);
    else
        return FALSE;
    if (*ret == 0)
        call->reply = strdup("{\"return\":{}}");
    return TRUE;
}

/* For check_not_resumed(). */
static void note_pause(Link *link, virDomainPtr domain)
{
    int state = -1, reason = -1;

    (void)link->libvirt->virDomainGetState(domain, &state, &reason, 0);
    g_mutex_lock(&link->lock);
    link->paused_reason = state == VIR_DOMAIN_PAUSED ? reason : -1;
    g_mutex_unlock(&link->lock);
}

static int call_qemu(Call *call, virDomainPtr domain)
{
    const LibvirtLibrary *libvirt = call->link->libvirt;

    if (call->fd < 0)
        return libvirt->virDomainQemuMonitorCommand(domain, call->text, &call->reply, 0);
    return libvirt->virDomainQemuMonitorCommandWithFiles(domain, call->text, 1, &call->fd, NULL,
                                                         NULL, &call->reply, 0);
}

/* A domain that has ended is found out by the process, too; here commands are to say so soon. */
static void note_end(Link *link, virDomainPtr domain)
{
    if (link->libvirt->virDomainIsActive(domain) == 0)
        set_ended(link);
}

/* DISCONNECTED says that QEMU has ended (qmp.h); a daemon that is away may come back. */
static void settle_error(Call *call)
{
    if (!call->error)
        return;
    if (has_ended(call->link))
        call->error->code = VMFERRY_ERROR_DISCONNECTED;
    else if (error_is(call->error, VMFERRY_ERROR_DISCONNECTED))
        call->error->code = VMFERRY_ERROR_BUSY;
}

static void perform(Call *call)
{
    virDomainPtr domain;
    int result;

    if (!ensure_connection(call->link, &call->error))
        return;
    domain = borrow_domain(call->link, &call->error);
    if (!domain)
        return;
    if (!call_libvirt(call, domain, &result))
        result = call_qemu(call, domain);
    if (result < 0) {
        libvirt_error_set(&call->error, "through libvirt");
        note_end(call->link, domain);
    } else if (strcmp(call->command, "stop") == 0) {
        note_pause(call->link, domain);
    }
    call->link->libvirt->virDomainFree(domain);
}

static void call_in_pool(gpointer data, gpointer user)
{
    Call *call = data;

    perform(call);
    settle_error(call);
    g_mutex_lock(&call->lock);
    call->ended = TRUE;
    g_cond_signal(&call->done);
    g_mutex_unlock(&call->lock);
    call_unref(call);
}

static char *command_text(const char *verb, const char *command, json_t *arguments)
{
    g_autoptr(json_t) message = json_pack("{s:s}", verb, command);
    char *dump, *text;

    if (arguments)
        json_object_set(message, "arguments", arguments);
    dump = json_dumps(message, JSON_COMPACT);
    text = g_strdup(dump);
    free(dump);
    return text;
}

static Call *call_new(Monitor *monitor, const char *verb, const char *command, json_t *arguments,
                      int fd, GError **error)
{
    g_autofree char *text = command_text(verb, command, arguments);
    int own = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1;
    Call *call;

    if (!text || (fd >= 0 && own < 0)) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  text ? "the descriptor cannot be passed on" : "arguments are not valid UTF-8");
        fd_close(&own);
        return NULL;
    }
    call = g_new0(Call, 1);
    g_atomic_ref_count_init(&call->references);
    g_mutex_init(&call->lock);
    g_cond_init(&call->done);
    call->command = g_strdup(command);
    call->text = g_steal_pointer(&text);
    call->fd = own;
    call->link = monitor->link;
    g_atomic_ref_count_inc(&call->link->references);
    return call;
}

static json_t *take_reply(Call *call, GError **error)
{
    if (call->reply)
        return json_parse_object(call->reply, strlen(call->reply), QMP_MAX_LINE_BYTES, error);
    g_propagate_error(error, g_steal_pointer(&call->error));
    return NULL;
}

static json_t *await_call(Call *call, int timeout_ms, GError **error)
{
    gint64 end = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    json_t *reply = NULL;

    g_mutex_lock(&call->lock);
    while (!call->ended && g_cond_wait_until(&call->done, &call->lock, end))
        ;
    if (call->ended)
        reply = take_reply(call, error);
    else
        error_set(
            error, VMFERRY_ERROR_TIMEOUT,
            "libvirt gave no answer within %d ms; something else may be under way with the domain "
            "(`virsh domjobinfo`)",
            timeout_ms);
    g_mutex_unlock(&call->lock);
    return reply;
}

static json_t *exchange(Qmp *base, const char *verb, const char *command, json_t *arguments, int fd,
                        int timeout_ms, GError **error)
{
    Monitor *monitor = (Monitor *)base;
    json_t *reply;
    Call *call;

    if (fd >= 0 && !monitor->link->libvirt->virDomainQemuMonitorCommandWithFiles) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "this host's libvirt passes no descriptors on");
        return NULL;
    }
    call = call_new(monitor, verb, command, arguments, fd, error);
    if (!call)
        return NULL;
    g_atomic_ref_count_inc(&call->references);
    if (!g_thread_pool_push(monitor->pool, call, NULL))
        log_debug("a call to libvirt waits for a thread");
    reply = await_call(call, timeout_ms, error);
    call_unref(call);
    return reply;
}

/* ---- the table ---- */

static gboolean is_connected(Qmp *base)
{
    return !has_ended(((Monitor *)base)->link);
}

static gboolean check_not_resumed(Qmp *base, GError **error)
{
    Link *link = ((Monitor *)base)->link;
    virDomainPtr domain = borrow_domain(link, error);
    int state = -1, reason = -1;
    gboolean same = FALSE;

    if (!domain)
        return FALSE;
    if (link->libvirt->virDomainGetState(domain, &state, &reason, 0) < 0) {
        libvirt_error_set(error, "ask for the domain's state");
        link->libvirt->virDomainFree(domain);
        return FALSE;
    }
    link->libvirt->virDomainFree(domain);
    g_mutex_lock(&link->lock);
    same = state == VIR_DOMAIN_PAUSED && reason == link->paused_reason;
    g_mutex_unlock(&link->lock);
    if (!same)
        error_set(
            error, VMFERRY_ERROR_REFUSED,
            "another program resumed the guest through libvirt while it was paused for its move");
    return same;
}

/* libvirt's callback has a reference to the link, and lives as long as its connection: that goes now. */
static void close_link(Link *link)
{
    g_mutex_lock(&link->reopen_lock);
    link->closing = TRUE;
    if (link->callback >= 0)
        (void)link->libvirt->virConnectDomainQemuMonitorEventDeregister(link->connection,
                                                                        link->callback);
    use_connection(link, NULL, NULL, -1);
    g_mutex_unlock(&link->reopen_lock);
}

static void monitor_free(Qmp *base)
{
    Monitor *monitor = (Monitor *)base;
    Link *link = monitor->link;

    g_mutex_lock(&link->event_lock);
    link->qmp = NULL;
    g_mutex_unlock(&link->event_lock);
    /* What still waits in there is not waited for. */
    g_thread_pool_free(monitor->pool, FALSE, FALSE);
    close_link(link);
    link_unref(link);
    qmp_clear(base);
    g_free(monitor);
}

static const QmpOps ops = {
    .free = monitor_free,
    .exchange = exchange,
    .is_connected = is_connected,
    .check_not_resumed = check_not_resumed,
};

static Link *link_new(const char *address, GError **error)
{
    const LibvirtLibrary *libvirt = libvirt_library_get(error);
    g_autofree char *uuid = NULL, *uri = NULL;
    Link *link;

    if (!libvirt || !libvirt_address_parse(address, &uuid, &uri, error))
        return NULL;
    link = g_new0(Link, 1);
    g_atomic_ref_count_init(&link->references);
    g_mutex_init(&link->lock);
    g_mutex_init(&link->reopen_lock);
    g_mutex_init(&link->event_lock);
    link->libvirt = libvirt;
    link->callback = -1;
    link->uuid = g_steal_pointer(&uuid);
    link->uri = g_steal_pointer(&uri);
    return link;
}

Qmp *qmp_open_libvirt(const char *address, GError **error)
{
    g_autoptr(Link) link = link_new(address, error);
    Monitor *monitor;

    if (!link || !open_connection(link, TRUE, error))
        return NULL;
    monitor = g_new0(Monitor, 1);
    qmp_init(&monitor->base, &ops, address);
    monitor->base.late_events = TRUE;
    monitor->pool = g_thread_pool_new(call_in_pool, NULL, MAX_CALLS, FALSE, NULL);
    monitor->link = g_steal_pointer(&link);
    monitor->link->qmp = &monitor->base;
    return &monitor->base;
}
