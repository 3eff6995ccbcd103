# A boot sector that lives on interrupts: real mode, the PIC's timer line, HLT between ticks.
#
# Prints 'T', then one '.' for each eighth tick of a PIT at 1 kHz. It needs the in-kernel interrupt controllers
# and timer (irqchip=on): after a migration it goes on only if all of them came along.
        .set    COM1, 0x3f8
        .code16
        .globl  _start
_start: cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %ss
        movw    $0x7000, %sp
        movw    $tick, 0x20 * 4         # vector 0x20: line 0
        movw    %ax, 0x20 * 4 + 2
        movb    $0x11, %al              # PIC: initialise, vectors 0x20 and 0x28, only line 0
        outb    %al, $0x20
        outb    %al, $0xa0
        movb    $0x20, %al
        outb    %al, $0x21
        movb    $0x28, %al
        outb    %al, $0xa1
        movb    $4, %al
        outb    %al, $0x21
        movb    $2, %al
        outb    %al, $0xa1
        movb    $1, %al
        outb    %al, $0x21
        outb    %al, $0xa1
        movb    $0xfe, %al
        outb    %al, $0x21
        movb    $0xff, %al
        outb    %al, $0xa1
        movb    $0x34, %al              # PIT channel 0: rate generator, 1193182 / 1193 Hz
        outb    %al, $0x43
        movb    $(1193 & 0xff), %al
        outb    %al, $0x40
        movb    $(1193 >> 8), %al
        outb    %al, $0x40
        movb    $'T', %al
        movw    $COM1, %dx
        outb    %al, %dx
        xorw    %bx, %bx
again:  sti
        hlt
        jmp     again

tick:   incw    %bx
        testb   $7, %bl
        jnz     done
        movb    $'.', %al
        movw    $COM1, %dx
        outb    %al, %dx
done:   movb    $0x20, %al
        outb    %al, $0x20
        iretw

        .org    510
        .word   0xaa55
