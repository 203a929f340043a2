//! The job thread that writes guest memory to a file: `dump-guest-memory` and `pmemsave`.
//!
//! One such job at a time. The main thread starts it, reads its progress, may cancel it, and is
//! woken when it is over; the control sockets answer all the while. A dump keeps the guest held
//! from start to end, so what is written is one moment of it.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use api_socket::qmp::session::Token;
use devices::memory::SharedMemory;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::dump::{self, DumpPlan, Outcome};
use crate::fd::event_fd;
use crate::poller::wait_readable;

/// How long the end of the process waits for the thread's next look at its cancellation. What it
/// writes at a time takes longer only where the host does not answer.
const ABANDON: Duration = Duration::from_secs(2);

/// What is to be written.
pub enum Work {
    /// An ELF core of the whole guest.
    Dump(DumpPlan),
    /// A range of guest-physical memory.
    Save {
        /// First address.
        address: u64,
        /// Bytes.
        length: u64,
    },
}

/// Who waits for the end.
#[derive(Debug)]
pub struct Waiting {
    /// The client.
    pub client: u32,
    /// Its request.
    pub token: Token,
}

/// What the main thread knows of a job that runs.
struct Active {
    thread: JoinHandle<()>,
    shared: Arc<Shared>,
    about: About,
}

/// What is to be done when it is over.
#[derive(Debug)]
pub struct About {
    /// Whether it is a dump, and not a `pmemsave`.
    pub dump: bool,
    /// Bytes in all.
    pub total: u64,
    /// Whether the guest ran before and runs again after.
    pub resume: bool,
    /// The file, if it was made for this; removed if it stays incomplete.
    pub created: Option<PathBuf>,
    /// The request to answer at the end; `None` if it was answered at the start.
    pub waiting: Option<Waiting>,
}

/// A job that was not started, because the host has no thread for it. What its end was to bring is
/// its starter's again.
#[derive(Debug, thiserror::Error)]
#[error("cannot start a thread for the job")]
pub struct NotStarted {
    /// What would have been done.
    pub about: Box<About>,
    /// What the host answered.
    #[source]
    pub source: io::Error,
}

/// A job that is over.
pub struct Finished {
    /// What it was.
    pub about: About,
    /// Bytes written, or skipped as holes.
    pub completed: u64,
    /// How it ended.
    pub result: Result<(), String>,
}

#[derive(Default)]
struct Shared {
    cancel: AtomicBool,
    completed: AtomicU64,
    result: OnceLock<Result<(), String>>,
}

/// The place for one job.
pub struct DumpJob {
    done: Arc<EventFd>,
    active: Option<Active>,
}

impl DumpJob {
    /// No job.
    ///
    /// # Errors
    /// What the kernel answered when asked for an event descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            done: Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?),
            active: None,
        })
    }

    /// Readable when the job is over.
    #[must_use]
    pub fn done_fd(&self) -> BorrowedFd<'_> {
        event_fd(&self.done)
    }

    /// Whether a job runs.
    #[must_use]
    pub fn busy(&self) -> bool {
        self.active.is_some()
    }

    /// Whether a dump runs: the guest must stay as it is.
    #[must_use]
    pub fn active(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.about.dump)
    }

    /// Bytes done and bytes in all of a dump that runs.
    #[must_use]
    pub fn progress(&self) -> Option<(u64, u64)> {
        let active = self.active.as_ref().filter(|active| active.about.dump)?;
        Some((
            active.shared.completed.load(Ordering::Relaxed),
            active.about.total,
        ))
    }

    /// Starts a job. There must be none.
    ///
    /// # Errors
    /// [`NotStarted`].
    pub fn start(
        &mut self,
        work: Work,
        memory: SharedMemory,
        file: File,
        about: About,
    ) -> Result<(), NotStarted> {
        let shared = Arc::new(Shared::default());
        let (theirs, done) = (Arc::clone(&shared), Arc::clone(&self.done));
        let started = std::thread::Builder::new()
            .name("thimble-job".to_owned())
            .spawn(move || {
                let result = perform(&work, &memory, &file, &theirs);
                // Closed before anybody is told, so that the file is whole for who looks then.
                drop(file);
                theirs.result.get_or_init(|| result);
                drop(done.write(1));
            });
        match started {
            Ok(thread) => {
                self.active = Some(Active {
                    thread,
                    shared,
                    about,
                });
                Ok(())
            }
            Err(source) => Err(NotStarted {
                about: Box::new(about),
                source,
            }),
        }
    }

    /// Asks a dump to stop; its end is told as usual. Returns whether there is one.
    pub fn cancel(&self) -> bool {
        match &self.active {
            Some(active) if active.about.dump => {
                active.shared.cancel.store(true, Ordering::Relaxed);
                true
            }
            _ => false,
        }
    }

    /// The job, if it is over.
    pub fn take_finished(&mut self) -> Option<Finished> {
        drop(self.done.read());
        let active = self
            .active
            .take_if(|active| active.shared.result.get().is_some())?;
        let Active {
            thread,
            shared,
            about,
        } = active;
        drop(thread.join());
        let result = shared.result.get().cloned().unwrap_or(Ok(()));
        Some(Finished {
            about,
            completed: shared.completed.load(Ordering::Relaxed),
            result,
        })
    }

    /// Gives a running job up and waits for its end, but not for ever: the process is about to go,
    /// and the file may be where nobody answers.
    pub fn abandon(&mut self) {
        if let Some(Active {
            thread,
            shared,
            about,
        }) = self.active.take()
        {
            shared.cancel.store(true, Ordering::Relaxed);
            if wait_readable(self.done_fd(), ABANDON).unwrap_or(true) {
                drop(thread.join());
                let whole = shared.result.get().is_some_and(Result::is_ok);
                remove_incomplete(about.created.as_ref(), whole);
            } else if let Some(path) = about.created {
                // To remove it would wait for the same host as the thread does.
                let path = path.display();
                log::warn!("{path} stays, incomplete: the host does not answer writes to it");
            }
        }
    }
}

/// Removes a file that was made for a job and is not whole.
pub fn remove_incomplete(created: Option<&PathBuf>, whole: bool) {
    if let Some(path) = created.filter(|_| !whole)
        && let Err(error) = std::fs::remove_file(path)
    {
        log::warn!("cannot remove the incomplete {}: {error}", path.display());
    }
}

fn perform(work: &Work, memory: &SharedMemory, file: &File, shared: &Shared) -> Result<(), String> {
    let mut progress = |done| shared.completed.store(done, Ordering::Relaxed);
    let outcome = match work {
        Work::Dump(plan) => dump::run(plan, memory, file, &shared.cancel, &mut progress),
        Work::Save { address, length } => dump::pmemsave(
            memory,
            *address,
            *length,
            file,
            &shared.cancel,
            &mut progress,
        ),
    };
    match outcome {
        Ok(Outcome::Complete { .. }) => Ok(()),
        Ok(Outcome::Cancelled) => Err("cancelled".to_owned()),
        Err(error) => Err(crate::chain::text(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// A job whose thread ends when the sender is dropped.
    fn job(created: PathBuf) -> (DumpJob, mpsc::Sender<()>) {
        let mut job = DumpJob::new().unwrap();
        let (host, answers) = mpsc::channel();
        let done = Arc::clone(&job.done);
        let thread = std::thread::spawn(move || {
            let _ = answers.recv();
            drop(done.write(1));
        });
        job.active = Some(Active {
            thread,
            shared: Arc::default(),
            about: About {
                dump: true,
                total: 1,
                resume: false,
                created: Some(created),
                waiting: None,
            },
        });
        (job, host)
    }

    #[test]
    fn an_incomplete_file_goes_unless_its_host_does_not_answer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("core");
        std::fs::write(&path, "begun").unwrap();
        let (mut hanging, host) = job(path.clone());
        hanging.abandon();
        assert!(path.exists(), "to remove it could wait for ever");
        drop(host);
        let (mut job, host) = job(path.clone());
        drop(host);
        job.abandon();
        assert!(!path.exists());
    }
}
