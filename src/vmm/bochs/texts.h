/* What is picked out of texts that a Bochs writes; whatever else is in them is ignored. */
#pragma once

#include <glib.h>
#include <stdint.h>

/* Of its log: where its guest's RAM begins, a multiple of 4096; FALSE where it does not tell that. */
gboolean bochs_text_find_vector(const char *log, uint64_t *ret);

/* Of its standard error: what it said when it ended itself, one line, bounded and printable; NULL where
 * it did not. */
char *bochs_text_pick_end(const char *text);

/* Of what it writes first (may be NULL): its version ("2.7"), else "unknown".  Free with g_free(). */
char *bochs_text_pick_version(const char *banner);
