/* May QEMU's process write to an image?  Asked as that process itself: with its
 * user, its capabilities, its root and its mounts. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "inject/inject.h"
#include "vmm/qemu/driver.h"

typedef struct {
    pid_t pid;
    const char *file;
    int64_t result; /* -errno; 0 also where it could not be asked */
} AccessQuestion;

/* In a thread of its own: see inject.h. */
static gpointer ask_thread(gpointer data)
{
    AccessQuestion *question = data;
    size_t length = strlen(question->file) + 1;
    g_autoptr(Inject) inject = NULL;
    int64_t answer;

    if (length > INJECT_SCRATCH_BYTES)
        return NULL;
    inject = inject_attach(question->pid, NULL);
    if (inject && inject_write_scratch(inject, question->file, length, NULL) &&
        inject_call(inject, SYS_faccessat2,
                    (uint64_t[6]){(uint64_t)AT_FDCWD, inject_get_scratch(inject), W_OK, AT_EACCESS},
                    &answer, NULL))
        question->result = answer;
    return NULL;
}

gboolean qemu_check_writable(QemuVmm *qemu, const VmmImage *image, GError **error)
{
    AccessQuestion question = {.pid = qemu->pid, .file = image->file};

    /* Only of this host's files, and nothing is known of one with a long name. */
    if (!image->path)
        return TRUE;
    g_thread_join(g_thread_new("access", ask_thread, &question));
    /* Others say nothing of writing (ENOSYS: a kernel before 5.8). */
    if (question.result != -EROFS && question.result != -EACCES && question.result != -EPERM)
        return TRUE;
    error_set_errno(error, (int)-question.result, "%s: QEMU cannot write to %s", image->device,
                    image->file);
    return FALSE;
}
