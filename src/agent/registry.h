/*
 * The guests of this host
 *
 * Theory of operation: a table from names to guests under one lock, with a
 * condition that is signalled at each change.  A name is taken from the moment
 * a guest begins to be launched, adopted or received until its record is
 * removed.
 *
 * Lock order: the registry's lock is taken before those of the transaction and
 * event logs; nothing blocks on a VMM or a peer while it is held.  Writing a
 * record does hold it: a state directory that hangs makes the agent hang, and
 * leaves guests alone.
 */
#pragma once

#include <glib.h>

#include "agent/guest.h"
#include "agent/store.h"

struct Registry {
    GMutex lock;
    GCond changed;      /* any guest changed, or the agent stops */
    GHashTable *guests; /* name → Guest */
    StateStore *store;
    char *boot_id;
};

Registry *registry_new(StateStore *store, const char *boot_id);
void registry_free(Registry *registry);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Registry, registry_free)

/* Takes a name for a new guest whose record is *record* (taken in any case),
 * claimed for *claim*.  The record is not written yet. */
Guest *registry_add(Registry *registry, GuestRecord *record, const char *claim, GError **error);

Guest *registry_find(Registry *registry, const char *name, GError **error);

/* All of them, sorted by name; free with g_ptr_array_unref(). */
GPtrArray *registry_list(Registry *registry);

/* A guest that a move brings is committed, or one that was found again runs here (TRUE), and later
 * all is settled for it (FALSE).  Its source, or its state, may say in between that it runs here,
 * so a user who asks for the guest by then waits for those milliseconds. */
void registry_set_settling(Guest *guest, gboolean settling);
void registry_await_settled(Guest *guest);

/* guest_record_check_leaving(). */
gboolean registry_check_leaving(Guest *guest, GError **error);

/* Claims a guest that has this role, is reachable and unclaimed. */
gboolean registry_claim(Guest *guest, GuestRole role, const char *claim, GError **error);
void registry_release(Guest *guest);

/* The same for a holder who may have missed the end of the guest's process: TRUE where that has
 * come, and the claim is kept for seeing to it. */
gboolean registry_release_if_alive(Guest *guest);

/* The same, and what went on with the guest has ended: in one step, so that whoever sees it ended
 * can claim the guest. */
gboolean registry_release_from_activity(Guest *guest);

/* Its process has ended.  TRUE where nobody else has the claim: it is the caller's now. */
gboolean registry_claim_gone(Guest *guest, const char *claim);

/* Takes over the claim for recovery, whoever had it.  TRUE where the guest is in doubt. */
gboolean registry_claim_recovery(Guest *guest);

/* Takes a reference on the source that watches the process, unless there is one or the guest is
 * removed: FALSE. */
gboolean registry_set_watch(Guest *guest, GSource *watch);

/* Takes what the guest's memory has in common with others: released with the guest. */
void registry_set_shared(Guest *guest, struct SharedImage *shared);

/* What goes on with the guest, or NULL: the registry holds a reference of its own. */
void registry_set_activity(Guest *guest, Activity *activity);

/* A new reference, or NULL; free with activity_unref(). */
Activity *registry_get_activity(Guest *guest);

/* An operator decides for a guest in doubt; FALSE where it is not.  The decision
 * is about the transaction that is in doubt now, and about no later one. */
gboolean registry_decide(Guest *guest, Decision decision);
/* Its destination has answered: nothing is to be decided. */
void registry_forget_decision(Guest *guest);

/* What was decided of its present transaction. */
Decision registry_get_decision(Guest *guest);

/* Waits until *done* says so, asked with the lock held at each change, or until that time
 * (g_get_monotonic_time()): FALSE. */
gboolean registry_await(Registry *registry, gint64 until, gboolean (*done)(gpointer user),
                        gpointer user);

/* Something that waiters ask for has changed outside of the registry. */
void registry_wake(Registry *registry);

/* What a restarted agent does with a guest that it finds paused. */
typedef enum {
    RESUME_AS_BEFORE, /* what the record says already */
    RESUME_NEVER,     /* its user paused it, or runs it */
    RESUME_AFTER,     /* a move pauses it */
} ResumeWish;

/* For the claim's holder: writes the record with a new role and, if that
 * worked, makes it the guest's.  *transaction*, *destination* and its *agent* may
 * be NULL. */
gboolean registry_journal(Guest *guest, GuestRole role, const char *transaction,
                          const char *destination, const char *agent, ResumeWish resume,
                          GError **error);

/* The same with a whole new record (taken in any case). */
gboolean registry_journal_record(Guest *guest, GuestRecord *record, GError **error);

/* The same, with the transaction as it is, where the role holds even if it cannot
 * be written (the record on disk then leads to the same place, see record.h);
 * *error* tells of it. */
void registry_journal_anyway(Guest *guest, GuestRole role, ResumeWish resume, GError **error);

/* The same for a guest that is OURS with this term (0: the one it has), and with
 * no transaction any more. */
void registry_journal_settled(Guest *guest, uint64_t term, GError **error);

/* One that came runs here: it is ours, or POSTCOPY as long as *outstanding* is on record.  Its memory
 * is all here: *outstanding* goes; one that is not known to run yet stays INCOMING until recovery has
 * settled that.  The two may come in any order, from two threads.  As registry_journal_anyway(). */
void registry_journal_arrived(Guest *guest, GError **error);
void registry_journal_whole(Guest *guest, GError **error);

/* Whether, and how, it is to be protected (taken; NULL: it is not): also without the claim. */
gboolean registry_journal_protection(Guest *guest, json_t *protection, GError **error);

/* A copy of the record; free with guest_record_free(). */
GuestRecord *registry_get_record(Guest *guest);

/* The VMM, or NULL with *error* where it is not reached yet. */
Vmm *registry_get_vmm(Guest *guest, GError **error);

/* Gives the guest its VMM (taken), once. */
void registry_set_vmm(Guest *guest, Vmm *vmm);

/* From now on its process is another one, *vmm* (taken where it returns TRUE), as *record* (taken in
 * any case) says.  The former Vmm lives on as long as the guest. */
gboolean registry_replace_vmm(Guest *guest, GuestRecord *record, Vmm *vmm, GError **error);

/* The run state as last seen.  registry_note_run_state() is for those without the claim: TRUE
 * where it is news (guest_is_watched()); a holder of the claim who resumes or pauses the guest
 * sets it. */
void registry_set_run_state(Guest *guest, VmmRunState state);
gboolean registry_note_run_state(Guest *guest, VmmRunState state);
VmmRunState registry_get_run_state(Guest *guest);

/* What may start its process again, with its user's consent (taken; NULL: nothing).  On disk with
 * the next journal entry. */
void registry_set_supervisor(Guest *guest, char *supervisor);

/* What its machine is (taken), for users. */
void registry_set_summary(Guest *guest, json_t *summary);

/* What *view* makes of the guest, with the lock held. */
json_t *registry_view(Guest *guest, json_t *(*view)(const Guest *guest));

/* Calls *look* with the lock held: to copy more than one thing of one moment. */
void registry_look(Guest *guest, void (*look)(const Guest *guest, gpointer user), gpointer user);

/* guest_is_watched(). */
gboolean registry_is_watched(Guest *guest);

/* TRUE where it is OURS, reachable, and nothing is being done with it. */
gboolean registry_is_idle(Guest *guest);

/* Why the guest is not as it should be (NULL: all is well). */
void registry_set_problem(Guest *guest, const char *text);

/* A copy of the text; free with g_free(). */
char *registry_get_problem(Guest *guest);

/* The guest is not managed any more: record, directory and name are free again. */
void registry_remove(Guest *guest);

/* A guest with this process, or NULL. */
Guest *registry_find_process(Registry *registry, pid_t pid, uint64_t start_time);
