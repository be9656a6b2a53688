#include "agent/incoming_private.h"

#include <string.h>

#include "agent/directory.h"
#include "agent/made_files.h"
#include "agent/move.h"
#include "agent/postcopy.h"
#include "agent/recovery.h"
#include "agent/storage_guards.h"
#include "agent/launch.h"
#include "agent/watch.h"
#include "base/error.h"
#include "base/log.h"
#include "migrate/destination.h"
#include "vmm/vmm_driver.h"

/* Ending a VMM, and noticing that its source has gone before. */
#define EARLIER_ATTEMPT_MS 20000

/* Our rules in the driver's form. */
GPtrArray *incoming_make_rules(const AgentSettings *settings)
{
    GPtrArray *rules = g_ptr_array_new_with_free_func(g_free);

    for (guint i = 0; i < settings->rules->len; i++) {
        const SettingsMapRule *rule = settings->rules->pdata[i];
        VmmMapRule *copy = g_new(VmmMapRule, 1);

        *copy = (VmmMapRule){rule->from, rule->to};
        g_ptr_array_add(rules, copy);
    }
    return rules;
}

/* Name, transaction and record, in this order; each is undone by give_up(). */
static gboolean put_on_record(Incoming *incoming, const GuestMessage *message, char **line,
                              GError **error)
{
    AgentContext *context = incoming->context;
    TransactionOffer offer = {message->transaction, message->guest, message->guest_id,
                              message->term};
    const char *folder = message->working_directory ? message->working_directory : "/";
    GuestRecord *record =
        launch_make_record(message->guest, GUEST_INCOMING, GUEST_ORIGIN_MOVE, line, folder);

    record->transaction = g_strdup(message->transaction);
    record->checkpoint_ms = message->checkpoint_ms;
    g_free(record->id);
    record->id = g_strdup(message->guest_id);
    record->term = message->term;
    record->balloon_bytes = message->balloon_bytes;
    record->store = g_strdup(message->store);
    record->store_agent = g_strdup(message->store_agent);
    record->lease_ms = message->lease_ms;
    record->resume = TRUE;
    incoming->guest = registry_add(context->registry, record, "receive", error);
    if (!incoming->guest || !transaction_log_begin(context->transactions, &offer, error))
        return FALSE;
    incoming->transaction = g_strdup(message->transaction);
    return launch_give_directory(context, incoming->guest, error);
}

static Vmm *launch_incoming(Incoming *incoming, const VmmDriver *driver,
                            const GuestMessage *message, GError **error)
{
    g_autoptr(GuestRecord) record = registry_get_record(incoming->guest);
    VmmLaunch launch = {
        .name = incoming->guest->name,
        .command_line = record->command_line,
        .directory = record->directory,
        .working_directory = record->working_directory,
        .incoming = TRUE,
        .neutral = message->neutral,
        .rules = incoming->rules,
        .process = message->process,
        .allow_unconfined = incoming->context->settings->allow_unconfined,
        .begun = launch_note_process,
        .user = incoming->guest,
    };
    Vmm *vmm = driver->launch(&launch, error);
    GuestRecord *filled;

    if (!vmm)
        return NULL;
    /* Command line and folder stay as they came, without our rules: the next
     * host, or the first one again, applies its own to the same arguments. */
    filled = registry_get_record(incoming->guest);
    launch_fill_record(filled, vmm);
    filled->process = message->process ? process_identity_copy(message->process) : NULL;
    if (registry_journal_record(incoming->guest, filled, error))
        return vmm; // cppcheck-suppress returnDanglingLifetime ; it keeps nothing of launch
    launch_undo(vmm);
    return NULL;
}

static void give_up(Incoming *incoming)
{
    if (incoming->transaction &&
        !transaction_log_abort(incoming->context->transactions, incoming->transaction))
        log_error("transaction %s was given up after its guest ran here", incoming->transaction);
    g_clear_pointer(&incoming->transaction, g_free);
    if (incoming->guest) {
        postcopy_drop_writes(incoming->context, incoming->guest);
        registry_remove(incoming->guest);
    }
    g_clear_pointer(&incoming->guest, guest_unref);
}

static gboolean on_begin(const char *guest, gpointer user, GError **error)
{
    Incoming *incoming = user;

    if (!arrivals_begin(incoming->context->arrivals, guest, incoming->session, EARLIER_ATTEMPT_MS,
                        error))
        return FALSE;
    incoming->arrives = g_strdup(guest);
    return TRUE;
}

static void end_arrival(Incoming *incoming)
{
    if (incoming->arrives)
        arrivals_end(incoming->context->arrivals, incoming->arrives);
    g_clear_pointer(&incoming->arrives, g_free);
}

/* A new vector: as it came, or as the driver plans it of a machine of another VMM. */
static char **get_command_line(const VmmDriver *driver, const GuestMessage *message, GError **error)
{
    if (!message->neutral)
        return g_strdupv(message->command_line);
    if (driver->plan)
        return driver->plan(message->neutral, error);
    error_set(error, VMFERRY_ERROR_UNSUPPORTED, "no guest of another VMM can go on in %s",
              driver->kind);
    return NULL;
}

static Vmm *on_launch(const GuestMessage *message, gpointer user, GError **error)
{
    Incoming *incoming = user;
    g_auto(GStrv) line = NULL;
    const VmmDriver *driver;
    Vmm *vmm = NULL;

    if (agent_context_is_stopping(incoming->context))
        error_set(error, VMFERRY_ERROR_REFUSED, "the agent here is being stopped");
    else if ((driver = vmm_driver_find(message->vmm_kind, error)) &&
             (line = get_command_line(driver, message, error)) &&
             put_on_record(incoming, message, line, error))
        vmm = launch_incoming(incoming, driver, message, error);
    if (!vmm) {
        give_up(incoming);
        return NULL;
    }
    event_log_add(incoming->context->events, message->guest, "receiving", NULL,
                  "begins to arrive from %s", session_get_peer_name(incoming->session));
    return vmm;
}

/* Before the commit, which a restarted agent follows.  What is on record of its memory stays. */
static gboolean note_paused(Incoming *incoming, GError **error)
{
    GuestRecord *record = registry_get_record(incoming->guest);

    record->resume = FALSE;
    return registry_journal_record(incoming->guest, record, error);
}

static gboolean on_commit(const char *transaction, const StartMessage *start, gpointer user,
                          GError **error)
{
    Incoming *incoming = user;

    if (!incoming->transaction || strcmp(transaction, incoming->transaction) != 0) {
        error_set(error, VMFERRY_ERROR_INVALID, "transaction %s is not what is arriving here",
                  transaction);
        return FALSE;
    }
    if ((!start->run && !note_paused(incoming, error)) ||
        !transaction_log_commit(incoming->context->transactions, transaction, start->term, error))
        return FALSE;
    registry_set_settling(incoming->guest, TRUE);
    return TRUE;
}

static gboolean on_take_back(const char *transaction, gpointer user, GError **error)
{
    Incoming *incoming = user;

    if (!transaction_log_withdraw(incoming->context->transactions, transaction, error))
        return FALSE;
    registry_set_settling(incoming->guest, FALSE);
    return TRUE;
}

/* The source has read that the guest is here: it cannot go back any more. */
static void take_over(Incoming *incoming, Guest *guest, Vmm *vmm)
{
    VmmRunState state = VMM_RUN_STATE_RUNNING;
    g_autoptr(GError) problem = NULL;

    vmm_get_run_state(vmm, &state, NULL);
    registry_set_run_state(guest, state);
    registry_set_vmm(guest, vmm);
    /* The record first: a restarted agent must not take a guest that has run
     * for one that may not have. */
    registry_journal_arrived(guest, &problem);
    transaction_log_settle(incoming->context->transactions, incoming->transaction);
    departure_log_forget(incoming->context->departures, guest->name);
    balloon_release(incoming->context, guest);
    if (problem)
        log_warning("guest %s: %s", guest->name, problem->message);
}

/* Committed, and it is not known whether it runs: on record it stays incoming until
 * recovery has settled it. */
static void keep_trying(Incoming *incoming, Guest *guest, Vmm *vmm)
{
    AgentContext *context = incoming->context;

    registry_set_vmm(guest, vmm);
    registry_set_settling(guest, FALSE);
    event_log_add(context->events, guest->name, "arrived", NULL,
                  "arrived from %s, and is not seen to run; that is tried again",
                  session_get_peer_name(incoming->session));
    if (!incoming->split)
        recovery_start(context, guest);
}

static void on_started(Vmm *vmm, gboolean settled, gpointer user)
{
    Incoming *incoming = user;
    AgentContext *context = incoming->context;
    g_autoptr(Guest) guest = g_steal_pointer(&incoming->guest);
    const char *peer = session_get_peer_name(incoming->session);

    if (settled)
        take_over(incoming, guest, vmm);
    g_clear_pointer(&incoming->transaction, g_free);
    if (!settled) {
        keep_trying(incoming, guest, vmm);
        return;
    }
    event_log_add(
        context->events, guest->name, "arrived", NULL, "arrived from %s and %s here%s", peer,
        registry_get_run_state(guest) == VMM_RUN_STATE_PAUSED ? "is paused, as it was," : "runs",
        incoming->split ? "; the rest of its memory follows" : "");
    watch_guest(context, guest);
    if (incoming->split)
        postcopy_show(guest, incoming->split);
    else
        watch_release(context, guest);
    registry_set_settling(guest, FALSE);
}

/* ---- its memory, where that is not all here ---- */

static char *on_name_outstanding(gpointer user)
{
    Incoming *incoming = user;
    g_autoptr(GuestRecord) record = registry_get_record(incoming->guest);

    return g_build_filename(record->directory, "outstanding", NULL);
}

static gboolean on_note_split(const char *path, gpointer user, GError **error)
{
    Incoming *incoming = user;
    GuestRecord *record = registry_get_record(incoming->guest);

    record->outstanding = g_strdup(path);
    record->source_agent = g_strdup(session_get_peer_agent(incoming->session));
    return registry_journal_record(incoming->guest, record, error);
}

static void on_publish(PostcopyDestination *split, gpointer user)
{
    Incoming *incoming = user;

    if (split) {
        incoming->split_guest = guest_ref(incoming->guest);
        postcopy_publish(incoming->context, incoming->guest, split);
    } else {
        postcopy_withdraw(incoming->context, incoming->split);
        g_clear_pointer(&incoming->split_guest, guest_unref);
    }
    incoming->split = split;
}

/* With the claim of the move, given back here. */
static void on_keep_split(PostcopyDestination *split, gpointer user)
{
    Incoming *incoming = user;
    AgentContext *context = incoming->context;
    g_autoptr(Guest) guest = g_steal_pointer(&incoming->split_guest);
    g_autoptr(GuestRecord) record = NULL;

    if (postcopy_keep(context, guest, split) != POSTCOPY_KEPT_WHOLE)
        return;
    record = registry_get_record(guest);
    if (record->role == GUEST_OURS)
        watch_release(context, guest);
    else
        recovery_start(context, guest);
}

static void on_aborted(Vmm *vmm, const GError *cause, gpointer user)
{
    Incoming *incoming = user;

    vmm_free(vmm);
    if (!incoming->guest)
        return;
    event_log_add(incoming->context->events, incoming->guest->name, "not-received", NULL,
                  "did not arrive from %s%s%s", session_get_peer_name(incoming->session),
                  cause ? ": " : "", cause ? cause->message : "");
    give_up(incoming);
}

/* ---- its disks ---- */

static char *on_map(const char *text, gpointer user)
{
    return vmm_map_text(text, ((Incoming *)user)->rules);
}

static VmmStorage *on_open_storage(const DisksMessage *disks, gpointer user, GError **error)
{
    Incoming *incoming = user;
    AgentContext *context = incoming->context;
    const VmmDriver *driver = vmm_driver_find(disks->vmm_kind, error);
    g_autofree char *program = on_map(disks->program, incoming);
    g_autofree char *folder = on_map(disks->working_directory, incoming);
    VmmStorageLaunch launch = {
        .program = program,
        .working_directory = folder,
        .process = disks->process,
        .allow_unconfined = context->settings->allow_unconfined,
        .begun = storage_guards_begun,
        .user = incoming->storage_guards,
    };
    char *directory;

    if (!driver || !driver->open_storage) {
        if (driver)
            error_set(error, VMFERRY_ERROR_UNSUPPORTED, "disks of a guest of %s are not copied",
                      driver->kind);
        return NULL;
    }
    directory = guest_directory_create_for_move(context->settings->runtime_dir, error);
    if (!directory)
        return NULL;
    g_ptr_array_add(incoming->storage_directories, directory);
    launch.directory = directory;
    // cppcheck-suppress returnDanglingLifetime ; it keeps nothing of it
    return driver->open_storage(&launch, error);
}

/* Its directory is removed at the end: where it is killed, something may still be in there. */
static void on_close_storage(VmmStorage *storage, gpointer user)
{
    Incoming *incoming = user;
    pid_t pid = vmm_storage_get_pid(storage);

    vmm_storage_free(storage);
    storage_guards_drop(incoming->storage_guards, pid);
}

static gboolean on_get_channel(ChannelOptions *ret, gpointer context, GError **error)
{
    return agent_context_get_channel_options(context, ret, error);
}

static char *on_name_overlays(gpointer user, GError **error)
{
    return guest_overlays_directory(((Incoming *)user)->context->settings->state_dir, error);
}

static gboolean on_note_files(const char *transaction, json_t *files, gpointer user, GError **error)
{
    return made_files_note(((Incoming *)user)->context->store, transaction, files, error);
}

static void remove_directory(gpointer directory)
{
    guest_directory_remove(directory);
    g_free(directory);
}

void incoming_begin(Incoming *incoming, AgentContext *context, Session *session)
{
    *incoming = (Incoming){.context = context,
                           .session = session,
                           .rules = incoming_make_rules(context->settings),
                           .storage_directories = g_ptr_array_new_with_free_func(remove_directory),
                           .storage_guards = storage_guards_new()};
}

MigrateDestinationHost incoming_get_host(Incoming *incoming)
{
    return (MigrateDestinationHost){
        .begin = on_begin,
        .launch = on_launch,
        .commit = on_commit,
        .take_back = on_take_back,
        .started = on_started,
        .aborted = on_aborted,
        .map = on_map,
        .open_storage = on_open_storage,
        .close_storage = on_close_storage,
        .note_files = on_note_files,
        .name_outstanding = on_name_outstanding,
        .name_overlays = on_name_overlays,
        .note_split = on_note_split,
        .publish = on_publish,
        .keep_split = on_keep_split,
        .get_channel = on_get_channel,
        .channel_user = incoming->context,
        .user = incoming,
    };
}

void incoming_end(Incoming *incoming)
{
    give_up(incoming);
    end_arrival(incoming);
    g_hash_table_unref(incoming->storage_guards);
    g_ptr_array_unref(incoming->storage_directories);
    g_ptr_array_unref(incoming->rules);
}

gboolean incoming_serve(AgentContext *context, Session *session, GError **error)
{
    Incoming incoming;
    MigrateDestinationHost host;
    gboolean done;

    incoming_begin(&incoming, context, session);
    host = incoming_get_host(&incoming);
    done = migrate_destination_serve(session, &host, error);
    /* Neither started nor aborted: nothing may stay behind. */
    incoming_end(&incoming);
    return done;
}
