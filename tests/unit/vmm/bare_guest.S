/*
 * A guest without an operating system: one sector, loaded to 7C00h and entered there in real mode
 * (bare_guest.h says what it does).  Here it is data; addresses are computed from its begin.
 */
#define AT(label) (label - bare_guest + 0x7c00)
#define STATISTICS 0x5000
#define IDT 0x6000
#define TABLE 0x200000
#define ENTRIES 0x20000
#define STEP 0x9e3779b97f4a7c15

        .section .rodata
        .globl bare_guest, bare_guest_end
        .balign 16
bare_guest:
        .code16
        cli
        xorw %ax, %ax
        movw %ax, %ds
        movw %ax, %es
        movw %ax, %ss
        movw $0x7c00, %sp
        cld
        /* 16 MiB of memory in pages of 2 MiB, at their addresses */
        movw $0x1000, %di
        movw $0x1800, %cx
        rep stosw
        movw $0x2007, 0x1000
        movw $0x3007, 0x2000
        movl $0x87, %eax
        movw $0x3000, %di
1:      movl %eax, (%di)
        addl $0x200000, %eax
        addw $8, %di
        cmpw $0x3040, %di
        jb 1b
        movl $0x620, %eax /* PAE, OSFXSR, OSXMMEXCPT */
        movl %eax, %cr4
        movl $0x1000, %eax
        movl %eax, %cr3
        movl $0xc0000080, %ecx
        rdmsr
        orl $0x100, %eax
        wrmsr
        movl %cr0, %eax
        andl $~4, %eax
        orl $0x80000003, %eax
        movl %eax, %cr0
        lgdtl AT(gdt_register)
        ljmpl $8, $AT(long_mode)

        .code64
long_mode:
        movl $0x10, %eax
        movl %eax, %ds
        movl %eax, %es
        movl %eax, %ss
        movl $0x7c00, %esp
        movl $STATISTICS, %edi
        movl $0x400, %ecx
        xorl %eax, %eax
        rep stosq
        movl $IDT + 0x20 * 16, %edi
        movl $(0x80000 + AT(interrupt)), %eax
        movl %eax, (%rdi)
        movl $0x8e00, 4(%rdi)
        lidt AT(idt_register)
        /* Interrupt 0 is vector 20h, all others are masked. */
        movb $0x11, %al
        outb %al, $0x20
        outb %al, $0xa0
        movb $0x20, %al
        outb %al, $0x21
        movb $0x28, %al
        outb %al, $0xa1
        movb $4, %al
        outb %al, $0x21
        movb $2, %al
        outb %al, $0xa1
        movb $1, %al
        outb %al, $0x21
        outb %al, $0xa1
        movb $0xfe, %al
        outb %al, $0x21
        movb $0xff, %al
        outb %al, $0xa1
        /* 1000 a second */
        movb $0x34, %al
        outb %al, $0x43
        movb $0xa9, %al
        outb %al, $0x40
        movb $0x04, %al
        outb %al, $0x40
        fninit
        fldpi
        fstl STATISTICS + 0x40
        movabsq $STEP, %r8
        movq %r8, %xmm3
        pshufd $0x44, %xmm3, %xmm15
        xorl %r9d, %r9d /* rounds */
        call fill
        sti
        /* Each entry has its number times STEP, and the rounds. */
round:  movl $TABLE, %edi
        movl $ENTRIES, %ecx
        movq %r9, %rax
2:      cmpq %rax, (%rdi)
        jne wrong
3:      incq (%rdi)
        addq %r8, %rax
        addq $8, %rdi
        decl %ecx
        jnz 2b
        incq %r9
        movhlps %xmm15, %xmm1
        movq %xmm1, %rax
        cmpq %r8, %rax
        jne broken
        fstl STATISTICS + 0x48
        movq STATISTICS + 0x48, %rax
        cmpq STATISTICS + 0x40, %rax
        jne broken
        rdtsc
        shlq $32, %rdx
        orq %rdx, %rax
        cmpq STATISTICS + 0x20, %rax
        jbe broken
        movq %rax, STATISTICS + 0x20
        movq %r9, STATISTICS + 8
        jmp round
wrong:  incq STATISTICS + 0x10
        movq %rax, (%rdi)
        jmp 3b
broken: incq STATISTICS + 0x18
        movq %r9, STATISTICS + 8
        jmp round

fill:   movl $TABLE, %edi
        movl $ENTRIES, %ecx
        xorl %eax, %eax
4:      stosq
        addq %r8, %rax
        decl %ecx
        jnz 4b
        ret

interrupt:
        pushq %rax
        incq STATISTICS
        movb $0x20, %al
        outb %al, $0x20
        popq %rax
        iretq

        .balign 8
gdt:    .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff
gdt_register:
        .word 23
        .long AT(gdt)
idt_register:
        .word 0xfff
        .quad IDT
        .org bare_guest + 510, 0
        .word 0xaa55
bare_guest_end:

        .section .note.GNU-stack, "", @progbits
