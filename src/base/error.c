#include "base/error.h"

#include <errno.h>
#include <string.h>

/* G_DEFINE_QUARK() leaves a race between threads that ask first. */
GQuark vmferry_error_quark(void)
{
    static gsize quark;

    if (g_once_init_enter(&quark))
        g_once_init_leave(&quark, g_quark_from_static_string("vmferry-error-quark"));
    return (GQuark)quark;
}

static const char *const code_names[] = {
    [VMFERRY_ERROR_FAILED] = "failed",
    [VMFERRY_ERROR_INVALID] = "invalid",
    [VMFERRY_ERROR_NOT_FOUND] = "not-found",
    [VMFERRY_ERROR_EXISTS] = "exists",
    [VMFERRY_ERROR_UNSUPPORTED] = "unsupported",
    [VMFERRY_ERROR_REFUSED] = "refused",
    [VMFERRY_ERROR_BUSY] = "busy",
    [VMFERRY_ERROR_TIMEOUT] = "timeout",
    [VMFERRY_ERROR_DISCONNECTED] = "disconnected",
    [VMFERRY_ERROR_CANCELLED] = "cancelled",
    [VMFERRY_ERROR_NO_SPACE] = "no-space",
    [VMFERRY_ERROR_PERMISSION] = "permission",
    [VMFERRY_ERROR_IN_DOUBT] = "in-doubt",
};
G_STATIC_ASSERT(G_N_ELEMENTS(code_names) == VMFERRY_ERROR_IN_DOUBT + 1);

const char *vmferry_error_code_name(VmferryErrorCode code)
{
    return (guint)code < G_N_ELEMENTS(code_names) ? code_names[code] : code_names[0];
}

VmferryErrorCode vmferry_error_code_from_name(const char *name)
{
    for (guint i = 0; name && i < G_N_ELEMENTS(code_names); i++)
        if (strcmp(name, code_names[i]) == 0)
            return (VmferryErrorCode)i;
    return VMFERRY_ERROR_FAILED;
}

VmferryErrorCode vmferry_error_code_from_errno(int errnum)
{
    switch (errnum) {
    case ENOENT:
    case ESRCH:
    case ENODEV:
        return VMFERRY_ERROR_NOT_FOUND;
    case EEXIST:
        return VMFERRY_ERROR_EXISTS;
    case EACCES:
    case EPERM:
        return VMFERRY_ERROR_PERMISSION;
    case ENOSPC:
    case EDQUOT:
    case ENOMEM:
        return VMFERRY_ERROR_NO_SPACE;
    case EBUSY:
    case EADDRINUSE:
        return VMFERRY_ERROR_BUSY;
    case ETIMEDOUT:
        return VMFERRY_ERROR_TIMEOUT;
    case EPIPE:
    case ECONNRESET:
    case ECONNABORTED:
    case ENOTCONN:
        return VMFERRY_ERROR_DISCONNECTED;
    case ECONNREFUSED:
        return VMFERRY_ERROR_REFUSED;
    case ENOSYS:
    case EOPNOTSUPP:
        return VMFERRY_ERROR_UNSUPPORTED;
    case EINVAL:
        return VMFERRY_ERROR_INVALID;
    default:
        return VMFERRY_ERROR_FAILED;
    }
}

void error_set(GError **error, VmferryErrorCode code, const char *format, ...)
{
    va_list args;

    if (!error)
        return;
    va_start(args, format);
    g_propagate_error(error, g_error_new_valist(VMFERRY_ERROR, code, format, args));
    va_end(args);
}

void error_set_errno(GError **error, int errnum, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    if (!error)
        return;
    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, VMFERRY_ERROR, vmferry_error_code_from_errno(errnum), "%s: %s", text,
                g_strerror(errnum));
}

gboolean error_is(const GError *error, VmferryErrorCode code)
{
    return g_error_matches(error, VMFERRY_ERROR, code);
}
