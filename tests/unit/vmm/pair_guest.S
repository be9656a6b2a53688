/*
 * A guest of two processors without an operating system: two sectors, of which the first is loaded to 7C00h and entered there in
 * real mode, and loads the other (pair_guest.h says what they do).  Addresses are computed from its begin.
 *
 * Each processor has its statistics at (%ebx), all the time: its interrupts count there.
 */
#define AT(label) (label - pair_guest + 0x7c00)
#define STATISTICS 0x5000
#define OF_SECOND 0x5400
#define SHARED 0x5800
#define START 0x5804
#define IDT 0x6000
#define SECOND_BEGINS 0x8000
#define ENTRIES 0x20000
#define STEP 0x9e3779b9
#define APIC 0xfee00000

#define TICKS 0
#define ROUNDS 8
#define WRONG 16
#define BROKEN 24
#define TSC 32
#define SIGNALS 40
#define CONSTANT 48
#define STORED 56
#define TABLE 64
#define ID 68

        .section .rodata
        .globl pair_guest, pair_guest_end
        .balign 16
pair_guest:
        .code16
        cli
        xorw %ax, %ax
        movw %ax, %ds
        movw %ax, %es
        movw %ax, %ss
        movw $0x7c00, %sp
        cld
        sti
        movw $0x0201, %ax
        movw $2, %cx
        movb $0, %dh
        movw $0x7e00, %bx
        int $0x13
        cli
        /* The second processor begins at a page, with a jump. */
        movb $0xea, SECOND_BEGINS
        movl $AT(second_real), SECOND_BEGINS + 1
        lgdtl AT(gdt_register)
        movl %cr0, %eax
        orb $1, %al
        movl %eax, %cr0
        ljmpl $8, $AT(first)
second_real:
        cli
        xorw %ax, %ax
        movw %ax, %ds
        lgdtl AT(gdt_register)
        movl %cr0, %eax
        orb $1, %al
        movl %eax, %cr0
        ljmpl $8, $AT(second)

        .code32
first:  movl $0x7c00, %esp
        call segments
        movl $STATISTICS, %edi
        movl $0x800, %ecx
        xorl %eax, %eax
        rep stosl
        movl $(0x80000 + AT(tick)), IDT + 0x40 * 8
        movl $0x8e00, IDT + 0x40 * 8 + 4
        movl $(0x80000 + AT(signal)), IDT + 0x41 * 8
        movl $0x8e00, IDT + 0x41 * 8 + 4
        movb $0xff, %al
        outb %al, $0x21
        outb %al, $0xa1
        movl $STATISTICS, %ebx
        movl $0x200000, TABLE(%ebx)
        call begin
        fldpi
        fstl CONSTANT(%ebx)
        /* It waits for its start-up IPI from now on. */
        movl $0x1000000, APIC + 0x310
        movl $0x4500, APIC + 0x300
1:      call round
        cmpl $0, START
        je 1b
        cmpl $0, OF_SECOND + ROUNDS
        jne 2f
        movl $0x1000000, APIC + 0x310
        movl $(0x4600 + SECOND_BEGINS / 0x1000), APIC + 0x300
        jmp 1b
        /* Each round it tells the second one, and goes on when that has heard of it. */
2:      movl OF_SECOND + SIGNALS, %edx
        incl %edx
        movl $0x1000000, APIC + 0x310
        movl $0x4041, APIC + 0x300
3:      pause
        cmpl %edx, OF_SECOND + SIGNALS
        jne 3b
        jmp 1b

second: movl $0x7800, %esp
        call segments
        movl $OF_SECOND, %ebx
        movl $0x300000, TABLE(%ebx)
        movl $1, ID(%ebx)
        call begin
        fldl2e
        fstl CONSTANT(%ebx)
4:      call round
        hlt
        jmp 4b

segments:
        movl $0x10, %eax
        movl %eax, %ds
        movl %eax, %es
        movl %eax, %ss
        ret

        .org pair_guest + 510, 0
        .word 0xaa55

begin:  lidt AT(idt_register)
        movl %cr0, %eax
        andl $~4, %eax
        orl $2, %eax
        movl %eax, %cr0
        movl $0x600, %eax /* OSFXSR, OSXMMEXCPT */
        movl %eax, %cr4
        fninit
        movd %ebx, %xmm3
        pshufd $0, %xmm3, %xmm7
        movl TABLE(%ebx), %edi
        movl $ENTRIES, %ecx
        xorl %eax, %eax
5:      stosl
        addl $STEP, %eax
        loop 5b
        movl $0x1ff, APIC + 0xf0
        movl $0, APIC + 0x80
        movl $0x10000, APIC + 0x350
        movl $0xb, APIC + 0x3e0
        movl $0x20040, APIC + 0x320
        movl $500000, APIC + 0x380
        sti
        ret

        /* Each entry has its number times STEP, and the rounds. */
round:  movl TABLE(%ebx), %edi
        movl $ENTRIES, %ecx
        movl ROUNDS(%ebx), %eax
6:      cmpl %eax, (%edi)
        jne wrong
7:      incl (%edi)
        addl $STEP, %eax
        addl $4, %edi
        loop 6b
        lock incl SHARED
        incl ROUNDS(%ebx)
        movhlps %xmm7, %xmm1
        movd %xmm1, %eax
        cmpl %ebx, %eax
        jne broken
        fstl STORED(%ebx)
        movl STORED(%ebx), %eax
        cmpl CONSTANT(%ebx), %eax
        jne broken
        movl APIC + 0x20, %eax
        shrl $24, %eax
        cmpl ID(%ebx), %eax
        jne broken
        rdtsc
        movl TSC(%ebx), %esi
        movl TSC + 4(%ebx), %edi
        subl %eax, %esi
        sbbl %edx, %edi
        jnc broken
        movl %eax, TSC(%ebx)
        movl %edx, TSC + 4(%ebx)
        ret
wrong:  incl WRONG(%ebx)
        movl %eax, (%edi)
        jmp 7b
broken: incl BROKEN(%ebx)
        ret

tick:   incl TICKS(%ebx)
        movl $0, APIC + 0xb0
        iret
signal: incl SIGNALS(%ebx)
        movl $0, APIC + 0xb0
        iret

        .balign 8
gdt:    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdt_register:
        .word 23
        .long AT(gdt)
idt_register:
        .word 0x7ff
        .long IDT
        .org pair_guest + 1024, 0
pair_guest_end:

        .section .note.GNU-stack, "", @progbits
