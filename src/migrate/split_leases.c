#include "migrate/split_leases.h"

#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/lock_guard.h"
#include "base/log.h"
#include "base/process.h"
#include "migrate/witness_open.h"
#include "policy/lease.h"

#define NS_PER_MS ((uint64_t)1000000)
#define RUN_TIMEOUT_MS 5000
#define ASK_TIMEOUT_MS 1000
#define END_TIMEOUT_MS 1000

struct SplitLeases {
    char *transaction;
    pid_t pid;
    uint64_t start_time;
    guint lease_ms;
    Witness *witness;
    GuardDeadline *deadline; /* the keeper has it, too */
    LeaseKeeper *keeper;
    gint heard; /* atomic; a WitnessState and one; 0: nothing */

    GMutex lock; /* protects the VMM; held while it is used */
    Vmm *vmm;
};

static char *name_file(const char *path, const char *what)
{
    return g_strconcat(path, ".", what, NULL);
}

/* ---- what the keeper asks for, in its thread ---- */

static Guard *start_guard(gpointer user, GError **error)
{
    SplitLeases *leases = user;
    g_autoptr(Guard) guard = guard_start(leases->pid, NULL, error);

    if (!guard || process_is_same(leases->pid, leases->start_time))
        return g_steal_pointer(&guard);
    error_set(error, VMFERRY_ERROR_NOT_FOUND, "process %d is gone", (int)leases->pid);
    return NULL;
}

/* With the lock held. */
static gboolean check_vmm(const SplitLeases *leases, GError **error)
{
    if (leases->vmm)
        return TRUE;
    error_set(error, VMFERRY_ERROR_BUSY, "the guest's VMM is not reached yet");
    return FALSE;
}

static gboolean pause_guest(gboolean *ret_was_running, gpointer user, GError **error)
{
    SplitLeases *leases = user;
    lock_guard(&leases->lock);

    return check_vmm(leases, error) && vmm_pause(leases->vmm, ret_was_running, error);
}

static gboolean undo(GuardDeadlineUndo what, gpointer user, GError **error)
{
    SplitLeases *leases = user;
    lock_guard(&leases->lock);

    if (what == GUARD_DEADLINE_UNDO_STOP)
        return process_kill(leases->pid, leases->start_time, SIGCONT, error);
    return check_vmm(leases, error) && vmm_resume(leases->vmm, error);
}

static void on_held(GuardDeadlineState how, gpointer user)
{
    const SplitLeases *leases = user;

    log_warning(
        "transaction %s: the guest stands still (%s): neither its source nor the witness can "
        "be reached",
        leases->transaction, guard_deadline_state_name(how));
}

static void on_heard(WitnessState state, gpointer user)
{
    SplitLeases *leases = user;

    g_atomic_int_set(&leases->heard, (gint)state + 1);
    log_info("transaction %s: the witness has it as %s", leases->transaction,
             witness_state_name(state));
}

/* ---- making them ---- */

/* How the guest is paused, for a later agent as well. */
static gboolean get_pause(SplitLeases *leases, const char *path, GuardAction *ret, GError **error)
{
    g_autofree char *name = name_file(path, "pause");
    g_autofree char *text = NULL;
    size_t length = 0;

    if (leases->vmm)
        return vmm_get_pause_action(leases->vmm, ret, error) &&
               file_replace(name, (const char *)ret, sizeof *ret, FALSE, error);
    text = file_read(name, sizeof *ret, &length, error);
    if (!text)
        return FALSE;
    if (length == sizeof *ret) {
        memcpy(ret, text, sizeof *ret);
        if (ret->length <= GUARD_ACTION_BYTES)
            return TRUE;
    }
    error_set(error, VMFERRY_ERROR_INVALID, "%s is not what was written there", name);
    return FALSE;
}

static Witness *make_witness(const SplitLeasesOptions *options)
{
    WitnessClientOptions client = {options->witness, options->agent, options->get_channel,
                                   options->user};

    return witness_new(&client);
}

static gboolean start_keeper(SplitLeases *leases, const char *path, guint shortest_ms,
                             GError **error)
{
    g_autofree char *file = name_file(path, "deadline");
    LeaseKeeperOptions options = {
        .witness = leases->witness,
        .transaction = leases->transaction,
        .lease_ms = leases->lease_ms,
        .shortest_ms = shortest_ms,
        .file = file,
        .start_guard = start_guard,
        .pause_guest = pause_guest,
        .undo = undo,
        .held = on_held,
        .heard = on_heard,
        .user = leases,
    };

    if (!get_pause(leases, path, &options.pause, error))
        return FALSE;
    leases->deadline = guard_deadline_open(file, error);
    leases->keeper = leases->deadline ? lease_keeper_start(&options, error) : NULL;
    return leases->keeper != NULL;
}

SplitLeases *split_leases_start(pid_t pid, const char *path, Vmm *vmm,
                                const SplitLeasesOptions *options, GError **error)
{
    SplitLeases *leases = g_new0(SplitLeases, 1);

    g_mutex_init(&leases->lock);
    leases->transaction = g_strdup(options->transaction);
    leases->pid = pid;
    leases->vmm = vmm;
    leases->lease_ms = options->lease_ms;
    leases->witness = make_witness(options);
    if (process_get_start_time(pid, &leases->start_time, error) &&
        start_keeper(leases, path, options->shortest_ms, error))
        return leases;
    g_prefix_error(error, "leases of the guest: ");
    split_leases_free(leases, FALSE);
    return NULL;
}

void split_leases_free(SplitLeases *leases, gboolean ended)
{
    if (!leases)
        return;
    lease_keeper_stop(leases->keeper, ended);
    guard_deadline_close(leases->deadline);
    witness_free(leases->witness);
    g_mutex_clear(&leases->lock);
    g_free(leases->transaction);
    g_free(leases);
}

gboolean split_leases_exist(const char *path)
{
    g_autofree char *pause = name_file(path, "pause");

    return access(pause, F_OK) == 0;
}

void split_leases_remove_files(const char *path)
{
    g_autofree char *pause = name_file(path, "pause");
    g_autofree char *deadline = name_file(path, "deadline");

    unlink(pause);
    unlink(deadline);
}

void split_leases_set_vmm(SplitLeases *leases, Vmm *vmm)
{
    lock_guard(&leases->lock);

    leases->vmm = vmm;
}

/* ---- while it runs ---- */

void split_leases_grant(SplitLeases *leases, uint64_t sent_ns, guint length_ms)
{
    if (length_ms > 0)
        lease_keeper_grant(leases->keeper, sent_ns, MIN(length_ms, leases->lease_ms));
}

guint split_leases_get_interval_ms(SplitLeases *leases)
{
    return lease_keeper_get_interval_ms(leases->keeper);
}

guint split_leases_get_wanted_ms(SplitLeases *leases)
{
    return lease_keeper_get_wanted_ms(leases->keeper);
}

gboolean split_leases_run(SplitLeases *leases, gboolean (*run)(gpointer user, GError **error),
                          gpointer user, GError **error)
{
    return lease_keeper_run(leases->keeper, RUN_TIMEOUT_MS, run, user, error);
}

gboolean split_leases_has_stopped_vmm(SplitLeases *leases)
{
    return guard_deadline_get_undo(leases->deadline) & GUARD_DEADLINE_UNDO_STOP;
}

gboolean split_leases_begin_moment(SplitLeases *leases)
{
    return lease_keeper_begin_moment(leases->keeper);
}

void split_leases_end_moment(SplitLeases *leases)
{
    lease_keeper_end_moment(leases->keeper);
}

gboolean split_leases_are_held(SplitLeases *leases)
{
    /* The keeper may be waiting for a VMM that the guard has stopped. */
    return guard_deadline_get_undo(leases->deadline) != 0 ||
           lease_keeper_get_state(leases->keeper) == LEASE_KEEPER_HELD;
}

gboolean split_leases_are_for_alone(SplitLeases *leases)
{
    return g_atomic_int_get(&leases->heard) == WITNESS_DESTINATION_ALONE + 1;
}

const char *split_leases_get_state_name(SplitLeases *leases)
{
    gint heard = g_atomic_int_get(&leases->heard);

    return heard > 0 ? witness_state_name((WitnessState)(heard - 1)) : NULL;
}

/* ---- the end ---- */

gboolean split_leases_claim(SplitLeases *leases, GError **error)
{
    return witness_ask(leases->witness, WITNESS_CLAIM, leases->transaction, ASK_TIMEOUT_MS, NULL,
                       error);
}

void split_leases_forget(SplitLeases *leases)
{
    g_autoptr(GError) error = NULL;

    if (!witness_ask(leases->witness, WITNESS_FORGET, leases->transaction, ASK_TIMEOUT_MS, NULL,
                     &error))
        log_debug("transaction %s: its witness keeps its record: %s", leases->transaction,
                  error->message);
}

gboolean split_leases_end(SplitLeases *leases)
{
    uint64_t end = clock_boot_ns() + END_TIMEOUT_MS * NS_PER_MS;

    lease_keeper_release(leases->keeper);
    while (lease_keeper_get_state(leases->keeper) != LEASE_KEEPER_FREE) {
        if (clock_boot_ns() > end)
            return FALSE;
        clock_sleep_ns(NS_PER_MS);
    }
    return TRUE;
}
