/*
 * QMP client
 *
 * Theory of operation: a Qmp is one way to one QEMU's monitor.  What carries the
 * commands is a table (qmp_private.h): a Unix socket, one JSON object a line
 * (qmp_socket.c), or libvirt, which holds the only monitor of its guests
 * (qmp_libvirt.h).  Any thread may execute commands at the same time.
 * Events go to one callback, called in a thread of the carrier's: it must not
 * execute commands nor free the Qmp.
 *
 * Over a socket a Qmp owns one connection and one reader thread: each command carries an id, its caller sleeps
 * until the reader thread brings the reply with that id, the time-out is over
 * or the connection ends.  A reply that comes after its time-out is dropped.
 *
 * Where QEMU offers it, out-of-band execution is agreed on: such a command is
 * done even while another one holds up QEMU's main loop.
 *
 * QEMU serves one client a socket and lets others wait without a word.  So a
 * connection without greeting means that another client is served.
 *
 * Locks: `write_lock` keeps the bytes of a command together; `fd_lock` is held
 * for a whole command that carries a descriptor, because QEMU forgets
 * descriptors that came with an earlier message when new ones arrive; `lock`
 * guards the table of waiting commands and is never held while waiting for I/O.
 *
 * What QEMU says is not trusted: lines are bounded, replies are JSON objects
 * or the connection is given up.  QEMU's own error text is always part of the
 * error returned.
 */
#pragma once

#include <glib.h>
#include <jansson.h>

typedef struct Qmp Qmp;

/* An event; *data* is borrowed and may be NULL. */
typedef void (*QmpEventFunc)(const char *event, json_t *data, gpointer user);

/* An event of ours: some of QEMU's may have been missed. */
#define QMP_EVENTS_LOST "VMFERRY_EVENTS_LOST"

/* Time-outs that fit most callers. */
#define QMP_GREETING_MS 3000
#define QMP_COMMAND_MS 10000

/* Longest line taken from QEMU (`info mtree -f` of a big machine has 1 MB). */
#define QMP_MAX_LINE_BYTES (16u << 20)

/* Connects, waits for the greeting and enters command mode.
 * VMFERRY_ERROR_BUSY where nothing is said within *greeting_ms*,
 * VMFERRY_ERROR_NOT_FOUND or _REFUSED where no process listens. */
Qmp *qmp_connect(const char *path, int greeting_ms, GError **error);

/* The same for a QEMU that we have just started, so that no other client is served.  QEMU hangs now
 * and then when its first client comes while its main loop hands the listening socket to another
 * thread: both go to take the client, and one of them waits in accept(2) for a second one.  So
 * where no answer comes for a second, it gets one. */
Qmp *qmp_connect_starting(const char *path, int greeting_ms, GError **error);

/* The same as qmp_connect() on a connected socket; takes *fd*.  *path* is for error texts. */
Qmp *qmp_connect_fd(int fd, const char *path, int greeting_ms, GError **error);

/* Closes the connection; waiting commands end with an error.  NULL-safe.  No
 * other call may be made at the same time. */
void qmp_free(Qmp *qmp);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qmp, qmp_free)

/* Replaces the event callback (NULL: none).  When this returns the former
 * callback is not running any more. */
void qmp_set_event_func(Qmp *qmp, QmpEventFunc func, gpointer user);

/* Executes a command and returns its "return" value (a new reference).  Takes
 * *arguments* (may be NULL).  *fd* >= 0 travels with the command and stays the
 * caller's. */
json_t *qmp_execute_fd(Qmp *qmp, const char *command, json_t *arguments, int fd, int timeout_ms,
                       GError **error);
json_t *qmp_execute(Qmp *qmp, const char *command, json_t *arguments, int timeout_ms,
                    GError **error);

/* The same for commands whose return value says nothing. */
gboolean qmp_run(Qmp *qmp, const char *command, json_t *arguments, int timeout_ms, GError **error);

/* Out of band: overtakes commands that hang.  Only few commands can be executed so ("yank").
 * VMFERRY_ERROR_UNSUPPORTED where QEMU does not offer it. */
gboolean qmp_run_oob(Qmp *qmp, const char *command, json_t *arguments, int timeout_ms,
                     GError **error);

/* A line of the human monitor; returns its text (free with g_free()). */
char *qmp_execute_human(Qmp *qmp, const char *line, int timeout_ms, GError **error);

gboolean qmp_is_connected(Qmp *qmp);

/* TRUE where events may come later than replies to commands that were executed after them.  (On a socket
 * what came first is seen first.) */
gboolean qmp_has_late_events(Qmp *qmp);

/* Of a guest that we paused: FALSE (REFUSED) where another program has resumed it since, though it may be paused
 * again.  Tells what late events may not have told yet; else TRUE: RESUME events tell. */
gboolean qmp_check_not_resumed(Qmp *qmp, GError **error);
