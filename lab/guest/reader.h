/*
 * Readers of a second disk (/dev/vdb), past the page cache, that keep what they read
 *
 * Theory of operation: the disk's content is known: each 8-byte word holds its own byte offset.
 * Each reader thread takes the next page of a ring, spoils it, reads a random block into it, and
 * leaves it there; so for a while every block that was read lies in a page of its own, that only
 * the device wrote, and can be checked.
 */
#pragma once

#include <stdint.h>

/* Does nothing where there is no such disk. */
void reader_start(void);
/* How many of them are at work. */
void reader_set_count(unsigned readers);
/* Checks all that is kept; how many pages are wrong. */
uint64_t reader_check(void);
