//! Full in-kernel irqchip against split irqchip: from opening `/dev/kvm` to the first exit, and the
//! time until a process that did it has been reaped. `cargo bench -p vmm --bench irqchip`.
//!
//! Each measurement is a process of its own, the two kinds in turn; medians and their ratio are
//! printed. The order of creation is the builder's. The guest is one `out` instruction.
#![expect(unsafe_code, reason = "memory slots take host addresses")]

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, kvm_enable_cap, kvm_userspace_memory_region};
use kvm_ioctls::{IoEventAddress, Kvm, VcpuExit};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

type Failure = Box<dyn std::error::Error>;

/// Pairs of measurements.
const ROUNDS: usize = 40;
/// Lines of an I/O APIC, which a split irqchip must be told.
const PINS: u64 = 24;
/// Devices: one ioeventfd and one irqfd each.
const DEVICES: u32 = 3;
/// `out %al, $0x10; hlt`, in real mode.
const GUEST: [u8; 3] = [0xe6, 0x10, 0xf4];

/// Makes a machine, runs it to its first exit, and prints how long that took in microseconds.
fn child(split: bool) -> Result<(), Failure> {
    let started = Instant::now();
    let kvm = Kvm::new()?;
    let vm = kvm.create_vm()?;
    let mut memory = vec![0_u8; 2 << 12];
    let page = memory.as_ptr().align_offset(1 << 12);
    let slot = memory
        .get_mut(page..page + (1 << 12))
        .ok_or("no whole page")?;
    slot.get_mut(..GUEST.len())
        .ok_or("no room")?
        .copy_from_slice(&GUEST);
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: 1 << 12,
        userspace_addr: slot.as_ptr().addr() as u64,
    };
    // SAFETY: the page lives until the process ends, and nothing else uses it meanwhile.
    unsafe { vm.set_user_memory_region(region) }?;
    if split {
        let mut cap = kvm_enable_cap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            ..Default::default()
        };
        cap.args[0] = PINS;
        vm.enable_cap(&cap)?;
    } else {
        vm.create_irq_chip()?;
    }
    let mut vcpu = vm.create_vcpu(0)?;
    vcpu.set_cpuid2(&kvm.get_supported_cpuid(256)?)?;
    let mut events = Vec::new();
    for device in 0..DEVICES {
        let (doorbell, line) = (EventFd::new(EFD_NONBLOCK)?, EventFd::new(EFD_NONBLOCK)?);
        let address = 0xc000_1050 + u64::from(device) * 0x1000;
        vm.register_ioevent(&doorbell, &IoEventAddress::Mmio(address), 0_u32)?;
        if !split {
            vm.register_irqfd(&line, 5 + device)?;
        }
        events.push((doorbell, line));
    }
    let mut sregs = vcpu.get_sregs()?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.get_regs()?;
    (regs.rip, regs.rflags) = (0, 2);
    vcpu.set_regs(&regs)?;
    match vcpu.run()? {
        VcpuExit::IoOut(0x10, _) => {}
        other => return Err(format!("unexpected exit {other:?}").into()),
    }
    writeln!(io::stdout(), "{}", started.elapsed().as_micros())?;
    Ok(())
}

/// Microseconds to the first exit, and from the child's word of it to its being reaped.
fn measure(kind: &str) -> Result<(f64, f64), Failure> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--kind", kind])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut output = child.stdout.take().ok_or("no output pipe")?;
    let mut text = String::new();
    let mut byte = [0];
    while output.read(&mut byte)? == 1 && byte != *b"\n" {
        text.push(char::from(byte[0]));
    }
    let said = Instant::now();
    if !child.wait()?.success() {
        return Err(format!("{kind}: the measuring process failed").into());
    }
    Ok((text.trim().parse()?, said.elapsed().as_secs_f64() * 1e6))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().collect();
    if let Some(at) = words.iter().position(|word| word == "--kind") {
        return child(words.get(at + 1).is_some_and(|kind| kind == "split"));
    }
    let (mut full, mut split) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for _ in 0..ROUNDS {
        for (kind, (first, end)) in [("full", &mut full), ("split", &mut split)] {
            let (to_exit, to_reaped) = measure(kind)?;
            first.push(to_exit);
            end.push(to_reaped);
        }
    }
    let mut out = io::stdout().lock();
    for (what, full, split) in [
        ("to the first exit", full.0, split.0),
        ("exit to reaped", full.1, split.1),
    ] {
        let (full, split) = (median(full), median(split));
        writeln!(
            out,
            "{what:20} full {full:8.0} us   split {split:8.0} us   split/full {:.2}",
            split / full
        )?;
    }
    Ok(())
}
