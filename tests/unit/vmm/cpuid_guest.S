/*
 * A guest that executes CPUID (bochs_cpuid.h)
 *
 * In real mode, at any address: of each pair of leaf and subleaf at 8000h, up to a leaf of FFFFFFFFh, EAX to EDX are written
 * at 9000h, and then 1 at A000h.
 */
        .section .rodata
        .globl cpuid_guest, cpuid_guest_end
        .code16
cpuid_guest:
        xorw %ax, %ax
        movw %ax, %ds
        movw $0x8000, %si
        movw $0x9000, %di
1:      movl (%si), %eax
        movl 4(%si), %ecx
        cmpl $-1, %eax
        je 2f
        cpuid
        movl %eax, (%di)
        movl %ebx, 4(%di)
        movl %ecx, 8(%di)
        movl %edx, 12(%di)
        addw $8, %si
        addw $16, %di
        jmp 1b
2:      movl $1, 0xa000
3:      jmp 3b
cpuid_guest_end:

        .section .note.GNU-stack, "", @progbits
