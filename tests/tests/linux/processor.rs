//! Features of the processor hidden by `--cpu`, as Linux sees them, and those that cannot be had.

use harness::host::Host;
use harness::linux::Boot;
use harness::skip;

/// Features by thimble's name and by the one in `/proc/cpuinfo`, newest first.
const FEATURES: [(&str, &str); 4] = [
    ("avx2", "avx2"),
    ("sha-ni", "sha_ni"),
    ("rdrand", "rdrand"),
    ("aes", "aes"),
];
/// Those that few processors have, or that no guest is given.
const RARE: [(&str, &str); 3] = [
    ("amx-tile", "amx_tile"),
    ("avx512f", "avx512f"),
    ("sha-ni", "sha_ni"),
];

/// The flags of the first processor in `cpuinfo`.
fn flags(cpuinfo: &str) -> Vec<&str> {
    let line = cpuinfo.lines().find(|line| line.starts_with("flags"));
    line.and_then(|line| line.split_once(':'))
        .map(|(_, flags)| flags.split_whitespace().collect())
        .unwrap_or_default()
}

#[test]
fn a_hidden_feature_is_no_flag_of_the_guests_processors() {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    let cpuinfo = host.run("cat /proc/cpuinfo").text();
    let here = flags(&cpuinfo);
    let hidden: Vec<_> = FEATURES.iter().filter(|f| here.contains(&f.1)).collect();
    // The first two of those there are; the others show that only what was named is hidden.
    let [first, second, kept @ ..] = hidden.as_slice() else {
        skip::note("this processor has too few features to hide");
        return;
    };
    let words = format!("--cpu host,-{},-{}", first.0, second.0);
    let life = Boot::new(&host, "6.12", "bzImage", "cat /proc/cpuinfo")
        .cpus(2)
        .arguments(&words)
        .run(&mut host);
    life.assert_clean();
    let lines = life.console.lines().filter(|l| l.starts_with("flags"));
    assert_eq!(lines.clone().count(), 2, "{}", life.console);
    for line in lines {
        let seen = flags(line);
        assert!(seen.contains(&"hypervisor"), "{line}");
        for feature in [first, second] {
            assert!(!seen.contains(&feature.1), "{}: {line}", feature.0);
        }
        for feature in kept {
            assert!(seen.contains(&feature.1), "{}: {line}", feature.0);
        }
    }
}

#[test]
fn a_feature_that_the_processor_lacks_is_refused_by_its_name() {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    let cpuinfo = host.run("cat /proc/cpuinfo").text();
    let here = flags(&cpuinfo);
    let Some((name, _)) = RARE.iter().find(|feature| !here.contains(&feature.1)) else {
        skip::note("this processor has every feature there is");
        return;
    };
    let refused = host.run(&format!("{} run --cpu host,+{name}", host.thimble()));
    assert_ne!(refused.status, 0, "{}", refused.text());
    let said = refused.text();
    assert!(
        said.contains(&format!("`{name}` is not offered")) && said.contains(&format!("`+{name}`")),
        "{said}"
    );
}
