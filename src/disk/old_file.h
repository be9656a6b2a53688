/*
 * What was at a file's place before it is made anew
 *
 * Theory of operation: a destination that makes a file in place of another one sets that aside until
 * the guest has arrived.  Where the source asks, it is told digests of the old file's granules, and
 * content that the new file has at the same place is copied from there (wire/disk_frame.h).  What is
 * copied is compared with its digest again, so that an old file that somebody changes meanwhile makes
 * the copy fail, and not wrong.
 *
 * A granule of the new file has a digest where the old one has all of its bytes and they are not all
 * zeros, and can be read.  Nothing is kept of what was told.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "disk/disk_target.h"
#include "wire/disk_frame.h"

typedef struct OldFile OldFile;

/* *path*: NULL where nothing was there.  *bytes*: of the new file. */
OldFile *old_file_open(const char *path, uint64_t bytes, GError **error);

/* NULL-safe. */
void old_file_free(OldFile *old);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(OldFile, old_file_free)

/* Appends to *out* the digests of what is asked, without those at the end that have none.  Its key is
 * the one of what is copied from then on.  INVALID beyond the new file's end. */
gboolean old_file_digest(OldFile *old, const DiskCompare *compare, GByteArray *out, GError **error);

/* Writes to *target* what is the same.  INVALID where no digest was asked for before; FAILED where the
 * content is not that of the digests (any more). */
gboolean old_file_copy(OldFile *old, const DiskSame *same, DiskTarget *target, GError **error);
