#include "base/name.h"

#include <string.h>

#include "base/error.h"

#define RANDOM_ID_LENGTH 32

static gboolean is_plain_name(const char *name)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                  "0123456789._-";
    size_t length = strnlen(name, GUEST_NAME_MAX + 1);

    return length > 0 && length <= GUEST_NAME_MAX && name[strspn(name, allowed)] == '\0' &&
           strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

gboolean guest_name_check(const char *name, GError **error)
{
    g_autofree char *shown = NULL;

    if (name && is_plain_name(name))
        return TRUE;
    shown = name ? g_utf8_make_valid(name, (gssize)strnlen(name, GUEST_NAME_MAX + 8)) : NULL;
    error_set(error, VMFERRY_ERROR_INVALID,
              "\"%s\" is not a valid name for a guest: use 1 to %d of A-Z a-z 0-9 . _ -",
              shown ? shown : "", GUEST_NAME_MAX);
    return FALSE;
}

char *random_id_new(void)
{
    g_autofree char *uuid = g_uuid_string_random();
    g_auto(GStrv) parts = g_strsplit(uuid, "-", -1);

    return g_strjoinv("", parts);
}

gboolean random_id_is_valid(const char *id)
{
    return id && strnlen(id, RANDOM_ID_LENGTH + 1) == RANDOM_ID_LENGTH &&
           strspn(id, "0123456789abcdef") == RANDOM_ID_LENGTH;
}

gboolean transaction_id_check(const char *id, GError **error)
{
    if (random_id_is_valid(id))
        return TRUE;
    error_set(error, VMFERRY_ERROR_INVALID, "not a transaction id (32 hexadecimal digits)");
    return FALSE;
}
