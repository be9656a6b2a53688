/* What the block tap's process is told when it starts, and answers; as it is in memory. */
#pragma once

#include <stdint.h>

#define TAP_ADDRESS_BYTES 104 /* of an abstract socket, with a NUL */

typedef struct {
    uint64_t buffer_bytes;
    uint32_t stall_ms, wait_ms;
    int32_t client;
    uint32_t count; /* of TapDiskOrder, which follow */
} TapOrder;

typedef struct {
    uint64_t bytes;
    char address[TAP_ADDRESS_BYTES]; /* "": any */
} TapDiskOrder;

typedef struct {
    int32_t code; /* -1: it serves; or a VmferryErrorCode */
    char problem[508];
    /* Where it serves, an address of TAP_ADDRESS_BYTES for each disk follows. */
} TapAnswer;
