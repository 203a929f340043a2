//! Between the saved form and KVM's structures.
//!
//! From KVM: total, because the kernel is trusted to fill its structures. To KVM: checked, because
//! the bytes may come from anywhere; what KVM itself refuses (reserved bits of CR4 and the like) is
//! left to it, and its errno names the ioctl. Every conversion destructures, so that a new field
//! cannot be forgotten.

use kvm_bindings::{
    kvm_debugregs, kvm_dtable, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs,
    kvm_vcpu_events, kvm_xcr, kvm_xcrs,
};

use super::{
    BadVcpuState, DebugRegs, Events, LAPIC_BYTES, MAX_MSRS, MAX_NESTED_BYTES, MAX_XSAVE_WORDS,
    Regs, Segment, Sregs, Table, VERSION, VcpuState,
};

/// Words of `kvm_xsave` without its tail.
const MIN_XSAVE_WORDS: usize = 1024;
/// The greatest `KVM_MP_STATE_*` of x86: AP reset hold.
const MAX_MP_STATE: u32 = 9;
/// Bytes of the header of nested state.
const NESTED_HEADER: usize = 128;
/// Bits of `kvm_vcpu_events.flags` with a meaning.
const EVENT_FLAGS: u32 = 0x3F;

impl VcpuState {
    /// Checks everything that can be checked without a host: version, lengths, ranges.
    ///
    /// # Errors
    /// [`BadVcpuState`] names the first field that cannot be.
    pub fn check(&self) -> Result<(), BadVcpuState> {
        let Self {
            version,
            cpuid_digest: _,
            tsc_khz,
            regs: _,
            sregs,
            xsave,
            xcrs,
            debugregs: _,
            lapic,
            mp_state,
            events,
            msrs,
            nested,
        } = self;
        let fail = |field, problem: String| Err(BadVcpuState::new(field, problem));
        if *version != VERSION {
            return fail("version", format!("{version}, this build reads {VERSION}"));
        }
        if *tsc_khz == Some(0) {
            return fail("tsc_khz", "a frequency of zero".into());
        }
        kvm_sregs::try_from(sregs)?;
        if !(MIN_XSAVE_WORDS..=MAX_XSAVE_WORDS).contains(&xsave.len()) {
            return fail("xsave", format!("{} words", xsave.len()));
        }
        xcrs.as_deref().map(xcrs_to_kvm).transpose()?;
        lapic.as_deref().map(lapic_to_kvm).transpose()?;
        if *mp_state > MAX_MP_STATE {
            return fail("mp_state", format!("unknown state {mp_state}"));
        }
        kvm_vcpu_events::try_from(events)?;
        if msrs.len() > MAX_MSRS {
            return fail("msrs", format!("{} registers", msrs.len()));
        }
        if let Some(nested) = nested
            && !(NESTED_HEADER..=MAX_NESTED_BYTES).contains(&nested.len())
        {
            return fail("nested", format!("{} bytes", nested.len()));
        }
        Ok(())
    }

    /// The MSRs as KVM takes them.
    #[must_use]
    pub fn msr_entries(&self) -> Vec<kvm_msr_entry> {
        self.msrs
            .iter()
            .map(|(index, data)| kvm_msr_entry {
                index: *index,
                data: *data,
                ..Default::default()
            })
            .collect()
    }
}

impl From<&kvm_regs> for Regs {
    fn from(kvm: &kvm_regs) -> Self {
        let kvm_regs {
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rsp,
            rbp,
            rip,
            rflags,
            ..
        } = *kvm;
        let kvm_regs {
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            ..
        } = *kvm;
        #[rustfmt::skip]
        let regs = Self {
            rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip,
            rflags,
        };
        regs
    }
}

impl From<&Regs> for kvm_regs {
    #[rustfmt::skip]
    fn from(regs: &Regs) -> Self {
        let Regs {
            rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip,
            rflags,
        } = *regs;
        Self {
            rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip,
            rflags,
        }
    }
}

impl From<&kvm_segment> for Segment {
    fn from(kvm: &kvm_segment) -> Self {
        let kvm_segment {
            base,
            limit,
            selector,
            type_,
            present,
            dpl,
            db,
            s,
            l,
            g,
            avl,
            unusable,
            padding: _,
        } = *kvm;
        Self {
            base,
            limit,
            selector,
            kind: type_,
            present: present != 0,
            dpl,
            db: db != 0,
            s: s != 0,
            l: l != 0,
            g: g != 0,
            avl: avl != 0,
            unusable: unusable != 0,
        }
    }
}

fn segment_to_kvm(field: &'static str, segment: &Segment) -> Result<kvm_segment, BadVcpuState> {
    let Segment {
        base,
        limit,
        selector,
        kind,
        present,
        dpl,
        db,
        s,
        l,
        g,
        avl,
        unusable,
    } = *segment;
    if kind > 15 {
        return Err(BadVcpuState::new(field, format!("segment type {kind}")));
    }
    if dpl > 3 {
        return Err(BadVcpuState::new(field, format!("privilege level {dpl}")));
    }
    Ok(kvm_segment {
        base,
        limit,
        selector,
        type_: kind,
        present: u8::from(present),
        dpl,
        db: u8::from(db),
        s: u8::from(s),
        l: u8::from(l),
        g: u8::from(g),
        avl: u8::from(avl),
        unusable: u8::from(unusable),
        padding: 0,
    })
}

impl From<&kvm_dtable> for Table {
    fn from(kvm: &kvm_dtable) -> Self {
        let kvm_dtable {
            base,
            limit,
            padding: _,
        } = *kvm;
        Self { base, limit }
    }
}

impl From<Table> for kvm_dtable {
    fn from(Table { base, limit }: Table) -> Self {
        Self {
            base,
            limit,
            padding: [0; 3],
        }
    }
}

impl From<&kvm_sregs> for Sregs {
    fn from(kvm: &kvm_sregs) -> Self {
        let kvm_sregs {
            cs,
            ds,
            es,
            fs,
            gs,
            ss,
            tr,
            ldt,
            gdt,
            idt,
            ..
        } = kvm;
        let kvm_sregs {
            cr0,
            cr2,
            cr3,
            cr4,
            cr8,
            efer,
            apic_base,
            interrupt_bitmap,
            ..
        } = *kvm;
        Self {
            cs: cs.into(),
            ds: ds.into(),
            es: es.into(),
            fs: fs.into(),
            gs: gs.into(),
            ss: ss.into(),
            tr: tr.into(),
            ldt: ldt.into(),
            gdt: gdt.into(),
            idt: idt.into(),
            cr0,
            cr2,
            cr3,
            cr4,
            cr8,
            efer,
            apic_base,
            interrupt_bitmap,
        }
    }
}

impl TryFrom<&Sregs> for kvm_sregs {
    type Error = BadVcpuState;

    fn try_from(saved: &Sregs) -> Result<Self, BadVcpuState> {
        let Sregs {
            cs,
            ds,
            es,
            fs,
            gs,
            ss,
            tr,
            ldt,
            gdt,
            idt,
            ..
        } = saved;
        let Sregs {
            cr0,
            cr2,
            cr3,
            cr4,
            cr8,
            efer,
            apic_base,
            interrupt_bitmap,
            ..
        } = *saved;
        if cr8 > 15 {
            return Err(BadVcpuState::new(
                "sregs.cr8",
                format!("task priority {cr8}"),
            ));
        }
        // KVM takes one pending vector at most.
        if interrupt_bitmap
            .iter()
            .map(|word| word.count_ones())
            .sum::<u32>()
            > 1
        {
            return Err(BadVcpuState::new(
                "sregs.interrupt_bitmap",
                "more than one vector",
            ));
        }
        Ok(Self {
            cs: segment_to_kvm("sregs.cs", cs)?,
            ds: segment_to_kvm("sregs.ds", ds)?,
            es: segment_to_kvm("sregs.es", es)?,
            fs: segment_to_kvm("sregs.fs", fs)?,
            gs: segment_to_kvm("sregs.gs", gs)?,
            ss: segment_to_kvm("sregs.ss", ss)?,
            tr: segment_to_kvm("sregs.tr", tr)?,
            ldt: segment_to_kvm("sregs.ldt", ldt)?,
            gdt: (*gdt).into(),
            idt: (*idt).into(),
            cr0,
            cr2,
            cr3,
            cr4,
            cr8,
            efer,
            apic_base,
            interrupt_bitmap,
        })
    }
}

impl From<&kvm_debugregs> for DebugRegs {
    fn from(kvm: &kvm_debugregs) -> Self {
        let kvm_debugregs {
            db,
            dr6,
            dr7,
            flags: _,
            reserved: _,
        } = *kvm;
        Self { db, dr6, dr7 }
    }
}

impl From<&DebugRegs> for kvm_debugregs {
    fn from(saved: &DebugRegs) -> Self {
        let DebugRegs { db, dr6, dr7 } = *saved;
        Self {
            db,
            dr6,
            dr7,
            flags: 0,
            reserved: [0; 9],
        }
    }
}

impl From<&kvm_vcpu_events> for Events {
    fn from(kvm: &kvm_vcpu_events) -> Self {
        let kvm_vcpu_events {
            exception,
            interrupt,
            nmi,
            sipi_vector,
            flags,
            smi,
            triple_fault,
            reserved: _,
            exception_has_payload,
            exception_payload,
        } = *kvm;
        Self {
            exception_injected: exception.injected != 0,
            exception_nr: exception.nr,
            exception_has_error_code: exception.has_error_code != 0,
            exception_pending: exception.pending != 0,
            exception_error_code: exception.error_code,
            exception_has_payload: exception_has_payload != 0,
            exception_payload,
            interrupt_injected: interrupt.injected != 0,
            interrupt_nr: interrupt.nr,
            interrupt_soft: interrupt.soft != 0,
            interrupt_shadow: interrupt.shadow,
            nmi_injected: nmi.injected != 0,
            nmi_pending: nmi.pending,
            nmi_masked: nmi.masked != 0,
            sipi_vector,
            flags,
            smi_smm: smi.smm != 0,
            smi_pending: smi.pending != 0,
            smi_smm_inside_nmi: smi.smm_inside_nmi != 0,
            smi_latched_init: smi.latched_init,
            triple_fault_pending: triple_fault.pending != 0,
        }
    }
}

impl TryFrom<&Events> for kvm_vcpu_events {
    type Error = BadVcpuState;

    fn try_from(saved: &Events) -> Result<Self, BadVcpuState> {
        let Events {
            exception_injected,
            exception_nr,
            exception_has_error_code,
            exception_pending,
            exception_error_code,
            exception_has_payload,
            exception_payload,
            interrupt_injected,
            interrupt_nr,
            interrupt_soft,
            interrupt_shadow,
            nmi_injected,
            nmi_pending,
            nmi_masked,
            sipi_vector,
            flags,
            smi_smm,
            smi_pending,
            smi_smm_inside_nmi,
            smi_latched_init,
            triple_fault_pending,
        } = *saved;
        if (exception_injected || exception_pending) && (exception_nr > 31 || exception_nr == 2) {
            let problem = format!("vector {exception_nr} is no exception");
            return Err(BadVcpuState::new("events.exception_nr", problem));
        }
        if flags & !EVENT_FLAGS != 0 {
            return Err(BadVcpuState::new("events.flags", format!("{flags:#x}")));
        }
        if interrupt_shadow > 3 {
            let problem = format!("{interrupt_shadow:#x}");
            return Err(BadVcpuState::new("events.interrupt_shadow", problem));
        }
        if sipi_vector > 0xFF {
            return Err(BadVcpuState::new(
                "events.sipi_vector",
                format!("{sipi_vector:#x}"),
            ));
        }
        let mut kvm = Self {
            sipi_vector,
            // NMI_PENDING and SIPI_VECTOR are not set by KVM_GET_VCPU_EVENTS on every kernel,
            // though the fields always hold.
            flags: flags | 0b11,
            exception_has_payload: u8::from(exception_has_payload),
            exception_payload,
            ..Default::default()
        };
        kvm.exception.injected = u8::from(exception_injected);
        kvm.exception.nr = exception_nr;
        kvm.exception.has_error_code = u8::from(exception_has_error_code);
        kvm.exception.pending = u8::from(exception_pending);
        kvm.exception.error_code = exception_error_code;
        kvm.interrupt.injected = u8::from(interrupt_injected);
        kvm.interrupt.nr = interrupt_nr;
        kvm.interrupt.soft = u8::from(interrupt_soft);
        kvm.interrupt.shadow = interrupt_shadow;
        kvm.nmi.injected = u8::from(nmi_injected);
        kvm.nmi.pending = nmi_pending;
        kvm.nmi.masked = u8::from(nmi_masked);
        kvm.smi.smm = u8::from(smi_smm);
        kvm.smi.pending = u8::from(smi_pending);
        kvm.smi.smm_inside_nmi = u8::from(smi_smm_inside_nmi);
        kvm.smi.latched_init = smi_latched_init;
        kvm.triple_fault.pending = u8::from(triple_fault_pending);
        Ok(kvm)
    }
}

/// The extended control registers KVM reports.
pub(super) fn xcrs_from_kvm(kvm: &kvm_xcrs) -> Vec<(u32, u64)> {
    let count = usize::try_from(kvm.nr_xcrs).unwrap_or(usize::MAX);
    kvm.xcrs
        .iter()
        .take(count)
        .map(|xcr| (xcr.xcr, xcr.value))
        .collect()
}

/// # Errors
/// More registers than the structure holds.
pub(super) fn xcrs_to_kvm(saved: &[(u32, u64)]) -> Result<kvm_xcrs, BadVcpuState> {
    let mut kvm = kvm_xcrs::default();
    if saved.len() > kvm.xcrs.len() {
        return Err(BadVcpuState::new(
            "xcrs",
            format!("{} registers", saved.len()),
        ));
    }
    for (slot, (xcr, value)) in kvm.xcrs.iter_mut().zip(saved) {
        *slot = kvm_xcr {
            xcr: *xcr,
            reserved: 0,
            value: *value,
        };
        kvm.nr_xcrs += 1;
    }
    Ok(kvm)
}

/// The page as bytes.
pub(super) fn lapic_from_kvm(kvm: &kvm_lapic_state) -> Vec<u8> {
    kvm.regs
        .iter()
        .map(|register| register.to_le_bytes()[0])
        .collect()
}

/// # Errors
/// Not exactly one page's bytes.
pub(super) fn lapic_to_kvm(saved: &[u8]) -> Result<kvm_lapic_state, BadVcpuState> {
    if saved.len() != LAPIC_BYTES {
        return Err(BadVcpuState::new("lapic", format!("{} bytes", saved.len())));
    }
    let mut kvm = kvm_lapic_state::default();
    for (register, byte) in kvm.regs.iter_mut().zip(saved) {
        *register = std::ffi::c_char::from_le_bytes([*byte]);
    }
    Ok(kvm)
}
