#include "migrate/postcopy_protection.h"

#include <errno.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/lock_guard.h"
#include "migrate/held_writes.h"
#include "protect/held_output.h"

struct PostcopyProtection {
    EpochPageFiles files;
    char *lacking_path, *discarded_path, *under_way_path, *passed_path, *paused_path, *free_path;
    char *transaction, *directory; /* of overlays */
    FaultService *service;
    SplitLeases *leases; /* NULL: it needs none */
    guint interval_ms;
    Vmm *sent_by; /* borrowed, for the sender */
    gboolean reopened;
    gboolean copies_writes;
    CheckpointPaceLimits limits;
    gboolean free; /* its output passes, up to the first cut; the sender's, once that has begun */
    gint passed;   /* atomic */
    GMutex lock;   /* protects all below; held in calls of the sender */
    Vmm *vmm;      /* borrowed; NULL before it is held, and once it is not used any more */
    gboolean held;
    HeldOutput *output;       /* NULL: nothing is held */
    HeldWrites *writes;       /* NULL: no disk writes are */
    CheckpointSender *sender; /* NULL once it is finished, or detached */
    CheckpointCounts counts;  /* of one that is no more */
};

gboolean postcopy_protection_check(Vmm *vmm, GError **error)
{
    return vmm_check_turns(vmm, error) && held_output_check(vmm, error);
}

/* ---- the files ---- */

static char *name_file(const char *path, const char *what)
{
    return g_strconcat(path, ".", what, NULL);
}

static PostcopyProtection *protection_new(const char *path, const char *transaction,
                                          FaultService *service,
                                          const PostcopyProtectionOptions *options)
{
    PostcopyProtection *protection = g_new0(PostcopyProtection, 1);

    g_mutex_init(&protection->lock);
    protection->lacking_path = name_file(path, "lacking");
    protection->discarded_path = name_file(path, "discarded");
    protection->under_way_path = name_file(path, "under-way");
    protection->service = service;
    protection->passed_path = name_file(path, "passed");
    protection->paused_path = name_file(path, "paused");
    protection->free_path = name_file(path, "free");
    protection->transaction = g_strdup(transaction);
    protection->directory = g_strdup(options->directory);
    protection->interval_ms = options->interval_ms;
    protection->copies_writes = options->copies_writes;
    protection->limits = options->limits;
    return protection;
}

gboolean postcopy_protection_exists(const char *path)
{
    g_autofree char *lacking = name_file(path, "lacking");

    return access(lacking, F_OK) == 0;
}

gboolean postcopy_protection_had_passed(const char *path)
{
    g_autofree char *passed = name_file(path, "passed");

    return access(passed, F_OK) == 0;
}

static EpochWritesPlace get_place(const PostcopyProtection *protection)
{
    return (EpochWritesPlace){.transaction = protection->transaction,
                              .directory = protection->directory,
                              .limit_bytes = EPOCH_TAP_LIMIT_BYTES};
}

/* That of what is lacking last: it says that there is one. */
void postcopy_protection_discard(PostcopyProtection *protection)
{
    EpochWritesPlace place = get_place(protection);

    epoch_writes_remove(&place);
    unlink(protection->under_way_path);
    unlink(protection->discarded_path);
    unlink(protection->passed_path);
    unlink(protection->paused_path);
    unlink(protection->free_path);
    unlink(protection->lacking_path);
}

/* ---- making one ---- */

/* That of what is lacking last. */
static gboolean create_files(PostcopyProtection *protection, const char *transaction,
                             GuestMemory *memory, GError **error)
{
    EpochPageFiles *files = &protection->files;

    if (protection->free && !file_replace(protection->free_path, "", 0, FALSE, error))
        return FALSE;
    files->under_way = outstanding_create(protection->under_way_path, transaction, memory, error);
    if (files->under_way)
        files->discarded =
            outstanding_create(protection->discarded_path, transaction, memory, error);
    if (files->discarded)
        files->lacking = outstanding_create(protection->lacking_path, transaction, memory, error);
    return files->lacking != NULL;
}

static gboolean open_files(PostcopyProtection *protection, GError **error)
{
    EpochPageFiles *files = &protection->files;

    files->lacking = outstanding_open(protection->lacking_path, error);
    if (files->lacking)
        files->discarded = outstanding_open(protection->discarded_path, error);
    if (files->discarded)
        files->under_way = outstanding_open(protection->under_way_path, error);
    return files->under_way != NULL;
}

PostcopyProtection *postcopy_protection_new(GuestMemory *memory, Userfault *userfault,
                                            FaultService *service, const char *path,
                                            const char *transaction,
                                            const PostcopyProtectionOptions *options,
                                            GError **error)
{
    g_autoptr(PostcopyProtection) protection = protection_new(path, transaction, service, options);

    protection->free = options->nothing_there;
    if (!create_files(protection, transaction, memory, error))
        return NULL;
    fault_service_note_discarded(service, protection->files.discarded);
    protection->sender = (protection->free ? checkpoint_sender_reopen : checkpoint_sender_new)(
        memory, userfault, &protection->files, error);
    return protection->sender ? g_steal_pointer(&protection) : NULL;
}

PostcopyProtection *postcopy_protection_reopen(GuestMemory *memory, Userfault *userfault,
                                               FaultService *service, const char *path,
                                               const char *transaction,
                                               const PostcopyProtectionOptions *options,
                                               GError **error)
{
    g_autoptr(PostcopyProtection) protection = protection_new(path, transaction, service, options);

    protection->reopened = TRUE;
    protection->passed = access(protection->passed_path, F_OK) == 0;
    protection->free = access(protection->free_path, F_OK) == 0;
    if (!open_files(protection, error))
        return NULL;
    fault_service_note_discarded(service, protection->files.discarded);
    protection->sender = checkpoint_sender_reopen(memory, userfault, &protection->files, error);
    return protection->sender ? g_steal_pointer(&protection) : NULL;
}

/* In the thread of the held output, which ends before the sender does. */
static void on_output(gpointer user)
{
    checkpoint_sender_hurry(user);
}

/* An agent that died may have left the guest paused: it is resumed, and that takes a lease. */
static HeldWrites *reopen_writes(PostcopyProtection *protection, Vmm *vmm, GError **error)
{
    EpochWritesPlace place = get_place(protection);
    gboolean leased = protection->leases && access(protection->paused_path, F_OK) == 0;
    HeldWrites *writes;

    if (leased && !split_leases_begin_moment(protection->leases)) {
        error_set(error, VMFERRY_ERROR_BUSY, "there is no lease by which the guest could go on");
        return NULL;
    }
    writes = held_writes_reopen(vmm, &place, protection->paused_path, error);
    if (leased)
        split_leases_end_moment(protection->leases);
    return writes;
}

static gboolean hold_writes(PostcopyProtection *protection, Vmm *vmm, EpochWrites *writes,
                            GError **error)
{
    g_autoptr(GError) problem = NULL;

    if (protection->reopened)
        protection->writes = reopen_writes(protection, vmm, &problem);
    else if (writes)
        protection->writes = held_writes_begin(vmm, writes, protection->paused_path, &problem);
    if (protection->writes)
        held_writes_set_replay(protection->writes, !protection->copies_writes);
    if (!problem)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&problem));
    return FALSE;
}

/* ---- its network's output ---- */

/* From here on it is held, also by a restarted agent: the epoch that follows may be the one that is
 * gone on from.  As a CheckpointOutput. */
static gboolean prepare_output(gpointer user, GError **error)
{
    PostcopyProtection *protection = user;

    if (!protection->free)
        return TRUE;
    if (unlink(protection->free_path) < 0 && errno != ENOENT) {
        error_set_errno(error, errno, "%s", protection->free_path);
        return FALSE;
    }
    protection->output =
        held_output_begin(protection->sent_by, on_output, protection->sender, error);
    protection->free = protection->output == NULL;
    return protection->output != NULL;
}

static gboolean cut_output(gpointer user, GError **error)
{
    CheckpointOutput output = held_output_get(((PostcopyProtection *)user)->output);

    return output.cut(output.user, error);
}

static void release_output(gpointer user)
{
    CheckpointOutput output = held_output_get(((PostcopyProtection *)user)->output);

    output.release(output.user);
}

/* The output of a guest that runs by leases, or is to: a cut that was under way when the last one ends would
 * resume it. */
static gboolean begin_moment(gpointer user)
{
    SplitLeases *leases = ((PostcopyProtection *)user)->leases;

    return !leases || split_leases_begin_moment(leases);
}

static void end_moment(gpointer user)
{
    SplitLeases *leases = ((PostcopyProtection *)user)->leases;

    if (leases)
        split_leases_end_moment(leases);
}

static gboolean cut_nothing(gpointer user, GError **error)
{
    return TRUE;
}

static void release_nothing(gpointer user)
{
}

static gboolean start_sender(PostcopyProtection *protection, Vmm *vmm, GError **error)
{
    CheckpointOutput outputs[CHECKPOINT_MOST_OUTPUTS];
    guint count = 0;

    outputs[count++] = (CheckpointOutput){.prepare = prepare_output,
                                          .cut = cut_output,
                                          .release = release_output,
                                          .user = protection};
    if (protection->writes)
        outputs[count++] = held_writes_get(protection->writes);
    outputs[count++] = (CheckpointOutput){.begin_moment = begin_moment,
                                          .end_moment = end_moment,
                                          .cut = cut_nothing,
                                          .release = release_nothing,
                                          .user = protection};
    checkpoint_sender_set_limits(protection->sender, &protection->limits);
    return checkpoint_sender_start(protection->sender, vmm, protection->interval_ms, outputs, count,
                                   error);
}

/* After ENDED there is nothing to hold: only what is left is to be finished. */
gboolean postcopy_protection_hold(PostcopyProtection *protection, Vmm *vmm, EpochWrites *writes,
                                  GError **error)
{
    lock_guard(&protection->lock);

    if (protection->held) {
        epoch_writes_free(writes);
        return TRUE;
    }
    /* What it has written is to become part of its images first. */
    if (!vmm_stay_at_shutdown(vmm, TRUE, error)) {
        epoch_writes_free(writes);
        return FALSE;
    }
    if (!protection->writes && !hold_writes(protection, vmm, writes, error))
        return FALSE;
    /* What is held by now can be let go. */
    protection->vmm = vmm;
    if (!protection->passed) {
        protection->sent_by = vmm;
        if (!protection->free)
            protection->output = held_output_begin(vmm, on_output, protection->sender, error);
        if ((!protection->free && !protection->output) || !start_sender(protection, vmm, error)) {
            g_clear_pointer(&protection->output, held_output_free);
            return FALSE;
        }
    }
    protection->held = TRUE;
    return TRUE;
}

void postcopy_protection_set_leases(PostcopyProtection *protection, SplitLeases *leases)
{
    protection->leases = leases;
}

/* ---- sessions ---- */

void postcopy_protection_begin_session(PostcopyProtection *protection, Session *session)
{
    lock_guard(&protection->lock);

    if (protection->sender)
        checkpoint_sender_begin_session(protection->sender, session);
}

void postcopy_protection_end_session(PostcopyProtection *protection)
{
    lock_guard(&protection->lock);

    if (protection->sender)
        checkpoint_sender_end_session(protection->sender);
}

gboolean postcopy_protection_take_applied(PostcopyProtection *protection, const Frame *frame,
                                          GError **error)
{
    lock_guard(&protection->lock);

    if (protection->sender)
        return checkpoint_sender_take_applied(protection->sender, frame, error);
    error_set(error, VMFERRY_ERROR_INVALID, "EPOCH_APPLIED where no epoch was sent");
    return FALSE;
}

gboolean postcopy_protection_holds_any(PostcopyProtection *protection)
{
    lock_guard(&protection->lock);

    return protection->vmm != NULL;
}

gboolean postcopy_protection_is_shut_down(PostcopyProtection *protection)
{
    lock_guard(&protection->lock);

    return protection->vmm && vmm_was_shut_down(protection->vmm);
}

void postcopy_protection_stop(PostcopyProtection *protection)
{
    lock_guard(&protection->lock);

    if (protection->sender)
        checkpoint_sender_stop(protection->sender);
}

/* ---- the end ---- */

/* With the lock held.  The thread that cuts and releases goes before what it does that with, and that
 * before whom it wakes. */
static void end_sender(PostcopyProtection *protection)
{
    checkpoint_sender_get_counts(protection->sender, &protection->counts);
    checkpoint_sender_end(protection->sender);
}

static void free_sender(PostcopyProtection *protection)
{
    fault_service_note_discarded(protection->service, NULL);
    g_clear_pointer(&protection->output, held_output_free);
    g_clear_pointer(&protection->writes, held_writes_free);
    g_clear_pointer(&protection->sender, checkpoint_sender_free);
    protection->vmm = NULL;
}

void postcopy_protection_detach(PostcopyProtection *protection)
{
    lock_guard(&protection->lock);

    if (!protection->sender)
        return;
    end_sender(protection);
    free_sender(protection);
}

static gboolean note_passed(PostcopyProtection *protection, GError **error)
{
    if (!file_replace(protection->passed_path, "", 0, FALSE, error))
        return FALSE;
    g_atomic_int_set(&protection->passed, TRUE);
    return TRUE;
}

/* With the lock held. */
static gboolean check_reached(const PostcopyProtection *protection, GError **error)
{
    if (protection->vmm)
        return TRUE;
    error_set(error, VMFERRY_ERROR_BUSY, "the guest's VMM is not reached yet");
    return FALSE;
}

gboolean postcopy_protection_pass(PostcopyProtection *protection, GError **error)
{
    lock_guard(&protection->lock);

    if (!check_reached(protection, error))
        return FALSE;
    end_sender(protection);
    protection->free = FALSE;
    held_output_end(g_steal_pointer(&protection->output), protection->vmm);
    return held_output_remove(protection->vmm, error) && note_passed(protection, error);
}

gboolean postcopy_protection_has_passed(const PostcopyProtection *protection)
{
    return g_atomic_int_get(&((PostcopyProtection *)protection)->passed);
}

gboolean postcopy_protection_finish(PostcopyProtection *protection, GError **error)
{
    lock_guard(&protection->lock);

    if (!check_reached(protection, error) ||
        (protection->writes && !held_writes_end(protection->writes, error)) ||
        !vmm_stay_at_shutdown(protection->vmm, FALSE, error))
        return FALSE;
    free_sender(protection);
    postcopy_protection_discard(protection);
    return TRUE;
}

void postcopy_protection_free(PostcopyProtection *protection)
{
    if (!protection)
        return;
    postcopy_protection_detach(protection);
    outstanding_free(protection->files.lacking);
    outstanding_free(protection->files.discarded);
    outstanding_free(protection->files.under_way);
    g_free(protection->lacking_path);
    g_free(protection->discarded_path);
    g_free(protection->under_way_path);
    g_free(protection->passed_path);
    g_free(protection->paused_path);
    g_free(protection->free_path);
    g_free(protection->transaction);
    g_free(protection->directory);
    g_mutex_clear(&protection->lock);
    g_free(protection);
}

void postcopy_protection_get_counts(PostcopyProtection *protection, CheckpointCounts *ret)
{
    lock_guard(&protection->lock);

    if (protection->sender)
        checkpoint_sender_get_counts(protection->sender, ret);
    else
        *ret = protection->counts;
}
