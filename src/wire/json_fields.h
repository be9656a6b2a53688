/* Checked fields of the protocol's JSON messages. */
#pragma once

#include <glib.h>

#include "base/json.h"

/* Text of at most *max* bytes without control characters; "" is refused where
 * *required*, and the value of a missing key where not.  Free with g_free(). */
gboolean json_field_text(json_t *object, const char *key, size_t max, gboolean required, char **ret,
                         GError **error);

/* An array of texts of at most *max_bytes* each. */
gboolean json_field_texts(json_t *object, const char *key, size_t max_entries, size_t max_bytes,
                          char ***ret, GError **error);

/* A list of texts, and a text, also where their bytes are not valid UTF-8. */
json_t *json_field_make_text(const char *text);
json_t *json_field_make_texts(char *const *texts);

/* The message; ends the object. */
char *json_field_finish(json_t *object);

/* TRUE for *digits* lower-case hex digits (0: any number of them). */
gboolean json_field_is_hex(const char *text, size_t digits);

/* A random id (of a transaction, of a guest): 32 lower-case hex digits.  Free *ret
 * with g_free(). */
gboolean json_field_id(json_t *object, const char *key, char **ret, GError **error);

/* "term": 1 to MESSAGE_MAX_TERM. */
gboolean json_field_term(json_t *object, uint64_t *ret, GError **error);

/* "retry_for_ms" of GUEST and DISKS, which may be missing: 0. */
gboolean json_field_retry(json_t *object, guint *ret, GError **error);
