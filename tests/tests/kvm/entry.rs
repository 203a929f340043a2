//! How a guest is entered and what it finds there: protocols, memory, processors, command line,
//! initial RAM disk, processor features.

use std::path::Path;

use harness::guest::{Launch, status};
use harness::{guests, obey, skip};

use crate::passes;

#[test]
fn pvh_is_the_first_choice() {
    if skip::without_kvm() {
        return;
    }
    let said = passes(Launch::new().kernel(guests::HELLO, ""));
    assert!(said.contains("TEST entry ok PVH"), "{said}");
}

#[test]
fn without_a_pvh_note_it_is_linuxs_64_bit_protocol() {
    if skip::without_kvm() {
        return;
    }
    let launch = Launch::new();
    let kernel = launch.path("kernel");
    let image = guests::without_pvh_note(guests::HELLO.as_ref()).unwrap();
    std::fs::write(&kernel, image).unwrap();
    let said = passes(launch.kernel(&kernel, "one two=3"));
    assert!(
        said.contains("TEST entry ok Linux 64-bit protocol"),
        "{said}"
    );
    assert!(said.contains("\"one two=3\""), "{said}");
}

#[test]
fn the_command_line_arrives_whole() {
    if skip::without_kvm() {
        return;
    }
    // 2047 bytes: the longest there is.
    let long = format!("first {} last=1", "x".repeat(2047 - 13));
    assert_eq!(long.len(), 2047);
    let said = passes(Launch::new().kernel(guests::HELLO, &long));
    assert!(said.contains(&format!("\"{long}\"")), "{said}");
}

/// Memory of `size`, written and read at all its ends; the highest byte lies at `end`.
#[track_caller]
fn memory(size: &str, end: u64) {
    if skip::without_kvm() {
        return;
    }
    let said = passes(
        Launch::new()
            .kernel(guests::MEMTEST, "")
            .args(["--memory", size]),
    );
    let highest = format!("highest={end:#x}\r\n");
    assert!(said.contains(&highest), "no {highest} in {said}");
}

#[test]
fn memory_of_16_mib() {
    memory("16M", 16 << 20);
}

#[test]
fn memory_of_128_mib_is_the_default() {
    memory("128", 128 << 20);
}

#[test]
fn memory_of_3_gib_fills_the_space_below_the_devices() {
    memory("3G", 3 << 30);
}

#[test]
fn memory_of_5_gib_goes_on_above_4_gib() {
    memory("5G", 6 << 30);
}

#[track_caller]
fn processors(count: u8) {
    if skip::without_kvm() {
        return;
    }
    let cpus = count.to_string();
    let said = passes(
        Launch::new()
            .kernel(guests::SMP, "")
            .args(["--cpus", &cpus]),
    );
    assert!(said.contains(&format!("cpus={count} of {count}")), "{said}");
}

#[test]
fn one_processor() {
    processors(1);
}

#[test]
fn two_processors() {
    processors(2);
}

#[test]
fn eight_processors() {
    processors(8);
}

#[test]
fn thirty_two_processors() {
    processors(32);
}

#[test]
fn the_initial_ram_disk_arrives_whole() {
    if skip::without_kvm() {
        return;
    }
    let content: Vec<u8> = (0..300_001_u32)
        .map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect();
    let fnv1a = content.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    for pvh in [true, false] {
        let launch = Launch::new();
        let (kernel, initrd) = (launch.path("kernel"), launch.path("initrd"));
        let image = if pvh {
            std::fs::read(guests::OBEY)
        } else {
            guests::without_pvh_note(guests::OBEY.as_ref())
        };
        std::fs::write(&kernel, image.unwrap()).unwrap();
        std::fs::write(&initrd, &content).unwrap();
        let launch = launch.kernel(&kernel, "").arg("--initrd").arg(&initrd);
        let mut guest = launch.start();
        obey::ready(&mut guest);
        let seen = obey::ask(&mut guest, "initrd");
        assert_eq!(seen.number::<usize>("length"), content.len());
        assert_eq!(seen.number::<u64>("fnv1a"), fnv1a);
        assert!(seen.number::<u64>("initrd") < 128 << 20);
    }
}

/// CPUID leaf 1's features of a guest started with `--cpu` as given: ECX and EDX.
#[track_caller]
fn features(cpu: &str) -> (u32, u32) {
    let mut guest = obey::launch().args(["--cpu", cpu]).start();
    obey::ready(&mut guest);
    let leaf = obey::ask(&mut guest, "cpuid 1");
    (leaf.number("ecx"), leaf.number("edx"))
}

#[test]
fn a_feature_taken_away_is_not_there_and_all_others_are() {
    const AES: u32 = 1 << 25;
    const HYPERVISOR: u32 = 1 << 31;
    if skip::without_kvm() {
        return;
    }
    let (ecx, edx) = features("host");
    assert_ne!(ecx & HYPERVISOR, 0, "{ecx:#x}");
    if ecx & AES == 0 {
        skip::note("this processor has no AES to take away");
        return;
    }
    let without = features("host,-aes");
    if without == (ecx, edx) && Path::new("/sys/module/kvm_pvm").exists() {
        skip::note("PVM shows every guest the host's own CPUID");
        return;
    }
    assert_eq!(without, (ecx & !AES, edx));
}

#[test]
fn a_feature_that_nobody_knows_is_refused() {
    let mut guest = Launch::new().args(["--cpu", "host,+warp-drive"]).start();
    guest.expect_exit(status::USAGE);
    assert!(guest.stderr().contains("warp-drive"));
}
