/*
 * Names of guests and transactions
 *
 * Both become file names and parts of URLs, so they are checked wherever they
 * come in: from the command line, from a peer and from our own records.
 */
#pragma once

#include <glib.h>

#define GUEST_NAME_MAX 64

/* A guest's name: 1 to 64 of A-Z a-z 0-9 . _ - and not "." or "..". */
gboolean guest_name_check(const char *name, GError **error);

/* A transaction's id: 32 lower-case hexadecimal digits. */
gboolean transaction_id_check(const char *id, GError **error);
