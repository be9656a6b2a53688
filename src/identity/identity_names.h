/* Names of users and groups, from any thread. */
#pragma once

#include <glib.h>
#include <stdint.h>

/* NULL where the number has none; free with g_free(). */
char *identity_user_name(uint32_t uid);
char *identity_group_name(uint32_t gid);

/* FALSE where there is no such name on this host. */
gboolean identity_find_user(const char *name, uint32_t *ret_uid);
gboolean identity_find_group(const char *name, uint32_t *ret_gid);
