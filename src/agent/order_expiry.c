#include "agent/order_expiry.h"

#include <string.h>

#include "base/error.h"

gboolean order_expiry_check(json_t *body, const char *boot_id, uint64_t now_ms, GError **error)
{
    json_t *expires = json_object_get(body, "expires");
    const char *boot;
    uint64_t time_ms;

    if (!expires)
        return TRUE;
    if (!json_get_text(expires, "boot_id", &boot, error) ||
        !json_get_count(expires, "time_ms", G_MAXINT64, &time_ms, error)) {
        g_prefix_error(error, "\"expires\": ");
        return FALSE;
    }
    if (strcmp(boot, boot_id) == 0 && now_ms < time_ms)
        return TRUE;
    error_set(error, VMFERRY_ERROR_REFUSED,
              "the order has expired: it has come too late, and nothing is begun");
    return FALSE;
}
