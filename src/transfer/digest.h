/*
 * Verification: a digest of every page
 *
 * With --verify the source sends, while the guest is paused, an XXH3-64 of
 * each page that has content of its own.  The destination compares each with
 * its page, and checks that every other page of its own is zero: together
 * that is all of RAM.
 */
#pragma once

#include <glib.h>

#include "transfer/page_source.h"
#include "wire/channel.h"

/* Sends digests of all populated pages. */
gboolean digest_send_all(PageSource *source, Channel *channel, GError **error);

typedef struct DigestCheck DigestCheck;

/* Borrows *source*: what was received. */
DigestCheck *digest_check_new(PageSource *source);
void digest_check_free(DigestCheck *check);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DigestCheck, digest_check_free)

/* Compares one DIGESTS frame; INVALID where it is malformed.  Differences are told at the
 * end. */
gboolean digest_check_frame(DigestCheck *check, const uint8_t *payload, size_t length,
                            GError **error);

/* After the last one: all other pages are zero?  FALSE with the count and the
 * first of the pages that differ. */
gboolean digest_check_finish(DigestCheck *check, GError **error);
