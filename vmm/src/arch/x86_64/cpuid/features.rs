//! The table of CPU feature names: which leaf, register and bit each one is.
//!
//! Names are QEMU's `-cpu` spellings, with Linux's `/proc/cpuinfo` spellings as aliases where they
//! differ by more than `_`, `-` or `.` (which compare equal). Used by the `--cpu` parser and by the
//! profile; no state. Bits: Intel SDM volume 2A "CPUID", AMD APM volume 3 appendix E, Linux
//! `arch/x86/include/asm/cpufeatures.h`, and `Documentation/virt/kvm/x86/cpuid.rst` for leaf
//! 0x4000_0001. Bits the processor or KVM maintains while running (OSXSAVE, OSPKE) have no name.

/// An output register of the CPUID instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reg {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

/// One 32-bit word of feature bits and the names of its bits.
#[derive(Debug)]
pub struct Word {
    /// CPUID leaf (EAX on input).
    pub leaf: u32,
    /// Sub-leaf (ECX on input); 0 where the leaf has none.
    pub index: u32,
    /// The output register.
    pub reg: Reg,
    /// Bit number and its names separated by spaces, the canonical one first. A canonical name
    /// may stand at several bits; it then means all of them.
    pub bits: &'static [(u8, &'static str)],
}

/// The name that stands for the whole performance-monitoring unit rather than for one bit.
pub const PMU: &str = "pmu";

/// Leaf 1 EDX bits that AMD processors repeat in leaf 0x8000_0001 EDX.
pub const AMD_ALIASES_OF_1_EDX: u32 = 0x0183_F3FF;

/// Every named feature.
pub const WORDS: &[Word] = &[
    Word {
        leaf: 1,
        index: 0,
        reg: Reg::Edx,
        bits: &[
            (0, "fpu"),
            (1, "vme"),
            (2, "de"),
            (3, "pse"),
            (4, "tsc"),
            (5, "msr"),
            (6, "pae"),
            (7, "mce"),
            (8, "cx8"),
            (9, "apic"),
            (11, "sep"),
            (12, "mtrr"),
            (13, "pge"),
            (14, "mca"),
            (15, "cmov"),
            (16, "pat"),
            (17, "pse36"),
            (18, "pn"),
            (19, "clflush clfsh"),
            (21, "ds dts"),
            (22, "acpi"),
            (23, "mmx"),
            (24, "fxsr"),
            (25, "sse"),
            (26, "sse2"),
            (27, "ss"),
            (28, "ht"),
            (29, "tm"),
            (30, "ia64"),
            (31, "pbe"),
        ],
    },
    Word {
        leaf: 1,
        index: 0,
        reg: Reg::Ecx,
        bits: &[
            (0, "pni sse3"),
            (1, "pclmulqdq pclmuldq"),
            (2, "dtes64"),
            (3, "monitor"),
            (4, "ds-cpl"),
            (5, "vmx"),
            (6, "smx"),
            (7, "est"),
            (8, "tm2"),
            (9, "ssse3"),
            (10, "cid"),
            (12, "fma"),
            (13, "cx16"),
            (14, "xtpr"),
            (15, "pdcm"),
            (17, "pcid"),
            (18, "dca"),
            (19, "sse4.1"),
            (20, "sse4.2"),
            (21, "x2apic"),
            (22, "movbe"),
            (23, "popcnt"),
            (24, "tsc-deadline tsc-deadline-timer"),
            (25, "aes"),
            (26, "xsave"),
            (28, "avx"),
            (29, "f16c"),
            (30, "rdrand"),
            (31, "hypervisor"),
        ],
    },
    Word {
        leaf: 6,
        index: 0,
        reg: Reg::Eax,
        bits: &[(2, "arat")],
    },
    Word {
        leaf: 7,
        index: 0,
        reg: Reg::Ebx,
        bits: &[
            (0, "fsgsbase"),
            (1, "tsc-adjust"),
            (2, "sgx"),
            (3, "bmi1"),
            (4, "hle"),
            (5, "avx2"),
            (6, "fdp-excptn-only"),
            (7, "smep"),
            (8, "bmi2"),
            (9, "erms"),
            (10, "invpcid"),
            (11, "rtm"),
            (12, "cqm"),
            (13, "zero-fcs-fds"),
            (14, "mpx"),
            (15, "rdt-a"),
            (16, "avx512f"),
            (17, "avx512dq"),
            (18, "rdseed"),
            (19, "adx"),
            (20, "smap"),
            (21, "avx512ifma"),
            (22, "pcommit"),
            (23, "clflushopt"),
            (24, "clwb"),
            (25, "intel-pt"),
            (26, "avx512pf"),
            (27, "avx512er"),
            (28, "avx512cd"),
            (29, "sha-ni"),
            (30, "avx512bw"),
            (31, "avx512vl"),
        ],
    },
    Word {
        leaf: 7,
        index: 0,
        reg: Reg::Ecx,
        bits: &[
            (1, "avx512vbmi"),
            (2, "umip"),
            (3, "pku"),
            (5, "waitpkg"),
            (6, "avx512vbmi2 avx512-vbmi2"),
            (7, "shstk cet-ss user-shstk"),
            (8, "gfni"),
            (9, "vaes"),
            (10, "vpclmulqdq"),
            (11, "avx512vnni avx512-vnni"),
            (12, "avx512bitalg avx512-bitalg"),
            (14, "avx512-vpopcntdq"),
            (16, "la57"),
            (22, "rdpid"),
            (24, "bus-lock-detect"),
            (25, "cldemote"),
            (27, "movdiri"),
            (28, "movdir64b"),
            (29, "enqcmd"),
            (30, "sgxlc sgx-lc"),
            (31, "pks"),
        ],
    },
    Word {
        leaf: 7,
        index: 0,
        reg: Reg::Edx,
        bits: &[
            (2, "avx512-4vnniw"),
            (3, "avx512-4fmaps"),
            (4, "fsrm"),
            (5, "uintr"),
            (8, "avx512-vp2intersect"),
            (10, "md-clear"),
            (14, "serialize"),
            (16, "tsx-ldtrk tsxldtrk"),
            (18, "pconfig"),
            (19, "arch-lbr"),
            (20, "ibt cet-ibt"),
            (22, "amx-bf16"),
            (23, "avx512-fp16"),
            (24, "amx-tile"),
            (25, "amx-int8"),
            (26, "spec-ctrl"),
            (27, "stibp"),
            (28, "flush-l1d"),
            (29, "arch-capabilities"),
            (30, "core-capability"),
            (31, "ssbd"),
        ],
    },
    Word {
        leaf: 7,
        index: 1,
        reg: Reg::Eax,
        bits: &[
            (0, "sha512"),
            (1, "sm3"),
            (2, "sm4"),
            (4, "avx-vnni"),
            (5, "avx512-bf16"),
            (7, "cmpccxadd"),
            (10, "fzrm"),
            (11, "fsrs"),
            (12, "fsrc"),
            (17, "fred"),
            (18, "lkgs"),
            (19, "wrmsrns"),
            (21, "amx-fp16"),
            (23, "avx-ifma"),
            (26, "lam"),
        ],
    },
    Word {
        leaf: 7,
        index: 1,
        reg: Reg::Edx,
        bits: &[
            (4, "avx-vnni-int8"),
            (5, "avx-ne-convert"),
            (8, "amx-complex"),
            (10, "avx-vnni-int16"),
            (14, "prefetchiti"),
            (19, "avx10"),
        ],
    },
    Word {
        leaf: 7,
        index: 2,
        reg: Reg::Edx,
        bits: &[
            (0, "intel-psfd"),
            (1, "ipred-ctrl"),
            (2, "rrsba-ctrl"),
            (3, "ddpd-u"),
            (4, "bhi-ctrl"),
            (5, "mcdt-no"),
        ],
    },
    Word {
        leaf: 0xD,
        index: 1,
        reg: Reg::Eax,
        bits: &[
            (0, "xsaveopt"),
            (1, "xsavec"),
            (2, "xgetbv1"),
            (3, "xsaves"),
            (4, "xfd"),
        ],
    },
    Word {
        leaf: 0x4000_0001,
        index: 0,
        reg: Reg::Eax,
        bits: &[
            (0, "kvmclock"),
            (1, "kvm-nopiodelay"),
            (3, "kvmclock"),
            (4, "kvm-asyncpf"),
            (5, "kvm-steal-time"),
            (6, "kvm-pv-eoi"),
            (7, "kvm-pv-unhalt"),
            (9, "kvm-pv-tlb-flush"),
            (10, "kvm-asyncpf-vmexit"),
            (11, "kvm-pv-ipi"),
            (12, "kvm-poll-control"),
            (13, "kvm-pv-sched-yield"),
            (14, "kvm-asyncpf-int"),
            (24, "kvmclock-stable-bit"),
        ],
    },
    Word {
        leaf: 0x4000_0001,
        index: 0,
        reg: Reg::Edx,
        bits: &[(0, "kvm-hint-dedicated")],
    },
    Word {
        leaf: 0x8000_0001,
        index: 0,
        reg: Reg::Edx,
        bits: &[
            (11, "syscall"),
            (19, "mp"),
            (20, "nx xd"),
            (22, "mmxext"),
            (25, "fxsr-opt ffxsr"),
            (26, "pdpe1gb"),
            (27, "rdtscp"),
            (29, "lm i64"),
            (30, "3dnowext"),
            (31, "3dnow"),
        ],
    },
    Word {
        leaf: 0x8000_0001,
        index: 0,
        reg: Reg::Ecx,
        bits: &[
            (0, "lahf-lm"),
            (1, "cmp-legacy"),
            (2, "svm"),
            (3, "extapic"),
            (4, "cr8legacy cr8-legacy"),
            (5, "abm lzcnt"),
            (6, "sse4a"),
            (7, "misalignsse"),
            (8, "3dnowprefetch"),
            (9, "osvw"),
            (10, "ibs"),
            (11, "xop"),
            (12, "skinit"),
            (13, "wdt"),
            (15, "lwp"),
            (16, "fma4"),
            (17, "tce"),
            (19, "nodeid-msr"),
            (21, "tbm"),
            (22, "topoext"),
            (23, "perfctr-core"),
            (24, "perfctr-nb"),
            (29, "mwaitx"),
        ],
    },
    Word {
        leaf: 0x8000_0007,
        index: 0,
        reg: Reg::Ebx,
        bits: &[(0, "overflow-recov"), (1, "succor")],
    },
    Word {
        leaf: 0x8000_0007,
        index: 0,
        reg: Reg::Edx,
        bits: &[(8, "invtsc constant-tsc nonstop-tsc")],
    },
    Word {
        leaf: 0x8000_0008,
        index: 0,
        reg: Reg::Ebx,
        bits: &[
            (0, "clzero"),
            (2, "xsaveerptr"),
            (4, "rdpru"),
            (9, "wbnoinvd"),
            (12, "ibpb"),
            (14, "ibrs"),
            (15, "amd-stibp"),
            (17, "stibp-always-on"),
            (24, "amd-ssbd"),
            (25, "virt-ssbd"),
            (26, "amd-no-ssb"),
            (28, "amd-psfd"),
            (29, "btc-no"),
            (30, "ibpb-ret"),
        ],
    },
    Word {
        leaf: 0x8000_000A,
        index: 0,
        reg: Reg::Edx,
        bits: &[
            (0, "npt"),
            (1, "lbrv"),
            (2, "svm-lock"),
            (3, "nrip-save"),
            (4, "tsc-scale"),
            (5, "vmcb-clean"),
            (6, "flushbyasid"),
            (7, "decodeassists"),
            (10, "pause-filter"),
            (12, "pfthreshold"),
            (13, "avic"),
            (15, "v-vmsave-vmload"),
            (16, "vgif"),
            (25, "vnmi"),
            (28, "svme-addr-chk"),
        ],
    },
    Word {
        leaf: 0x8000_0021,
        index: 0,
        reg: Reg::Eax,
        bits: &[
            (0, "no-nested-data-bp"),
            (2, "lfence-always-serializing"),
            (6, "null-sel-clr-base"),
            (8, "auto-ibrs"),
            (9, "no-smm-ctl-msr"),
            (27, "sbpb"),
            (28, "ibpb-brtype"),
            (29, "srso-no"),
            (30, "srso-user-kernel-no"),
        ],
    },
    Word {
        leaf: 0xC000_0001,
        index: 0,
        reg: Reg::Edx,
        bits: &[
            (2, "xstore rng"),
            (3, "xstore-en rng-en"),
            (6, "xcrypt ace"),
            (7, "xcrypt-en ace-en"),
            (8, "ace2"),
            (9, "ace2-en"),
            (10, "phe"),
            (11, "phe-en"),
            (12, "pmm"),
            (13, "pmm-en"),
        ],
    },
];

/// What goes with [`PMU`]. On its own bit, the PMU itself has none.
pub const PMU_PARTS: &[&str] = &[
    "pdcm",
    "perfctr-core",
    "perfctr-nb",
    "ds",
    "dtes64",
    "arch-lbr",
];

/// Features that cannot be without another one: taking the first away takes the rest away.
/// Applied until nothing changes. After Linux `arch/x86/kernel/cpu/cpuid-deps.c`.
pub const DEPENDENTS: &[(&str, &[&str])] = &[
    ("fxsr", &["sse", "fxsr-opt"]),
    ("sse", &["sse2"]),
    (
        "sse2",
        &["pni", "aes", "pclmulqdq", "sha-ni", "gfni", "sse4a"],
    ),
    ("pni", &["ssse3"]),
    ("ssse3", &["sse4.1"]),
    ("sse4.1", &["sse4.2"]),
    (
        "xsave",
        &[
            "xsaveopt", "xsavec", "xgetbv1", "avx", "mpx", "pku", "amx-tile",
        ],
    ),
    ("xsavec", &["xsaves"]),
    ("xsaves", &["shstk", "ibt", "arch-lbr"]),
    ("xgetbv1", &["xfd"]),
    ("xfd", &["amx-tile"]),
    (
        "amx-tile",
        &["amx-bf16", "amx-int8", "amx-fp16", "amx-complex"],
    ),
    (
        "avx",
        &[
            "avx2",
            "fma",
            "f16c",
            "fma4",
            "xop",
            "vaes",
            "vpclmulqdq",
            "sha512",
            "sm3",
            "sm4",
        ],
    ),
    (
        "avx2",
        &[
            "avx512f",
            "avx-vnni",
            "avx-ifma",
            "avx-vnni-int8",
            "avx-vnni-int16",
        ],
    ),
    ("avx2", &["avx-ne-convert"]),
    (
        "avx512f",
        &[
            "avx512dq",
            "avx512ifma",
            "avx512pf",
            "avx512er",
            "avx512cd",
            "avx512bw",
        ],
    ),
    (
        "avx512f",
        &[
            "avx512vl",
            "avx512-vpopcntdq",
            "avx512-4vnniw",
            "avx512-4fmaps",
            "avx10",
        ],
    ),
    ("avx512f", &["avx512-vp2intersect"]),
    (
        "avx512bw",
        &["avx512vbmi", "avx512vbmi2", "avx512bitalg", "avx512-fp16"],
    ),
    ("avx512vl", &["avx512vnni", "avx512-bf16", "avx512-fp16"]),
    ("rtm", &["tsx-ldtrk"]),
    ("kvm-asyncpf", &["kvm-asyncpf-vmexit", "kvm-asyncpf-int"]),
    ("kvmclock", &["kvmclock-stable-bit"]),
];

/// The bits of a feature: which of [`WORDS`], and where in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bits {
    /// Index in [`WORDS`].
    pub word: usize,
    /// All of the feature's bits.
    pub mask: u32,
}

/// One dependent of [`DEPENDENTS`], with the names looked up.
#[derive(Debug, Clone, Copy)]
pub struct Dependence {
    /// What is needed.
    pub needed: Bits,
    /// By what.
    pub dependent: Bits,
    /// The dependent's name.
    pub name: &'static str,
}

/// [`DEPENDENTS`], looked up by the compiler: a start asks for each, and has no time for names.
pub static DEPENDENCES: [Dependence; dependence_count()] = dependences();

const fn dependence_count() -> usize {
    let (mut count, mut row) = (0, 0);
    while row < DEPENDENTS.len() {
        count += DEPENDENTS[row].1.len();
        row += 1;
    }
    count
}

const fn dependences() -> [Dependence; dependence_count()] {
    let none = Bits { word: 0, mask: 0 };
    let mut all = [Dependence {
        needed: none,
        dependent: none,
        name: "",
    }; dependence_count()];
    let (mut next, mut row) = (0, 0);
    while row < DEPENDENTS.len() {
        let (needed, dependents) = DEPENDENTS[row];
        let mut column = 0;
        while column < dependents.len() {
            all[next] = Dependence {
                needed: bits(needed),
                dependent: bits(dependents[column]),
                name: dependents[column],
            };
            next += 1;
            column += 1;
        }
        row += 1;
    }
    all
}

/// Looks a canonical name up. For the compiler, which stops at a name that is in no word.
const fn bits(name: &str) -> Bits {
    let mut word = 0;
    while word < WORDS.len() {
        let (mut mask, mut row) = (0, 0);
        while row < WORDS[word].bits.len() {
            let (bit, names) = WORDS[word].bits[row];
            if is_first(names.as_bytes(), name.as_bytes()) {
                mask |= 1 << bit;
            }
            row += 1;
        }
        if mask != 0 {
            return Bits { word, mask };
        }
        word += 1;
    }
    panic!("no such feature")
}

const fn is_first(names: &[u8], name: &[u8]) -> bool {
    if names.len() < name.len() || (names.len() > name.len() && names[name.len()] != b' ') {
        return false;
    }
    let mut at = 0;
    while at < name.len() {
        if names[at] != name[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// The canonical name of the feature spelled `name`, or `None` when no feature is called that.
/// Case, and `_` or `.` for `-`, make no difference.
#[must_use]
pub fn canonical(name: &str) -> Option<&'static str> {
    if same(PMU, name) {
        return Some(PMU);
    }
    WORDS
        .iter()
        .flat_map(|word| word.bits)
        .find_map(|(_, names)| {
            names
                .split(' ')
                .any(|candidate| same(candidate, name))
                .then(|| names.split(' ').next())
                .flatten()
        })
}

/// Where the bits of the feature with the canonical name `name` are; empty for [`PMU`].
pub fn places(name: &str) -> impl Iterator<Item = (&'static Word, u32)> {
    WORDS.iter().flat_map(move |word| {
        word.bits
            .iter()
            .filter(move |(_, names)| begins_with(names, name))
            .map(move |(bit, _)| (word, 1u32 << bit))
    })
}

/// Every canonical name, in table order. A name at two bits appears twice.
pub fn names() -> impl Iterator<Item = &'static str> {
    WORDS
        .iter()
        .flat_map(|word| word.bits)
        .filter_map(|(_, names)| names.split(' ').next())
        .chain([PMU])
}

/// The features without which `name` (canonical) cannot be, at one remove.
pub fn needed_by(name: &str) -> Vec<&'static str> {
    let grounds = DEPENDENTS.iter().chain([&(PMU, PMU_PARTS)]);
    grounds
        .filter(|(_, dependents)| dependents.contains(&name))
        .map(|(needed, _)| *needed)
        .collect()
}

/// Up to five names that resemble `name`, the nearest first: an edit distance of at most two, or
/// at most a third of the name's length, or a common beginning of four characters or more.
#[must_use]
pub fn near(name: &str) -> Vec<&'static str> {
    // Longer than any name: nothing resembles it, and the distance table stays small.
    if name.len() > 40 {
        return Vec::new();
    }
    let wanted = fold(name);
    let mut found: Vec<(usize, &'static str)> = Vec::new();
    for candidate in names() {
        let folded = fold(candidate);
        let distance = edit_distance(&wanted, &folded);
        let begins = wanted.len() >= 4 && (folded.starts_with(&wanted));
        let close = distance <= (wanted.len() / 3).clamp(1, 2);
        if (begins || close) && !found.iter().any(|(_, known)| *known == candidate) {
            found.push((distance, candidate));
        }
    }
    found.sort();
    found
        .into_iter()
        .take(5)
        .map(|(_, candidate)| candidate)
        .collect()
}

/// Whether two spellings are the same name.
/// Whether `name` is the first of `names`. Asked some hundred times for each of some hundred names
/// at every start.
fn begins_with(names: &str, name: &str) -> bool {
    let rest = names.strip_prefix(name);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().map(fold_byte).eq(b.bytes().map(fold_byte))
}

fn fold_byte(byte: u8) -> u8 {
    match byte {
        b'_' | b'.' => b'-',
        other => other.to_ascii_lowercase(),
    }
}

fn fold(name: &str) -> Vec<u8> {
    name.bytes().map(fold_byte).collect()
}

/// Levenshtein distance, one row at a time.
fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (to, above) in b.iter().zip(row.iter().skip(1)) {
            let substituted = diagonal + usize::from(from != to);
            left = substituted.min(left + 1).min(above + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_qemu_and_linux_mean_the_same() {
        for (spelling, name) in [
            ("sse4_1", "sse4.1"),
            ("SSE4-2", "sse4.2"),
            ("tsc_deadline_timer", "tsc-deadline"),
            ("pni", "pni"),
            ("sse3", "pni"),
            ("avx512_vnni", "avx512vnni"),
            ("avx512_vbmi2", "avx512vbmi2"),
            ("lahf_lm", "lahf-lm"),
            ("nonstop_tsc", "invtsc"),
            ("cr8_legacy", "cr8legacy"),
            ("pmu", PMU),
        ] {
            assert_eq!(canonical(spelling), Some(name), "{spelling}");
        }
        assert_eq!(canonical("osxsave"), None);
        assert_eq!(canonical(""), None);
    }

    #[test]
    fn the_table_is_sane() {
        assert!(names().count() >= 150, "{}", names().count());
        for word in WORDS {
            let mut last = None;
            for (bit, names) in word.bits {
                assert!(*bit < 32);
                assert!(last < Some(*bit), "bits ascend in leaf {:#x}", word.leaf);
                last = Some(*bit);
                for name in names.split(' ') {
                    // Every spelling leads to its own row: no name means two features.
                    assert_eq!(canonical(name), names.split(' ').next(), "{name}");
                }
            }
        }
        for (feature, dependents) in DEPENDENTS {
            assert_eq!(canonical(feature), Some(*feature));
            for dependent in *dependents {
                assert_eq!(canonical(dependent), Some(*dependent), "{dependent}");
            }
        }
    }

    #[test]
    fn a_name_at_two_bits_is_both() {
        let masks: Vec<u32> = places("kvmclock").map(|(_, mask)| mask).collect();
        assert_eq!(masks, [1, 8]);
        assert_eq!(places(PMU).count(), 0);
    }

    #[test]
    fn the_compiler_found_what_the_names_mean() {
        let flat = DEPENDENTS
            .iter()
            .flat_map(|(needed, dependents)| dependents.iter().map(move |name| (needed, name)));
        let all = |bits: Bits| {
            let word = &WORDS[bits.word];
            let ones = (0..32).map(|bit| 1 << bit);
            ones.filter(|one| bits.mask & one != 0)
                .map(|one| (word.leaf, word.index, word.reg, one))
                .collect::<Vec<_>>()
        };
        let named = |name: &str| {
            let places = places(name).map(|(word, mask)| (word.leaf, word.index, word.reg, mask));
            places.collect::<Vec<_>>()
        };
        assert_eq!(flat.clone().count(), DEPENDENCES.len());
        for ((needed, dependent), found) in flat.zip(&DEPENDENCES) {
            assert_eq!(all(found.needed), named(needed), "{needed}");
            assert_eq!(all(found.dependent), named(dependent), "{dependent}");
            assert_eq!(found.name, *dependent);
        }
    }

    #[test]
    fn near_matches_are_few_and_near() {
        assert_eq!(near("avx22").first(), Some(&"avx2"));
        assert_eq!(near("sse41"), ["sse4.1", "sse4a"]);
        assert!(near("avx512").contains(&"avx512f"));
        assert!(near("avx512").len() <= 5);
        assert!(near("qqqqqqqq").is_empty());
        assert!(near(&"a".repeat(10_000)).is_empty());
    }
}
