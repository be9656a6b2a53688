#include "guard/deadline.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"

#define LOOK_NS 200000
#define WATCHED_NS 2000000000 /* a guard that has just been started, on a busy host */

struct GuardDeadline {
    char *path;
    GuardDeadlineFile *file;
};

static const char *const state_names[] = {
    [GUARD_DEADLINE_NONE] = "none",       [GUARD_DEADLINE_ACTING] = "acting",
    [GUARD_DEADLINE_PAUSED] = "paused",   [GUARD_DEADLINE_WAS_PAUSED] = "was-paused",
    [GUARD_DEADLINE_STOPPED] = "stopped", [GUARD_DEADLINE_GONE] = "gone",
    [GUARD_DEADLINE_SET] = "set",
};

const char *guard_deadline_state_name(GuardDeadlineState state)
{
    return state_names[state];
}

static GuardDeadlineFile *map_file(int fd, GError **error)
{
    void *at;

    if (ftruncate(fd, sizeof(GuardDeadlineFile)) < 0) {
        error_set_errno(error, errno, "ftruncate");
        return NULL;
    }
    at = mmap(NULL, sizeof(GuardDeadlineFile), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        error_set_errno(error, errno, "mmap");
        return NULL;
    }
    return at;
}

static gboolean check_file(GuardDeadlineFile *file, GError **error)
{
    if (file->magic == 0 && atomic_load(&file->word) == 0)
        file->magic = GUARD_DEADLINE_MAGIC;
    if (file->magic == GUARD_DEADLINE_MAGIC)
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "it is not a guard's deadline");
    return FALSE;
}

GuardDeadline *guard_deadline_open(const char *path, GError **error)
{
    autofd int fd = -1;
    g_autoptr(GuardDeadline) deadline = g_new0(GuardDeadline, 1);

    deadline->path = g_strdup(path);
    if (strlen(path) >= GUARD_DEADLINE_PATH_BYTES || !g_path_is_absolute(path)) {
        error_set(error, VMFERRY_ERROR_INVALID,
                  "the path of a deadline is relative or too long: %s", path);
        return NULL;
    }
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        error_set_errno(error, errno, "open %s", path);
        return NULL;
    }
    deadline->file = map_file(fd, error);
    if (deadline->file && check_file(deadline->file, error))
        return g_steal_pointer(&deadline);
    g_prefix_error(error, "%s: ", path);
    return NULL;
}

void guard_deadline_close(GuardDeadline *deadline)
{
    if (!deadline)
        return;
    if (deadline->file)
        munmap(deadline->file, sizeof *deadline->file);
    g_free(deadline->path);
    g_free(deadline);
}

const char *guard_deadline_get_path(const GuardDeadline *deadline)
{
    return deadline->path;
}

GuardDeadlineState guard_deadline_get(const GuardDeadline *deadline, uint64_t *ret_ns)
{
    uint64_t word = atomic_load(&deadline->file->word);

    if (word < GUARD_DEADLINE_SET)
        return (GuardDeadlineState)word;
    if (ret_ns)
        *ret_ns = word;
    return GUARD_DEADLINE_SET;
}

void guard_deadline_set_lead(GuardDeadline *deadline, guint lead_ms)
{
    atomic_store(&deadline->file->lead_ms, lead_ms);
}

gboolean guard_deadline_renew(GuardDeadline *deadline, uint64_t time_ns)
{
    uint64_t word = atomic_load(&deadline->file->word);

    do {
        if (word < GUARD_DEADLINE_SET)
            return FALSE;
        if (word >= time_ns)
            return TRUE;
    } while (!atomic_compare_exchange_weak(&deadline->file->word, &word, time_ns));
    return TRUE;
}

static gboolean replace(GuardDeadline *deadline, uint64_t next)
{
    uint64_t word = atomic_load(&deadline->file->word);

    do {
        if (word == GUARD_DEADLINE_ACTING)
            return FALSE;
    } while (!atomic_compare_exchange_weak(&deadline->file->word, &word, next));
    return TRUE;
}

gboolean guard_deadline_clear(GuardDeadline *deadline)
{
    return replace(deadline, GUARD_DEADLINE_NONE);
}

guint guard_deadline_get_undo(const GuardDeadline *deadline)
{
    return atomic_load(&deadline->file->undo);
}

void guard_deadline_undone(GuardDeadline *deadline, GuardDeadlineUndo undone)
{
    atomic_fetch_and(&deadline->file->undo, ~(uint32_t)undone);
}

void guard_deadline_begin_pause(GuardDeadline *deadline)
{
    atomic_fetch_or(&deadline->file->undo, GUARD_DEADLINE_UNDO_PAUSE);
}

void guard_deadline_end_pause(GuardDeadline *deadline, gboolean was_running)
{
    uint64_t word = atomic_load(&deadline->file->word);

    if (!was_running)
        guard_deadline_undone(deadline, GUARD_DEADLINE_UNDO_PAUSE);
    while (word >= GUARD_DEADLINE_SET &&
           !atomic_compare_exchange_weak(&deadline->file->word, &word,
                                         was_running ? GUARD_DEADLINE_PAUSED
                                                     : GUARD_DEADLINE_WAS_PAUSED))
        ;
}

/* The guard looks in the other order: at this flag when it has set ACTING. */
gboolean guard_deadline_begin_resume(GuardDeadline *deadline)
{
    atomic_store(&deadline->file->resuming, 1);
    return guard_deadline_get(deadline, NULL) == GUARD_DEADLINE_SET;
}

void guard_deadline_end_resume(GuardDeadline *deadline)
{
    atomic_store(&deadline->file->resuming, 0);
}

void guard_deadline_give_up_guard(GuardDeadline *deadline)
{
    uint64_t word = GUARD_DEADLINE_ACTING;

    atomic_fetch_or(&deadline->file->undo, GUARD_DEADLINE_UNDO_PAUSE | GUARD_DEADLINE_UNDO_STOP);
    (void)atomic_compare_exchange_strong(&deadline->file->word, &word, GUARD_DEADLINE_NONE);
}

gboolean guard_deadline_set(GuardDeadline *deadline, uint64_t time_ns)
{
    atomic_store(&deadline->file->watched, 0);
    return replace(deadline, MAX(time_ns, (uint64_t)GUARD_DEADLINE_SET));
}

gboolean guard_deadline_await_watched(GuardDeadline *deadline, GError **error)
{
    uint64_t end = clock_boot_ns() + WATCHED_NS;

    while (atomic_load(&deadline->file->watched) == 0) {
        if (clock_boot_ns() >= end) {
            error_set(error, VMFERRY_ERROR_TIMEOUT, "the guard does not watch its deadline %s",
                      deadline->path);
            return FALSE;
        }
        clock_sleep_ns(LOOK_NS);
    }
    return TRUE;
}
