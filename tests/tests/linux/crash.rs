//! `crash`, the kernel developers' tool, on the dump of a Debian guest that has panicked.
//!
//! Panicked, because crash up to 8.0.6 stumbles over dumps of a running Debian 6.1, QEMU's as well:
//! it looks for a panic in the stack for AMD's #VC exceptions, which has no size there.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::built;
use harness::host::Host;
use harness::linux::Boot;
use harness::skip;

/// What the guest's kernel logs, for `log` to find.
const MARK: &str = "thimble-was-here";
/// The guest.
const SERIES: &str = "6.1";

/// Debian's kernel with debug information, where its package `linux-image-RELEASE-dbg` has it;
/// noted if it is not there.
fn debug_kernel() -> Option<PathBuf> {
    let file = built::guests().join(SERIES).join("release");
    let release = std::fs::read_to_string(file).unwrap_or_default();
    let release = release.trim_end();
    let kernel = PathBuf::from(format!("/usr/lib/debug/boot/vmlinux-{release}"));
    if kernel.is_file() {
        return Some(kernel);
    }
    skip::note(&format!(
        "no {}; as root: apt-get install linux-image-{release}-dbg",
        kernel.display()
    ));
    None
}

/// What `crash` says to the commands in a file.
#[track_caller]
fn crash(kernel: &Path, core: &Path, commands: &Path) -> String {
    let output = Command::new("crash")
        .args(["-s", "--no_scroll", "-i"])
        .args([commands, kernel, core])
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            assert!(output.status.success(), "{said}");
            said
        }
        Err(error) => panic!("crash: {error}"),
    }
}

#[test]
fn opens_a_dump_and_finds_processes_stacks_and_the_log() {
    if skip::without_program("crash") {
        return;
    }
    let Some(kernel) = debug_kernel() else {
        return;
    };
    let Some(mut host) = Host::acquire() else {
        return;
    };
    let command = format!("echo {MARK} > /dev/kmsg; echo c > /proc/sysrq-trigger");
    let dump = "until $thimble qmp $PWD/control.sock query-status | grep -q guest-panicked; do
            [ -S control.sock ] || break
            sleep 0.05
        done
        $thimble qmp $PWD/control.sock dump-guest-memory \
        \"{\\\"paging\\\": false, \\\"protocol\\\": \\\"file:$PWD/core\\\"}\" && gzip -1 core
        $thimble qmp $PWD/control.sock quit";
    let life = Boot::new(&host, SERIES, "bzImage", &command)
        .memory("128M")
        .arguments("--on-panic pause")
        .when("Kernel panic - not syncing", dump)
        .run(&mut host);
    life.assert_clean();
    let directory = tempfile::tempdir().unwrap();
    let packed = directory.path().join("core.gz");
    std::fs::write(&packed, host.get("core.gz")).unwrap();
    let unpacked = Command::new("gzip").arg("-d").arg(&packed).status();
    assert!(unpacked.unwrap().success());

    let core = directory.path().join("core");
    let commands = directory.path().join("commands");
    std::fs::write(&commands, "sys\nps\nbt\nlog\nquit\n").unwrap();
    let said = crash(&kernel, &core, &commands);
    let line = |start: &str, text: &str| {
        said.lines()
            .any(|line| line.trim_start().starts_with(start) && line.contains(text))
    };
    assert!(line("PANIC:", "sysrq triggered crash"), "{said}");
    // The process that was running, and where.
    assert!(line("> ", "sh"), "{said}");
    assert!(line("PID:", "COMMAND: \"sh\""), "{said}");
    assert!(line("#0", "] panic at "), "{said}");
    assert!(line("[", MARK), "{said}");
}
