/* What a tracer that died may have left in a guest's process. */
#pragma once

#include <glib.h>
#include <sys/types.h>

/* Closes userfaultfds that a dead agent left open in *pid*: by an injection that was not finished
 * (those that QEMU itself uses have ranges registered, or are waited on; ours are closed on the way
 * out and have neither), or on purpose (USERFAULT_STAYS_IN_VMM) where no range waits for missing
 * pages any more; with such a range the kept one stays, for userfault_fetch().  Does nothing, at no
 * cost to the guest, where there are none; fails, and closes nothing, where it is not known
 * whose they are. */
gboolean memory_clean_guest(pid_t pid, GError **error);
