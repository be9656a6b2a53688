/*
 * Reading and rewriting QEMU command lines
 *
 * All of this is pure but qemu_command_line_check_sockets(), _check_pidfile()
 * and _check_memory_files(), which ask who uses a file.
 */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <jansson.h>

/* Id of the character device of our own QMP socket. */
#define QEMU_OWN_CHARDEV "vmferry-qmp"

/* TRUE where a program of this path may be a QEMU system emulator. */
gboolean qemu_is_program(const char *path);

/* What starts the same machine again elsewhere: without our own additions and
 * without what belongs to one start only (-daemonize, -incoming, -S, -loadvm).
 * Free with g_strfreev(). */
char **qemu_command_line_clean(char *const *argv);

/* What `run` starts: the user's command line with our QMP socket. */
char **qemu_command_line_for_start(char *const *argv, const char *qmp_path);

/* What a destination starts: cleaned, rewritten by *rules* (of VmmMapRule,
 * may be NULL), with our QMP socket, waiting for its state. */
char **qemu_command_line_for_incoming(char *const *argv, const GPtrArray *rules,
                                      const char *qmp_path);

/* Guest memory as "-m" says (QEMU's default is 128 MiB); 0 where it cannot be
 * told or does not come from ordinary memory (hugetlbfs). */
uint64_t qemu_command_line_memory(char *const *argv);

/* Refuses descriptors that QEMU would have to inherit. */
gboolean qemu_command_line_check_descriptors(char *const *argv, GError **error);

/* Refuses where a listening socket of this command line is in use here: QEMU
 * would take it away from its owner.  Relative paths start at *folder*. */
gboolean qemu_command_line_check_sockets(char *const *argv, const char *folder, GError **error);

/* Refuses a pidfile that another process has locked, as QEMU does. */
gboolean qemu_command_line_check_pidfile(char *const *argv, const char *folder, GError **error);

/* Refuses where shared guest memory is a file that another process on this host uses,
 * as the source of a move on one file system does. */
gboolean qemu_command_line_check_memory_files(char *const *argv, const char *folder,
                                              GError **error);

/* Refuses -snapshot: what the guest wrote would not be at the destination. */
gboolean qemu_command_line_check_snapshots(char *const *argv, GError **error);

/* Refuses devices that write into guest memory from an address space of their
 * own (external DMA writers: vhost-user, VFIO, …), whose writes no tracker sees. */
gboolean qemu_command_line_check_writers(char *const *argv, GError **error);

/* The same by the type of one device or network back end; used with what the
 * live machine tells. */
gboolean qemu_is_dma_writer(const char *type);

/* Searches the texts of `info qtree` and `info network`; returns the type of
 * the first such device or back end (free with g_free()), NULL for none. */
char *qemu_find_dma_writer(const char *device_tree, const char *networks);

/* The same in an answer of query-named-block-nodes: QEMU's own NVMe driver lets
 * the hardware write into guest memory. */
char *qemu_find_dma_block_writer(json_t *nodes);
