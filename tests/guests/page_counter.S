# A boot sector that knows nothing of its VMM: the pattern of QEMU's migration test, written anew.
#
# Enters protected mode, prints 'A' on COM1, and then for ever adds one to the first byte of every page
# between FIRST and END, in order, printing 'B' after every 16th sweep. At any moment the bytes are
# v, v, … v, v-1, … v-1 for one v: a lost or stale page breaks the row. The guest checks that itself before
# each addition and prints '!' when it does not hold.
        .set    FIRST, 0x100000
        .set    END, 0x800000
        .set    COM1, 0x3f8

        .code16
        .globl  _start
_start: cli
        xorw    %ax, %ax
        movw    %ax, %ds
        inb     $0x92, %al              # A20, as firmware leaves it to the loader
        orb     $2, %al
        outb    %al, $0x92
        lgdtl   table
        movl    %cr0, %eax
        orl     $1, %eax
        movl    %eax, %cr0
        ljmpl   $8, $protected

        .code32
protected:
        movw    $16, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    $0x7000, %esp
        movb    $'A', %al
        call    print
        xorl    %ebx, %ebx              # bl: what every page of this sweep holds
sweep:  movl    $FIRST, %edi
page:   cmpb    %bl, (%edi)
        jne     bad
next:   incb    (%edi)
        addl    $0x1000, %edi
        cmpl    $END, %edi
        jb      page
        incb    %bl
        testb   $15, %bl
        jnz     sweep
        movb    $'B', %al
        call    print
        jmp     sweep
bad:    movb    $'!', %al
        call    print
        jmp     next

print:  movb    %al, %cl
        movw    $(COM1 + 5), %dx
wait:   inb     %dx, %al                # line status: the holding register is empty
        testb   $0x20, %al
        jz      wait
        movb    %cl, %al
        movw    $COM1, %dx
        outb    %al, %dx
        ret

        .balign 8
gdt:    .quad   0
        .quad   0x00cf9a000000ffff      # 8: code, flat
        .quad   0x00cf92000000ffff      # 16: data, flat
table:  .word   23
        .long   gdt

        .org    510
        .word   0xaa55
