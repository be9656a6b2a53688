/*
 * JSON from strangers
 *
 * Thin helpers over jansson for objects whose fields are checked one by one.
 * Each getter says which key is missing or of the wrong kind.  Texts are
 * bounded; jansson itself limits the nesting depth.
 */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdint.h>

G_DEFINE_AUTOPTR_CLEANUP_FUNC(json_t, json_decref)

/* For json_dumps(): one line, and reals as users write them (12.5, not
 * 12.500000000000002), with room for the ms of a wall clock (1790000000.123). */
#define JSON_LINE (JSON_COMPACT | JSON_REAL_PRECISION(13))

/* Parses one JSON object of at most *limit* bytes; NULL with *error*. */
json_t *json_parse_object(const char *text, size_t length, size_t limit, GError **error);

/* Each returns FALSE with *error* where *key* is missing, of another kind or
 * out of range.  *ret* borrows from *object*. */
gboolean json_get_text(json_t *object, const char *key, const char **ret, GError **error);
gboolean json_get_count(json_t *object, const char *key, uint64_t max, uint64_t *ret,
                        GError **error);
gboolean json_get_array(json_t *object, const char *key, size_t max_entries, json_t **ret,
                        GError **error);

/* Optional forms: the default where the key is missing or of another kind. */
const char *json_text_or(json_t *object, const char *key, const char *fallback);
uint64_t json_count_or(json_t *object, const char *key, uint64_t fallback);
gboolean json_flag_or(json_t *object, const char *key, gboolean fallback);
