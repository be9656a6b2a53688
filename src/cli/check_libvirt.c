#include "cli/check.h"
#include "vmm/libvirt/library.h"

#include "base/error.h"

#define ANSWER_MS 5000

static void tell(Findings *findings, const LibvirtLibrary *libvirt, virConnectPtr connection)
{
    int domains =
        libvirt->virConnectListAllDomains(connection, NULL, VIR_CONNECT_LIST_DOMAINS_ACTIVE);
    char *uri = libvirt->virConnectGetURI(connection);
    g_autofree char *version = NULL, *text = NULL;
    unsigned long number = 0;

    (void)libvirt->virConnectGetLibVersion(connection, &number);
    version = libvirt_version_text(number);
    text = g_strdup_printf("version %s at %s, %d running domains", version, uri ? uri : "?",
                           MAX(domains, 0));
    free(uri);
    if (libvirt->virDomainQemuMonitorCommandWithFiles)
        findings_add(findings, "libvirt", FINDING_GOOD, text, NULL);
    else
        findings_add(
            findings, "libvirt", FINDING_NOTE, text,
            "its client library is older than 8.2: descriptors are given to QEMU another way, "
            "which takes longer");
}

void check_libvirt(Findings *findings)
{
    g_autoptr(GError) error = NULL;
    const LibvirtLibrary *libvirt = libvirt_library_get(&error);
    virConnectPtr connection = libvirt ? libvirt_connect_within(NULL, ANSWER_MS, &error) : NULL;

    if (connection) {
        tell(findings, libvirt, connection);
        libvirt->virConnectClose(connection);
        return;
    }
    findings_add(findings, "libvirt", FINDING_NOTE, error->message,
                 libvirt ? "libvirt's guests cannot be adopted until its daemon answers" : NULL);
}
