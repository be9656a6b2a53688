#include "vmm/bochs/hpet_start.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#include "base/error.h"
#include "vmm/bochs/parameters.h"

#define CODE_ADDRESS 0x7000u
#define CODE_BYTES 12u
#define STEP_MS 10000

static gboolean transfer(const BochsProcess *process, uint64_t address, uint8_t *bytes,
                         gboolean put, GError **error)
{
    struct iovec local = {bytes, CODE_BYTES}, remote = {(void *)(uintptr_t)address, CODE_BYTES};
    ssize_t done = put ? process_vm_writev(process->pid, &local, 1, &remote, 1, 0)
                       : process_vm_readv(process->pid, &local, 1, &remote, 1, 0);

    if (done == CODE_BYTES)
        return TRUE;
    error_set_errno(error, errno, "reach Bochs's guest memory");
    return FALSE;
}

static gboolean set_processor(BochsProcess *process, GError **error)
{
    g_autoptr(BochsNode) cpu = bochs_tree_new("cpu0");

    bochs_tree_set(cpu, "RIP", BOCHS_NODE_HEX, CODE_ADDRESS);
    bochs_tree_set(cpu, "CS.selector", BOCHS_NODE_HEX, 0);
    bochs_tree_set(cpu, "CS.base", BOCHS_NODE_HEX, 0);
    bochs_tree_set(cpu, "DS.limit_scaled", BOCHS_NODE_HEX, G_MAXUINT32);
    bochs_tree_set(cpu, "DS.granularity", BOCHS_NODE_BOOLEAN, TRUE);
    return bochs_restore(process->console, process->state_folder, cpu, error);
}

static gboolean step(BochsProcess *process, uint32_t config, GError **error)
{
    g_autofree char *answer = bochs_console_run(process->console, "s 1", STEP_MS, error);
    g_autoptr(BochsNode) shown = answer ? bochs_show(process->console, "hpet.config", error) : NULL;

    if (!shown)
        return FALSE;
    if (shown->number == config)
        return TRUE;
    error_set(error, VMFERRY_ERROR_FAILED, "Bochs's HPET did not start");
    return FALSE;
}

gboolean bochs_hpet_start(BochsProcess *process, uint64_t ram, uint32_t config, GError **error)
{
    /* mov dword ptr [FED00010h], config */
    uint8_t code[CODE_BYTES] = {0x66, 0x67, 0xc7, 0x05, 0x10, 0x00, 0xd0, 0xfe};
    uint8_t before[CODE_BYTES];
    uint64_t address = ram + CODE_ADDRESS;
    gboolean done;

    memcpy(code + 8, &config, sizeof config);
    if (!transfer(process, address, before, FALSE, error) ||
        !transfer(process, address, code, TRUE, error))
        return FALSE;
    done = set_processor(process, error) && step(process, config, error);
    return transfer(process, address, before, TRUE, done ? error : NULL) && done;
}
