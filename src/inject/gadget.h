/*
 * Finding the instructions that an injection stands on
 *
 * Both are in every process with a C library: the signal trampoline
 * (`mov $15,%rax; syscall`, to which every signal handler returns) and
 * somewhere the three bytes of `syscall; ret`.
 */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct {
    uint64_t call;          /* syscall; ret */
    uint64_t signal_return; /* mov $15,%rax; syscall */
} Gadgets;

/* Searches the executable, file-backed mappings of *pid*. */
gboolean gadget_find(pid_t pid, Gadgets *ret, GError **error);

/* Searches *code*, which is mapped at *address*; fills what is still 0. */
void gadget_scan(const uint8_t *code, size_t length, uint64_t address, Gadgets *gadgets);
