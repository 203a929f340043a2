//! Round trips, and one refusal per field that can be wrong.

use kvm_bindings::{kvm_regs, kvm_sregs, kvm_vcpu_events};

use super::convert::{lapic_from_kvm, lapic_to_kvm, xcrs_from_kvm, xcrs_to_kvm};
use super::*;
use crate::arch::x86_64::regs::{self, ResetState};

fn sample() -> VcpuState {
    let reset = ResetState::new(1, 0x00A0_0F11, &Default::default());
    VcpuState {
        version: VERSION,
        cpuid_digest: 0x0123_4567_89AB_CDEF,
        tsc_khz: Some(2_600_000),
        regs: (&reset.regs).into(),
        sregs: (&reset.sregs).into(),
        xsave: reset.xsave.region.to_vec(),
        xcrs: Some(xcrs_from_kvm(&reset.xcrs)),
        debugregs: (&reset.debugregs).into(),
        lapic: Some(lapic_from_kvm(&reset.lapic)),
        mp_state: 1,
        events: (&reset.events).into(),
        msrs: vec![(0x10, 42), (0x6E0, 0)],
        nested: None,
    }
}

#[test]
fn structures_survive_the_round_trip() {
    let state = sample();
    state.check().unwrap();
    let regs = kvm_regs::from(&state.regs);
    assert_eq!(Regs::from(&regs), state.regs);
    let sregs = kvm_sregs::try_from(&state.sregs).unwrap();
    assert_eq!(Sregs::from(&sregs), state.sregs);
    let events = kvm_vcpu_events::try_from(&state.events).unwrap();
    assert_eq!(Events::from(&events), state.events);
    assert_eq!(xcrs_to_kvm(&[(0, 7)]).unwrap().nr_xcrs, 1);
    let page: Vec<u8> = (0..=255).cycle().take(1024).collect();
    assert_eq!(lapic_from_kvm(&lapic_to_kvm(&page).unwrap()), page);
    assert_eq!(state.msr_entries()[0].data, 42);
    assert_eq!(regs::reset_regs(5).rdx, 5);
}

#[test]
fn every_register_has_its_own_place() {
    let text: serde_json::Map<String, serde_json::Value> =
        serde_json::from_value(serde_json::to_value(Regs::default()).unwrap()).unwrap();
    let numbered: serde_json::Map<String, serde_json::Value> = text
        .keys()
        .zip(1u64..)
        .map(|(name, value)| (name.clone(), value.into()))
        .collect();
    let regs: Regs = serde_json::from_value(numbered.into()).unwrap();
    let kvm = kvm_regs::from(&regs);
    assert_eq!(
        (kvm.rax, kvm.r8, kvm.r15, kvm.rip, kvm.rflags),
        (1, 9, 16, 17, 18)
    );
    assert_eq!(Regs::from(&kvm), regs);
}

#[test]
fn the_saved_form_is_readable_and_strict() {
    let state = sample();
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<VcpuState>(&text).unwrap(), state);
    let mut value = serde_json::to_value(&state).unwrap();
    value["surprise"] = 1.into();
    assert!(serde_json::from_value::<VcpuState>(value).is_err());
    let mut value = serde_json::to_value(&state).unwrap();
    value["regs"].as_object_mut().unwrap().remove("rip");
    assert!(serde_json::from_value::<VcpuState>(value).is_err());
}

#[test]
fn each_bad_field_is_named() {
    type Spoil = fn(&mut VcpuState);
    let cases: [(&str, Spoil); 17] = [
        ("version", |s| s.version = 2),
        ("tsc_khz", |s| s.tsc_khz = Some(0)),
        ("sregs.cs", |s| s.sregs.cs.kind = 16),
        ("sregs.ldt", |s| s.sregs.ldt.dpl = 4),
        ("sregs.cr8", |s| s.sregs.cr8 = 16),
        ("sregs.interrupt_bitmap", |s| {
            s.sregs.interrupt_bitmap = [1, 1, 0, 0];
        }),
        ("xsave", |s| s.xsave.truncate(1023)),
        ("xsave", |s| s.xsave.resize(MAX_XSAVE_WORDS + 1, 0)),
        ("xcrs", |s| s.xcrs = Some(vec![(0, 1); 17])),
        ("lapic", |s| s.lapic = Some(vec![0; 1023])),
        ("mp_state", |s| s.mp_state = 10),
        ("events.exception_nr", |s| {
            s.events.exception_pending = true;
            s.events.exception_nr = 32;
        }),
        ("events.flags", |s| s.events.flags = 0x40),
        ("events.interrupt_shadow", |s| s.events.interrupt_shadow = 4),
        ("events.sipi_vector", |s| s.events.sipi_vector = 0x100),
        ("msrs", |s| s.msrs = vec![(0, 0); MAX_MSRS + 1]),
        ("nested", |s| s.nested = Some(vec![0; 127])),
    ];
    for (field, spoil) in cases {
        let mut state = sample();
        spoil(&mut state);
        let problem = state.check().expect_err(field);
        assert_eq!(problem.field, field, "{problem}");
    }
}

#[test]
fn absent_parts_are_absent() {
    let mut state = sample();
    state.xcrs = None;
    state.lapic = None;
    state.tsc_khz = None;
    state.check().unwrap();
    let value = serde_json::to_value(&state).unwrap();
    assert!(value["lapic"].is_null() && value["nested"].is_null());
}
