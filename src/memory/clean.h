/* What a tracer that died may have left in a guest's process. */
#pragma once

#include <glib.h>
#include <sys/types.h>

/* Closes userfaultfds that an injection of a dead agent left open in *pid*
 * (those that QEMU itself uses have ranges registered, or are waited on; ours
 * are closed on the way out and have neither).  Does nothing, at no cost to
 * the guest, where there are none; fails, and closes nothing, where it can't be
 * told whose they are. */
gboolean memory_clean_guest(pid_t pid, GError **error);
