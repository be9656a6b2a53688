#include "migrate/standby_disks.h"

#include "base/lock_guard.h"
#include "base/log.h"
#include "base/thread.h"

#define PAUSE_US (2 * G_TIME_SPAN_SECOND)

typedef enum {
    IDLE,    /* there is no full generation */
    FULL,    /* there is one, and it is the thread's */
    DRAINED, /* there is one, which is to be dropped */
} State;

struct StandbyDisks {
    StandbyDisksOptions options;
    CheckpointPart kept;
    WriteJournal *journal; /* NULL: there are no disks */
    GThread *thread;
    VmmStorage *storage; /* the thread's; NULL: not opened yet */
    gboolean told;       /* that it does not work; the thread's */

    GMutex lock; /* protects all below */
    GCond changed;
    State state;
    gboolean ending;
    uint64_t bytes; /* of the full generation */
    uint64_t drained;
};

/* ---- the thread ---- */

static gboolean open_storage(StandbyDisks *disks, GError **error)
{
    if (!disks->storage)
        disks->storage = disks->options.open_storage(disks->options.user, error);
    return disks->storage != NULL;
}

static gboolean drain(StandbyDisks *disks, GError **error)
{
    const StandbyDisksOptions *options = &disks->options;

    return open_storage(disks, error) &&
           takeover_disks_apply_full(disks->journal, disks->storage, options->images,
                                     options->count, error);
}

/* One that has failed may have ended. */
static void note_failure(StandbyDisks *disks, const GError *problem)
{
    log_line(disks->told ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARNING,
             "a standby's disks are not written: %s; that is tried again", problem->message);
    if (!disks->told)
        disks->options.note(problem, disks->options.user);
    disks->told = TRUE;
    if (disks->storage)
        disks->options.close_storage(g_steal_pointer(&disks->storage), FALSE, disks->options.user);
}

static void note_success(StandbyDisks *disks)
{
    if (disks->told)
        disks->options.note(NULL, disks->options.user);
    disks->told = FALSE;
}

/* With the lock held. */
static void pause_after_failure(StandbyDisks *disks)
{
    gint64 until = g_get_monotonic_time() + PAUSE_US;

    while (!disks->ending && g_cond_wait_until(&disks->changed, &disks->lock, until))
        ;
}

static gboolean await_full(StandbyDisks *disks)
{
    lock_guard(&disks->lock);

    while (!disks->ending && disks->state != FULL)
        g_cond_wait(&disks->changed, &disks->lock);
    return !disks->ending;
}

static gpointer drain_main(gpointer data)
{
    StandbyDisks *disks = data;

    if (disks->options.opens_ahead)
        open_storage(disks, NULL);
    while (await_full(disks)) {
        g_autoptr(GError) problem = NULL;
        gboolean done = drain(disks, &problem);

        if (done)
            note_success(disks);
        else
            note_failure(disks, problem);
        g_mutex_lock(&disks->lock);
        if (done) {
            disks->state = DRAINED;
            disks->drained += disks->bytes;
        } else {
            pause_after_failure(disks);
        }
        g_mutex_unlock(&disks->lock);
    }
    if (disks->storage)
        disks->options.close_storage(g_steal_pointer(&disks->storage), TRUE, disks->options.user);
    return NULL;
}

/* ---- a part of epochs ---- */

static gboolean takes(FrameType type)
{
    return type == FRAME_EPOCH_WRITES || type == FRAME_EPOCH_EVENTS;
}

static gboolean take(const Frame *frame, uint64_t epoch, gpointer user, GError **error)
{
    const StandbyDisks *disks = user;

    return disks->kept.take(frame, epoch, disks->kept.user, error);
}

static gboolean seal(uint64_t epoch, gpointer user, GError **error)
{
    const StandbyDisks *disks = user;

    return disks->kept.seal(epoch, disks->kept.user, error);
}

static void forget(gpointer user)
{
    const StandbyDisks *disks = user;

    disks->kept.forget(disks->kept.user);
}

/* With the lock held, and the thread idle. */
static void go_on(StandbyDisks *disks, GError **error)
{
    uint64_t bytes;

    if (disks->state == DRAINED && write_journal_drop_full(disks->journal, error))
        disks->state = IDLE;
    bytes = write_journal_get_used(disks->journal);
    if (disks->state != IDLE || bytes < disks->options.full_bytes ||
        !write_journal_rotate(disks->journal, error))
        return;
    disks->bytes = bytes;
    disks->state = FULL;
    g_cond_broadcast(&disks->changed);
}

static void committed(uint64_t epoch, gpointer user)
{
    StandbyDisks *disks = user;
    g_autoptr(GError) problem = NULL;

    disks->kept.committed(epoch, disks->kept.user);
    if (!disks->journal)
        return;
    g_mutex_lock(&disks->lock);
    if (disks->state != FULL)
        go_on(disks, &problem);
    g_mutex_unlock(&disks->lock);
    if (problem)
        log_debug("%s", problem->message);
}

CheckpointPart standby_disks_get(StandbyDisks *disks)
{
    return (CheckpointPart){takes, take, seal, committed, forget, disks};
}

/* ---- begin and end ---- */

StandbyDisks *standby_disks_start(const StandbyDisksOptions *options, GError **error)
{
    StandbyDisks *disks = g_new0(StandbyDisks, 1);

    g_mutex_init(&disks->lock);
    g_cond_init(&disks->changed);
    disks->options = *options;
    disks->kept = kept_writes_get(options->kept);
    disks->journal = kept_writes_use_journal(options->kept);
    if (!disks->journal)
        return disks;
    /* Of one that died while it was written. */
    if (write_journal_has_full(disks->journal))
        disks->state = FULL;
    disks->thread = thread_start("disks", drain_main, disks, error);
    if (disks->thread)
        return disks;
    standby_disks_free(disks);
    return NULL;
}

void standby_disks_free(StandbyDisks *disks)
{
    if (!disks)
        return;
    g_mutex_lock(&disks->lock);
    disks->ending = TRUE;
    g_cond_broadcast(&disks->changed);
    g_mutex_unlock(&disks->lock);
    if (disks->thread)
        g_thread_join(disks->thread);
    g_mutex_clear(&disks->lock);
    g_cond_clear(&disks->changed);
    g_free(disks);
}

uint64_t standby_disks_get_drained(StandbyDisks *disks)
{
    lock_guard(&disks->lock);

    return disks->drained;
}
