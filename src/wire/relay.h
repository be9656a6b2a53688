/*
 * Between a TLS stream and a socket of this process
 *
 * Theory of operation: a library that speaks a protocol over a plain socket gets one end of a
 * socket pair; relay_run() carries bytes between the other end and the stream, in a thread of its
 * own, until one side has ended.  What the near side has sent before its end still goes out, as long
 * as the far side takes it.  Each direction holds at most RELAY_BYTES, so a side that does not read
 * makes the other one wait, and nothing grows.
 *
 * Limits: the far side's end is the end of both directions: it cannot close one and go on reading.
 */
#pragma once

#include "wire/stream.h"

#define RELAY_BYTES 16384u

/* *near*: a non-blocking socket, which stays the caller's.  TRUE where the near side has ended and
 * all of it was sent; FALSE with *error*: the far side has ended or failed, nothing moved in either
 * direction for *silence_ms* (VMFERRY_ERROR_TIMEOUT), or *wake_fd* became readable
 * (VMFERRY_ERROR_CANCELLED). */
gboolean relay_run(Stream *stream, int near, int wake_fd, guint silence_ms, GError **error);
