/*
 * A bare guest of a real Bochs, for tests of the driver
 *
 * It is some bytes of code in real mode that count in 16 pages; they are put into its memory from outside, as is the place to
 * run.
 */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

#include "memory/guest_memory.h"
#include "vmm/bochs/bochs.h"
#include "vmm/bochs/driver.h"

#define MEMORY (16u << 20)
#define CODE_PAGE 7u /* 7000h */
#define FIRST_PAGE 16u
#define COUNT_PAGES 16u
#define WAIT_MS 20000
#define IMAGE_BYTES (16 << 20)

extern char *directory; /* of the tests */

/* Of a test that failed. */
extern pid_t last_pid;
extern uint64_t last_start_time;

BochsMachine make_machine(void);
Vmm *try_launch(const BochsMachine *machine, GError **error);
Vmm *launch(void);
int end_last(void **unused);
BochsProcess *process_of(Vmm *vmm);
void end(Vmm *vmm);
GuestMemory *open_memory(Vmm *vmm);
void put_code(Vmm *vmm, GuestMemory *memory);
uint32_t read_count(GuestMemory *memory, guint page);
void await_count(GuestMemory *memory, uint32_t above);
void expect_state(Vmm *vmm, VmmRunState wanted);
char *make_image(void);
Vmm *launch_with_image(const char *image);
gboolean set_lock(int fd, short type, off_t byte);
gboolean may_write(const char *image);
Vmm *come_back(Vmm *vmm);
void perform_resume(Vmm *vmm);
int begin(void **unused);
int clean_up(void **unused);
