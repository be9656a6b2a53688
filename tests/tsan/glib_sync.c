/*
 * GLib's locks and queues, as ThreadSanitizer has to know them
 *
 * GLib takes futexes by itself and is not instrumented, so that ThreadSanitizer
 * sees none of the order that its locks, queues, pools, reference counts and
 * main loops make, and would report each use of them as a race.  These
 * definitions come before those of the library in the programs that are linked
 * with them: each calls GLib's own and tells the sanitizer.  Threads are
 * pthreads, which it knows.
 */
#include <dlfcn.h>
#include <glib-unix.h>
#include <glib.h>
#include <sanitizer/tsan_interface.h>

/* The library's own function of that name. */
#define REAL(name)                                                                                 \
    ({                                                                                             \
        static gpointer known;                                                                     \
        (typeof(&name))find_real(#name, &known);                                                   \
    })

static gpointer find_real(const char *name, gpointer *known)
{
    gpointer function = __atomic_load_n(known, __ATOMIC_RELAXED);

    if (!function) {
        function = dlsym(RTLD_NEXT, name);
        if (!function)
            g_error("%s is not in GLib", name);
        __atomic_store_n(known, function, __ATOMIC_RELAXED);
    }
    return function;
}

static void before_unlock(GMutex *mutex)
{
    __tsan_mutex_pre_unlock(mutex, 0);
    __tsan_mutex_post_unlock(mutex, 0);
}

static void after_lock(GMutex *mutex)
{
    __tsan_mutex_pre_lock(mutex, 0);
    __tsan_mutex_post_lock(mutex, 0, 0);
}

void g_mutex_clear(GMutex *mutex)
{
    __tsan_mutex_destroy(mutex, 0);
    REAL(g_mutex_clear)(mutex);
}

void g_mutex_lock(GMutex *mutex)
{
    __tsan_mutex_pre_lock(mutex, 0);
    REAL(g_mutex_lock)(mutex);
    __tsan_mutex_post_lock(mutex, 0, 0);
}

gboolean g_mutex_trylock(GMutex *mutex)
{
    gboolean taken;

    __tsan_mutex_pre_lock(mutex, __tsan_mutex_try_lock);
    taken = REAL(g_mutex_trylock)(mutex);
    __tsan_mutex_post_lock(mutex,
                           __tsan_mutex_try_lock | (taken ? 0 : __tsan_mutex_try_lock_failed), 0);
    return taken;
}

void g_mutex_unlock(GMutex *mutex)
{
    __tsan_mutex_pre_unlock(mutex, 0);
    REAL(g_mutex_unlock)(mutex);
    __tsan_mutex_post_unlock(mutex, 0);
}

void g_cond_wait(GCond *cond, GMutex *mutex)
{
    before_unlock(mutex);
    REAL(g_cond_wait)(cond, mutex);
    after_lock(mutex);
}

gboolean g_cond_wait_until(GCond *cond, GMutex *mutex, gint64 end_time)
{
    gboolean signalled;

    before_unlock(mutex);
    signalled = REAL(g_cond_wait_until)(cond, mutex, end_time);
    after_lock(mutex);
    return signalled;
}

/* ---- reference counts: whoever drops one may be followed by who frees ---- */

gboolean(g_atomic_ref_count_dec)(gatomicrefcount *count)
{
    gboolean last;

    __tsan_release(count);
    last = REAL(g_atomic_ref_count_dec)(count);
    if (last)
        __tsan_acquire(count);
    return last;
}

static __thread GDestroyNotify clear_box;

static void acquire_and_clear(gpointer box)
{
    __tsan_acquire(box);
    clear_box(box);
}

void g_atomic_rc_box_release_full(gpointer box, GDestroyNotify clear)
{
    __tsan_release(box);
    clear_box = clear;
    REAL(g_atomic_rc_box_release_full)(box, acquire_and_clear);
}

/* ---- queues and pools: what is pushed is seen by who takes it ---- */

void g_async_queue_push(GAsyncQueue *queue, gpointer data)
{
    __tsan_release(queue);
    REAL(g_async_queue_push)(queue, data);
}

gpointer g_async_queue_pop(GAsyncQueue *queue)
{
    gpointer data = REAL(g_async_queue_pop)(queue);

    __tsan_acquire(queue);
    return data;
}

gpointer g_async_queue_try_pop(GAsyncQueue *queue)
{
    gpointer data = REAL(g_async_queue_try_pop)(queue);

    __tsan_acquire(queue);
    return data;
}

/* Of all pools: pushed, and done. */
static char pool_input, pool_output;

typedef struct {
    GFunc work;
    gpointer user;
} PoolWork;

static void work_in_pool(gpointer data, gpointer user)
{
    const PoolWork *own = user;

    __tsan_acquire(&pool_input);
    own->work(data, own->user);
    __tsan_release(&pool_output);
}

/* What is made here lives as long as the program. */
GThreadPool *g_thread_pool_new(GFunc work, gpointer user, gint threads, gboolean exclusive,
                               GError **error)
{
    PoolWork *own = g_new0(PoolWork, 1);

    *own = (PoolWork){work, user};
    __tsan_release(&pool_input);
    return REAL(g_thread_pool_new)(work_in_pool, own, threads, exclusive, error);
}

gboolean g_thread_pool_push(GThreadPool *pool, gpointer data, GError **error)
{
    __tsan_release(&pool_input);
    return REAL(g_thread_pool_push)(pool, data, error);
}

void g_thread_pool_free(GThreadPool *pool, gboolean immediate, gboolean wait)
{
    REAL(g_thread_pool_free)(pool, immediate, wait);
    if (wait)
        __tsan_acquire(&pool_output);
}

/* ---- main loops: a source is called after it was attached ---- */

static char attached;

typedef gboolean (*FdFunc)(gint fd, GIOCondition condition, gpointer user);

typedef struct {
    GSourceFunc call;
    gpointer user;
    GDestroyNotify notify;
} SourceCall;

static gboolean call_source(gpointer user)
{
    SourceCall *own = user;

    __tsan_acquire(&attached);
    return own->call(own->user);
}

static gboolean call_fd_source(gint fd, GIOCondition condition, gpointer user)
{
    SourceCall *own = user;

    __tsan_acquire(&attached);
    return ((FdFunc)(void (*)(void))own->call)(fd, condition, own->user);
}

static void notify_source(gpointer user)
{
    SourceCall *own = user;

    __tsan_acquire(&attached);
    if (own->notify)
        own->notify(own->user);
}

/* Sources of other kinds, GIO's own, have callbacks of other forms. */
void g_source_set_callback(GSource *source, GSourceFunc call, gpointer user, GDestroyNotify notify)
{
    gboolean is_fd = source->source_funcs == &g_unix_fd_source_funcs;
    SourceCall *own;

    if (!is_fd && source->source_funcs != &g_idle_funcs &&
        source->source_funcs != &g_timeout_funcs) {
        REAL(g_source_set_callback)(source, call, user, notify);
        return;
    }
    own = g_new0(SourceCall, 1);
    *own = (SourceCall){call, user, notify};
    REAL(g_source_set_callback)
    (source, is_fd ? G_SOURCE_FUNC(call_fd_source) : call_source, own, notify_source);
}

guint g_source_attach(GSource *source, GMainContext *context)
{
    __tsan_release(&attached);
    return REAL(g_source_attach)(source, context);
}
