//! System calls of the whole process, all threads, from `execve` to the first `KVM_RUN`, counted by
//! strace (Debian package `strace`; skipped by name where it is missing).

use std::process::{Command, Stdio};

use super::Bench;
use super::peer::Launch;
use super::sample::{Samples, row};
use crate::failure::{Context, Outcome};
use crate::report;

/// Calls in a trace before the first `KVM_RUN`, and whether there was one. A call that strace had to
/// split into "unfinished" and "resumed" counts once.
fn before_first_run(trace: &str) -> Option<u32> {
    let mut calls = 0;
    for line in trace.lines() {
        if line.contains("KVM_RUN") {
            return Some(calls);
        }
        let is_call = line.contains('(') && !line.contains("resumed>");
        let is_note = line.contains("--- SIG") || line.contains("+++ ");
        if is_call && !is_note {
            calls += 1;
        }
    }
    None
}

pub(super) fn run(bench: &Bench) -> Outcome<()> {
    if Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        report::note("skipped: syscalls: strace is not installed");
        return Ok(());
    }
    let launch = Launch {
        kernel: &bench.boot_exit,
        disk: None,
        vsock: None,
        control: None,
        scratch: &bench.scratch,
    };
    let mut ours = None;
    for peer in &bench.peers {
        let plain = peer.command(&launch).context(peer)?;
        let trace = bench.scratch.join("trace");
        let status = Command::new("strace")
            .args(["-f", "-qq", "-o"])
            .arg(&trace)
            .arg(plain.get_program())
            .args(plain.get_args())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context(peer)?;
        let mut samples = Samples::default();
        match before_first_run(&std::fs::read_to_string(&trace).context(trace.display())?) {
            Some(calls) => samples.push(f64::from(calls)),
            None => report::note(&format!("{peer}: no KVM_RUN in the trace ({status})")),
        }
        if !samples.is_empty() {
            let own = *ours.get_or_insert(samples.median());
            row(
                "system calls to KVM_RUN",
                &peer.to_string(),
                &samples,
                "",
                Some(own),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_calls_of_all_threads_once() {
        let trace = "\
            7 execve(\"thimble\") = 0\n\
            7 brk(NULL <unfinished ...>\n\
            8 set_robust_list(0x1, 24) = 0\n\
            7 <... brk resumed>) = 0x5\n\
            8 --- SIGUSR1 {si_signo=SIGUSR1} ---\n\
            8 ioctl(9, KVM_RUN, 0) = 0\n\
            8 exit(0) = ?\n";
        assert_eq!(before_first_run(trace), Some(3));
        assert_eq!(before_first_run("7 brk(NULL) = 0\n"), None);
    }
}
