//! Saved states of devices and vCPUs, reached by whoever hands us a snapshot or migrates a guest
//! here: good states with some of their JSON changed.
//!
//! A state is restored or refused; a refusal changes nothing; what was restored is what is saved
//! again; and a device with a hostile state still works after a reset.
#![no_main]

use std::sync::Arc;

use devices::bus::BusDevice;
use devices::saved::Saved;
use devices::virtio::transport::saved::TransportState;
use kvm_bindings::{
    KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SIPI_VECTOR, kvm_debugregs, kvm_regs,
    kvm_sregs, kvm_vcpu_events,
};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use thimble_fuzz::chips::{Chips, Outside};
use thimble_fuzz::json;
use thimble_fuzz::rig::{KINDS, Kind, QUEUE_LEN, Rig};
use thimble_fuzz::source::Source;
use thimble_fuzz::sparse::Sparse;
use vmm::arch::x86_64::state::{self, DebugRegs, Events, Regs, Sregs, VcpuState};

thread_local!(static RAM: Sparse = Rig::ram());

const WORDS: &[&str] = &["rng", "blk", "queue", "head", "0"];

/// The state of `good` with changes; `None` if it is not even of its type.
fn varied<T: serde::Serialize + serde::de::DeserializeOwned>(
    good: &T,
    source: &mut Source<'_>,
) -> Option<T> {
    let mut value = serde_json::to_value(good).expect("plain data");
    json::vary(&mut value, source, WORDS, 12);
    let text = serde_json::to_vec(&value).expect("a value is JSON");
    serde_json::from_slice(&text).ok()
}

fn chip<C: Saved + BusDevice>(chip: &mut C, len: u64, source: &mut Source<'_>) {
    let good = chip.save();
    let Some(state) = varied(&good, source) else {
        return;
    };
    match chip.restore(&state) {
        Ok(()) => assert_eq!(chip.save(), state),
        Err(error) => {
            assert!(error.kind == C::KIND && !error.field.is_empty());
            assert_eq!(chip.save(), good);
        }
    }
    for offset in 0..len {
        let mut data = [0];
        chip.write(offset, &[source.u8()]);
        chip.read(offset, &mut data);
    }
    let state = chip.save();
    chip.restore(&state).expect("a state we saved");
}

fn transport(ram: &Sparse, kind: Kind, source: &mut Source<'_>) {
    ram.clear();
    let mut rig = Rig::new(kind, ram);
    let fresh = rig.save();
    let features = rig.driver.offered();
    rig.driver.start(features, QUEUE_LEN);
    let mut good = rig.save();
    if let Value::Object(mut members) = serde_json::to_value(&good).expect("plain data")
        && let Some(Value::Object(device)) = members.get_mut("device")
        && let Some(blk) = device.get_mut("blk")
    {
        let head = source.u8() % 20;
        blk["stalled"] = serde_json::json!([{"queue": source.u8() % 2, "head": head}]);
        good = serde_json::from_value(Value::Object(members)).expect("a good state");
    }
    let Some(state) = varied(&good, source) else {
        return;
    };
    let mut target = Rig::new(kind, ram);
    match target.driver.transport.restore(&state) {
        Ok(()) => {
            let saved = target.driver.transport.save();
            // A device may have learnt features since.
            let device_features = saved.device_features;
            assert_eq!(
                saved,
                TransportState {
                    device_features,
                    ..state
                }
            );
        }
        Err(error) => {
            assert!(!error.field.is_empty());
            assert_eq!(target.driver.transport.save(), fresh);
        }
    }
    target.driver.transport.core_mut().resume();
    target.driver.notify(0);
    target.pause();
    target.check_restores(ram);
    target.check_works();
}

fn vcpu(source: &mut Source<'_>) {
    let good = VcpuState {
        version: state::VERSION,
        cpuid_digest: 1,
        tsc_khz: Some(2_600_000),
        regs: Regs::default(),
        sregs: Sregs::default(),
        xsave: vec![0; 1024],
        xcrs: Some(vec![(0, 7)]),
        debugregs: DebugRegs::default(),
        lapic: Some(vec![0; state::LAPIC_BYTES]),
        mp_state: 0,
        events: Events::default(),
        msrs: vec![(0x10, 42), (0x6e0, 0)],
        nested: Some(vec![0; 128]),
    };
    good.check().expect("a good state");
    let Some(state) = varied(&good, source) else {
        return;
    };
    if let Err(error) = state.check() {
        assert!(!error.field.is_empty());
        return;
    }
    let regs = kvm_regs::from(&state.regs);
    assert_eq!(Regs::from(&regs), state.regs);
    let sregs = kvm_sregs::try_from(&state.sregs).expect("checked");
    assert_eq!(Sregs::from(&sregs), state.sregs);
    let events = kvm_vcpu_events::try_from(&state.events).expect("checked");
    // KVM is told that the two fields hold that always do.
    let flags =
        state.events.flags | KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR;
    assert_eq!(
        Events::from(&events),
        Events {
            flags,
            ..state.events
        }
    );
    let debug = kvm_debugregs::from(&state.debugregs);
    assert_eq!(DebugRegs::from(&debug), state.debugregs);
    assert_eq!(state.msr_entries().len(), state.msrs.len());
}

fuzz_target!(|data: &[u8]| {
    let mut source = Source::new(data);
    let source = &mut source;
    let outside = Arc::new(Outside::default());
    let mut chips = Chips::new(&outside);
    match source.u8() % 8 {
        0 => chip(&mut chips.serial, 8, source),
        1 => chip(&mut chips.rtc, 2, source),
        2 => chip(&mut chips.i8042, 5, source),
        3 => chip(&mut chips.power, 0x20, source),
        4 => vcpu(source),
        _ => {
            let kind = source.pick(&KINDS);
            RAM.with(|ram| transport(ram, kind, source));
        }
    }
});
