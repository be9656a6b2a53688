#include "vmm/libvirt/resume.h"

#include <stdlib.h>
#include <string.h>

#include "base/helper.h"
#include "vmm/libvirt/address.h"
#include "vmm/libvirt/library.h"

#define HELPER_NAME "vmferry-resume"
#define DONE 0
#define FAILED 1 /* the guard tries again */

/* "postmigrate" or "finish-migrate": it may run elsewhere. */
static int resume_unless_migrated(const LibvirtLibrary *libvirt, virDomainPtr domain)
{
    char *reply = NULL;
    int result = FAILED;

    if (libvirt->virDomainQemuMonitorCommand(domain, "{\"execute\":\"query-status\"}", &reply, 0) ==
            0 &&
        reply)
        result =
            strstr(reply, "migrate\"") || libvirt->virDomainResume(domain) == 0 ? DONE : FAILED;
    free(reply);
    return result;
}

static int resume_paused(const LibvirtLibrary *libvirt, virDomainPtr domain)
{
    int state = -1;

    if (libvirt->virDomainGetState(domain, &state, NULL, 0) < 0)
        return FAILED;
    return state == VIR_DOMAIN_PAUSED ? resume_unless_migrated(libvirt, domain) : DONE;
}

static int resume_domain(const LibvirtLibrary *libvirt, virConnectPtr connection, const char *uuid)
{
    virDomainPtr domain = libvirt->virDomainLookupByUUIDString(connection, uuid);
    virErrorPtr problem = domain ? NULL : libvirt->virGetLastError();
    int result;

    if (!domain)
        return problem && problem->code == VIR_ERR_NO_DOMAIN ? DONE : FAILED;
    result = resume_paused(libvirt, domain);
    libvirt->virDomainFree(domain);
    return result;
}

static int resume_main(const char *address)
{
    const LibvirtLibrary *libvirt = libvirt_library_get(NULL);
    g_autofree char *uuid = NULL, *uri = NULL;
    virConnectPtr connection;
    int result;

    if (!libvirt || !libvirt_address_parse(address, &uuid, &uri, NULL))
        return FAILED;
    connection = libvirt_connect(uri, NULL);
    if (!connection)
        return FAILED;
    result = resume_domain(libvirt, connection, uuid);
    libvirt->virConnectClose(connection);
    return result;
}

HELPER_MAIN_WITH_ARGUMENT(HELPER_NAME, resume_main)

void libvirt_add_resume(GuardAction *action, const char *address)
{
    guard_action_add_run(action, HELPER_NAME, address);
}
