#include "agent/standby.h"

#include "agent/directory.h"
#include "agent/incoming_private.h"
#include "agent/launch.h"
#include "agent/page_stores.h"
#include "agent/recovery.h"
#include "agent/storage_guards.h"
#include "base/error.h"
#include "migrate/protect.h"
#include "vmm/vmm_driver.h"

typedef struct {
    Incoming incoming;
    Guest *guest; /* once it is on record */
} Receiving;

/* ---- its place ---- */

static GuestRecord *make_record(const GuestMessage *guest)
{
    const char *folder = guest->working_directory ? guest->working_directory : "/";
    GuestRecord *record = launch_make_record(guest->guest, GUEST_POSTCOPY_SOURCE, GUEST_ORIGIN_MOVE,
                                             guest->command_line, folder);

    record->standby = TRUE;
    g_free(record->id);
    record->id = g_strdup(guest->guest_id);
    record->term = guest->term - 1;
    record->transaction = g_strdup(guest->transaction);
    record->vmm_kind = g_strdup(guest->vmm_kind);
    record->store = g_strdup(guest->store);
    record->store_agent = g_strdup(guest->store_agent);
    record->lease_ms = guest->lease_ms;
    record->process = guest->process ? process_identity_copy(guest->process) : NULL;
    record->resume = TRUE;
    return record;
}

static gboolean check(const Incoming *incoming, const GuestMessage *guest, GError **error)
{
    if (agent_context_is_stopping(incoming->context)) {
        error_set(error, VMFERRY_ERROR_REFUSED, "the agent here is being stopped");
        return FALSE;
    }
    if (guest->term < 2) {
        error_set(error, VMFERRY_ERROR_INVALID, "GUEST of one to be protected is of term 1");
        return FALSE;
    }
    return vmm_driver_find(guest->vmm_kind, error) &&
           page_stores_check_room(incoming->context->stores, guest->memory_bytes, error);
}

/* StandbyHost.  On record so that a restarted agent removes it: without *destination* it has not begun. */
static char *on_accept(const GuestMessage *guest, gpointer user, GError **error)
{
    Incoming *incoming = user;
    GuestRecord *record;
    char *directory;

    if (!check(incoming, guest, error))
        return NULL;
    directory = guest_directory_create(incoming->context->settings->runtime_dir, error);
    if (!directory)
        return NULL;
    record = make_record(guest);
    record->deltas = g_strdup(directory);
    incoming->guest = registry_add(incoming->context->registry, record, "stand by", error);
    if (incoming->guest &&
        registry_journal_record(incoming->guest, registry_get_record(incoming->guest), error))
        return directory;
    if (!incoming->guest)
        guest_directory_remove(directory);
    g_free(directory);
    return NULL;
}

/* ---- would it start? ---- */

static gboolean on_begun(const VmmIdentity *identity, gpointer user, GError **error)
{
    return storage_guards_begun(identity->pid, user, error);
}

static gboolean open_incoming(Vmm *vmm, const GuestMessage *guest, GError **error)
{
    g_autoptr(GPtrArray) regions = g_ptr_array_new_with_free_func((GDestroyNotify)ram_region_free);

    for (guint i = 0; i < guest->region_count; i++)
        g_ptr_array_add(regions,
                        ram_region_new(guest->regions[i].name, 0, guest->regions[i].bytes));
    return vmm_open_incoming(vmm, guest->machine, regions, error);
}

static Vmm *launch(Incoming *incoming, const GuestMessage *guest, const char *directory,
                   GError **error)
{
    const VmmDriver *driver = vmm_driver_find(guest->vmm_kind, error);
    VmmLaunch launch = {
        .name = guest->guest,
        .command_line = guest->command_line,
        .directory = directory,
        .working_directory = guest->working_directory ? guest->working_directory : "/",
        .incoming = TRUE,
        .rules = incoming->rules,
        .process = guest->process,
        .allow_unconfined = incoming->context->settings->allow_unconfined,
        .begun = on_begun,
        .user = incoming->storage_guards,
    };

    // cppcheck-suppress returnDanglingLifetime ; it keeps nothing of it
    return driver ? driver->launch(&launch, error) : NULL;
}

/* StandbyHost. */
static gboolean on_check(const GuestMessage *guest, gpointer user, GError **error)
{
    Incoming *incoming = user;
    g_autofree char *directory =
        guest_directory_create_for_move(incoming->context->settings->runtime_dir, error);
    gboolean right;
    Vmm *vmm;

    if (!directory)
        return FALSE;
    vmm = launch(incoming, guest, directory, error);
    right = vmm && vmm_match_machine(vmm, guest->machine, guest->live, error) &&
            open_incoming(vmm, guest, error);
    if (vmm) {
        pid_t pid = vmm_get_pid(vmm);

        launch_undo(vmm);
        storage_guards_drop(incoming->storage_guards, pid);
    }
    guest_directory_remove(directory);
    if (!right)
        g_prefix_error(error, "it could not be run here: ");
    return right;
}

/* ---- its end ---- */

/* Where it goes on here it is to be protected by where it was, and as it was.  What its host has not told
 * is left to what it is by default. */
static json_t *make_wish(const GuestMessage *guest, const ProtectMessage *protect, const char *host)
{
    json_t *wish = json_pack("{s:s, s:s, s:i, s:b}", "standby", host, "witness",
                             guest->store ? guest->store : "", "interval_ms",
                             (int)guest->checkpoint_ms, "copies_writes", protect->copies_writes);

    if (protect->sync)
        json_object_set_new(wish, "sync", json_string(protect->sync));
    if (protect->overhead_percent > 0)
        json_object_set_new(wish, "overhead_percent",
                            json_integer((json_int_t)protect->overhead_percent));
    return wish;
}

/* StandbyHost. */
static gboolean on_commit(const GuestMessage *guest, const ProtectMessage *protect,
                          const char *host, const char *agent, gpointer user, GError **error)
{
    Receiving *receiving = user; /* its first field is the Incoming */
    Incoming *incoming = &receiving->incoming;
    GuestRecord *record = registry_get_record(incoming->guest);

    record->destination = g_strdup(host);
    record->destination_agent = g_strdup(agent);
    record->protection = make_wish(guest, protect, host);
    if (!registry_journal_record(incoming->guest, record, error))
        return FALSE;
    receiving->guest = g_steal_pointer(&incoming->guest);
    event_log_add(incoming->context->events, guest->guest, "standing-by", NULL,
                  "this host stands by for it; it runs on %s", host);
    return TRUE;
}

/* StandbyHost; incoming_end() removes it. */
static void on_aborted(const GError *cause, gpointer user)
{
    const Incoming *incoming = user;

    if (incoming->guest)
        event_log_add(incoming->context->events, incoming->guest->name, "not-standing-by", NULL,
                      "this host does not come to stand by for it%s%s", cause ? ": " : "",
                      cause ? cause->message : "");
}

gboolean standby_receive(AgentContext *context, Session *session, GError **error)
{
    Receiving receiving = {0};
    StandbyHost host = {
        .accept = on_accept, .check = on_check, .commit = on_commit, .aborted = on_aborted};
    gboolean done;

    incoming_begin(&receiving.incoming, context, session);
    host.destination = incoming_get_host(&receiving.incoming);
    done = standby_serve(session, &host, error);
    incoming_end(&receiving.incoming);
    if (receiving.guest)
        recovery_start(context, receiving.guest);
    guest_unref(receiving.guest);
    return done;
}
