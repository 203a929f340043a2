//! The transformation on two hand-written hosts, Intel- and AMD-like, against goldens.

use api_socket::config::Cpus;
use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::*;

fn entry(function: u32, index: Option<u32>, regs: [u32; 4]) -> kvm_cpuid_entry2 {
    let [eax, ebx, ecx, edx] = regs;
    kvm_cpuid_entry2 {
        function,
        index: index.unwrap_or(0),
        flags: if index.is_some() {
            KVM_CPUID_FLAG_SIGNIFCANT_INDEX
        } else {
            0
        },
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    }
}

/// The leaves KVM adds on any host.
fn kvm_leaves() -> [kvm_cpuid_entry2; 2] {
    [
        entry(
            0x4000_0000,
            None,
            [0x4000_0001, 0x4B4D_564B, 0x564B_4D56, 0x4D],
        ),
        entry(0x4000_0001, None, [0x0107_FEFB, 0, 0, 0]),
    ]
}

/// A server of the Ice Lake kind: AVX-512, PMU version 2, SGX reported, leaf 0x1F.
fn intel() -> Vec<kvm_cpuid_entry2> {
    let mut entries = vec![
        entry(0, None, [0x1F, 0x756E_6547, 0x6C65_746E, 0x4965_6E69]),
        entry(
            1,
            None,
            [0x0006_06A6, 0x0510_0800, 0x76FA_32A3, 0x0F8B_FBFF],
        ),
        entry(4, Some(0), [0xFC00_4121, 0x02C0_003F, 0x3F, 0]),
        entry(4, Some(1), [0xFC00_4122, 0x01C0_003F, 0x3F, 0]),
        entry(4, Some(2), [0xFC00_4143, 0x04C0_003F, 0x3FF, 0]),
        entry(4, Some(3), [0xFC0F_C163, 0x02C0_003F, 0xBFFF, 4]),
        entry(4, Some(4), [0, 0, 0, 0]),
        entry(6, None, [4, 0, 0, 0]),
        entry(7, Some(0), [2, 0xF1BF_27EF, 0x1840_5F5E, 0xBC00_0410]),
        entry(7, Some(1), [0x30, 0, 0, 0]),
        entry(0xA, None, [0x0730_0802, 0, 0, 0x603]),
        entry(0xB, Some(0), [0, 0, 0, 0]),
        entry(0xD, Some(0), [0x2E7, 0xA88, 0xA88, 0]),
        entry(0xD, Some(1), [0xF, 0xA08, 0, 0]),
        entry(0xD, Some(2), [0x100, 0x240, 0, 0]),
        entry(0xD, Some(5), [0x40, 0x440, 0, 0]),
        entry(0xD, Some(6), [0x200, 0x480, 0, 0]),
        entry(0xD, Some(7), [0x400, 0x680, 0, 0]),
        entry(0xD, Some(9), [8, 0xA80, 0, 0]),
        entry(0x12, Some(0), [1, 0, 0, 0x2F1F]),
        entry(0x14, Some(0), [0, 0, 0, 0]),
        entry(0x15, None, [2, 0xE8, 25_000_000, 0]),
        entry(0x1F, Some(0), [0, 0, 0, 0]),
        entry(0x8000_0000, None, [0x8000_0008, 0, 0, 0]),
        entry(0x8000_0001, None, [0, 0, 0x121, 0x2C10_0800]),
        entry(0x8000_0007, None, [0, 0, 0, 0x100]),
        entry(0x8000_0008, None, [0x3934, 0x0100_D000, 0x1234, 0]),
    ];
    entries.extend(kvm_leaves());
    entries
}

/// A server of the Milan kind: no AVX-512, topology extensions, nested SVM.
fn amd() -> Vec<kvm_cpuid_entry2> {
    let mut entries = vec![
        entry(0, None, [0x10, 0x6874_7541, 0x444D_4163, 0x6974_6E65]),
        entry(
            1,
            None,
            [0x00A0_0F11, 0x0110_0800, 0x76F8_3203, 0x178B_FBFF],
        ),
        entry(7, Some(0), [0, 0x219C_07AB, 0x0040_0604, 0x10]),
        entry(0xB, Some(0), [0, 0, 0, 0]),
        entry(0xD, Some(0), [0x207, 0x988, 0x988, 0]),
        entry(0xD, Some(1), [0xF, 0, 0, 0]),
        entry(0xD, Some(2), [0x100, 0x240, 0, 0]),
        entry(0xD, Some(9), [8, 0x980, 0, 0]),
        entry(
            0x8000_0000,
            None,
            [0x8000_0021, 0x6874_7541, 0x444D_4163, 0x6974_6E65],
        ),
        entry(
            0x8000_0001,
            None,
            [0x00A0_0F11, 0x4000_0000, 0x0040_03F7, 0x2FD3_FBFF],
        ),
        entry(0x8000_0007, None, [0, 0, 0, 0x100]),
        entry(0x8000_0008, None, [0x3030, 0x0191_D205, 0x703F, 0]),
        entry(0x8000_000A, None, [1, 8, 0, 0x0001_84CF]),
        entry(0x8000_001D, Some(0), [0x4121, 0x01C0_003F, 0x3F, 0]),
        entry(0x8000_001D, Some(2), [0x4143, 0x01C0_003F, 0x3FF, 2]),
        entry(0x8000_001D, Some(3), [0x0003_C163, 0x03C0_003F, 0x7FFF, 1]),
        entry(0x8000_001D, Some(4), [0, 0, 0, 0]),
        entry(0x8000_001E, None, [0, 0, 0, 0]),
        entry(0x8000_001F, None, [0x0101_FD3F, 0x4173, 0x1FD, 1]),
        entry(0x8000_0021, None, [0x4D, 0, 0, 0]),
    ];
    entries.extend(kvm_leaves());
    entries
}

fn profile(supported: &[kvm_cpuid_entry2], request: &str) -> Result<CpuProfile, Vec<CpuError>> {
    let host = HostCpu {
        supported,
        tsc_deadline: true,
        tsc_khz: Some(2_900_000),
    };
    CpuProfile::new(&host, &asked(request))
}

/// `+this,-that`.
fn asked(request: &str) -> CpuRequest {
    let features = request.to_owned();
    let cpus = Cpus { count: 1, features };
    CpuRequest::new(&cpus.changes()).unwrap()
}

fn leaf(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> [u32; 4] {
    let entry = find(entries, function, index)
        .unwrap_or_else(|| panic!("leaf {function:#x}.{index} is there"));
    [entry.eax, entry.ebx, entry.ecx, entry.edx]
}

/// The table as text, one entry a line, for the goldens.
fn table(entries: &[kvm_cpuid_entry2]) -> String {
    entries
        .iter()
        .map(|e| {
            let (function, index) = (e.function, e.index);
            let (eax, ebx, ecx, edx) = (e.eax, e.ebx, e.ecx, e.edx);
            format!("{function:08x}.{index:x} {eax:08x} {ebx:08x} {ecx:08x} {edx:08x}\n")
        })
        .collect()
}

#[test]
fn intel_golden() {
    let entries = profile(&intel(), "host")
        .unwrap()
        .vcpu(VcpuPlace::new(2, 4).expect("a place"));
    assert_eq!(
        table(&entries),
        include_str!("golden/intel_host_2_of_4.txt")
    );
}

#[test]
fn amd_golden() {
    let entries = profile(&amd(), "host")
        .unwrap()
        .vcpu(VcpuPlace::new(2, 3).expect("a place"));
    assert_eq!(table(&entries), include_str!("golden/amd_host_2_of_3.txt"));
}

#[test]
fn topology_agrees_between_leaves_for_every_count() {
    for supported in [intel(), amd()] {
        let profile = profile(&supported, "host").unwrap();
        for count in [1u8, 2, 3, 4, 5, 8, 31, 32, 64, 65, 254] {
            let shift = u32::from(count).next_power_of_two().trailing_zeros();
            for index in [0, count / 2, count - 1] {
                let entries = profile.vcpu(VcpuPlace::new(index, count).expect("a place"));
                let [_, ebx, _, edx] = leaf(&entries, 1, 0);
                assert_eq!(ebx >> 24, u32::from(index));
                assert_eq!((ebx >> 16) & 0xFF, u32::from(count));
                assert_eq!(edx & (1 << 28) != 0, count > 1);
                let id = u32::from(index);
                assert_eq!(leaf(&entries, 0xB, 0), [0, 1, 0x100, id]);
                assert_eq!(leaf(&entries, 0xB, 1), [shift, u32::from(count), 0x201, id]);
                assert_eq!(leaf(&entries, 0xB, 2), [0, 0, 2, id]);
                assert_eq!(id >> shift, 0, "every APIC ID lies in socket 0");
                if profile.vendor() == Vendor::Amd {
                    let [_, _, ecx, _] = leaf(&entries, 0x8000_0008, 0);
                    assert_eq!((ecx & 0xFF, ecx >> 12), (u32::from(count) - 1, shift));
                    assert_eq!(leaf(&entries, 0x8000_001E, 0), [id, id, 0, 0]);
                } else {
                    assert_eq!(leaf(&entries, 0x1F, 1), leaf(&entries, 0xB, 1).map(|x| x));
                }
            }
        }
    }
    assert_eq!(VcpuPlace::new(4, 4), None);
    assert_eq!(VcpuPlace::new(0, 255), None);
}

#[test]
fn silent_capabilities_are_added_and_withheld_ones_removed() {
    let intel = profile(&intel(), "host").unwrap();
    for name in [
        "x2apic",
        "hypervisor",
        "tsc-deadline",
        "avx512f",
        "kvmclock",
    ] {
        assert!(intel.has(name), "{name}");
    }
    for name in ["invtsc", "sgx", "intel-pt", "kvm-hint-dedicated", "no-such"] {
        assert!(!intel.has(name), "{name}");
    }
    let entries = intel.vcpu(VcpuPlace::new(0, 1).expect("a place"));
    assert!(find(&entries, 0x12, 0).is_none());
    assert_eq!(
        leaf(&entries, 0x4000_0001, 0)[0] & KVM_FEATURES_NOT_OFFERED,
        0
    );
    assert_eq!(leaf(&entries, 0x15, 0), [10, 29, 1_000_000_000, 0]);
}

#[test]
fn no_deadline_timer_without_the_capability() {
    let supported = intel();
    let host = HostCpu {
        supported: &supported,
        tsc_deadline: false,
        tsc_khz: None,
    };
    assert!(
        !CpuProfile::new(&host, &CpuRequest::default())
            .unwrap()
            .has("tsc-deadline")
    );
    let problems = CpuProfile::new(&host, &asked("+tsc-deadline")).unwrap_err();
    assert_eq!(
        problems,
        [CpuError::NotOnHost {
            name: "tsc-deadline"
        }]
    );
}

#[test]
fn features_asked_on_must_be_there() {
    let problems = profile(&amd(), "+avx512f,+vmx,+avx2").unwrap_err();
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "CPU feature `avx512f` is not offered by this host's KVM; leave `+avx512f` out",
            "CPU feature `vmx` is not offered by this host's KVM; leave `+vmx` out",
        ]
    );
    assert!(
        profile(&amd(), "+invtsc,+kvm-hint-dedicated")
            .unwrap()
            .has("invtsc")
    );
}

#[test]
fn features_go_with_what_they_need() {
    let plain = profile(&intel(), "-avx").unwrap();
    for name in [
        "avx",
        "avx2",
        "fma",
        "f16c",
        "avx512f",
        "avx512vl",
        "avx512vnni",
        "vaes",
    ] {
        assert!(!plain.has(name), "{name}");
    }
    assert!(plain.has("xsave") && plain.has("pku"));
    let entries = plain.vcpu(VcpuPlace::new(0, 1).expect("a place"));
    // x87, SSE and protection keys stay; the keys' offset is the processor's and does not move.
    assert_eq!(leaf(&entries, 0xD, 0), [0x203, 576, 0xA88, 0]);
    assert!(find(&entries, 0xD, 2).is_none());

    let none = profile(&intel(), "-xsave").unwrap();
    assert!(!none.has("avx") && !none.has("pku"));
    assert!(find(&none.entries, 0xD, 0).is_none());

    // A host that offers the feature and not what it rests on.
    let mut odd = intel();
    for entry in odd.iter_mut().filter(|entry| entry.function == 1) {
        entry.ecx &= !(1 << 28);
    }
    let problems = profile(&odd, "+avx2,+aes").unwrap_err();
    assert_eq!(problems, [CpuError::NotOnHost { name: "avx2" }]);
}

#[test]
fn masking_reaches_every_copy_of_a_bit() {
    let masked = profile(&amd(), "-mmx,-svm,-kvmclock").unwrap();
    assert_eq!(leaf(&masked.entries, 1, 0)[3] & (1 << 23), 0);
    assert_eq!(leaf(&masked.entries, 0x8000_0001, 0)[3] & (1 << 23), 0);
    assert!(find(&masked.entries, 0x8000_000A, 0).is_none());
    assert_eq!(leaf(&masked.entries, 0x4000_0001, 0)[0] & 0x0100_0009, 0);

    let quiet = profile(&intel(), "-pmu").unwrap();
    assert!(!quiet.has("pmu") && !quiet.has("pdcm"));
    assert!(profile(&intel(), "host").unwrap().has("pmu"));
}

#[test]
fn address_bits_are_the_cpus_or_what_kvm_maps_of_them() {
    assert_eq!(address_bits(&intel()), 52);
    assert_eq!(address_bits(&amd()), 48);
    assert_eq!(address_bits(&[]), 36);
    let mapped = |eax| address_bits(&[entry(0x8000_0008, None, [eax, 0, 0, 0])]);
    assert_eq!(mapped(0x0030_3934), 48);
    assert_eq!(mapped(0x0040_3027), 39);
}

#[test]
fn the_digest_is_of_the_profile_and_nothing_else() {
    let base = profile(&intel(), "host").unwrap().digest();
    assert_eq!(base, profile(&intel(), "host").unwrap().digest());
    assert_ne!(base, profile(&intel(), "-avx2").unwrap().digest());
    assert_ne!(base, profile(&amd(), "host").unwrap().digest());
    // Neither the order of KVM's list, nor the CPU the call ran on, nor the clock, counts.
    let mut other = intel();
    other.reverse();
    for entry in &mut other {
        match entry.function {
            1 => entry.ebx ^= 0xFF00_0000,
            0xB | 0x1F => entry.edx = 7,
            _ => {}
        }
    }
    let host = HostCpu {
        supported: &other,
        tsc_deadline: true,
        tsc_khz: Some(2_100_000),
    };
    assert_eq!(
        base,
        CpuProfile::new(&host, &CpuRequest::default())
            .unwrap()
            .digest()
    );
}

#[test]
fn a_list_without_its_first_leaves_is_refused() {
    let host = HostCpu {
        supported: &[],
        tsc_deadline: true,
        tsc_khz: None,
    };
    let problems = CpuProfile::new(&host, &CpuRequest::default()).unwrap_err();
    assert_eq!(
        problems,
        [
            CpuError::MissingLeaf { leaf: 0 },
            CpuError::MissingLeaf { leaf: 1 }
        ]
    );
}

#[test]
fn fnv1a_is_the_published_one() {
    let mut digest = Fnv1a::default();
    digest.add(u32::from_le_bytes(*b"foob"));
    let mut reference = 0xCBF2_9CE4_8422_2325_u64;
    for byte in b"foob" {
        reference = (reference ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3);
    }
    assert_eq!(digest.0, reference);
}
