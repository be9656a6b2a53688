/*
 * The return frame: what rt_sigreturn(2) needs to undo an injection
 *
 * Layout as the kernel's struct rt_sigframe on x86-64 (arch/x86/include/asm/
 * sigframe.h, uapi/asm/ucontext.h and sigcontext.h):
 *
 *     0    address of the signal trampoline: what `ret` pops
 *     8    ucontext: flags, link, alternate stack, sigcontext, signal mask
 *     …    siginfo (unused by rt_sigreturn)
 *     …    vector state, 64-byte aligned, in XSAVE format with the kernel's
 *          software bytes, which the sigcontext points to
 */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <sys/user.h>

/* Builds the frame for a stack pointer of registers->rsp.  *vector_state* is
 * what PTRACE_GETREGSET(NT_X86_XSTATE) gave.  *ret_address* is where the frame
 * has to be written, and the stack pointer to make the call with. */
GByteArray *return_frame_build(const struct user_regs_struct *registers,
                               const uint8_t *vector_state, size_t vector_bytes,
                               uint64_t signal_mask, uint64_t signal_return, uint64_t *ret_address);
