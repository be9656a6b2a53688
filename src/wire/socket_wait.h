/* Waiting for a socket with a deadline and a second descriptor that wakes. */
#pragma once

#include <stdint.h>

#define SOCKET_WAIT_FOREVER UINT64_MAX

typedef enum { SOCKET_READY, SOCKET_TIMED_OUT, SOCKET_WOKEN } SocketWaitResult;

/* Waits until *fd* (-1: none) has one of *events* or an error, *wake_fd*
 * (-1: none) is readable, or clock_now_ns() has reached *deadline_ns*.  Being
 * woken comes first. */
SocketWaitResult socket_wait(int fd, short events, int wake_fd, uint64_t deadline_ns);

/* The moment *timeout_ms* from now; negative: never. */
uint64_t socket_deadline(int timeout_ms);
