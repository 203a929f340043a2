use super::*;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Counts its wake-ups and reports each; faults on the token [`BAD`].
struct Counter {
    good: EventFd,
    bad: EventFd,
    seen: Sender<u64>,
    total: u64,
    finished: u32,
    /// Requests at the backend.
    busy: Arc<AtomicU32>,
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
    fn poll(&mut self) -> Result<bool, Fault> {
        Ok(false)
    }
    fn stop_polling(&mut self) -> Result<(), Fault> {
        Ok(())
    }
    fn finish(&mut self) -> bool {
        drop((self.good.read(), self.bad.read()));
        self.finished += 1;
        self.busy.load(Ordering::Acquire) == 0
    }
}

struct Faults(Sender<String>);
impl FaultSink for Faults {
    fn fault(&self, fault: &Fault) {
        self.0.send(fault.to_string()).unwrap();
    }
}

fn counter() -> (Box<Counter>, EventFd, EventFd, Receiver<u64>) {
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
            finished: 0,
            busy: Arc::default(),
        }),
        g,
        b,
        wakeups,
    )
}

fn faults() -> (Arc<Faults>, Receiver<String>) {
    let (send, receive) = mpsc::channel();
    (Arc::new(Faults(send)), receive)
}

/// Takes a worker that comes at once.
fn taken(handle: &IoHandle, id: WorkerId) -> Box<dyn Worker> {
    let worker = handle.take_back(id).unwrap().wait(None).unwrap();
    worker.expect("waits for ever")
}

fn unboxed(worker: Box<dyn Worker>) -> Box<Counter> {
    let any: Box<dyn Any> = worker;
    any.downcast::<Counter>().unwrap()
}

#[test]
fn a_worker_comes_back_and_works_again_when_re_added() {
    let thread = IoThread::spawn(|| {}).unwrap();
    assert!(thread.tid() > 0);
    let handle = thread.handle();
    let (worker, good, _bad, wakeups) = counter();
    let (sink, _) = faults();
    let id = handle.add(worker, sink.clone()).unwrap();
    good.write(2).unwrap();
    assert_eq!(wakeups.recv().unwrap(), 2);

    let mut worker = unboxed(taken(&handle, id));
    assert_eq!(worker.finished, 1);
    worker.finished = 0;
    let again = handle.take_back(id).unwrap().wait(None);
    assert!(matches!(again, Err(IoThreadError::NoSuchWorker)));
    // Nobody listens now; the notification waits in the descriptor.
    good.write(3).unwrap();
    assert!(wakeups.try_recv().is_err());
    let id = handle.add(worker, sink).unwrap();
    assert_eq!(wakeups.recv().unwrap(), 5);
    taken(&handle, id);
}

#[test]
fn a_fault_retires_one_worker_and_is_told_once() {
    let thread = IoThread::spawn(|| {}).unwrap();
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
    assert!(unboxed(taken(&handle, id)).finished > 0);
    assert!(wakeups.try_recv().is_err());
    assert!(told.try_recv().is_err());
}

#[test]
fn a_source_epoll_refuses_is_a_fault_and_the_loop_lives() {
    let thread = IoThread::spawn(|| {}).unwrap();
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
        fn poll(&mut self) -> Result<bool, Fault> {
            Ok(false)
        }
        fn stop_polling(&mut self) -> Result<(), Fault> {
            Ok(())
        }
        fn finish(&mut self) -> bool {
            true
        }
    }
    let (sink, told) = faults();
    let worker = Box::new(Unpollable(file));
    let id = thread.handle().add(worker, sink.clone()).unwrap();
    let told = told.recv().unwrap();
    assert!(told.contains("Operation not permitted"), "{told}");
    taken(&thread.handle(), id);
    let (worker, good, _bad, wakeups) = counter();
    thread.handle().add(worker, sink).unwrap();
    good.write(1).unwrap();
    assert_eq!(wakeups.recv().unwrap(), 1);
}

/// A machine that is stopped and continued all the time gets on all the same.
#[test]
fn a_worker_has_its_turn_before_it_is_given_back() {
    let thread = IoThread::spawn(|| {}).unwrap();
    let handle = thread.handle();
    let (sink, _) = faults();
    let (mut worker, good, _bad, wakeups) = counter();
    for turn in 1..=200 {
        good.write(1).unwrap();
        let id = handle.add(worker, sink.clone()).unwrap();
        worker = unboxed(taken(&handle, id));
        assert_eq!(wakeups.try_recv().unwrap(), turn);
    }
}

/// It is served until what it has at its backend has ended; who wants it is not held up meanwhile.
#[test]
fn a_worker_comes_when_its_backend_is_done() {
    let (returned, returns) = mpsc::channel();
    let thread = IoThread::spawn(move || returned.send(()).unwrap()).unwrap();
    let handle = thread.handle();
    let (worker, good, bad, _wakeups) = counter();
    let busy = Arc::clone(&worker.busy);
    busy.store(1, Ordering::Release);
    let (sink, told) = faults();
    let id = handle.add(worker, sink).unwrap();
    // A fault does not make the backend forget.
    bad.write(1).unwrap();
    told.recv().unwrap();
    let returning = handle.take_back(id).unwrap();
    assert!(returning.wait(Some(Instant::now())).unwrap().is_none());
    assert!(returns.try_recv().is_err());
    busy.store(0, Ordering::Release);
    good.write(1).unwrap();
    returns.recv().unwrap();
    let worker = returning.wait(Some(Instant::now())).unwrap();
    assert!(unboxed(worker.expect("it is here")).finished > 0);
}

#[test]
fn a_stopped_thread_says_so() {
    let thread = IoThread::spawn(|| {}).unwrap();
    let handle = thread.handle();
    let (worker, ..) = counter();
    let (sink, _) = faults();
    drop(thread);
    assert!(matches!(
        handle.add(worker, sink),
        Err(IoThreadError::Stopped)
    ));
}
