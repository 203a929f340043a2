//! Taking a vCPU's state from KVM and putting it back.
//!
//! Called by the vCPU's owner, outside `KVM_RUN`. Orders that count, taking: `mp_state` first,
//! because reading it makes KVM accept pending INIT and SIPI; events last. Putting back: `mp_state`
//! and SREGS before LAPIC (its mode follows the APIC base), XCRS before XSAVE, LAPIC before MSRs
//! (the deadline timer needs its mode), events last (`KVM_SET_REGS` drops a pending exception).

#![expect(
    unsafe_code,
    reason = "variable-size XSAVE and nested-state buffers of KVM"
)]

use kvm_bindings::nested::KvmNestedStateBuffer;
use kvm_bindings::{
    Msrs, Xsave, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events,
};
use kvm_ioctls::VcpuFd;

use super::convert::{lapic_from_kvm, lapic_to_kvm, xcrs_from_kvm, xcrs_to_kvm};
use super::{BadVcpuState, VERSION, VcpuState};

/// MSRs in one call; KVM's own limit is 256.
const MSRS_PER_CALL: usize = 256;

/// What the machine knows of its host, found out once.
#[derive(Debug, Clone)]
pub struct CaptureOptions {
    /// Digest of the CPUID profile; see `CpuProfile::digest`.
    pub cpuid_digest: u64,
    /// What `msr::to_save` gave.
    pub msrs: Vec<u32>,
    /// Bytes of an XSAVE area: `KVM_CAP_XSAVE2`'s answer, 0 where the host does not have it.
    pub xsave_bytes: usize,
    /// The capability `KVM_CAP_XCRS` is there.
    pub xcrs: bool,
    /// The local APIC is in the kernel.
    pub lapic: bool,
    /// The capability `KVM_CAP_NESTED_STATE` is there. A host that has it and still answers EINVAL
    /// has no nested state.
    pub nested: bool,
}

/// Why a vCPU's state could not be taken or put back.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// A KVM call failed.
    #[error("{call} failed")]
    Kvm {
        /// The ioctl.
        call: &'static str,
        /// Its errno.
        source: vmm_sys_util::errno::Error,
    },
    /// KVM stopped at an MSR.
    #[error("{call} stopped at MSR {index:#x}")]
    Msr {
        /// The ioctl.
        call: &'static str,
        /// The register it would not read or write.
        index: u32,
    },
    /// The buffer for a structure of variable size could not be made.
    #[error("no buffer for {what}")]
    Buffer {
        /// The structure.
        what: &'static str,
    },
    /// The saved state is not one.
    #[error(transparent)]
    Bad(#[from] BadVcpuState),
}

fn kvm<T>(
    call: &'static str,
    result: Result<T, vmm_sys_util::errno::Error>,
) -> Result<T, CaptureError> {
    result.map_err(|source| CaptureError::Kvm { call, source })
}

/// Takes all state of the vCPU.
///
/// # Errors
/// [`CaptureError`] names the call that failed. Optional parts the host lacks are absent instead.
pub fn capture(vcpu: &VcpuFd, options: &CaptureOptions) -> Result<VcpuState, CaptureError> {
    let mp_state = kvm("KVM_GET_MP_STATE", vcpu.get_mp_state())?.mp_state;
    let regs = kvm("KVM_GET_REGS", vcpu.get_regs())?;
    let sregs = kvm("KVM_GET_SREGS", vcpu.get_sregs())?;
    let xsave = get_xsave(vcpu, options.xsave_bytes)?;
    let xcrs = if options.xcrs {
        Some(xcrs_from_kvm(&kvm("KVM_GET_XCRS", vcpu.get_xcrs())?))
    } else {
        None
    };
    let debugregs = kvm("KVM_GET_DEBUGREGS", vcpu.get_debug_regs())?;
    let msrs = get_msrs(vcpu, &options.msrs)?;
    let lapic = if options.lapic {
        Some(lapic_from_kvm(&kvm("KVM_GET_LAPIC", vcpu.get_lapic())?))
    } else {
        None
    };
    let nested = if options.nested {
        get_nested(vcpu)?
    } else {
        None
    };
    let events = kvm("KVM_GET_VCPU_EVENTS", vcpu.get_vcpu_events())?;
    Ok(VcpuState {
        version: VERSION,
        cpuid_digest: options.cpuid_digest,
        tsc_khz: vcpu.get_tsc_khz().ok().filter(|khz| *khz > 0),
        regs: (&regs).into(),
        sregs: (&sregs).into(),
        xsave,
        xcrs,
        debugregs: (&debugregs).into(),
        lapic,
        mp_state,
        events: (&events).into(),
        msrs,
        nested,
    })
}

/// Puts the state back into a vCPU whose CPUID has been set to the same profile. The caller has
/// compared `cpuid_digest`, and set the TSC frequency where it differs and the host can scale.
///
/// # Errors
/// [`CaptureError`]; the vCPU is then in no defined state and must not run.
pub fn apply(vcpu: &VcpuFd, state: &VcpuState) -> Result<(), CaptureError> {
    state.check()?;
    let mp_state = kvm_mp_state {
        mp_state: state.mp_state,
    };
    kvm("KVM_SET_MP_STATE", vcpu.set_mp_state(mp_state))?;
    kvm(
        "KVM_SET_SREGS",
        vcpu.set_sregs(&kvm_sregs::try_from(&state.sregs)?),
    )?;
    kvm("KVM_SET_REGS", vcpu.set_regs(&kvm_regs::from(&state.regs)))?;
    if let Some(xcrs) = &state.xcrs {
        kvm("KVM_SET_XCRS", vcpu.set_xcrs(&xcrs_to_kvm(xcrs)?))?;
    }
    set_xsave(vcpu, &state.xsave)?;
    kvm(
        "KVM_SET_DEBUGREGS",
        vcpu.set_debug_regs(&(&state.debugregs).into()),
    )?;
    if let Some(lapic) = &state.lapic {
        kvm("KVM_SET_LAPIC", vcpu.set_lapic(&lapic_to_kvm(lapic)?))?;
    }
    set_msrs(vcpu, &state.msr_entries())?;
    if let Some(nested) = &state.nested {
        set_nested(vcpu, nested)?;
    }
    let events = kvm_vcpu_events::try_from(&state.events)?;
    kvm("KVM_SET_VCPU_EVENTS", vcpu.set_vcpu_events(&events))
}

/// The XSAVE area, as 32-bit words.
fn get_xsave(vcpu: &VcpuFd, bytes: usize) -> Result<Vec<u32>, CaptureError> {
    let legacy = size_of::<kvm_bindings::kvm_xsave>();
    if bytes <= legacy {
        let xsave = kvm("KVM_GET_XSAVE", vcpu.get_xsave())?;
        return Ok(xsave.region.to_vec());
    }
    let tail = (bytes - legacy).div_ceil(size_of::<u32>());
    let mut xsave = Xsave::new(tail).map_err(|_| CaptureError::Buffer { what: "XSAVE" })?;
    // SAFETY: the wrapper has room for `bytes` bytes, which is what KVM_CAP_XSAVE2 said it writes.
    kvm("KVM_GET_XSAVE2", unsafe { vcpu.get_xsave2(&mut xsave) })?;
    let mut words = xsave.as_fam_struct_ref().xsave.region.to_vec();
    words.extend_from_slice(xsave.as_slice());
    Ok(words)
}

/// Puts the area back. KVM reads as much as the guest's own size of it, which for a guest of the
/// same profile is what was saved; the buffer is made no smaller than the host's size.
fn set_xsave(vcpu: &VcpuFd, words: &[u32]) -> Result<(), CaptureError> {
    let (region, tail) = words
        .split_first_chunk::<1024>()
        .ok_or_else(|| BadVcpuState::new("xsave", format!("{} words", words.len())))?;
    // KVM may read up to the host's whole area; MAX_XSAVE_WORDS covers it, zeroes being absence.
    let room = super::MAX_XSAVE_WORDS.saturating_sub(region.len());
    let mut xsave = Xsave::new(room).map_err(|_| CaptureError::Buffer { what: "XSAVE" })?;
    for (word, saved) in xsave.as_mut_slice().iter_mut().zip(tail) {
        *word = *saved;
    }
    // SAFETY: only the fixed part is written; the length field is not touched.
    unsafe { xsave.as_mut_fam_struct() }.xsave.region = *region;
    // SAFETY: the buffer is 64 KiB, more than any area KVM defines, so KVM reads inside it.
    kvm("KVM_SET_XSAVE", unsafe { vcpu.set_xsave2(&xsave) })
}

fn get_msrs(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<(u32, u64)>, CaptureError> {
    let call = "KVM_GET_MSRS";
    let mut values = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let entries: Vec<kvm_msr_entry> = rest
            .iter()
            .take(MSRS_PER_CALL)
            .map(|index| kvm_msr_entry {
                index: *index,
                ..Default::default()
            })
            .collect();
        let mut msrs =
            Msrs::from_entries(&entries).map_err(|_| CaptureError::Buffer { what: "MSRs" })?;
        let read = kvm(call, vcpu.get_msrs(&mut msrs))?.min(entries.len());
        values.extend(
            msrs.as_slice()
                .iter()
                .take(read)
                .map(|msr| (msr.index, msr.data)),
        );
        // KVM stops at a listed register that does not exist for this guest's CPUID: that one has
        // no state, so go on behind it.
        let done = if read < entries.len() { read + 1 } else { read };
        rest = rest.get(done..).unwrap_or_default();
    }
    Ok(values)
}

/// Writes MSRs in order, every one of which must be taken: what boot and restore need.
///
/// # Errors
/// [`CaptureError::Msr`] names the register KVM stopped at.
pub fn set_msrs(vcpu: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<(), CaptureError> {
    match write_msrs(vcpu, entries)? {
        [] => Ok(()),
        [refused, ..] => Err(CaptureError::Msr {
            call: "KVM_SET_MSRS",
            index: refused.index,
        }),
    }
}

/// Writes MSRs in order and passes over those KVM refuses, as a reset does: a register that does
/// not exist for this guest's CPUID has nothing to reset.
///
/// # Errors
/// [`CaptureError::Kvm`] when the call itself fails.
pub fn reset_msrs(vcpu: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<(), CaptureError> {
    let mut rest = entries;
    while let [_refused, after @ ..] = write_msrs(vcpu, rest)? {
        rest = after;
    }
    Ok(())
}

/// Writes as many as KVM takes; the rest begins with the one it refused.
fn write_msrs<'a>(
    vcpu: &VcpuFd,
    entries: &'a [kvm_msr_entry],
) -> Result<&'a [kvm_msr_entry], CaptureError> {
    let mut rest = entries;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(rest.len().min(MSRS_PER_CALL));
        let msrs = Msrs::from_entries(chunk).map_err(|_| CaptureError::Buffer { what: "MSRs" })?;
        let written = kvm("KVM_SET_MSRS", vcpu.set_msrs(&msrs))?;
        if written < chunk.len() {
            return Ok(rest.get(written..).unwrap_or_default());
        }
        rest = after;
    }
    Ok(rest)
}

fn get_nested(vcpu: &VcpuFd) -> Result<Option<Vec<u8>>, CaptureError> {
    let mut buffer = KvmNestedStateBuffer::empty();
    match vcpu.nested_state(&mut buffer) {
        Ok(None) => Ok(None),
        Ok(Some(length)) => {
            let whole = size_of::<KvmNestedStateBuffer>();
            // SAFETY: the buffer is plain data that began all zero, so every byte of it is
            // initialised; the slice does not outlive it.
            let bytes = unsafe {
                std::slice::from_raw_parts(std::ptr::from_ref(&buffer).cast::<u8>(), whole)
            };
            Ok(Some(bytes.iter().take(length.get()).copied().collect()))
        }
        // The capability without the feature: seen on hosts without VMX and SVM.
        Err(errno) if errno.errno() == libc::EINVAL => Ok(None),
        Err(source) => Err(CaptureError::Kvm {
            call: "KVM_GET_NESTED_STATE",
            source,
        }),
    }
}

fn set_nested(vcpu: &VcpuFd, saved: &[u8]) -> Result<(), CaptureError> {
    let mut buffer = KvmNestedStateBuffer::empty();
    let whole = size_of::<KvmNestedStateBuffer>();
    if saved.len() > whole {
        return Err(BadVcpuState::new("nested", format!("{} bytes", saved.len())).into());
    }
    // SAFETY: both ranges are `saved.len()` bytes long, no more than the buffer, and apart; every
    // bit pattern is a value of the buffer's type.
    unsafe {
        std::ptr::copy_nonoverlapping(
            saved.as_ptr(),
            std::ptr::from_mut(&mut buffer).cast::<u8>(),
            saved.len(),
        );
    }
    // The size inside is what KVM reads by: it must not be more than there is.
    if usize::try_from(buffer.size).map_or(true, |size| size > whole) {
        return Err(BadVcpuState::new("nested", format!("says {} bytes", buffer.size)).into());
    }
    kvm("KVM_SET_NESTED_STATE", vcpu.set_nested_state(&buffer))
}
