//! The I/O thread: one epoll loop that owns device workers.
//!
//! A worker is moved in with [`IoHandle::add`] and moved out again with [`IoHandle::take_back`];
//! in between nobody else can touch it, so it needs no lock. Pausing a device is taking its worker
//! back. The handle is used by vCPU threads (a driver starting or resetting a device) and by the
//! main thread (quiesce). Neither call waits for the loop, which may be busy with another worker,
//! or stuck in a host that does not answer: who wants a worker back gets a [`Returning`] and
//! decides how long to wait.
//!
//! A worker that faults stays in the loop, retired, until it is taken back: what it has at its
//! backend may still have to come to an end.

mod window;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

pub use self::window::LENGTH as LOOK_LENGTH;
use self::window::Window;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Name of the thread, as `/proc/PID/task/TID/comm` shows it.
pub const THREAD_NAME: &str = "thimble-io";

/// Stack of the thread: request handling is shallow, and nothing large lives on it.
const STACK_BYTES: usize = 256 << 10;

/// Most events taken by one `epoll_wait`; what is left is told by the next.
const BATCH: usize = 32;

/// An event source of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// A descriptor the worker owns. It stays open as long as the worker lives, and no two sources
    /// of one I/O thread share a descriptor number.
    pub fd: RawFd,
    /// What [`Worker::ready`] is told when `fd` becomes readable. The worker's own numbering.
    pub token: u32,
}

/// The running half of a device, owned by an I/O thread.
///
/// `Any` lets the device that made the worker recognise it when it comes back.
pub trait Worker: Any + Send {
    /// The descriptors to wait on for reading. The same whenever it is asked.
    fn sources(&self) -> Vec<Source>;

    /// The source with `token` is readable (level triggered). Does a bounded amount of work: one
    /// guest must not keep the loop from serving the other workers or from giving this one back.
    ///
    /// # Errors
    /// A [`Fault`] retires the worker: from then on only [`Worker::finish`] is called.
    fn ready(&mut self, token: u32) -> Result<(), Fault>;

    /// Looks for work that nobody has told of: requests, which from now on need not be notified, and
    /// what has ended at the backend. Returns whether there was any. Bounded as [`Worker::ready`].
    ///
    /// # Errors
    /// As [`Worker::ready`].
    fn poll(&mut self) -> Result<bool, Fault>;

    /// [`Worker::poll`] is not called for a while: asks for notifications again, and makes sure that
    /// nothing is missed which came in between.
    ///
    /// # Errors
    /// As [`Worker::ready`].
    fn stop_polling(&mut self) -> Result<(), Fault>;

    /// Goes on towards having nothing at the backend, without waiting: answers what has ended,
    /// begins nothing, and empties its notifications. Requests not yet begun stay in the queue.
    /// Called when the worker is asked for and after a fault, first at once and then whenever a
    /// source is readable. Returns whether nothing is in flight; only then is it given back.
    fn finish(&mut self) -> bool;
}

/// Set when somebody waits for a worker: what takes long ends early, to be begun anew by the next
/// worker. Shared by the worker and who asks for it.
#[derive(Debug, Clone, Default)]
pub struct Recall(Arc<AtomicBool>);

impl Recall {
    /// Asks for the worker. To be followed by [`IoHandle::take_back`].
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the worker is asked for.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Why a worker cannot go on: its guest broke the rules of the device's interface, or the host
/// would not watch its descriptors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

impl Fault {
    /// A fault whose text is `cause`'s whole chain.
    pub fn new(cause: &dyn std::error::Error) -> Self {
        let mut text = cause.to_string();
        let mut next = cause.source();
        while let Some(source) = next {
            text.push_str(": ");
            text.push_str(&source.to_string());
            next = source.source();
        }
        Self(text)
    }
}

/// Is told when a worker faults. Called on the I/O thread, at most once per added worker.
pub trait FaultSink: Send + Sync {
    /// The worker will not run again.
    fn fault(&self, fault: &Fault);
}

/// Why the I/O thread did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum IoThreadError {
    /// The thread, its epoll instance or its event descriptor could not be made.
    #[error("cannot start the I/O thread")]
    Start(#[source] io::Error),
    /// No worker has this id; it was taken back before.
    #[error("the I/O thread owns no such worker")]
    NoSuchWorker,
    /// The thread has ended.
    #[error("the I/O thread has stopped")]
    Stopped,
}

/// Names a worker while the I/O thread owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WorkerId(u32);

/// A worker on its way back.
#[derive(Debug)]
pub struct Returning(Receiver<Option<Box<dyn Worker>>>);

impl Returning {
    /// Waits for the worker until `until`, or for ever. `None` if it has not come by then; it may
    /// be asked for again.
    ///
    /// # Errors
    /// [`IoThreadError::NoSuchWorker`], [`IoThreadError::Stopped`].
    pub fn wait(&self, until: Option<Instant>) -> Result<Option<Box<dyn Worker>>, IoThreadError> {
        let answer = match until {
            None => self.0.recv().map_err(|_| IoThreadError::Stopped)?,
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                match self.0.recv_timeout(left) {
                    Ok(answer) => answer,
                    Err(RecvTimeoutError::Timeout) => return Ok(None),
                    Err(RecvTimeoutError::Disconnected) => return Err(IoThreadError::Stopped),
                }
            }
        };
        answer.map(Some).ok_or(IoThreadError::NoSuchWorker)
    }
}

impl fmt::Debug for dyn Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Worker")
    }
}

/// What the loop is asked.
enum Message {
    Add(WorkerId, Slot),
    TakeBack(WorkerId, Sender<Option<Box<dyn Worker>>>),
    Stop,
}

/// A worker in the loop.
struct Slot {
    worker: Box<dyn Worker>,
    on_fault: Arc<dyn FaultSink>,
    retired: bool,
    /// Who waits for it.
    wanted: Option<Sender<Option<Box<dyn Worker>>>>,
}

impl Slot {
    fn retire(&mut self, fault: &Fault) {
        self.retired = true;
        self.on_fault.fault(fault);
    }
}

/// What the handles and the loop share.
struct Doorway {
    wake: EventFd,
    next_id: AtomicU32,
}

/// Adds workers to an I/O thread and takes them back, from any other thread.
#[derive(Clone)]
pub struct IoHandle {
    messages: Sender<Message>,
    doorway: Arc<Doorway>,
}

impl fmt::Debug for IoHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IoHandle")
    }
}

impl IoHandle {
    /// Hands `worker` to the loop, which begins to watch its sources; one that is readable already
    /// is served at once. A source that cannot be watched is a fault.
    ///
    /// # Errors
    /// [`IoThreadError::Stopped`]; the worker is dropped.
    pub fn add(
        &self,
        worker: Box<dyn Worker>,
        on_fault: Arc<dyn FaultSink>,
    ) -> Result<WorkerId, IoThreadError> {
        let id = WorkerId(self.doorway.next_id.fetch_add(1, Ordering::Relaxed));
        let slot = Slot {
            worker,
            on_fault,
            retired: false,
            wanted: None,
        };
        self.send(Message::Add(id, slot))?;
        Ok(id)
    }

    /// Asks for a worker. Once it has come the loop does not touch it or its descriptors any more.
    ///
    /// # Errors
    /// [`IoThreadError::Stopped`].
    pub fn take_back(&self, id: WorkerId) -> Result<Returning, IoThreadError> {
        let (to_owner, returning) = mpsc::channel();
        self.send(Message::TakeBack(id, to_owner))?;
        Ok(Returning(returning))
    }

    fn send(&self, message: Message) -> Result<(), IoThreadError> {
        self.messages
            .send(message)
            .map_err(|_| IoThreadError::Stopped)?;
        // Fails only when the counter is full, and then the loop will wake.
        drop(self.doorway.wake.write(1));
        Ok(())
    }
}

/// An I/O thread. Dropping it stops the loop and waits for the thread; workers still in it are
/// dropped.
#[derive(Debug)]
pub struct IoThread {
    handle: IoHandle,
    /// Until the thread is started. Behind a lock that nobody waits for, because the loop is one
    /// thread's at a time and the handle to the thread is anybody's.
    event_loop: Mutex<Option<EventLoop>>,
    thread: Option<JoinHandle<()>>,
    tid: Arc<OnceLock<i32>>,
}

impl IoThread {
    /// Everything but the thread. What is asked of it meanwhile, it finds when it begins.
    /// `on_return` is called on it whenever a worker has been given back: an owner that did
    /// not wait looks then.
    ///
    /// # Errors
    /// [`IoThreadError::Start`] when the host is out of descriptors.
    pub fn new(on_return: impl Fn() + Send + 'static) -> Result<Self, IoThreadError> {
        let start = IoThreadError::Start;
        let doorway = Arc::new(Doorway {
            wake: EventFd::new(EFD_NONBLOCK).map_err(start)?,
            next_id: AtomicU32::new(0),
        });
        let (messages, inbox) = mpsc::channel();
        let event_loop =
            EventLoop::new(inbox, Arc::clone(&doorway), Box::new(on_return)).map_err(start)?;
        Ok(Self {
            handle: IoHandle { messages, doorway },
            event_loop: Mutex::new(Some(event_loop)),
            thread: None,
            tid: Arc::default(),
        })
    }

    /// [`Self::new`] and [`Self::start`].
    ///
    /// # Errors
    /// As these.
    pub fn spawn(on_return: impl Fn() + Send + 'static) -> Result<Self, IoThreadError> {
        let mut thread = Self::new(on_return)?;
        thread.start()?;
        Ok(thread)
    }

    /// Starts the thread, and does not wait for it. Does nothing if it was started before.
    ///
    /// # Errors
    /// [`IoThreadError::Start`] when the host is out of threads; nothing will ever run then.
    pub fn start(&mut self) -> Result<(), IoThreadError> {
        let event_loop = self.event_loop.get_mut();
        let Some(mut event_loop) = event_loop.unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        let tid = Arc::clone(&self.tid);
        let thread = std::thread::Builder::new()
            .name(THREAD_NAME.to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                tid.get_or_init(|| rustix::thread::gettid().as_raw_nonzero().get());
                event_loop.run();
            })
            .map_err(IoThreadError::Start)?;
        self.thread = Some(thread);
        Ok(())
    }

    /// A handle for devices.
    #[must_use]
    pub fn handle(&self) -> IoHandle {
        self.handle.clone()
    }

    /// The kernel's id of the thread, which must have been started. Waits until it has begun.
    #[must_use]
    pub fn tid(&self) -> i32 {
        *self.tid.wait()
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        // Fails only when the thread has already ended.
        drop(self.handle.send(Message::Stop));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// The loop itself, on its thread.
struct EventLoop {
    epoll: Epoll,
    inbox: Receiver<Message>,
    doorway: Arc<Doorway>,
    on_return: Box<dyn Fn() + Send>,
    slots: BTreeMap<WorkerId, Slot>,
    window: Window,
}

/// What epoll says when there are messages; a worker's events have its id in the upper half, which
/// reaches this value after four thousand million workers only.
const MESSAGES: u64 = u64::MAX;

impl fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventLoop")
    }
}

impl EventLoop {
    fn new(
        inbox: Receiver<Message>,
        doorway: Arc<Doorway>,
        on_return: Box<dyn Fn() + Send>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let wake = doorway.wake.as_raw_fd();
        let readable = EpollEvent::new(EventSet::IN, MESSAGES);
        epoll.ctl(ControlOperation::Add, wake, readable)?;
        Ok(Self {
            epoll,
            inbox,
            doorway,
            on_return,
            slots: BTreeMap::new(),
            window: Window::default(),
        })
    }

    fn run(&mut self) {
        let mut events = [EpollEvent::default(); BATCH];
        loop {
            let count = match self.wait(&mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    // It fails only for a bad descriptor: nothing will ever come.
                    log::error!("the I/O thread ends: {error}");
                    return;
                }
            };
            let mut asked = false;
            for event in events.iter().take(count) {
                match event.data() {
                    MESSAGES => asked = true,
                    data => self.ready(data),
                }
            }
            // Last: who is asked for has had its turn.
            if asked && !self.messages() {
                return;
            }
        }
    }

    /// Waits for events, polling first if that has been worth it lately.
    fn wait(&mut self, events: &mut [EpollEvent]) -> io::Result<usize> {
        let begun = Instant::now();
        if self.window.is_open() {
            let count = self.poll(begun, events)?;
            if count > 0 {
                return Ok(count);
            }
            return self.epoll.wait(-1, events);
        }
        let count = self.epoll.wait(-1, events)?;
        self.window.slept(begun.elapsed());
        Ok(count)
    }

    /// Lets the workers look for work until none has found any for the window's length, or there
    /// are events.
    fn poll(&mut self, begun: Instant, events: &mut [EpollEvent]) -> io::Result<usize> {
        let mut idle_since = begun;
        let count = loop {
            let mut found = false;
            for slot in self.slots.values_mut() {
                if slot.retired || slot.wanted.is_some() {
                    continue;
                }
                match slot.worker.poll() {
                    Ok(any) => found |= any,
                    Err(fault) => slot.retire(&fault),
                }
            }
            let now = Instant::now();
            if found {
                self.window.found();
                idle_since = now;
            }
            // Whoever wants a worker back, and devices that do not poll, are not kept waiting.
            let count = self.epoll.wait(0, events)?;
            if count > 0 {
                break count;
            }
            if now - idle_since >= window::LENGTH {
                self.window.missed();
                break 0;
            }
        };
        for slot in self.slots.values_mut() {
            if !slot.retired
                && let Err(fault) = slot.worker.stop_polling()
            {
                slot.retire(&fault);
            }
        }
        Ok(count)
    }

    /// Does what was asked. False: to stop.
    fn messages(&mut self) -> bool {
        // Before the messages are taken: one that comes in between wakes the loop again.
        drop(self.doorway.wake.read());
        while let Ok(message) = self.inbox.try_recv() {
            match message {
                Message::Add(id, slot) => {
                    self.add(id, slot);
                    // The rest after its first turn: a machine that is stopped and continued all the
                    // time gets on all the same.
                    drop(self.doorway.wake.write(1));
                    return true;
                }
                Message::TakeBack(id, to_owner) => self.take_back(id, to_owner),
                Message::Stop => return false,
            }
        }
        true
    }

    fn add(&mut self, id: WorkerId, mut slot: Slot) {
        for source in slot.worker.sources() {
            let data = u64::from(id.0) << 32 | u64::from(source.token);
            let readable = EpollEvent::new(EventSet::IN, data);
            if let Err(error) = self.epoll.ctl(ControlOperation::Add, source.fd, readable) {
                slot.retire(&Fault(format!("its events cannot be waited for: {error}")));
                break;
            }
        }
        self.slots.insert(id, slot);
    }

    fn take_back(&mut self, id: WorkerId, to_owner: Sender<Option<Box<dyn Worker>>>) {
        let Some(slot) = self.slots.get_mut(&id) else {
            // Nobody waits any more if this fails.
            drop(to_owner.send(None));
            return (self.on_return)();
        };
        slot.wanted = Some(to_owner);
        self.finish(id);
    }

    fn ready(&mut self, data: u64) {
        let id = WorkerId((data >> 32) as u32);
        // Gone if it was given back since this event was taken.
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        if slot.retired || slot.wanted.is_some() {
            return self.finish(id);
        }
        if let Err(fault) = slot.worker.ready(data as u32) {
            slot.retire(&fault);
        }
    }

    /// Lets a worker come to its end, and gives it back if it has and somebody waits.
    fn finish(&mut self, id: WorkerId) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        if !slot.worker.finish() || slot.wanted.is_none() {
            return;
        }
        let Some(Slot { worker, wanted, .. }) = self.slots.remove(&id) else {
            return;
        };
        for source in worker.sources() {
            // Fails for one that could not be added.
            let nothing = EpollEvent::default();
            drop(self.epoll.ctl(ControlOperation::Delete, source.fd, nothing));
        }
        if let Some(to_owner) = wanted {
            // Fails if nobody waits any more; the worker is dropped then.
            drop(to_owner.send(Some(worker)));
        }
        (self.on_return)();
    }
}

#[cfg(test)]
mod tests;
