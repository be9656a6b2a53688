/*
 * Between QEMU's form and the neutral state
 *
 * Theory of operation: constant tables (qemu_map_*.c) say for each section what device of the tree it
 * is of, and for each of its fields where in the tree that is and how the one follows from the
 * other; or that it is left out, and why.  The same row serves both directions, so that what is read
 * from a stream and written into it again leaves each bit as it was (tests/unit/state/test_state_qemu.c,
 * which also finds fields that no row has).
 *
 * A stream is made by changing a *template*: the stream of the machine that is to go on, fresh, or
 * the one that the state was read from.  What the tree does not have stays as it is there.
 *
 * A section that is not known becomes a device whose type begins with "qemu,": state_check() refuses
 * it by that name, as every VMM's writer does.  Sections of what no guest sees are left out
 * (qemu_left_out()).
 *
 * Times: QEMU's are those of its virtual clock, whose time at the pause is in the stream.  The
 * real-time clock's are the host's, which is why the tree has only what is in its CMOS.
 */
#pragma once

#include "state/tree.h"

/* NULL with *error* where the stream cannot be read (qemu_form_read()), or a device of it lacks something. */
StateNode *state_from_qemu(const void *stream, size_t length, GError **error);

/* The template with that state.  UNSUPPORTED where the state has a device that the template lacks, or
 * the template one that the state lacks, by its name; or a value does not fit, by its path. */
GBytes *state_to_qemu(const StateNode *root, const void *template_stream, size_t length,
                      GError **error);
