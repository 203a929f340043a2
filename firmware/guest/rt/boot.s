# The part of the guest runtime that runs at CPL 0: entry, exception and interrupt stubs, services.
#
# Everything here is written for the narrowest CPU a guest may meet: under PVM every CPL 0
# instruction is emulated, at a few million a second and without SSE, INT n and CMPXCHG16B. So the
# tables are data, the path from entry to CPL 3 is a few dozen plain instructions, handlers only
# count, and Rust runs at CPL 3, natively everywhere, with the ports open to it.

.set KERNEL_CODE, 0x08
.set KERNEL_DATA, 0x10
.set USER_DATA, 0x1b
.set USER_CODE, 0x23
.set KERNEL_CODE32, 0x28
.set FIRST_TSS, 0x30

.set CPUS_MAX, 64
.set TSS_SIZE, 104                  # without the I/O permission map
.set IO_MAP_SIZE, 0x1000 / 8 + 1    # ports 0-0xfff, and the byte of ones the CPU wants after it
# One exception or service, plus one interrupt nested in its HLT, take well under 256 bytes.
.set KERNEL_STACK_SIZE, 1024
.set USER_STACK_SIZE, 0x10000
.set AP_STACK_SIZE, 0x4000
.set EMERGENCY_STACK_SIZE, 0x4000

# Vectors 0-31 are exceptions, 32-55 the I/O APIC's lines 0-23, then the local ones.
.set VECTORS, 0x50
.set NMI_VECTOR, 2
.set UD_VECTOR, 6
.set FIRST_IRQ_VECTOR, 0x20
.set SPURIOUS_VECTOR, 0x4f
# Exceptions that push an error code: #DF, #TS, #NP, #SS, #GP, #PF, #AC, #CP, #VC, #SX.
.set HAS_ERROR_CODE, 0x60227d00

.set CR0_LONG, 0x80000033           # PG, NE, ET, MP, PE; not EM or TS: SSE is used at CPL 3
.set CR4_LONG, 0x00000620           # OSXMMEXCPT, OSFXSR, PAE
.set MSR_EFER, 0xc0000080
.set EFER_LME, 0x100
.set USER_RFLAGS, 0x2                    # IOPL 0: PVM keeps no other; the TSS's map opens the ports
.set RFLAGS_IF, 0x200
.set SERVICES, 8
.set COM1, 0x3f8
.set APIC_EOI, 0xfee000b0

# ---------------------------------------------------------------------------------------------
# Entry
.section .boot, "awx"

# PVH (Xen's x86 HVM direct boot): 32-bit protected mode, flat, paging off, EBX = hvm_start_info.
.code32
.global rt_pvh_entry
rt_pvh_entry:
    mov edx, COM1
    mov al, byte ptr [rt_first_byte]
    out dx, al
    mov edi, ebx
    xor esi, esi
    lgdt [gdt_pointer]
    mov ebx, offset bsp64
enter_long_mode:                    # EBX = where to go on
    mov eax, CR4_LONG
    mov cr4, eax
    mov eax, offset rt_pml4
    mov cr3, eax
    mov ecx, MSR_EFER
    rdmsr
    or eax, EFER_LME
    wrmsr
    mov eax, CR0_LONG
    mov cr0, eax
    .byte 0xea                      # ljmp KERNEL_CODE:long_mode
    .long long_mode
    .word KERNEL_CODE

# Linux's 64-bit protocol: long mode, identity map, RSI = boot_params.
.code64
.global rt_linux64_entry
rt_linux64_entry:
    mov edx, COM1
    mov al, byte ptr [rt_first_byte]
    out dx, al
    mov rdi, rsi
    mov esi, 1
    lgdt [gdt_pointer]
    mov eax, CR4_LONG
    mov cr4, rax
    mov eax, offset rt_pml4
    mov cr3, rax
    mov eax, CR0_LONG
    mov cr0, rax
    jmp bsp64

long_mode:
    mov ebx, ebx
    jmp rbx

bsp64:                              # RDI, RSI = arguments of rt_start
    mov eax, KERNEL_DATA
    mov ss, eax
    # The one descriptor the linker cannot write: its base is scattered over three fields.
    mov eax, offset rt_tss
    mov word ptr [rt_gdt + FIRST_TSS + 2], ax
    shr eax, 16
    mov byte ptr [rt_gdt + FIRST_TSS + 4], al
    mov eax, FIRST_TSS
    ltr ax
    lidt [idt_pointer]
    mov esp, offset bsp_frame
    iretq

# An application processor, from the real-mode trampoline below.
.code32
ap32:
    mov eax, KERNEL_DATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov ebx, offset ap64
    jmp enter_long_mode

.code64
ap64:
    mov eax, KERNEL_DATA
    mov ss, eax
    # Tickets, not APIC ids, choose the stacks: dense, and two processors never share one.
    mov edi, 1
    lock xadd dword ptr [rt_ap_tickets], edi
    cmp edi, CPUS_MAX
    jae stop
    mov eax, edi
    shl eax, 4
    add eax, FIRST_TSS
    ltr ax
    lidt [idt_pointer]
    mov eax, edi
    imul eax, eax, AP_STACK_SIZE
    mov ecx, dword ptr [rt_ap_stacks]
    add eax, ecx                    # stack of CPU 1 ends at base + 1 * size
    sub eax, 8
    imul ecx, edi, KERNEL_STACK_SIZE
    lea esp, [rcx + rt_kernel_stacks + KERNEL_STACK_SIZE]
    push USER_DATA
    push rax
    push USER_RFLAGS
    push USER_CODE
    push offset rt_ap_start
    iretq

# Copied to a page below 1 MiB; entered in real mode with CS = that page.
.code16
.global rt_trampoline
.global rt_trampoline_end
rt_trampoline:
    cli
    mov ax, cs
    mov ds, ax
    mov bx, offset TRAMPOLINE_GDT_POINTER
    .byte 0x66                      # all 32 bits of the base
    lgdt [bx]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea                # ljmp KERNEL_CODE32:ap32, with a 32-bit offset
    .long ap32
    .word KERNEL_CODE32
.balign 4
trampoline_gdt_pointer:
    .word gdt_end - rt_gdt - 1
    .long rt_gdt
rt_trampoline_end:
.set TRAMPOLINE_GDT_POINTER, trampoline_gdt_pointer - rt_trampoline
.code64

.balign 8
gdt_pointer:
    .word gdt_end - rt_gdt - 1
    .quad rt_gdt
.balign 8
idt_pointer:
    .word VECTORS * 16 - 1
    .quad rt_idt
.balign 8
null_idt_pointer:
    .word 0
    .quad 0

.balign 8
bsp_frame:
    .quad rt_start, USER_CODE, USER_RFLAGS, user_stack + USER_STACK_SIZE - 8, USER_DATA
fatal_frame:
    .quad rt_fatal_exception, USER_CODE, USER_RFLAGS
    .quad emergency_stack + EMERGENCY_STACK_SIZE - 8, USER_DATA

.balign 8
.global rt_gdt
rt_gdt:
    .quad 0
    .quad 0x00af9b000000ffff        # 0x08 64-bit code, DPL 0
    .quad 0x00cf93000000ffff        # 0x10 data, DPL 0
    .quad 0x00cff3000000ffff        # 0x18 data, DPL 3
    .quad 0x00affb000000ffff        # 0x20 64-bit code, DPL 3
    .quad 0x00cf9b000000ffff        # 0x28 32-bit code, DPL 0: the way up of an AP
    .quad 0x0000890000000000 + TSS_SIZE + IO_MAP_SIZE - 1, 0
    .fill (CPUS_MAX - 1) * 2, 8, 0
gdt_end:

.balign 8
.global rt_tss
rt_tss:                             # of the bootstrap processor; the others' are made by rt::smp
    .long 0
    .quad rt_kernel_stacks + KERNEL_STACK_SIZE
    .fill 90, 1, 0
    .word TSS_SIZE                  # where the I/O permission map starts
    .fill IO_MAP_SIZE - 1, 1, 0
    .byte 0xff
.global rt_tss_end
rt_tss_end:

.balign 4
.global rt_ap_tickets
rt_ap_tickets:
    .long 1
.global rt_ap_stacks
rt_ap_stacks:
    .long 0

# ---------------------------------------------------------------------------------------------
# Page tables: identity, 2 MiB pages, user, writable; 0-1 GiB and 3-4 GiB. rt::paging adds the
# rest when it is wanted.
.section .tables, "aw"
.balign 4096
.global rt_pml4
.global rt_pdpt
rt_pml4:
    .quad rt_pdpt + 7
    .fill 511, 8, 0
rt_pdpt:
    .quad pd_ram + 7, 0, 0, pd_mmio + 7
    .fill 508, 8, 0
.macro PAGES_OF_ONE_GIB first
    .set address, \first
    .rept 512
    .quad address + 0x87
    .set address, address + 0x200000
    .endr
.endm
pd_ram:
    PAGES_OF_ONE_GIB 0
pd_mmio:
    PAGES_OF_ONE_GIB 0xc0000000

# ---------------------------------------------------------------------------------------------
# Exceptions and interrupts
.section .text, "ax"
.balign 16
.global rt_vector_stubs
rt_vector_stubs:                    # 16 bytes each; rt::interrupts points the IDT at them
.set vector, 0
.rept VECTORS
    .balign 16
    .if vector == UD_VECTOR
        jmp undefined_opcode
    .elseif vector == NMI_VECTOR || vector == SPURIOUS_VECTOR
        lock inc qword ptr [rt_counts + vector * 8]
        iretq
    .elseif vector >= FIRST_IRQ_VECTOR
        push vector
        jmp interrupt
    .elseif (HAS_ERROR_CODE >> vector) & 1
        push vector
        jmp fatal
    .else
        push 0
        push vector
        jmp fatal
    .endif
    .set vector, vector + 1
.endr
.balign 16

interrupt:                          # stack: vector, frame
    push rax
    mov eax, dword ptr [rsp + 8]
    lock inc qword ptr [rt_counts + rax * 8]
    lock inc qword ptr [rt_interrupts]
    mov eax, APIC_EOI
    mov dword ptr [rax], 0
    pop rax
    add rsp, 8
    iretq

fatal:                              # stack: vector, error code, frame
    pop rdi
    pop rsi
    pop rdx                         # RIP
    pop rcx                         # CS
    mov r8, cr2
    pop rax
    pop r9                          # RSP
    mov esp, offset fatal_frame
    iretq

undefined_opcode:
    cmp qword ptr [rsp], offset service_call
    jne not_a_service
    add qword ptr [rsp], 2
    cmp edi, SERVICES
    jae 1f
    jmp qword ptr [services + rdi * 8]
1:  iretq
not_a_service:
    push 0
    push UD_VECTOR
    jmp fatal

# rt_service(number, a, b): the way from CPL 3 to CPL 0. INT n is not to be had everywhere.
.global rt_service
rt_service:
service_call:
    ud2
    ret

wait_unless_interrupted:            # a = the count seen; IF is 0 here, so nothing slips between
    cmp rsi, qword ptr [rt_interrupts]
    jne 1f
    sti
    hlt
    cli
1:  iretq

stop:
    cli
1:  hlt
    jmp 1b

read_msr:
    mov ecx, esi
    rdmsr
    shl rdx, 32
    or rax, rdx
    iretq

write_msr:
    mov ecx, esi
    mov rax, rdx
    shr rdx, 32
    wrmsr
    iretq

enable_interrupts:
    or dword ptr [rsp + 16], RFLAGS_IF
    iretq

flush_tlb:
    mov rax, cr3
    mov cr3, rax
    iretq

drop_idt:
    lidt [null_idt_pointer]
    iretq

load_float:                         # a = an address
    fld qword ptr [rsi]
    fstp st(0)
    iretq

.section .rodata, "a"
.balign 8
services:                           # the order is rt::service::Service's
    .quad wait_unless_interrupted, stop, read_msr, write_msr
    .quad enable_interrupts, flush_tlb, drop_idt, load_float

.section .data, "aw"
.balign 8
.global rt_interrupts
rt_interrupts:
    .quad 0
.global rt_counts
rt_counts:
    .fill VECTORS, 8, 0

.section .scratch, "aw", @nobits
.balign 16
.global rt_idt
rt_idt:
    .skip VECTORS * 16
.balign 16
.global rt_kernel_stacks
rt_kernel_stacks:
    .skip CPUS_MAX * KERNEL_STACK_SIZE
emergency_stack:
    .skip EMERGENCY_STACK_SIZE
user_stack:
    .skip USER_STACK_SIZE

.section .note.Xen, "a", @note
.balign 4
    .long 4, 4, 18                  # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long rt_pvh_entry
