/* A storage process for the disks of a guest that is to be taken over. */
#include "agent/directory.h"
#include "agent/recovery_private.h"
#include "agent/storage_guards.h"
#include "base/error.h"
#include "vmm/vmm_driver.h"

struct RecoveryStorage {
    VmmStorage *storage;
    char *directory;
    GHashTable *guards;
};

static char *map(const GPtrArray *rules, const char *text)
{
    return rules ? vmm_map_text(text, rules) : g_strdup(text);
}

static VmmStorage *start(RecoveryStorage *own, AgentContext *context, const GuestMessage *machine,
                         const GPtrArray *rules, GError **error)
{
    const VmmDriver *driver = vmm_driver_find(machine->vmm_kind, error);
    g_autofree char *program = map(rules, machine->command_line[0]);
    g_autofree char *folder =
        map(rules, machine->working_directory ? machine->working_directory : "/");
    VmmStorageLaunch launch = {
        .program = program,
        .working_directory = folder,
        .directory = own->directory,
        .process = machine->process,
        .allow_unconfined = context->settings->allow_unconfined,
        .begun = storage_guards_begun,
        .user = own->guards,
    };

    if (driver && driver->open_storage) {
        // cppcheck-suppress returnDanglingLifetime ; it keeps nothing of it
        return driver->open_storage(&launch, error);
    }
    if (driver)
        error_set(error, VMFERRY_ERROR_UNSUPPORTED, "disks of a guest of %s are not written",
                  driver->kind);
    return NULL;
}

RecoveryStorage *recovery_storage_open(AgentContext *context, const GuestMessage *machine,
                                       const GPtrArray *rules, GError **error)
{
    g_autoptr(RecoveryStorage) own = g_new0(RecoveryStorage, 1);

    own->guards = storage_guards_new();
    own->directory = guest_directory_create_for_move(context->settings->runtime_dir, error);
    if (own->directory)
        own->storage = start(own, context, machine, rules, error);
    return own->storage ? g_steal_pointer(&own) : NULL;
}

VmmStorage *recovery_storage_get(RecoveryStorage *own)
{
    return own->storage;
}

void recovery_storage_free(RecoveryStorage *own)
{
    if (!own)
        return;
    vmm_storage_free(own->storage);
    g_hash_table_unref(own->guards);
    if (own->directory)
        guest_directory_remove(own->directory);
    g_free(own->directory);
    g_free(own);
}
