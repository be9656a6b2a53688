#include "vmm/libvirt/library.h"

#include <dlfcn.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include "vmm/libvirt/address.h"

#define LIBRARY "libvirt.so.0"
#define QEMU_LIBRARY "libvirt-qemu.so.0"
/* Of a daemon that says nothing: seconds between questions, and how many stay open. */
#define KEEPALIVE_S 5
#define KEEPALIVE_COUNT 3

typedef struct {
    LibvirtLibrary table;
    GError *problem; /* why it cannot be used; NULL: it can */
} Loaded;

/* ---- loading ---- */

static void *open_library(const char *name, GError **error)
{
    void *handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);

    if (!handle)
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "libvirt's client library is not here: %s",
                  dlerror());
    return handle;
}

static gboolean load(LibvirtLibrary *table, GError **error)
{
    void *handle = open_library(LIBRARY, error);
    void *qemu = handle ? open_library(QEMU_LIBRARY, error) : NULL;

    if (!qemu)
        return FALSE;
#define FIND(name)                                                                                 \
    table->name = (__typeof__(table->name))dlsym(from, #name);                                     \
    if (!table->name)                                                                              \
        missing = #name;
    const char *missing = NULL;
    void *from = handle;
    LIBVIRT_FUNCTIONS(FIND)
    from = qemu;
    LIBVIRT_QEMU_FUNCTIONS(FIND)
    if (missing) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED,
                  "this host's libvirt is too old: it has no %s()", missing);
        return FALSE;
    }
    LIBVIRT_OPTIONAL_FUNCTIONS(FIND)
#undef FIND
    return TRUE;
}

/* ---- its event loop ---- */

static gpointer run_events(gpointer data)
{
    const LibvirtLibrary *table = data;

    for (;;)
        if (table->virEventRunDefaultImpl() < 0)
            g_usleep(100000); /* a poll that fails must not take a processor */
    return NULL;
}

/* It prints on standard error otherwise. */
static void be_silent(void *user, virErrorPtr problem)
{
}

static gboolean start(const LibvirtLibrary *table, GError **error)
{
    GThread *loop;

    table->virSetErrorFunc(NULL, be_silent);
    /* The loop has to be there before the first connection. */
    if (table->virInitialize() < 0 || table->virEventRegisterDefaultImpl() < 0) {
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "libvirt's client library does not start");
        return FALSE;
    }
    loop = thread_start("libvirt", run_events, (gpointer)table, error);
    if (!loop)
        return FALSE;
    g_thread_unref(loop);
    return TRUE;
}

const LibvirtLibrary *libvirt_library_get(GError **error)
{
    static Loaded loaded;
    static gsize once;

    if (g_once_init_enter(&once)) {
        if (load(&loaded.table, &loaded.problem))
            (void)start(&loaded.table, &loaded.problem);
        g_once_init_leave(&once, 1);
    }
    if (!loaded.problem)
        return &loaded.table;
    if (error)
        *error = g_error_copy(loaded.problem);
    return NULL;
}

/* ---- what it says ---- */

char *libvirt_version_text(unsigned long version)
{
    return g_strdup_printf("%lu.%lu.%lu", version / 1000000, version / 1000 % 1000, version % 1000);
}

static VmferryErrorCode code_of(int code)
{
    switch (code) {
    case VIR_ERR_NO_DOMAIN:
        return VMFERRY_ERROR_NOT_FOUND;
    case VIR_ERR_OPERATION_TIMEOUT:
    case VIR_ERR_RESOURCE_BUSY:
        return VMFERRY_ERROR_BUSY;
    case VIR_ERR_NO_CONNECT:
    case VIR_ERR_INVALID_CONN:
    case VIR_ERR_RPC:
    case VIR_ERR_SYSTEM_ERROR:
    case VIR_ERR_OPERATION_INVALID: /* "domain is not running" */
        return VMFERRY_ERROR_DISCONNECTED;
    case VIR_ERR_AUTH_FAILED:
    case VIR_ERR_AUTH_CANCELLED:
    case VIR_ERR_AUTH_UNAVAILABLE:
    case VIR_ERR_OPERATION_DENIED:
    case VIR_ERR_ACCESS_DENIED:
        return VMFERRY_ERROR_PERMISSION;
    case VIR_ERR_NO_SUPPORT:
    case VIR_ERR_CONFIG_UNSUPPORTED:
    case VIR_ERR_OPERATION_UNSUPPORTED:
    case VIR_ERR_ARGUMENT_UNSUPPORTED:
        return VMFERRY_ERROR_UNSUPPORTED;
    default:
        return VMFERRY_ERROR_FAILED;
    }
}

void libvirt_error_set(GError **error, const char *what)
{
    const LibvirtLibrary *libvirt = libvirt_library_get(NULL);
    virErrorPtr last = libvirt ? libvirt->virGetLastError() : NULL;
    g_autofree char *text = NULL;

    text = g_utf8_make_valid(last && last->message ? last->message : "no reason was given", -1);
    error_set(error, last ? code_of(last->code) : VMFERRY_ERROR_FAILED, "%s: libvirt: %s", what,
              g_strchomp(text));
}

/* ---- connecting ---- */

virConnectPtr libvirt_connect(const char *uri, GError **error)
{
    const LibvirtLibrary *libvirt = libvirt_library_get(error);
    const char *wanted = uri ? uri : g_getenv("LIBVIRT_DEFAULT_URI");
    virConnectPtr connection;

    if (!libvirt)
        return NULL;
    if (!wanted || !*wanted)
        wanted = LIBVIRT_DEFAULT_URI;
    if (!libvirt_uri_check(wanted, error))
        return NULL;
    connection = libvirt->virConnectOpen(wanted);
    if (!connection) {
        g_autofree char *what = g_strdup_printf("connect to libvirt at %s", wanted);

        libvirt_error_set(error, what);
        return NULL;
    }
    /* A driver without a daemon (test:///) has no connection that could break. */
    (void)libvirt->virConnectSetKeepAlive(connection, KEEPALIVE_S, KEEPALIVE_COUNT);
    return connection;
}

/* A daemon that hangs may never answer: whoever waits goes away, and the thread closes what it gets then. */
typedef struct {
    gatomicrefcount references;
    GMutex lock;
    GCond done;
    gboolean ended, abandoned;
    char *uri;
    virConnectPtr connection;
    GError *error;
} Attempt;

static void attempt_unref(Attempt *attempt)
{
    if (!g_atomic_ref_count_dec(&attempt->references))
        return;
    g_clear_error(&attempt->error);
    g_mutex_clear(&attempt->lock);
    g_cond_clear(&attempt->done);
    g_free(attempt->uri);
    g_free(attempt);
}

static gpointer connect_thread(gpointer data)
{
    Attempt *attempt = data;
    GError *error = NULL;
    virConnectPtr connection = libvirt_connect(attempt->uri, &error);
    gboolean abandoned;

    g_mutex_lock(&attempt->lock);
    attempt->connection = connection;
    attempt->error = error;
    attempt->ended = TRUE;
    abandoned = attempt->abandoned;
    g_cond_signal(&attempt->done);
    g_mutex_unlock(&attempt->lock);
    if (abandoned && connection)
        libvirt_library_get(NULL)->virConnectClose(connection);
    attempt_unref(attempt);
    return NULL;
}

static virConnectPtr await_attempt(Attempt *attempt, int timeout_ms, GError **error)
{
    gint64 end = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    virConnectPtr connection;

    g_mutex_lock(&attempt->lock);
    while (!attempt->ended && g_cond_wait_until(&attempt->done, &attempt->lock, end))
        ;
    attempt->abandoned = !attempt->ended;
    connection = attempt->connection;
    if (attempt->abandoned)
        error_set(error, VMFERRY_ERROR_TIMEOUT, "libvirt's daemon gives no answer within %d ms",
                  timeout_ms);
    else if (!connection)
        g_propagate_error(error, g_steal_pointer(&attempt->error));
    g_mutex_unlock(&attempt->lock);
    return connection;
}

virConnectPtr libvirt_connect_within(const char *uri, int timeout_ms, GError **error)
{
    Attempt *attempt;
    GThread *thread;
    virConnectPtr connection;

    if (!libvirt_library_get(error))
        return NULL;
    attempt = g_new0(Attempt, 1);
    g_atomic_ref_count_init(&attempt->references);
    g_mutex_init(&attempt->lock);
    g_cond_init(&attempt->done);
    attempt->uri = g_strdup(uri);
    g_atomic_ref_count_inc(&attempt->references);
    thread = thread_start("libvirt-open", connect_thread, attempt, error);
    if (thread) {
        g_thread_unref(thread);
        connection = await_attempt(attempt, timeout_ms, error);
    } else {
        attempt_unref(attempt);
        connection = NULL;
    }
    attempt_unref(attempt);
    return connection;
}
