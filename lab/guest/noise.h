/*
 * What keeps the kernel and its timers busy: lab.wakeups and lab.calls, on the kernel command line only
 *
 * Theory of operation: one thread sleeps by a timer until absolute times, so many times a second; a timer that fires before its
 * time, and a clock that goes back, are findings.  Other threads are in system calls all the time, of which most is
 * spent in the kernel; what they read has to be zero.
 */
#pragma once

#include <stdint.h>

#include "settings.h"

void noise_start(const Settings *settings);
/* How often there was something wrong, since the start. */
uint64_t noise_get_errors(void);
