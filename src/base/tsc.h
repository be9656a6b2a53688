/* The time stamp counter of this host's processors. */
#pragma once

#include <stdint.h>

/* Counts a second, measured once within 20 ms; 0: this host has none. */
uint64_t tsc_hz(void);
