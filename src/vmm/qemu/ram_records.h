/*
 * QEMU's own record of a RAM block
 *
 * Theory of operation: QEMU keeps a record for each block on its heap (struct
 * RAMBlock).  Versions before 8.1 have no command that shows the host address
 * in it, but the heap can be read, as guest RAM is.  Of the record's form no
 * more is taken for granted than what all versions since 2.4 have: within a few
 * dozen bytes come the host address, then offset, used and total length side by
 * side, then the name.  Offset, total length and name are known from
 * `info ramblock`, so a record is recognised by nearly all of its content.
 *
 * A record is believed only if its address is the start of a mapping of the
 * block's length, no other record of the block names another one, and every
 * block that is known by other means is where its records say.  Otherwise
 * nothing is taken from records at all.
 *
 * Limits: what was freed may still look like a record.  If it differs from the
 * one in use the block counts as not found.
 */
#pragma once

#include "vmm/qemu/ram_blocks.h"

/* Searches *heap* for the records of *blocks*.  A block without an address
 * gets one of *ram*, unless another block has it. */
void qemu_find_records(GPtrArray *blocks, const GArray *ram, const GArray *heap,
                       QemuMemoryReader reader, gpointer user);
