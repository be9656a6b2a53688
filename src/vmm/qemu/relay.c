#include "vmm/qemu/relay.h"

#include <fcntl.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include "base/fd.h"
#include "base/json.h"
#include "inject/inject.h"

#define PROBE_NAME "vmferry-probe"

gboolean qemu_is_relayed(Qmp *qmp)
{
    autofd int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    g_autoptr(json_t) reply = NULL;

    if (null < 0)
        return FALSE;
    reply = qmp_execute_fd(qmp, "getfd", json_pack("{s:s}", "fdname", PROBE_NAME), null,
                           QMP_COMMAND_MS, NULL);
    if (!reply)
        return TRUE;
    (void)qmp_run(qmp, "closefd", json_pack("{s:s}", "fdname", PROBE_NAME), QMP_COMMAND_MS, NULL);
    return FALSE;
}

/* One descriptor that goes into the process, or is closed in there. */
typedef struct {
    pid_t pid;
    int fd;    /* ours, to be given; or -1 */
    int there; /* its number in the process */
    GError *error;
} Gift;

/* In a thread of its own: see inject.h. */
static gpointer give_thread(gpointer data)
{
    Gift *gift = data;
    g_autoptr(Inject) inject = inject_attach(gift->pid, &gift->error);

    gift->there = inject ? inject_give_fd(inject, gift->fd, &gift->error) : -1;
    return NULL;
}

static gpointer close_thread(gpointer data)
{
    Gift *gift = data;
    g_autoptr(Inject) inject = inject_attach(gift->pid, NULL);
    int64_t ignored;

    if (inject)
        inject_call(inject, SYS_close, (uint64_t[6]){(uint64_t)gift->there}, &ignored, NULL);
    return NULL;
}

gboolean qemu_save_relayed(QemuVmm *qemu, int memory, VmmSavePurpose purpose, GError **error)
{
    Gift gift = {.pid = qemu->pid, .fd = memory};
    g_autofree char *name = NULL;
    gboolean saved;

    if (!thread_run("give", give_thread, &gift, error))
        return FALSE;
    if (gift.there < 0) {
        g_propagate_prefixed_error(error, gift.error, "give QEMU a descriptor: ");
        return FALSE;
    }
    name = g_strdup_printf("/proc/self/fd/%d", gift.there);
    saved = qemu_save_to_file(qemu->qmp, name, purpose, error);
    if (!thread_run("take", close_thread, &gift, NULL))
        log_debug("pid %d keeps descriptor %d", (int)qemu->pid, gift.there);
    return saved;
}
