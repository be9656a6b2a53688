/*
 * Names of guests, and random ids
 *
 * A guest's name and a transaction's id become file names and parts of URLs, so
 * they are checked wherever they come in: from the command line, from a peer
 * and from our own records.
 */
#pragma once

#include <glib.h>

#define GUEST_NAME_MAX 64

/* A guest's name: 1 to 64 of A-Z a-z 0-9 . _ - and not "." or "..". */
gboolean guest_name_check(const char *name, GError **error);

/* 32 lower-case hexadecimal digits, random; free with g_free(). */
char *random_id_new(void);

/* TRUE for what random_id_new() makes. */
gboolean random_id_is_valid(const char *id);

/* A transaction's id is a random one. */
gboolean transaction_id_check(const char *id, GError **error);
