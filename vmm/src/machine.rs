//! The machine: everything of one guest, owned by the main thread.
//!
//! It is told what to do ([`Machine::hold`], [`Machine::run`], [`Quiesced::reset`]) by the main loop
//! and decides nothing itself; [`crate::lifecycle`] does. vCPU registers and device state are
//! reached only through a [`Quiesced`], which [`Machine::hold`] gives out and which no running
//! machine can have.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use api_socket::config::Checked;
use devices::io_thread::IoThread;
use devices::legacy::serial::Serial;
use devices::legacy::vmgenid::GenerationId;
use firmware::boot::BootError;

use crate::arch::x86_64::cpuid::CpuProfile;
use crate::arch::x86_64::entry::{self, PowerOnError};
use crate::arch::x86_64::halt;
use crate::arch::x86_64::msr;
use crate::attach::legacy::LegacyChips;
use crate::attach::{VirtioDeviceSlot, VirtioKind};
use crate::boot_source::{BootSource, BootTables};
use crate::kvm::{KvmError, VcpuHandle, Vm, failed};
use crate::memory::{GuestRam, MemoryError};
use crate::vcpu::VcpuSet;

/// Why the machine could not be reset. It is then held, and cannot run until a reset succeeds.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// RAM.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Kernel, initrd or tables.
    #[error("the guest cannot be loaded again")]
    Boot(#[from] BootError),
    /// An interrupt controller, or the boot CPU's entry.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// A vCPU.
    #[error(transparent)]
    PowerOn(#[from] PowerOnError),
}

/// How far the machine is on its way to where nothing of it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// vCPUs and workers are out.
    Out,
    /// The vCPUs are asked for.
    Vcpus,
    /// The vCPUs are here, the workers asked for.
    Workers,
    /// All are here.
    Held,
}

/// One guest. What of it a guest can change, and so would have to be saved: `ram`; each vCPU
/// ([`crate::arch::x86_64::state`]); what the chips and the transports of `virtio` have
/// ([`devices::saved`]); and in `vm` KVM's I/O APIC and clock, which have no saved form yet. Its
/// PICs are masked for good. Everything else follows from the configuration.
///
/// Fields are dropped in this order: first nothing runs any more, then nothing is there.
pub struct Machine {
    pub(crate) vcpus: VcpuSet,
    pub(crate) io: IoThread,
    pub(crate) serial: Arc<Mutex<Serial>>,
    pub(crate) chips: LegacyChips,
    pub(crate) virtio: Vec<VirtioDeviceSlot>,
    pub(crate) buses: Buses,
    pub(crate) cpu_profile: CpuProfile,
    /// The MSRs this host knows; asked for at the first reset, because the call is not free.
    pub(crate) host_msrs: Option<Vec<u32>>,
    pub(crate) boot: BootSource,
    pub(crate) tables: BootTables,
    pub(crate) vm: Vm,
    pub(crate) kvm: kvm_ioctls::Kvm,
    pub(crate) ram: GuestRam,
    pub(crate) config: Checked,
    pub(crate) hold: Hold,
}

/// The two address spaces, as the vCPU threads see them.
pub(crate) struct Buses {
    pub(crate) pio: Arc<devices::bus::Bus>,
    pub(crate) mmio: Arc<devices::bus::Bus>,
}

/// A machine in which nothing runs: every vCPU and every worker is in the main thread's hands.
pub struct Quiesced<'a> {
    machine: &'a mut Machine,
}

impl Machine {
    /// Takes vCPUs and device workers back, as far as that is possible until `until`, and returns
    /// whether nothing is out any more. vCPUs first: they are what gives workers work. To be called
    /// again until it succeeds; the main loop is woken whenever something has come.
    pub fn hold_until(&mut self, until: Option<Instant>) -> bool {
        loop {
            self.hold = match self.hold {
                Hold::Out => {
                    self.vcpus.begin_hold();
                    Hold::Vcpus
                }
                Hold::Vcpus => {
                    if !self.vcpus.finish_hold(until) {
                        return false;
                    }
                    for slot in &self.virtio {
                        slot.lost(lock(&slot.transport).core_mut().begin_pause());
                    }
                    Hold::Workers
                }
                Hold::Workers => {
                    for slot in &self.virtio {
                        let paused = lock(&slot.transport).core_mut().finish_pause(until);
                        if slot.lost(paused) == Some(false) {
                            return false;
                        }
                    }
                    Hold::Held
                }
                Hold::Held => return true,
            }
        }
    }

    /// Takes the vCPUs alone back, as far as that is possible until `until`, and looks whether no
    /// processor will ever do anything again. If one will, [`Self::release_vcpus`] follows: a guest
    /// that is alive is held for microseconds, whatever its disks wait for. `None`: a vCPU has not
    /// come, or the machine is being held already. [`Self::hold_until`] goes on from all of these.
    ///
    /// # Errors
    /// What KVM answered.
    pub fn halted_until(&mut self, until: Instant) -> Result<Option<bool>, KvmError> {
        if self.hold != Hold::Out {
            return Ok(None);
        }
        self.vcpus.begin_hold();
        self.hold = Hold::Vcpus;
        if !self.vcpus.finish_hold(Some(until)) {
            return Ok(None);
        }
        self.halted().map(Some)
    }

    /// Lets vCPUs go on if they are all that was asked for. They must have come.
    pub fn release_vcpus(&mut self) {
        if self.hold == Hold::Vcpus {
            self.hold = Hold::Out;
            self.vcpus.run();
        }
    }

    /// Whether no processor will ever do anything again: all are halted with interrupts off, or wait
    /// for another processor to start them. Only an NMI from outside could wake them.
    fn halted(&mut self) -> Result<bool, KvmError> {
        for vcpu in self.vcpus.held() {
            if !halt::is_halted(vcpu)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes everything back, however long that takes, and gives out the token for what may be done
    /// then.
    pub fn hold(&mut self) -> Quiesced<'_> {
        self.hold_until(None);
        Quiesced { machine: self }
    }

    /// Whether nothing is out.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.hold == Hold::Held
    }

    /// Whether the guest runs, and nobody has asked for any part of it.
    #[must_use]
    pub fn is_out(&self) -> bool {
        self.hold == Hold::Out
    }

    /// What keeps the machine from being held, for people.
    #[must_use]
    pub fn awaited(&self) -> String {
        if self.hold != Hold::Workers {
            return "a CPU".to_owned();
        }
        let running = |slot: &&VirtioDeviceSlot| lock(&slot.transport).core_mut().is_running();
        let ids: Vec<&str> = self.virtio.iter().filter(running).map(|s| &*s.id).collect();
        ids.join(", ")
    }

    /// Gives workers and vCPUs out again; they must be held.
    pub fn run(&mut self) {
        if !self.is_held() {
            return;
        }
        for slot in &self.virtio {
            lock(&slot.transport).core_mut().resume();
        }
        self.hold = Hold::Out;
        self.vcpus.run();
    }

    /// Takes everything apart, and returns the descriptors that cost the kernel time to close: the
    /// VM's and guest memory's. Nothing else of the machine is left.
    #[must_use]
    pub fn dismantle(self) -> Vec<OwnedFd> {
        let Self {
            vcpus,
            io,
            serial,
            chips,
            virtio,
            buses,
            vm,
            ram,
            ..
        } = self;
        // First nothing runs any more; then every backend is closed, and with it its locks.
        drop((vcpus, io));
        // The slots last: they have the locks.
        drop((serial, chips, buses, virtio));
        // One that cannot be duplicated is closed here and now, which takes longer and no more.
        let kept = [vm.duplicate(), ram.duplicate()];
        kept.into_iter().flatten().collect()
    }

    /// Raises the power button's interrupt.
    pub fn press_power_button(&self) {
        lock(&self.chips.power).press_power_button();
    }

    /// The VM generation id the guest sees.
    #[must_use]
    pub fn generation_id(&self) -> GenerationId {
        self.tables.generation_id
    }

    /// The disk with this id, or this node name.
    pub(crate) fn disk(
        &self,
        id: &str,
    ) -> Option<(&VirtioDeviceSlot, &crate::attach::blk::BlkInfo)> {
        self.disks().find(|(slot, _)| &*slot.id == id)
    }

    /// Every disk, in slot order.
    pub(crate) fn disks(
        &self,
    ) -> impl Iterator<Item = (&VirtioDeviceSlot, &crate::attach::blk::BlkInfo)> {
        self.virtio.iter().filter_map(|slot| match &slot.kind {
            VirtioKind::Blk(info) => Some((slot, info)),
            VirtioKind::Rng | VirtioKind::Net(_) | VirtioKind::Vsock(_) => None,
        })
    }

    /// Every network card, in slot order.
    pub(crate) fn nets(
        &self,
    ) -> impl Iterator<Item = (&VirtioDeviceSlot, &crate::attach::net::NetInfo)> {
        self.virtio.iter().filter_map(|slot| match &slot.kind {
            VirtioKind::Net(info) => Some((slot, info)),
            VirtioKind::Blk(_) | VirtioKind::Rng | VirtioKind::Vsock(_) => None,
        })
    }
}

impl Quiesced<'_> {
    /// The VM they belong to.
    #[must_use]
    pub fn vm(&self) -> &Vm {
        &self.machine.vm
    }

    /// The vCPUs, in order.
    pub fn vcpus(&mut self) -> impl Iterator<Item = &mut VcpuHandle> {
        self.machine.vcpus.held()
    }

    /// Puts the whole machine back to power-on: devices, interrupt controllers, memory, vCPUs; then
    /// loads the guest anew.
    ///
    /// # Errors
    /// [`ResetError`].
    pub fn reset(&mut self) -> Result<(), ResetError> {
        let machine = &mut *self.machine;
        // Devices first: none of them may raise an interrupt into the fresh controllers.
        for slot in &machine.virtio {
            lock(&slot.transport).reset();
        }
        lock(&machine.serial).reset();
        lock(&machine.chips.rtc).reset();
        lock(&machine.chips.i8042).reset();
        lock(&machine.chips.power).reset();
        machine.vm.reset_irqchip()?;
        machine.ram.clear()?;
        let boot = machine.boot.load(&machine.ram, &machine.tables)?;
        if machine.host_msrs.is_none() {
            let list = machine
                .kvm
                .get_msr_index_list()
                .map_err(failed("KVM_GET_MSR_INDEX_LIST"))?;
            machine.host_msrs = Some(list.as_slice().to_vec());
        }
        let msrs = msr::reset(machine.host_msrs.as_deref().unwrap_or_default());
        let signature = machine.cpu_profile.signature();
        for vcpu in machine.vcpus.held() {
            entry::power_on(vcpu, signature, &msrs)?;
            if vcpu.index() == 0 {
                entry::enter(vcpu, &boot)?;
            }
        }
        Ok(())
    }
}

/// A device's lock. A panic while it was held took the process along, so it is never poisoned.
pub(crate) fn lock<T: ?Sized>(device: &Mutex<T>) -> MutexGuard<'_, T> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}
