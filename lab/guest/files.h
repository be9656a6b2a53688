/*
 * Bytes of the guest's files and devices, by order: what a test puts into a
 * card's memory must be there after a move
 *
 * What can only be mapped (memory of a PCI card, /sys/…/resource0) is mapped.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* false with errno. */
bool file_read_at(const char *path, uint64_t offset, uint8_t *bytes, size_t count);
bool file_write_at(const char *path, uint64_t offset, const uint8_t *bytes, size_t count);
