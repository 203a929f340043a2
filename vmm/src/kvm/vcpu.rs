//! One KVM vCPU: running it, and what an exit means.
//!
//! A [`VcpuHandle`] belongs to exactly one thread at a time: to its vCPU thread while the guest
//! runs, to the main thread while it is held. See [`crate::vcpu`].
#![expect(
    unsafe_code,
    reason = "exit details live in unions of the shared kvm_run page"
)]

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use kvm_bindings::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR, KVM_EXIT_IO, KVM_EXIT_IO_OUT,
    KVM_EXIT_MMIO, KVM_EXIT_SHUTDOWN,
};
use kvm_ioctls::VcpuFd;

/// A vCPU and the page it shares with the kernel.
#[derive(Debug)]
pub struct VcpuHandle {
    index: u8,
    fd: VcpuFd,
}

/// A port access: `data` holds `data.len() / size` accesses of `size` bytes each, in order (more
/// than one for a string instruction).
#[derive(Debug)]
pub struct IoAccess<'a> {
    /// The port.
    pub port: u16,
    /// Bytes per access: 1, 2 or 4.
    pub size: usize,
    /// Whether the guest writes.
    pub write: bool,
    /// What it writes, or where what it reads goes.
    pub data: &'a mut [u8],
}

/// Why `KVM_RUN` came back.
#[derive(Debug)]
pub enum Exit<'a> {
    /// Port input or output.
    Io(IoAccess<'a>),
    /// The guest reads memory no slot backs.
    MmioRead(u64, &'a mut [u8]),
    /// The guest writes memory no slot backs.
    MmioWrite(u64, &'a [u8]),
    /// A signal, or the immediate-exit flag: somebody wants this vCPU.
    Interrupted,
    /// Triple fault.
    Shutdown,
    /// KVM could not go on.
    InternalError(InternalError),
    /// The processor refused to enter the guest, with its own reason code.
    FailEntry(u64),
    /// An exit this machine gives no cause for, by number: HLT among them, which the in-kernel APIC
    /// keeps to itself.
    Unexpected(u32),
}

/// The facts of `KVM_EXIT_INTERNAL_ERROR` (Documentation/virt/kvm/api.rst §5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InternalError {
    /// 1 emulation failure, 2 simultaneous exceptions, 3 delivery of an event, 4 unexpected exit.
    pub suberror: u32,
    /// For an emulation failure: the bytes at the instruction pointer, where KVM tells.
    pub instruction: Vec<u8>,
    /// Where the guest was; 0 if it could not be read.
    pub rip: u64,
}

impl fmt::Display for InternalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.suberror {
            1 => "it could not emulate an instruction",
            2 => "exceptions arrived together in a way it cannot deliver",
            3 => "an exit interrupted the delivery of an event",
            4 => "of an exit it does not know",
            _ => "of an unnamed internal error",
        };
        write!(
            f,
            "KVM stopped because {what} (suberror {}, rip {:#x}",
            self.suberror, self.rip
        )?;
        if !self.instruction.is_empty() {
            f.write_str(", instruction bytes")?;
            for byte in &self.instruction {
                write!(f, " {byte:02x}")?;
            }
        }
        f.write_str(")")
    }
}

/// `KVM_RUN` itself failed.
#[derive(Debug, thiserror::Error)]
#[error("KVM_RUN failed on vCPU {index}")]
pub struct RunError {
    /// The vCPU.
    pub index: u8,
    /// What the kernel answered.
    #[source]
    pub source: io::Error,
}

impl VcpuHandle {
    pub(super) fn new(index: u8, fd: VcpuFd) -> Self {
        Self { index, fd }
    }

    /// The vCPU's number, which is also its APIC id.
    #[must_use]
    pub fn index(&self) -> u8 {
        self.index
    }

    /// The descriptor, for the state calls.
    #[must_use]
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// The address of the flag that makes the next (or current) `KVM_RUN` return at once. Valid as
    /// long as this handle lives; only the kick's signal handler uses it.
    pub(crate) fn immediate_exit_flag(&mut self) -> *mut u8 {
        &raw mut self.fd.get_kvm_run().immediate_exit
    }

    /// Clears or sets that flag.
    pub fn set_immediate_exit(&mut self, on: bool) {
        self.fd.set_kvm_immediate_exit(u8::from(on));
    }

    /// Lets the guest run until something needs us.
    ///
    /// An MMIO or port read is completed by the *next* call: KVM takes the data then. A vCPU held
    /// after such an exit therefore runs once more with the immediate-exit flag set before its
    /// state is read ([`Self::complete`]).
    ///
    /// # Errors
    /// [`RunError`] for anything but a signal or "try again".
    pub fn run(&mut self) -> Result<Exit<'_>, RunError> {
        match self.fd.run() {
            Ok(_) => {}
            Err(error) => {
                return match error.errno() {
                    // EAGAIN: an application processor that was not started yet.
                    libc::EINTR | libc::EAGAIN => Ok(Exit::Interrupted),
                    _ => Err(RunError {
                        index: self.index,
                        source: error.into(),
                    }),
                };
            }
        }
        Ok(self.exit())
    }

    /// Finishes the instruction an exit interrupted, without running further guest code, so that
    /// the registers are consistent.
    pub fn complete(&mut self) {
        self.set_immediate_exit(true);
        // With the flag set KVM finishes the pending access and answers EINTR at once; there is
        // nothing to do about any other answer, and the state calls will tell.
        drop(self.fd.run());
        self.set_immediate_exit(false);
    }

    fn exit(&mut self) -> Exit<'_> {
        let run: *mut kvm_bindings::kvm_run = self.fd.get_kvm_run();
        // SAFETY: `run` is the live kvm_run page of this vCPU, borrowed mutably through `self` for
        // as long as the returned Exit lives, and the kernel writes it only inside KVM_RUN. Each
        // union member is read only under the exit reason for which the kernel filled it in.
        unsafe {
            match (*run).exit_reason {
                KVM_EXIT_IO => {
                    let io = (*run).__bindgen_anon_1.io;
                    let size = usize::from(io.size).max(1);
                    // At most one page: the kernel keeps the data in the page at `data_offset`.
                    let length = size.saturating_mul(io.count as usize);
                    let data = run.cast::<u8>().wrapping_add(io.data_offset as usize);
                    Exit::Io(IoAccess {
                        port: io.port,
                        size,
                        write: u32::from(io.direction) == KVM_EXIT_IO_OUT,
                        data: std::slice::from_raw_parts_mut(data, length),
                    })
                }
                KVM_EXIT_MMIO => {
                    let mmio = &mut (*run).__bindgen_anon_1.mmio;
                    let length = (mmio.len as usize).min(mmio.data.len());
                    let data = &mut mmio.data[..length];
                    if mmio.is_write != 0 {
                        Exit::MmioWrite(mmio.phys_addr, data)
                    } else {
                        Exit::MmioRead(mmio.phys_addr, data)
                    }
                }
                KVM_EXIT_INTR => Exit::Interrupted,
                KVM_EXIT_SHUTDOWN => Exit::Shutdown,
                KVM_EXIT_FAIL_ENTRY => Exit::FailEntry(
                    (*run)
                        .__bindgen_anon_1
                        .fail_entry
                        .hardware_entry_failure_reason,
                ),
                KVM_EXIT_INTERNAL_ERROR => {
                    let error = emulation_failure(&(*run).__bindgen_anon_1.internal);
                    let rip = self.fd.get_regs().map_or(0, |regs| regs.rip);
                    Exit::InternalError(InternalError { rip, ..error })
                }
                other => Exit::Unexpected(other),
            }
        }
    }
}

impl AsRawFd for VcpuHandle {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Decodes the data words of an internal error. For an emulation failure, word 0 holds flags (bit
/// 0: instruction bytes follow), and byte 0 of word 1 their number (`struct kvm_run`,
/// `emulation_failure`).
fn emulation_failure(
    internal: &kvm_bindings::kvm_run__bindgen_ty_1__bindgen_ty_13,
) -> InternalError {
    let mut instruction = Vec::new();
    if internal.suberror == kvm_bindings::KVM_INTERNAL_ERROR_EMULATION
        && internal.ndata >= 3
        && internal.data[0] & 1 != 0
    {
        let bytes: Vec<u8> = internal.data[1..4]
            .iter()
            .flat_map(|w| w.to_le_bytes())
            .collect();
        if let Some((&length, rest)) = bytes.split_first() {
            instruction.extend(rest.iter().take(usize::from(length).min(15)));
        }
    }
    InternalError {
        suberror: internal.suberror,
        instruction,
        rip: 0,
    }
}
