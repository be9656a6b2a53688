#include "base/net_namespace.h"

#include <errno.h>
#include <sched.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/thread.h"

typedef struct {
    int fd;
    NetNamespaceFunc run;
    gpointer user;
    GError *error;
} Job;

static gboolean is_ours(int fd)
{
    struct stat ours, wanted;

    return fd != NET_NAMESPACE_FRESH && stat("/proc/thread-self/ns/net", &ours) == 0 &&
           fstat(fd, &wanted) == 0 && ours.st_dev == wanted.st_dev && ours.st_ino == wanted.st_ino;
}

/* A namespace is a thread's. */
static gpointer run_there(gpointer data)
{
    Job *job = data;
    gboolean fresh = job->fd == NET_NAMESPACE_FRESH;

    if ((fresh ? unshare(CLONE_NEWNET) : setns(job->fd, CLONE_NEWNET)) == 0)
        job->run(job->user);
    else
        error_set_errno(&job->error, errno, "%s a network namespace", fresh ? "make" : "enter");
    return NULL;
}

gboolean net_namespace_run(int namespace_fd, NetNamespaceFunc run, gpointer user, GError **error)
{
    Job job = {.fd = namespace_fd, .run = run, .user = user};

    if (is_ours(namespace_fd)) {
        run(user);
        return TRUE;
    }
    if (!thread_run("net-namespace", run_there, &job, error))
        return FALSE;
    if (!job.error)
        return TRUE;
    g_propagate_error(error, job.error);
    return FALSE;
}
