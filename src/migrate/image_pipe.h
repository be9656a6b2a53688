/*
 * FIFOs that take an image
 *
 * Theory of operation: who opens a FIFO to write waits in the kernel until somebody reads, for ever where nobody comes.
 * Here it is tried again and again instead, so that whoever wants the image can say between two attempts that it does
 * not any more.
 */
#pragma once

#include <glib.h>

/* Called between two attempts; waits for a moment.  FALSE: gives up, with *error*. */
typedef gboolean (*ImagePipeWait)(gpointer user, GError **error);

/* A descriptor in blocking mode, to write to; the caller closes it.  -1 with TIMEOUT where nobody reads within *timeout_ms*,
 * EXISTS where the path is no FIFO (any more). */
int image_pipe_open(const char *path, guint timeout_ms, ImagePipeWait wait, gpointer user,
                    GError **error);
