#include <unistd.h>

#include "cli/check.h"
#include "memory/probe.h"
#include "net/tap_plug.h"

static void add(Findings *findings, const char *topic, const ProbeResult *result,
                FindingGrade otherwise, const char *advice)
{
    findings_add(findings, topic, result->ok ? FINDING_GOOD : otherwise,
                 result->ok       ? "works"
                 : result->detail ? result->detail
                                  : "does not work",
                 result->ok ? NULL : advice);
}

static void add_trackers(Findings *findings, const MemoryProbe *probe)
{
    gboolean any = probe->track_scan.ok || probe->track_sync.ok;

    add(findings, "tracker scan", &probe->track_scan, any ? FINDING_NOTE : FINDING_BAD,
        any ? "the slower uffd-sync is used; Linux 6.7 or newer has the fast one"
            : "use Linux 5.13 or newer with userfaultfd (6.7 or newer is best)");
    add(findings, "tracker sync", &probe->track_sync, any ? FINDING_NOTE : FINDING_BAD,
        any ? "not needed while the tracker scan works" : NULL);
}

static void add_attach_time(Findings *findings, const MemoryProbe *probe)
{
    g_autofree char *text = NULL;

    if (!probe->attach.ok || !probe->pidfd_getfd.ok)
        return;
    text = g_strdup_printf("%.1f ms; a guest is stopped for less than that", probe->attach_ms);
    findings_add(findings, "time to attach", FINDING_GOOD, text, NULL);
}

static void add_plug(Findings *findings)
{
    g_autoptr(GError) error = NULL;
    gboolean works = tap_plug_probe(&error);

    findings_add(findings, "output of vhost", works ? FINDING_GOOD : FINDING_NOTE,
                 works ? "can be held (sch_plug)" : error->message,
                 works ? NULL
                       : "guests whose network cards have vhost or several queues cannot be "
                         "protected; others can");
}

void check_kernel(Findings *findings)
{
    MemoryProbe probe = {0};

    memory_probe(&probe);
    findings_add(findings, "kernel", FINDING_GOOD, probe.kernel ? probe.kernel : "unknown", NULL);
    add(findings, "ptrace", &probe.attach, FINDING_BAD,
        "run as root (CAP_SYS_PTRACE); see /proc/sys/kernel/yama/ptrace_scope");
    add(findings, "pidfd_getfd", &probe.pidfd_getfd, FINDING_BAD,
        "run as root (CAP_SYS_PTRACE) on Linux 5.6 or newer");
    add(findings, "userfaultfd", &probe.userfaultfd, FINDING_BAD,
        "run as root, or set vm.unprivileged_userfaultfd to 1; the kernel needs "
        "CONFIG_USERFAULTFD");
    add(findings, "async protection", &probe.wp_async, FINDING_NOTE,
        "needs Linux 6.7; without it the tracker uffd-sync is used");
    add(findings, "unpopulated pages", &probe.wp_unpopulated, FINDING_NOTE, "needs Linux 6.4");
    add(findings, "shared memory", &probe.wp_shared, FINDING_NOTE,
        "guests with shared or huge-page memory need Linux 5.19");
    add(findings, "PAGEMAP_SCAN", &probe.pagemap_scan, FINDING_NOTE,
        "needs Linux 6.7; without it the tracker uffd-sync is used");
    add_trackers(findings, &probe);
    add_attach_time(findings, &probe);
    add_plug(findings);
    memory_probe_clear(&probe);
}
