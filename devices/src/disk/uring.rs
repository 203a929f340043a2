//! The raw format by io_uring: the requests of one notification go to the kernel together and come
//! back as they end, with nobody waiting for any of them.
//!
//! Called like [`RawDisk`], which it contains, and which does what a ring cannot or need not: odd
//! requests that direct I/O refuses, discards of block devices, zeroes on file systems that have no
//! call for them. Where the host has no io_uring, or forbids it, [`RawDisk`] serves alone.
//!
//! The ring knows one file and five operations, and can be taught no other (registered file,
//! `IORING_REGISTER_RESTRICTIONS`): it is no way around a sandbox.
//!
//! A request is a short sequence of steps, each submitted when the one before has ended: its data,
//! in as many calls as that takes, and then a flush if it is to be durable and the call could not
//! see to that.
#![expect(
    unsafe_code,
    reason = "the kernel reads and writes guest memory while the ring has a request"
)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::register::Restriction;
use io_uring::squeue::Entry;
use io_uring::{IoUring, opcode, types};
use rustix::fs::FallocateFlags;

use super::buffers::GuestBuffers;
use super::raw::{RawDisk, advance, is_unsupported, piece};
use super::{Completion, Disk, Geometry, Op, Outcome, Submission};
use crate::io_thread::Recall;
use crate::limited_warn;

/// Places in the submission ring: steps that can wait for one system call. More can be in flight.
const ENTRIES: u32 = 128;

/// In place of a step's result: the kernel has not seen it, and is not going to. No errno.
const UNSEEN: i32 = i32::MIN;

/// How often the kernel is asked again that has no room for the moment.
const TRIES: u32 = 10_000;

/// The registered file.
const FILE: types::Fixed = types::Fixed(0);

/// `IOSQE_FIXED_FILE` (linux/io_uring.h).
const SQE_FIXED_FILE: u8 = 1;

/// `IORING_UNREGISTER_FILES` (linux/io_uring.h).
const UNREGISTER_FILES: u8 = 3;

/// A raw disk behind a ring.
pub struct UringDisk {
    raw: RawDisk,
    ring: IoUring,
    /// By the `user_data` of their steps.
    requests: Vec<Option<Request>>,
    free: Vec<usize>,
    /// Lists of buffers to be used again.
    spare: Vec<GuestBuffers>,
    /// Steps in the submission ring that the kernel has not taken, oldest first.
    queued: VecDeque<u64>,
    /// Steps that have ended and were not looked at yet, with their results.
    ended: VecDeque<(u64, i32)>,
    /// The kernel takes no steps any more.
    broken: bool,
}

/// A request in the ring.
struct Request {
    tag: u64,
    op: Op,
    step: Step,
    /// Whether a flush follows the data.
    then_flush: bool,
    /// Of a read or write: where the next byte is on the disk.
    offset: u64,
    buffers: GuestBuffers,
    /// Vectors of `buffers` that are done.
    done: usize,
    /// The vector in the ring where it is part of a longer one.
    part: Option<Box<libc::iovec>>,
}

/// What the ring does for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Read,
    /// With the flags of `pwritev2`.
    Write(i32),
    Flush,
    Allocate {
        how: FallocateFlags,
        offset: u64,
        len: u64,
    },
}

/// What follows from the end of a step.
enum Next {
    /// Another step, already chosen.
    Step,
    /// The end.
    End(Outcome),
}

// SAFETY: the raw pointers in `part` are addresses for the kernel, valid in every thread as long as
// `buffers` keeps guest memory mapped.
unsafe impl Send for Request {}

impl UringDisk {
    /// Puts a ring before `raw`.
    ///
    /// # Errors
    /// `raw` again, and why this host gives no such ring.
    pub fn new(raw: RawDisk) -> Result<Self, (RawDisk, io::Error)> {
        match ring(raw.file().as_raw_fd()) {
            Ok(ring) => Ok(Self {
                raw,
                ring,
                requests: Vec::new(),
                free: Vec::new(),
                spare: Vec::new(),
                queued: VecDeque::new(),
                ended: VecDeque::new(),
                broken: false,
            }),
            Err(error) => Err((raw, error)),
        }
    }

    /// How the ring begins `op`; `None` if it is not the ring's business.
    fn first_step(&mut self, op: Op, buffers: &GuestBuffers) -> Option<(Step, u64, bool)> {
        match op {
            Op::Read { offset } => {
                let fits = self.raw.fits(offset, buffers);
                fits.then_some((Step::Read, offset, false))
            }
            Op::Write { offset, durable } => {
                if !self.raw.fits(offset, buffers) {
                    return None;
                }
                let (flags, then_flush) = self.raw.durability(durable);
                Some((Step::Write(flags), offset, then_flush))
            }
            Op::Flush => self.raw.flushes().then(|| {
                self.raw.set_unflushed(false);
                (Step::Flush, 0, false)
            }),
            Op::Discard { offset, len } => {
                let how = self.raw.discards_by()?;
                Some((Step::Allocate { how, offset, len }, 0, false))
            }
            Op::WriteZeroes {
                offset,
                len,
                unmap,
                durable,
            } => {
                let how = self.raw.zeroes_by(unmap)?;
                let then_flush = durable && self.raw.flushes();
                Some((Step::Allocate { how, offset, len }, 0, then_flush))
            }
        }
    }

    /// Puts the present step of request `slot` into the ring.
    fn push(&mut self, slot: usize) {
        let Some(Some(request)) = self.requests.get_mut(slot) else {
            return;
        };
        let entry = request.entry().user_data(slot as u64);
        loop {
            if self.broken {
                // Never to be seen by the kernel.
                self.ended.push_back((slot as u64, UNSEEN));
                return;
            }
            // SAFETY: what the entry points to is owned by the request, which stays where it is in
            // memory (`buffers` and `part` are on the heap) and alive until the step's completion:
            // only `reap` removes it.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                self.queued.push_back(slot as u64);
                return;
            }
            self.enter();
        }
    }

    /// Hands what is in the submission ring to the kernel.
    fn enter(&mut self) {
        let mut tries = 0;
        while !self.queued.is_empty() {
            let error = match self.ring.submit() {
                Ok(count) if count > 0 => {
                    self.queued.drain(..count.min(self.queued.len()));
                    continue;
                }
                Ok(_) => io::ErrorKind::WriteZero.into(),
                Err(error) => error,
            };
            tries += 1;
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                // No memory for requests, or no room for what has ended, for the moment.
                Some(libc::EAGAIN | libc::EBUSY) if tries < TRIES => {
                    self.collect();
                    std::thread::yield_now();
                }
                _ => return self.give_the_ring_up(&error),
            }
        }
    }

    /// The kernel takes nothing more: what it has not seen, and what comes, is for the plain disk;
    /// what is in flight ends.
    fn give_the_ring_up(&mut self, error: &io::Error) {
        limited_warn!("io_uring_enter: {error}; one request at a time from now on");
        self.broken = true;
        let unseen = self.queued.drain(..).map(|slot| (slot, UNSEEN));
        self.ended.extend(unseen);
    }

    /// Makes room in the completion ring.
    fn collect(&mut self) {
        let entries = self.ring.completion();
        let ended = entries.map(|entry| (entry.user_data(), entry.result()));
        self.ended.extend(ended);
    }

    /// A step of request `slot` has ended.
    fn step_ended(&mut self, slot: usize, result: i32, recall: &Recall) -> Option<Completion> {
        let request = self.requests.get_mut(slot)?.as_mut()?;
        if result == UNSEEN {
            let outcome = request.without_the_ring(&mut self.raw, recall);
            return self.request_ended(slot, outcome);
        }
        let result = match usize::try_from(result) {
            Ok(count) => Ok(count),
            Err(_) => Err(io::Error::from_raw_os_error(result.saturating_neg())),
        };
        let next = match result {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {
                Next::Step
            }
            result => request.after(&mut self.raw, result, recall),
        };
        let Next::End(outcome) = next else {
            self.push(slot);
            return None;
        };
        self.request_ended(slot, outcome)
    }

    fn request_ended(&mut self, slot: usize, outcome: Outcome) -> Option<Completion> {
        let Request {
            tag, mut buffers, ..
        } = self.requests.get_mut(slot)?.take()?;
        self.free.push(slot);
        buffers.clear();
        self.spare.push(buffers);
        Some(Completion { tag, outcome })
    }
}

impl Request {
    fn entry(&mut self) -> Entry {
        match self.step {
            Step::Read => {
                let offset = self.offset;
                let (iovecs, count) = self.next_piece();
                opcode::Readv::new(FILE, iovecs, count)
                    .offset(offset)
                    .build()
            }
            Step::Write(flags) => {
                let offset = self.offset;
                let (iovecs, count) = self.next_piece();
                let write = opcode::Writev::new(FILE, iovecs, count);
                write.offset(offset).rw_flags(flags).build()
            }
            Step::Flush => {
                let flush = opcode::Fsync::new(FILE);
                flush.flags(types::FsyncFlags::DATASYNC).build()
            }
            Step::Allocate { how, offset, len } => {
                let mode = i32::try_from(how.bits()).unwrap_or_default();
                opcode::Fallocate::new(FILE, len)
                    .offset(offset)
                    .mode(mode)
                    .build()
            }
        }
    }

    /// The vectors of the next call, and how many.
    fn next_piece(&mut self) -> (*const libc::iovec, u32) {
        let rest = self
            .buffers
            .iovecs_mut()
            .get_mut(self.done..)
            .unwrap_or_default();
        let (whole, part) = piece(rest);
        match part {
            Some(part) => {
                let part = self.part.insert(Box::new(part));
                (&raw const **part, 1)
            }
            None => (rest.as_ptr(), u32::try_from(whole).unwrap_or(0)),
        }
    }

    /// Carries out what is left of the request.
    fn without_the_ring(&mut self, raw: &mut RawDisk, recall: &Recall) -> Outcome {
        self.buffers.skip(self.done);
        let offset = self.offset;
        let left = match (self.step, self.op) {
            (Step::Read, _) => Op::Read { offset },
            (Step::Write(_), Op::Write { durable, .. }) => Op::Write { offset, durable },
            (Step::Flush, _) => Op::Flush,
            (_, op) => op,
        };
        raw.perform(left, &mut self.buffers, recall).into()
    }

    /// What follows when the kernel has answered `result`.
    fn after(&mut self, raw: &mut RawDisk, result: io::Result<usize>, recall: &Recall) -> Next {
        match (self.step, result) {
            (Step::Read | Step::Write(_), Ok(count)) => self.transferred(raw, count, recall),
            // Refused before anything was written: some file systems know no per-call flags.
            (Step::Write(flags), Err(error)) if flags != 0 && is_unsupported(&error) => {
                raw.forget_dsync();
                (self.step, self.then_flush) = (Step::Write(0), true);
                Next::Step
            }
            (Step::Allocate { .. }, Ok(_)) => self.data_done(raw),
            // What the host cannot do at all is done by other means, or found to be unnecessary.
            (Step::Allocate { .. }, Err(error)) if is_unsupported(&error) => {
                let result = raw.perform(self.op, &mut self.buffers, recall);
                Next::End(result.into())
            }
            (Step::Flush, Err(error)) => {
                raw.set_unflushed(true);
                Next::End(Err(error).into())
            }
            (_, result) => Next::End(result.map(drop).into()),
        }
    }

    fn transferred(&mut self, raw: &mut RawDisk, count: usize, recall: &Recall) -> Next {
        if count == 0 {
            // The end of a file that someone has made shorter.
            return Next::End(Err(rustix::io::Errno::IO.into()).into());
        }
        let iovecs = self.buffers.iovecs_mut();
        let all = iovecs.len();
        let rest = advance(iovecs.get_mut(self.done..).unwrap_or_default(), count).len();
        self.done = all - rest;
        self.offset += count as u64;
        match rest {
            0 => self.data_done(raw),
            _ if recall.is_set() => Next::End(Outcome::Recalled),
            _ => Next::Step,
        }
    }

    /// The data are where they belong.
    fn data_done(&mut self, raw: &mut RawDisk) -> Next {
        if matches!(self.step, Step::Write(0) | Step::Allocate { .. }) {
            raw.set_unflushed(true);
        }
        if !self.then_flush {
            return Next::End(Outcome::Success);
        }
        raw.set_unflushed(false);
        (self.step, self.then_flush) = (Step::Flush, false);
        Next::Step
    }
}

impl Disk for UringDisk {
    fn geometry(&self) -> Geometry {
        self.raw.geometry()
    }

    fn submit(
        &mut self,
        tag: u64,
        op: Op,
        buffers: &mut GuestBuffers,
        recall: &Recall,
    ) -> Submission {
        let first = if self.broken {
            None
        } else {
            self.first_step(op, buffers)
        };
        let Some((step, offset, then_flush)) = first else {
            return self.raw.submit(tag, op, buffers, recall);
        };
        let spare = self.spare.pop();
        let buffers = match spare {
            Some(spare) => std::mem::replace(buffers, spare),
            None => buffers.take(),
        };
        let request = Request {
            tag,
            op,
            step,
            then_flush,
            offset,
            buffers,
            done: 0,
            part: None,
        };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.requests.push(None);
                self.requests.len() - 1
            }
        };
        if let Some(place) = self.requests.get_mut(slot) {
            *place = Some(request);
        }
        self.push(slot);
        Submission::Pending
    }

    fn kick(&mut self) {
        self.enter();
    }

    fn completion_event(&self) -> Option<RawFd> {
        Some(self.ring.as_raw_fd())
    }

    fn reap(&mut self, recall: &Recall, done: &mut Vec<Completion>) {
        loop {
            self.collect();
            let Some((slot, result)) = self.ended.pop_front() else {
                if self.queued.is_empty() {
                    return;
                }
                self.enter();
                continue;
            };
            let slot = usize::try_from(slot).unwrap_or(usize::MAX);
            done.extend(self.step_ended(slot, result, recall));
        }
    }

    fn resize(&mut self, bytes: u64) -> io::Result<Geometry> {
        self.raw.resize(bytes)
    }
}

/// A ring gives its file up some time after it is closed. Whoever waits for the end of this process
/// would find it in use still.
impl Drop for UringDisk {
    fn drop(&mut self) {
        if let Err(error) = self.ring.submitter().unregister_files() {
            log::debug!("the ring keeps its file for a moment: {error}");
        }
    }
}

/// A ring for one file that does what [`Step`] says and nothing else.
fn ring(file: RawFd) -> io::Result<IoUring> {
    let ring = IoUring::builder().setup_r_disabled().build(ENTRIES)?;
    if !ring.params().is_feature_submit_stable() || !ring.params().is_feature_nodrop() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let submitter = ring.submitter();
    submitter.register_files(&[file])?;
    submitter.register_restrictions(&mut [
        Restriction::sqe_op(opcode::Readv::CODE),
        Restriction::sqe_op(opcode::Writev::CODE),
        Restriction::sqe_op(opcode::Fsync::CODE),
        Restriction::sqe_op(opcode::Fallocate::CODE),
        Restriction::sqe_flags_required(SQE_FIXED_FILE),
        Restriction::register_op(UNREGISTER_FILES),
    ])?;
    submitter.register_enable_rings()?;
    Ok(ring)
}
