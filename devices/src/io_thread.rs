//! The I/O thread: one epoll loop that owns device workers.
//!
//! A worker is moved in with [`IoHandle::add`] and moved out again with [`IoHandle::take_back`];
//! in between nobody else can touch it, so it needs no lock. Pausing a device is taking its worker
//! back. The handle is used by vCPU threads (a driver starting or resetting a device) and by the
//! main thread (quiesce); each call waits for the loop to finish what it is doing.
//!
//! The loop is `event-manager`'s. Its per-event cost is one `epoll_wait` entry and two map
//! look-ups; it takes no lock and does not allocate. A worker that faults loses its event sources
//! at once but stays owned by the loop until it is taken back: event-manager may still hold ready
//! events of the same batch for it.

use std::any::Any;
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use event_manager::{
    EventManager, EventOps, EventSet, Events, MutEventSubscriber, RemoteEndpoint, SubscriberId,
};

/// Name of the thread, as `/proc/PID/task/TID/comm` shows it.
pub const THREAD_NAME: &str = "thimble-io";

/// Stack of the thread: request handling is shallow, and nothing large lives on it.
const STACK_BYTES: usize = 256 << 10;

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
    /// The descriptors to wait on for reading. Asked once, when the worker is added.
    fn sources(&self) -> Vec<Source>;

    /// The source with `token` is readable (level triggered). Does a bounded amount of work: one
    /// guest must not keep the loop from serving the other workers or from giving this one back.
    ///
    /// # Errors
    /// A [`Fault`] retires the worker: it is not called again.
    fn ready(&mut self, token: u32) -> Result<(), Fault>;

    /// Waits until nothing is in flight at the backend. Requests not yet begun stay in the queue.
    /// Called on the I/O thread just before the worker is given back, also after a fault.
    fn drain(&mut self);
}

/// Why a worker cannot go on: its guest broke the rules of the device's interface.
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
    /// The thread or its epoll instance could not be made.
    #[error("cannot start the I/O thread")]
    Start(#[source] io::Error),
    /// The epoll instance could not be made or would not take a descriptor.
    #[error("the I/O thread's event loop: {0}")]
    Loop(event_manager::Error),
    /// No worker has this id; it was taken back before.
    #[error("the I/O thread owns no such worker")]
    NoSuchWorker,
    /// The thread has ended.
    #[error("the I/O thread has stopped")]
    Stopped,
}

impl From<event_manager::Error> for IoThreadError {
    fn from(error: event_manager::Error) -> Self {
        match error {
            event_manager::Error::InvalidId => Self::NoSuchWorker,
            event_manager::Error::ChannelSend | event_manager::Error::ChannelRecv => Self::Stopped,
            other => Self::Loop(other),
        }
    }
}

/// Names a worker while the I/O thread owns it. Not reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerId(SubscriberId);

/// A worker in the loop.
struct Slot {
    worker: Box<dyn Worker>,
    sources: Vec<Source>,
    on_fault: Arc<dyn FaultSink>,
    retired: bool,
    refused: Option<event_manager::Error>,
}

impl MutEventSubscriber for Slot {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        for source in &self.sources {
            let events = Events::with_data_raw(source.fd, source.token, EventSet::IN);
            if let Err(error) = ops.add(events) {
                self.refused = Some(error);
                return;
            }
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if self.retired {
            return;
        }
        let Err(fault) = self.worker.ready(events.data()) else {
            return;
        };
        self.retired = true;
        for source in &self.sources {
            // A descriptor that cannot be removed costs wake-ups, which `retired` makes harmless.
            drop(ops.remove(Events::empty_raw(source.fd)));
        }
        self.on_fault.fault(&fault);
    }
}

/// Adds workers to an I/O thread and takes them back, from any other thread.
#[derive(Clone)]
pub struct IoHandle {
    endpoint: RemoteEndpoint<Slot>,
}

impl fmt::Debug for IoHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IoHandle")
    }
}

impl IoHandle {
    /// Hands `worker` to the loop. A source that is readable already is served at once.
    ///
    /// Never called on the I/O thread itself: that would wait for itself.
    ///
    /// # Errors
    /// [`IoThreadError::Loop`] when epoll refuses a source, [`IoThreadError::Stopped`]; the worker
    /// is dropped in both cases.
    pub fn add(
        &self,
        worker: Box<dyn Worker>,
        on_fault: Arc<dyn FaultSink>,
    ) -> Result<WorkerId, IoThreadError> {
        let sources = worker.sources();
        let slot = Slot {
            worker,
            sources,
            on_fault,
            retired: false,
            refused: None,
        };
        self.endpoint.call_blocking(move |ops| {
            let id = ops.add_subscriber(slot);
            match ops.subscriber_mut(id)?.refused.take() {
                None => Ok(WorkerId(id)),
                Some(error) => {
                    ops.remove_subscriber(id)?;
                    Err(IoThreadError::from(error))
                }
            }
        })
    }

    /// Takes a worker out of the loop, drained. From then on the loop does not touch it or its
    /// descriptors.
    ///
    /// Never called on the I/O thread itself.
    ///
    /// # Errors
    /// [`IoThreadError::NoSuchWorker`], [`IoThreadError::Stopped`].
    pub fn take_back(&self, id: WorkerId) -> Result<Box<dyn Worker>, IoThreadError> {
        self.endpoint.call_blocking(move |ops| {
            ops.subscriber_mut(id.0)?.worker.drain();
            let slot = ops.remove_subscriber(id.0)?;
            Ok(slot.worker)
        })
    }
}

/// A running I/O thread. Dropping it stops the loop and waits for the thread; workers still in it
/// are dropped.
#[derive(Debug)]
pub struct IoThread {
    handle: IoHandle,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    tid: Arc<OnceLock<i32>>,
}

impl IoThread {
    /// Starts the thread. Does not wait for it: what is asked of it meanwhile, it finds when it
    /// begins.
    ///
    /// # Errors
    /// [`IoThreadError::Start`] or [`IoThreadError::Loop`] when the host is out of threads or
    /// descriptors.
    pub fn spawn() -> Result<Self, IoThreadError> {
        let mut manager = EventManager::<Slot>::new()?;
        let endpoint = manager.remote_endpoint();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let tid = Arc::new(OnceLock::new());
        let own_tid = Arc::clone(&tid);
        let thread = std::thread::Builder::new()
            .name(THREAD_NAME.to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                own_tid.get_or_init(|| rustix::thread::gettid().as_raw_nonzero().get());
                while !stopped.load(Ordering::Acquire) {
                    if let Err(error) = manager.run() {
                        // epoll_wait fails only for a bad descriptor: nothing will ever come.
                        log::error!("the I/O thread ends: {error}");
                        return;
                    }
                }
            })
            .map_err(IoThreadError::Start)?;
        Ok(Self {
            handle: IoHandle { endpoint },
            stop,
            thread: Some(thread),
            tid,
        })
    }

    /// A handle for devices.
    #[must_use]
    pub fn handle(&self) -> IoHandle {
        self.handle.clone()
    }

    /// The kernel's id of the thread. Waits until the thread has begun.
    #[must_use]
    pub fn tid(&self) -> i32 {
        *self.tid.wait()
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Both fail only when the thread has already ended.
        drop(self.handle.endpoint.kick());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::sync::mpsc;
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    /// Counts its wake-ups and reports each; faults on the token [`BAD`].
    struct Counter {
        good: EventFd,
        bad: EventFd,
        seen: mpsc::Sender<u64>,
        total: u64,
        drained: bool,
    }

    const GOOD: u32 = 7;
    const BAD: u32 = 8;

    impl Worker for Counter {
        fn sources(&self) -> Vec<Source> {
            vec![
                Source {
                    fd: self.good.as_raw_fd(),
                    token: GOOD,
                },
                Source {
                    fd: self.bad.as_raw_fd(),
                    token: BAD,
                },
            ]
        }
        fn ready(&mut self, token: u32) -> Result<(), Fault> {
            if token == BAD {
                return Err(Fault("told to".to_owned()));
            }
            self.total += self.good.read().unwrap();
            self.seen.send(self.total).unwrap();
            Ok(())
        }
        fn drain(&mut self) {
            self.drained = true;
        }
    }

    struct Faults(mpsc::Sender<String>);
    impl FaultSink for Faults {
        fn fault(&self, fault: &Fault) {
            self.0.send(fault.to_string()).unwrap();
        }
    }

    fn counter() -> (Box<Counter>, EventFd, EventFd, mpsc::Receiver<u64>) {
        let good = EventFd::new(EFD_NONBLOCK).unwrap();
        let bad = EventFd::new(EFD_NONBLOCK).unwrap();
        let (seen, wakeups) = mpsc::channel();
        let (g, b) = (good.try_clone().unwrap(), bad.try_clone().unwrap());
        (
            Box::new(Counter {
                good,
                bad,
                seen,
                total: 0,
                drained: false,
            }),
            g,
            b,
            wakeups,
        )
    }

    fn faults() -> (Arc<Faults>, mpsc::Receiver<String>) {
        let (send, receive) = mpsc::channel();
        (Arc::new(Faults(send)), receive)
    }

    fn unboxed(worker: Box<dyn Worker>) -> Box<Counter> {
        let any: Box<dyn Any> = worker;
        any.downcast::<Counter>().unwrap()
    }

    #[test]
    fn a_worker_comes_back_drained_and_works_again_when_re_added() {
        let thread = IoThread::spawn().unwrap();
        assert!(thread.tid() > 0);
        let handle = thread.handle();
        let (worker, good, _bad, wakeups) = counter();
        let (sink, _) = faults();
        let id = handle.add(worker, sink.clone()).unwrap();
        good.write(2).unwrap();
        assert_eq!(wakeups.recv().unwrap(), 2);

        let mut worker = unboxed(handle.take_back(id).unwrap());
        assert!(worker.drained);
        worker.drained = false;
        assert!(matches!(
            handle.take_back(id),
            Err(IoThreadError::NoSuchWorker)
        ));
        // Nobody listens now; the notification waits in the descriptor.
        good.write(3).unwrap();
        assert!(wakeups.try_recv().is_err());
        let id = handle.add(worker, sink).unwrap();
        assert_eq!(wakeups.recv().unwrap(), 5);
        handle.take_back(id).unwrap();
    }

    #[test]
    fn a_fault_retires_one_worker_and_is_told_once() {
        let thread = IoThread::spawn().unwrap();
        let handle = thread.handle();
        let (first, good, bad, wakeups) = counter();
        let (second, other_good, _other_bad, other_wakeups) = counter();
        let (sink, told) = faults();
        let id = handle.add(first, sink.clone()).unwrap();
        handle.add(second, sink).unwrap();
        bad.write(1).unwrap();
        assert_eq!(told.recv().unwrap(), "told to");
        good.write(1).unwrap();
        bad.write(1).unwrap();
        // The other worker runs on; by the time it has, the first would have been called too.
        other_good.write(1).unwrap();
        assert_eq!(other_wakeups.recv().unwrap(), 1);
        assert!(unboxed(handle.take_back(id).unwrap()).drained);
        assert!(wakeups.try_recv().is_err());
        assert!(told.try_recv().is_err());
    }

    #[test]
    fn a_source_epoll_refuses_is_an_error_and_the_loop_lives() {
        let thread = IoThread::spawn().unwrap();
        // A regular file cannot be polled.
        let file = tempfile::tempfile().unwrap();
        struct Unpollable(std::fs::File);
        impl Worker for Unpollable {
            fn sources(&self) -> Vec<Source> {
                vec![Source {
                    fd: self.0.as_raw_fd(),
                    token: 0,
                }]
            }
            fn ready(&mut self, _token: u32) -> Result<(), Fault> {
                Ok(())
            }
            fn drain(&mut self) {}
        }
        let (sink, _) = faults();
        let error = thread
            .handle()
            .add(Box::new(Unpollable(file)), sink.clone())
            .unwrap_err();
        assert!(matches!(error, IoThreadError::Loop(_)), "{error}");
        let (worker, good, _bad, wakeups) = counter();
        thread.handle().add(worker, sink).unwrap();
        good.write(1).unwrap();
        assert_eq!(wakeups.recv().unwrap(), 1);
    }

    #[test]
    fn a_stopped_thread_says_so() {
        let thread = IoThread::spawn().unwrap();
        let handle = thread.handle();
        let (worker, ..) = counter();
        let (sink, _) = faults();
        drop(thread);
        assert!(matches!(
            handle.add(worker, sink),
            Err(IoThreadError::Stopped)
        ));
    }
}
