//! The registers of a held vCPU as text, in the layout of QEMU's `info registers`.

use std::fmt::Write;

use crate::kvm::{KvmError, VcpuHandle, failed};

/// The text; lines end with CR LF.
///
/// # Errors
/// [`KvmError`].
pub fn text(vcpu: &VcpuHandle) -> Result<String, KvmError> {
    let regs = vcpu.fd().get_regs().map_err(failed("KVM_GET_REGS"))?;
    let sregs = vcpu.fd().get_sregs().map_err(failed("KVM_GET_SREGS"))?;
    let mut text = format!("\r\nCPU#{}\r\n", vcpu.index());
    let general = [
        ("RAX", regs.rax),
        ("RBX", regs.rbx),
        ("RCX", regs.rcx),
        ("RDX", regs.rdx),
        ("RSI", regs.rsi),
        ("RDI", regs.rdi),
        ("RBP", regs.rbp),
        ("RSP", regs.rsp),
        ("R8 ", regs.r8),
        ("R9 ", regs.r9),
        ("R10", regs.r10),
        ("R11", regs.r11),
        ("R12", regs.r12),
        ("R13", regs.r13),
        ("R14", regs.r14),
        ("R15", regs.r15),
    ];
    // Writing to a string cannot fail, here and below.
    for row in general.chunks(4) {
        for (name, value) in row {
            let _ = write!(text, "{name}={value:016x} ");
        }
        text.truncate(text.trim_end().len());
        text.push_str("\r\n");
    }
    let _ = write!(
        text,
        "RIP={:016x} RFL={:08x} CPL={}\r\n",
        regs.rip, regs.rflags, sregs.ss.dpl
    );
    let segments = [
        ("ES ", sregs.es),
        ("CS ", sregs.cs),
        ("SS ", sregs.ss),
        ("DS ", sregs.ds),
        ("FS ", sregs.fs),
        ("GS ", sregs.gs),
        ("LDT", sregs.ldt),
        ("TR ", sregs.tr),
    ];
    for (name, segment) in segments {
        let _ = write!(
            text,
            "{name}={:04x} {:016x} {:08x}\r\n",
            segment.selector, segment.base, segment.limit
        );
    }
    let _ = write!(
        text,
        "GDT=     {:016x} {:08x}\r\n",
        sregs.gdt.base, sregs.gdt.limit
    );
    let _ = write!(
        text,
        "IDT=     {:016x} {:08x}\r\n",
        sregs.idt.base, sregs.idt.limit
    );
    let _ = write!(
        text,
        "CR0={:08x} CR2={:016x} CR3={:016x} CR4={:08x}\r\nEFER={:016x}\r\n",
        sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4, sregs.efer
    );
    Ok(text)
}
