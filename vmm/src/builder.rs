//! Configuration and open files in, a machine that has not run yet out: a list of calls.
//!
//! The order is measured, not taste; see [`crate::kvm`] for the first four.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use api_socket::config::Checked;
use devices::bus::Bus;
use devices::io_thread::{IoThread, IoThreadError};
use devices::legacy::rtc::HostClock;
use devices::legacy::serial::SerialBackend;
use devices::legacy::vmgenid::GenerationId;
use firmware::boot::BootError;
use firmware::layout;
use kvm_bindings::{CpuId, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};

use crate::arch::x86_64::cpuid::{self, CpuError, CpuProfile, CpuRequest, HostCpu, VcpuPlace};
use crate::arch::x86_64::state::{self, CaptureError};
use crate::arch::x86_64::{entry, msr};
use crate::attach::{self, AttachError, Board, Devices, Wanted};
use crate::boot_source::{BootSource, BootTables};
use crate::guest_events::{EventReceiver, event_queue};
use crate::kvm::{self, KvmError, VcpuHandle, Vm, failed};
use crate::launch::{OpenDisk, OpenNet, OpenVsock};
use crate::machine::{Buses, Hold, Machine};
use crate::memory::{GuestRam, MemoryError};
use crate::vcpu::{VcpuContext, VcpuSet};

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// RAM.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// RAM beyond the addresses that this host can give a guest.
    #[error(
        "{size} bytes of guest memory do not fit the {bits} address bits of this host's CPU: \
         give the guest at most {} MiB", most >> 20
    )]
    AddressBits {
        /// RAM size asked for.
        size: u64,
        /// Bits of a guest-physical address.
        bits: u32,
        /// The most that fits, in bytes.
        most: u64,
    },
    /// The MSRs of a fresh vCPU.
    #[error(transparent)]
    Msrs(#[from] CaptureError),
    /// A CPU feature.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Cpu(Vec<CpuError>),
    /// A device.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Kernel, initrd, command line.
    #[error(transparent)]
    Boot(BootError),
    /// The kernel or the initrd, a file.
    #[error("{}", path.display())]
    BootFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: BootError,
    },
    /// The I/O thread.
    #[error(transparent)]
    Io(#[from] IoThreadError),
    /// A thread, a signal handler, an event descriptor, random bytes.
    #[error("cannot get {what} from the host")]
    Host {
        /// What was asked for.
        what: &'static str,
        /// What the host answered.
        #[source]
        source: std::io::Error,
    },
}

/// What the launcher opened for the machine.
pub struct Parts {
    /// What the CPU is to have.
    pub cpu: CpuRequest,
    /// What to boot.
    pub boot: BootSource,
    /// The disks, in slot order.
    pub disks: Vec<OpenDisk>,
    /// The network cards, in slot order.
    pub nets: Vec<OpenNet>,
    /// The host's side of the vsock device.
    pub vsock: Option<OpenVsock>,
    /// What COM1 is connected to.
    pub serial: Box<dyn SerialBackend>,
    /// The time the guest's CMOS clock shows.
    pub clock: HostClock,
}

/// Builds the machine; every vCPU is held, nothing has run.
///
/// # Errors
/// [`BuildError`]; whatever was made so far is gone again.
pub fn build(config: Checked, parts: Parts) -> Result<(Machine, EventReceiver), BuildError> {
    let kvm = kvm::open()?;
    let supported = Vm::supported_cpuid(&kvm)?;
    check_size(
        config.memory_size,
        cpuid::address_bits(supported.as_slice()),
    )?;
    let vm = Vm::new(&kvm)?;
    let ram = GuestRam::new(&layout::ram_regions(config.memory_size))?;
    vm.set_memory(ram.memory())?;
    vm.create_irqchip()?;
    let cpus = config.cpus.count;
    let vcpus = (0..cpus)
        .map(|index| vm.create_vcpu(index))
        .collect::<Result<Vec<_>, _>>()?;
    let cpu_profile = set_cpus(&kvm, supported.as_slice(), &vcpus, &parts.cpu)?;

    let stop = Arc::new(AtomicBool::new(true));
    let (events, receiver) = event_queue(Arc::clone(&stop)).map_err(host("an event queue"))?;
    let on_return = Arc::clone(&events);
    let io = IoThread::new(move || on_return.wake())?;
    let mut board = Board {
        routes: &vm,
        pio: Bus::new(),
        mmio: Bus::new(),
        events: Arc::clone(&events),
        memory: Arc::clone(ram.memory()),
        io: io.handle(),
        virtio_slots: 0,
    };
    let devices = Wanted {
        disks: parts.disks,
        rng: config.rng.as_ref().map(|rng| rng.id.as_str()),
        nets: parts.nets,
        vsock: parts.vsock,
        guest: guest_name(&config),
    };
    let Devices {
        serial,
        chips,
        virtio,
    } = attach::all(&mut board, parts.serial, parts.clock, devices)?;

    let generation_id = GenerationId::random().map_err(host("a VM generation id"))?;
    let tables = BootTables {
        cpus,
        virtio_mmio_slots: virtio.iter().map(|slot| slot.slot).collect(),
        generation_id,
    };
    let loaded = parts.boot.load(&ram, &tables);
    let state = loaded.map_err(|error| blame(&config, error))?;
    if let Some(boot_cpu) = vcpus.first() {
        entry::enter(boot_cpu, &state)?;
    }

    let buses = Buses {
        pio: Arc::new(board.pio),
        mmio: Arc::new(board.mmio),
    };
    let context = VcpuContext {
        pio: Arc::clone(&buses.pio),
        mmio: Arc::clone(&buses.mmio),
        events,
        stop,
    };
    let vcpus = VcpuSet::new(vcpus, &context).map_err(host("vCPU threads"))?;
    let machine = Machine {
        vcpus,
        io,
        serial,
        chips,
        virtio,
        buses,
        cpu_profile,
        host_msrs: None,
        boot: parts.boot,
        tables,
        vm,
        kvm,
        ram,
        config,
        hold: Hold::Held,
    };
    Ok((machine, receiver))
}

/// What the guest is known by, if by anything.
fn guest_name(config: &Checked) -> Option<String> {
    let uuid = config.uuid.as_ref().map(ToString::to_string);
    uuid.or_else(|| config.name.clone())
}

/// Names the file that is wrong, if it is one.
fn blame(config: &Checked, source: BootError) -> BuildError {
    let file = config.kernel.as_ref().and_then(|kernel| match source {
        BootError::Kernel(_) => Some(kernel.path.clone()),
        BootError::Initrd(_) => kernel.initrd.clone(),
        _ => None,
    });
    match file {
        Some(path) => BuildError::BootFile { path, source },
        None => BuildError::Boot(source),
    }
}

/// Whether `size` bytes of RAM end within the addresses that `bits` bits make. KVM itself would
/// refuse the memory slot with EINVAL on some hosts, and on others the guest would fail.
fn check_size(size: u64, bits: u32) -> Result<(), BuildError> {
    let end = layout::ram_regions(size).last().and_then(|part| part.end());
    let limit = 1_u64.checked_shl(bits).unwrap_or(u64::MAX);
    if end.is_some_and(|end| end <= limit) {
        return Ok(());
    }
    let hole = layout::HIGH_RAM_START - layout::LOW_RAM_MAX;
    let most = limit.saturating_sub(hole);
    Err(BuildError::AddressBits { size, bits, most })
}

/// Gives every vCPU its CPUID and the MSRs a fresh vCPU needs.
fn set_cpus(
    kvm: &Kvm,
    supported: &[kvm_cpuid_entry2],
    vcpus: &[VcpuHandle],
    request: &CpuRequest,
) -> Result<CpuProfile, BuildError> {
    let count = u8::try_from(vcpus.len()).unwrap_or(u8::MAX);
    let host = HostCpu {
        supported,
        tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer),
        tsc_khz: vcpus.first().and_then(|vcpu| vcpu.fd().get_tsc_khz().ok()),
    };
    let profile = CpuProfile::new(&host, request).map_err(BuildError::Cpu)?;
    let msrs = msr::boot();
    for vcpu in vcpus {
        let Some(place) = VcpuPlace::new(vcpu.index(), count) else {
            continue;
        };
        let entries = profile.vcpu(place);
        let cpuid =
            CpuId::from_entries(&entries).map_err(|_| kvm_error("KVM_SET_CPUID2", libc::E2BIG))?;
        vcpu.fd()
            .set_cpuid2(&cpuid)
            .map_err(failed("KVM_SET_CPUID2"))?;
        state::set_msrs(vcpu.fd(), &msrs)?;
    }
    Ok(profile)
}

fn kvm_error(call: &'static str, errno: i32) -> BuildError {
    KvmError::Call {
        call,
        source: std::io::Error::from_raw_os_error(errno),
    }
    .into()
}

fn host(what: &'static str) -> impl FnOnce(std::io::Error) -> BuildError {
    move |source| BuildError::Host { what, source }
}

#[cfg(test)]
mod tests {
    use api_socket::config::MEMORY_MAX;

    use super::*;

    #[test]
    fn memory_ends_within_the_hosts_addresses() {
        let gib = 1_u64 << 30;
        check_size(MEMORY_MAX, 41).unwrap();
        check_size(63 * gib, 36).unwrap();
        check_size(3 * gib, 32).unwrap();
        let error = check_size(MEMORY_MAX, 39).unwrap_err().to_string();
        assert!(error.contains("39 address bits"), "{error}");
        assert!(error.ends_with("at most 523264 MiB"), "{error}");
        check_size(523_264 << 20, 39).unwrap();
        assert!(check_size((523_264 << 20) + 4096, 39).is_err());
        assert!(check_size(64 * gib, 36).is_err());
    }
}
