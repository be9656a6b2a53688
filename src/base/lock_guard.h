/* `lock_guard(&mutex);` holds the mutex to the end of the scope. */
#pragma once

#include <glib.h>

#define lock_guard(mutex)                                                                          \
    g_autoptr(GMutexLocker) lock_guard_held G_GNUC_UNUSED = g_mutex_locker_new(mutex)
