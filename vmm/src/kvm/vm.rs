//! One KVM virtual machine: memory slots, interrupt controllers, event registrations.
#![expect(
    unsafe_code,
    reason = "KVM_SET_USER_MEMORY_REGION takes a host address, and VmFd lends no descriptor"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use devices::memory::GuestMemory;
use firmware::layout::IO_APIC;
use kvm_bindings::{
    CpuId, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_ioapic_state,
    kvm_pic_state, kvm_userspace_memory_region,
};
use kvm_ioctls::{IoEventAddress, Kvm, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use super::{KvmError, VcpuHandle, failed};

/// Three pages that KVM uses for itself on Intel processors without unrestricted guest mode. They
/// lie in the hole below 4 GiB, above every device (KVM's customary place).
const TSS_ADDRESS: usize = 0xfffb_d000;

/// Which lines of each PIC may be level-triggered: wired, and told KVM with every state
/// (`kvm_create_pic`).
const MASTER_ELCR_MASK: u8 = 0xf8;
/// See [`MASTER_ELCR_MASK`].
const SLAVE_ELCR_MASK: u8 = 0xde;

/// The most CPUID entries KVM may return (`KVM_MAX_CPUID_ENTRIES`).
const MAX_CPUID_ENTRIES: usize = 256;

/// A virtual machine. Dropping it closes the descriptor; the kernel destroys the machine when the
/// last vCPU and registration are gone too.
#[derive(Debug)]
pub struct Vm {
    fd: VmFd,
}

impl Vm {
    /// Creates an empty machine.
    ///
    /// # Errors
    /// [`KvmError::Call`]; ENOMEM and EMFILE are the likely ones.
    pub fn new(kvm: &Kvm) -> Result<Self, KvmError> {
        let fd = kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?;
        Ok(Self { fd })
    }

    /// What the processor and KVM together can offer a guest. The dearest fixed call there is
    /// (0.67 ms measured): made once.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn supported_cpuid(kvm: &Kvm) -> Result<CpuId, KvmError> {
        kvm.get_supported_cpuid(MAX_CPUID_ENTRIES)
            .map_err(failed("KVM_GET_SUPPORTED_CPUID"))
    }

    /// Gives the guest its RAM: one slot per region, numbered from 0. Call before anything else is
    /// created (module documentation).
    ///
    /// # Safety contract, upheld by the machine
    /// `memory` must outlive the guest's last instruction; [`crate::machine::Machine`] owns both.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn set_memory(&self, memory: &GuestMemory) -> Result<(), KvmError> {
        for (slot, region) in (0..).zip(memory.iter()) {
            let host = memory
                .get_host_address(region.start_addr())
                .map_err(|_| no_host_address())?;
            let slot = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: host.addr() as u64,
            };
            // SAFETY: the address and length are those of a live mapping of guest memory, which
            // the machine keeps until after the vCPUs are gone; regions of one GuestMemory do not
            // overlap.
            unsafe { self.fd.set_user_memory_region(slot) }
                .map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(())
    }

    /// Creates the interrupt controllers: local APICs (with each later vCPU), I/O APIC, and the
    /// PICs, which KVM does not do without and which this machine has no use for: they are masked.
    /// After the memory slots, before the vCPUs.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn create_irqchip(&self) -> Result<(), KvmError> {
        self.fd
            .set_tss_address(TSS_ADDRESS)
            .map_err(failed("KVM_SET_TSS_ADDR"))?;
        self.fd
            .create_irq_chip()
            .map_err(failed("KVM_CREATE_IRQCHIP"))?;
        self.mask_pics()
    }

    /// A PIC that nobody has set up would deliver every line a second time, at vectors 0 to 15.
    fn mask_pics(&self) -> Result<(), KvmError> {
        for (chip_id, elcr_mask) in [
            (KVM_IRQCHIP_PIC_MASTER, MASTER_ELCR_MASK),
            (KVM_IRQCHIP_PIC_SLAVE, SLAVE_ELCR_MASK),
        ] {
            let pic = kvm_pic_state {
                imr: 0xff,
                elcr_mask,
                ..Default::default()
            };
            let mut chip = kvm_bindings::kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            chip.chip.pic = pic;
            self.fd
                .set_irqchip(&chip)
                .map_err(failed("KVM_SET_IRQCHIP"))?;
        }
        Ok(())
    }

    /// Puts PICs and I/O APIC back to their power-on state, as an INIT of the platform would. All
    /// vCPUs must be held.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn reset_irqchip(&self) -> Result<(), KvmError> {
        self.mask_pics()?;
        let mut ioapic = kvm_bindings::kvm_irqchip {
            chip_id: KVM_IRQCHIP_IOAPIC,
            ..Default::default()
        };
        ioapic.chip.ioapic = reset_ioapic();
        self.fd
            .set_irqchip(&ioapic)
            .map_err(failed("KVM_SET_IRQCHIP"))
    }

    /// Creates vCPU `index`; its APIC id is the same number.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn create_vcpu(&self, index: u8) -> Result<VcpuHandle, KvmError> {
        let fd = self
            .fd
            .create_vcpu(u64::from(index))
            .map_err(failed("KVM_CREATE_VCPU"))?;
        Ok(VcpuHandle::new(index, fd))
    }

    /// Another descriptor of this machine: it lives until both are closed.
    ///
    /// # Errors
    /// EMFILE.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        // SAFETY: `self` keeps the descriptor open for the length of this call.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd.as_raw_fd()) };
        fd.try_clone_to_owned()
    }

    /// Lets `event` raise interrupt line `gsi` as an edge.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn register_irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), KvmError> {
        self.fd
            .register_irqfd(event, gsi)
            .map_err(failed("KVM_IRQFD"))
    }

    /// Lets a 4-byte guest write of `value` at MMIO `address` signal `event` without leaving the
    /// kernel.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn register_doorbell(
        &self,
        event: &EventFd,
        address: u64,
        value: u32,
    ) -> Result<(), KvmError> {
        self.fd
            .register_ioevent(event, &IoEventAddress::Mmio(address), value)
            .map_err(failed("KVM_IOEVENTFD"))
    }
}

impl AsRawFd for Vm {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Every redirection entry masked, nothing latched; id and base address are the chip's own reset
/// values (82093AA data sheet §3.2).
fn reset_ioapic() -> kvm_ioapic_state {
    /// Bit 16 of a redirection entry: masked.
    const MASKED: u64 = 1 << 16;
    let mut ioapic = kvm_ioapic_state {
        base_address: IO_APIC.into(),
        ..Default::default()
    };
    for entry in &mut ioapic.redirtbl {
        entry.bits = MASKED;
    }
    ioapic
}

fn no_host_address() -> KvmError {
    KvmError::Call {
        call: "KVM_SET_USER_MEMORY_REGION",
        source: io::Error::from_raw_os_error(libc::EFAULT),
    }
}
