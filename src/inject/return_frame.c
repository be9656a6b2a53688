#include "inject/return_frame.h"

#include <cpuid.h>
#include <string.h>

#include "base/bytes.h"

#define RED_ZONE_BYTES 128u
#define UC_FP_XSTATE 0x1u
#define UC_SIGCONTEXT_SS 0x2u
#define UC_STRICT_RESTORE_SS 0x4u

/* An alternate signal stack that sigaltstack(2) refuses, so that rt_sigreturn
 * leaves the thread's own as it is (the kernel ignores that refusal). */
#define ALTSTACK_KEEP 0x7f

#define FRAME_FIXED_BYTES 512u /* trampoline, ucontext and siginfo: 8 + 304 + 128, rounded up */

/* sw_reserved of the FXSAVE area (struct _fpx_sw_bytes); <asm/sigcontext.h> has its magic. */
#define SW_BYTES_OFFSET 464u

#define XSAVE_MIN_BYTES 576u
#define XSTATE_BV_OFFSET 512u /* the parts that are not in their first state */
#define XSAVE_LEAF 0xdu       /* of cpuid: where each part is */
#define XSAVE_ON_REQUEST 0x4u /* in ecx: a thread has it only once it used it */

static uint64_t read_features(const uint8_t *at)
{
    ByteReader reader = byte_reader_make(at, 8);

    return byte_read_le64(&reader);
}

/* ptrace gives room for all that the processor can save.  A thread that never
 * used what is given on request only (AMX tiles) has less, and the kernel takes
 * a frame that is longer than the thread's own for one without vector state.
 * Such parts are left out where they are not in use; they begin empty again. */
static uint64_t choose_features(const uint8_t *state, size_t *length)
{
    uint64_t features = read_features(state + SW_BYTES_OFFSET);
    uint64_t in_use = read_features(state + XSTATE_BV_OFFSET);
    size_t end = XSAVE_MIN_BYTES;

    for (guint i = 2; i < 63; i++) {
        unsigned int size, offset, kind, edx;

        if (!(features >> i & 1))
            continue;
        __cpuid_count(XSAVE_LEAF, i, size, offset, kind, edx);
        if ((kind & XSAVE_ON_REQUEST) && !(in_use >> i & 1))
            features &= ~(1ULL << i);
        else
            end = MAX(end, (size_t)offset + size);
    }
    *length = MIN(end, *length);
    return features;
}

static void write_sigcontext(GByteArray *out, const struct user_regs_struct *r, uint64_t vector)
{
    const uint64_t general[] = {r->r8,  r->r9,  r->r10, r->r11, r->r12, r->r13,
                                r->r14, r->r15, r->rdi, r->rsi, r->rbp, r->rbx,
                                r->rdx, r->rax, r->rcx, r->rsp, r->rip, r->eflags};

    for (guint i = 0; i < G_N_ELEMENTS(general); i++)
        byte_write_le64(out, general[i]);
    byte_write_le16(out, (uint16_t)r->cs);
    byte_write_le16(out, 0); /* gs, fs: their bases are not touched */
    byte_write_le16(out, 0);
    byte_write_le16(out, (uint16_t)r->ss);
    for (int i = 0; i < 4; i++) /* err, trapno, oldmask, cr2 */
        byte_write_le64(out, 0);
    byte_write_le64(out, vector);
    for (int i = 0; i < 8; i++)
        byte_write_le64(out, 0);
}

static void write_vector_state(GByteArray *out, const uint8_t *state, size_t length,
                               uint64_t features)
{
    size_t start = out->len;
    g_autoptr(GByteArray) software = g_byte_array_new();

    byte_write_span(out, state, length);
    if (length < XSAVE_MIN_BYTES)
        return;
    /* ptrace keeps the mask of saved features where the software bytes go. */
    byte_write_le32(software, FP_XSTATE_MAGIC1);
    byte_write_le32(software, (uint32_t)length + 4);
    byte_write_le64(software, features);
    byte_write_le32(software, (uint32_t)length);
    memcpy(out->data + start + SW_BYTES_OFFSET, software->data, software->len);
    byte_write_le32(out, FP_XSTATE_MAGIC2);
}

GByteArray *return_frame_build(const struct user_regs_struct *registers,
                               const uint8_t *vector_state, size_t vector_bytes,
                               uint64_t signal_mask, uint64_t signal_return, uint64_t *ret_address)
{
    GByteArray *out = g_byte_array_new();
    size_t length = vector_bytes;
    uint64_t features =
        vector_bytes >= XSAVE_MIN_BYTES ? choose_features(vector_state, &length) : 0;
    uint64_t vector = (registers->rsp - RED_ZONE_BYTES - length - 4) & ~63ULL;
    /* After `ret` the stack pointer is frame + 8; no alignment is asked for. */
    uint64_t frame = vector - FRAME_FIXED_BYTES;
    uint64_t flags = UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS;

    if (vector_bytes >= XSAVE_MIN_BYTES)
        flags |= UC_FP_XSTATE;
    byte_write_le64(out, signal_return);
    byte_write_le64(out, flags);
    byte_write_le64(out, 0);
    byte_write_le64(out, 0); /* alternate stack: address, flags, size */
    byte_write_le32(out, ALTSTACK_KEEP);
    byte_write_le32(out, 0);
    byte_write_le64(out, 0);
    write_sigcontext(out, registers, vector);
    byte_write_le64(out, signal_mask);
    while (out->len < FRAME_FIXED_BYTES)
        byte_write_le64(out, 0);
    write_vector_state(out, vector_state, length, features);
    *ret_address = frame;
    return out;
}
