/*
 * Sending pages: from dirty sets to PAGES frames
 *
 * The sender knows which pages the destination holds with content: a page that
 * is zero and was never sent with content is not sent at all, since the
 * destination starts with all RAM zero.
 */
#pragma once

#include <glib.h>

#include "memory/guest_memory.h"
#include "migrate/packing.h"
#include "wire/channel.h"

typedef struct PageSender PageSender;

/* Both may be NULL; FALSE with *error* ends the sending. */
typedef struct {
    /* Before each frame. */
    gboolean (*check)(uint64_t done_bytes, gpointer user, GError **error);
    /* Right before the pages of *spans* are read, the next in order; what was
     * written up to now will be in what is sent. */
    gboolean (*refresh)(guint region, const PageSpan *spans, guint count, gpointer user,
                        GError **error);
    gpointer user;
} PageSenderHooks;

/* Borrows both. */
PageSender *page_sender_new(GuestMemory *memory, Channel *channel);
/* Compresses as *mode* says, from now on (default: PACKING_NONE).  Only where
 * the peer has the feature "pages-lz4". */
void page_sender_set_packing(PageSender *sender, PackingMode mode);
void page_sender_free(PageSender *sender);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PageSender, page_sender_free)

/* Sends the pages of *sets*.  *ret_pages* (may be NULL): pages that went out,
 * zero or not. */
gboolean page_sender_send(PageSender *sender, GPtrArray *sets, const PageSenderHooks *hooks,
                          uint64_t *ret_pages, GError **error);

/* Adds to *sets* the pages that were sent with content and have lost their own
 * since (discarded by a balloon): they read as zero now. */
gboolean page_sender_add_discarded(PageSender *sender, GPtrArray *sets, GError **error);
