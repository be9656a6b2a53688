/* The process of a block tap's sink (tap_sink.h says what it does). */
#pragma once

/* Who starts it by this name has it linked in. */
extern const char tap_process_name[];

#define TAP_PROCESS_FD 3 /* its only descriptor: the socket to the agent */
