#include "identity/identity_names.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>

/* A group of thousands of members needs more than this; then it is doubled. */
#define FIRST_BYTES 4096u
#define MOST_BYTES (16u << 20)

/* One question to the C library with a buffer that is large enough; the answer
 * is copied out of it by *found* before it goes. */
#define LOOK_UP(type, call, key, on_found)                                                         \
    for (size_t bytes = FIRST_BYTES; bytes <= MOST_BYTES; bytes *= 2) {                            \
        g_autofree char *buffer = g_malloc(bytes);                                                 \
        type entry, *found = NULL;                                                                 \
        int failed = call(key, &entry, buffer, bytes, &found);                                     \
                                                                                                   \
        if (failed == ERANGE)                                                                      \
            continue;                                                                              \
        if (failed || !found)                                                                      \
            break;                                                                                 \
        on_found;                                                                                  \
    }

char *identity_user_name(uint32_t uid)
{
    LOOK_UP(struct passwd, getpwuid_r, uid, return g_strdup(found->pw_name))
    return NULL;
}

char *identity_group_name(uint32_t gid)
{
    LOOK_UP(struct group, getgrgid_r, gid, return g_strdup(found->gr_name))
    return NULL;
}

gboolean identity_find_user(const char *name, uint32_t *ret_uid)
{
    LOOK_UP(struct passwd, getpwnam_r, name, {
        *ret_uid = found->pw_uid;
        return TRUE;
    })
    return FALSE;
}

gboolean identity_find_group(const char *name, uint32_t *ret_gid)
{
    LOOK_UP(struct group, getgrnam_r, name, {
        *ret_gid = found->gr_gid;
        return TRUE;
    })
    return FALSE;
}
