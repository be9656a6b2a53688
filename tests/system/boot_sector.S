# A whole guest in a boot sector: in real mode, by the BIOS's services, without a kernel.  It reads the
# second sector of its disk again and again, and says on the serial line "ok COUNT", the count of reads in
# hexadecimal; "wrong", and nothing more, where the sector is not what it was.  A moment of waiting in
# between, so that it is now in its own code and now in the BIOS's.
    .code16
    .set mark, 0x5aa51234
    .set buffer, 0x7e00
    .set line, 0x3f8
    .globl _start
_start:
    cli
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7c00, %sp
    sti
    cld
    mov %dl, drive
    mov $(line + 3), %dx  # 8 bits a character
    mov $3, %al
    out %al, %dx
    xor %bp, %bp

again:
    movl $0, buffer
    mov $0x0201, %ax
    mov $buffer, %bx
    mov $0x0002, %cx
    xor %dh, %dh
    mov drive, %dl
    int $0x13
    jc bad
    cmpl $mark, buffer
    jne bad
    inc %bp
    mov $ok, %si
    call say
    mov $4, %cx
digit:
    rol $4, %bp
    mov %bp, %ax
    and $0x0f, %al
    add $'0', %al
    cmp $'9', %al
    jbe 1f
    add $7, %al
1:
    call put
    loop digit
    mov $'\n', %al
    call put
    mov $0x2000, %cx
1:
    in $0x61, %al
    loop 1b
    jmp again

bad:
    mov $failed, %si
    call say
1:
    hlt
    jmp 1b

say:
    lodsb
    test %al, %al
    jz 1f
    call put
    jmp say
1:
    ret

put:
    push %ax
    mov $(line + 5), %dx
1:
    in %dx, %al
    test $0x20, %al
    jz 1b
    pop %ax
    mov $line, %dx
    out %al, %dx
    ret

drive: .byte 0
ok: .asciz "ok "
failed: .asciz "wrong\n"

    .org 510
    .word 0xaa55
    .long mark
    .org 1024
