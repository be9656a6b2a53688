/* The payload of ERROR and ABORT frames: {"code": …, "message": …} */
#pragma once

#include <glib.h>
#include <stddef.h>

#define ERROR_MESSAGE_MAX_BYTES 4096

/* Texts longer than the limit are cut. */
char *error_message_encode(const GError *cause);

/* Always makes an error: *peer* sent it, or what it sent made no sense.  What
 * could play tricks on a terminal is replaced. */
void error_message_decode(const char *text, size_t length, const char *peer, GError **error);
