//! The testbed: a software-emulated machine with hardware virtualisation, for hosts that have
//! none. QEMU's TCG emulates AMD's SVM, so a Debian kernel inside has a `/dev/kvm` with the
//! semantics of real processors. docs/testing.md tells why its options are what they are.
//!
//! A machine boots in a few seconds and then serves many tests, one at a time ([`take`]). It lives
//! as long as the test program; one that a failed test has used is thrown away.

mod channel;
mod machine;
mod media;

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use channel::Reply;
pub use machine::Machine;

use crate::skip;

/// How long a booting machine may take; about 3 s is usual on an idle host.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// Machines never have more than one CPU, so two keep two cores busy. Each has 3 GiB of memory.
const MACHINES: usize = 2;

/// The machines that exist, and those nobody uses.
struct Pool {
    existing: usize,
    idle: Vec<Machine>,
}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    existing: 0,
    idle: Vec::new(),
});
static RETURNED: Condvar = Condvar::new();

/// A machine on loan to one test.
pub struct Loan {
    machine: Option<Machine>,
}

/// Why no machine can run on this host, if none can.
///
/// # Errors
/// The reason, with what to do.
pub fn possible() -> Result<(), String> {
    for program in ["qemu-system-x86_64", "mke2fs", "setpriv"] {
        if skip::find(program).is_none() {
            return Err(format!(
                "no program {program}; `cargo xtask test` installs what it needs"
            ));
        }
    }
    media::outer_is_current()
}

/// An idle machine, a new one if there is room for it, or the next that is given back.
///
/// # Panics
/// If a new one does not come up.
#[must_use]
#[track_caller]
pub fn take() -> Loan {
    let mut pool = lock();
    loop {
        if let Some(machine) = pool.idle.pop() {
            return Loan {
                machine: Some(machine),
            };
        }
        if pool.existing < MACHINES {
            pool.existing += 1;
            drop(pool);
            // From here on the loan's end takes the place back, even if booting panics.
            let mut loan = Loan { machine: None };
            loan.machine = Some(Machine::boot(READY_LIMIT));
            return loan;
        }
        pool = RETURNED.wait(pool).unwrap_or_else(PoisonError::into_inner);
    }
}

/// The pool holds no state that a panic could leave half changed.
fn lock() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Loan {
    /// The machine.
    pub fn machine(&mut self) -> &mut Machine {
        match &mut self.machine {
            Some(machine) => machine,
            // Taken out by `discard` and `drop` only, and they are the last.
            None => unreachable!("a loan has its machine until it ends"),
        }
    }

    /// Ends the machine with the loan: nobody else gets it.
    pub fn discard(mut self) {
        self.machine = None;
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let machine = self.machine.take();
        let mut pool = lock();
        match machine {
            // What a failed test leaves running inside is nobody else's business.
            Some(machine) if !std::thread::panicking() => pool.idle.push(machine),
            _ => pool.existing -= 1,
        }
        drop(pool);
        RETURNED.notify_one();
    }
}
