//! The vCPU threads, and who owns a vCPU when.
//!
//! A vCPU thread does `KVM_RUN` and bus accesses, nothing else. The [`VcpuHandle`] itself moves:
//! [`VcpuSet::run`] sends each one to its thread, and the thread sends it back when it is asked to
//! stop or can not go on. A held vCPU is therefore a value the main thread has in its hand, not a
//! flag it believes in, and its registers can be read and written there and then.
//!
//! # No kick is lost
//! [`VcpuSet::begin_hold`] sets `stop`, then signals every thread that has a vCPU.
//! 1. The thread looks at `stop` after it took the vCPU and after every exit.
//! 2. If the signal arrives before a look, the look sees `stop` (it was set before the signal).
//! 3. If it arrives between the look and the entry to the guest, the handler, running on that very
//!    thread, sets kvm_run's `immediate_exit`, and the entry returns EINTR at once.
//! 4. If it arrives in the guest, KVM returns EINTR.
//!
//! After 3 and 4 the loop is back at 1. The flag is cleared when a vCPU is taken to run, and after
//! each EINTR, always before the next look: whoever set it had set `stop` before, so no request is
//! wiped out. It cannot stay set either: a signal that comes late, when its request has been met
//! and the vCPU runs again, costs one EINTR.
//!
//! A vCPU may be long in coming: a driver's reset of a device waits for what the device has at a
//! host that does not answer. The thread wakes the main loop when it has sent the vCPU.
#![expect(
    unsafe_code,
    reason = "the kick's signal handler writes to the kvm_run page; thread clocks"
)]

use std::cell::Cell;
use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use devices::bus::Bus;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::guest_events::{EventSender, VcpuFault};
use crate::kvm::{Exit, IoAccess, VcpuHandle};

/// Stack of a vCPU thread. Bus accesses are shallow; 128 KiB leaves room for a device's error path
/// and a panic's message.
const STACK_BYTES: usize = 128 << 10;

/// What a vCPU thread needs besides its vCPU; the same for all.
#[derive(Debug, Clone)]
pub struct VcpuContext {
    /// Port space.
    pub pio: Arc<Bus>,
    /// Memory-mapped space.
    pub mmio: Arc<Bus>,
    /// Where faults are told.
    pub events: Arc<EventSender>,
    /// Set while vCPUs must come back.
    pub stop: Arc<AtomicBool>,
}

/// How often a vCPU came back from the guest, by cause. Written by its thread, read by anyone.
#[derive(Debug, Default)]
pub struct ExitCounters {
    /// Port reads and writes that reached us.
    pub io: AtomicU64,
    /// MMIO reads that reached us.
    pub mmio_read: AtomicU64,
    /// MMIO writes that reached us (doorbells do not).
    pub mmio_write: AtomicU64,
    /// Kicks and other signals.
    pub interrupted: AtomicU64,
    /// Accesses no device claimed.
    pub unclaimed: AtomicU64,
}

impl ExitCounters {
    /// Name and value of each.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let Self {
            io,
            mmio_read,
            mmio_write,
            interrupted,
            unclaimed,
        } = self;
        [
            ("exits-io", io),
            ("exits-mmio-read", mmio_read),
            ("exits-mmio-write", mmio_write),
            ("exits-interrupted", interrupted),
            ("accesses-unclaimed", unclaimed),
        ]
        .into_iter()
        .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }
}

struct Slot {
    thread: Option<JoinHandle<()>>,
    /// `None` once the thread is told to end.
    to_thread: Option<Sender<VcpuHandle>>,
    held: Option<VcpuHandle>,
    /// Set by the thread as its first act.
    thread_id: Arc<OnceLock<i32>>,
    counters: Arc<ExitCounters>,
}

/// Every vCPU of the machine: those held are here, those running are with their threads.
pub struct VcpuSet {
    slots: Vec<Slot>,
    from_threads: Receiver<VcpuHandle>,
    stop: Arc<AtomicBool>,
}

impl VcpuSet {
    /// Starts one thread per vCPU; all vCPUs are held at first.
    ///
    /// # Errors
    /// What the kernel answered to the signal handler or a thread.
    pub fn new(vcpus: Vec<VcpuHandle>, context: &VcpuContext) -> io::Result<Self> {
        register_signal_handler(kick_signal(), on_kick).map_err(io::Error::from)?;
        let (to_main, from_threads) = channel();
        let mut slots = Vec::with_capacity(vcpus.len());
        for vcpu in vcpus {
            slots.push(start_thread(vcpu, context.clone(), to_main.clone())?);
        }
        Ok(Self {
            slots,
            from_threads,
            stop: Arc::clone(&context.stop),
        })
    }

    /// How many vCPUs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none; never true in a machine.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Host thread id and counters of each vCPU, in order.
    pub fn threads(&self) -> impl Iterator<Item = (i32, &ExitCounters)> {
        self.slots
            .iter()
            .map(|slot| (*slot.thread_id.wait(), slot.counters.as_ref()))
    }

    /// The processor time that all vCPU threads have used, the guest's included.
    #[must_use]
    pub fn processor_time(&self) -> Duration {
        let threads = self.slots.iter().filter_map(|slot| slot.thread.as_ref());
        threads.map(thread_time).sum()
    }

    /// Lets every held vCPU run. Those already running go on.
    pub fn run(&mut self) {
        self.collect();
        self.stop.store(false, Ordering::Release);
        for slot in &mut self.slots {
            if let (Some(vcpu), Some(thread)) = (slot.held.take(), &slot.to_thread) {
                // Fails only if the thread died, and a thread that panics takes the process along.
                drop(thread.send(vcpu));
            }
        }
    }

    /// Asks for every vCPU, without waiting for any.
    pub fn begin_hold(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.collect();
        for slot in &self.slots {
            if let (None, Some(thread)) = (&slot.held, &slot.thread) {
                // ESRCH would mean that the thread ended, which it does only when told to.
                let _ = thread.kill(kick_signal());
            }
        }
    }

    /// Waits until `until`, or for ever, for the vCPUs asked for, and returns whether all are here.
    pub fn finish_hold(&mut self, until: Option<Instant>) -> bool {
        self.collect();
        while self.slots.iter().any(|slot| slot.held.is_none()) {
            let vcpu = match until {
                None => self.from_threads.recv().ok(),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    self.from_threads.recv_timeout(left).ok()
                }
            };
            match vcpu {
                Some(vcpu) => self.put(vcpu),
                None => return false,
            }
        }
        true
    }

    /// The held vCPUs, in order; not all unless [`Self::finish_hold`] came last, and said so.
    pub fn held(&mut self) -> impl Iterator<Item = &mut VcpuHandle> {
        self.slots.iter_mut().filter_map(|slot| slot.held.as_mut())
    }

    fn collect(&mut self) {
        while let Ok(vcpu) = self.from_threads.try_recv() {
            self.put(vcpu);
        }
    }

    fn put(&mut self, vcpu: VcpuHandle) {
        if let Some(slot) = self.slots.get_mut(usize::from(vcpu.index())) {
            slot.held = Some(vcpu);
        }
    }
}

impl Drop for VcpuSet {
    fn drop(&mut self) {
        self.begin_hold();
        self.finish_hold(None);
        for slot in &mut self.slots {
            slot.to_thread = None;
            if let Some(thread) = slot.thread.take() {
                drop(thread.join());
            }
        }
    }
}

/// The processor time a thread has used, zero where the kernel does not tell.
fn thread_time(thread: &JoinHandle<()>) -> Duration {
    let mut clock = 0;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the thread has not been joined, because its handle is there; both functions write
    // what they are given a place for.
    unsafe {
        if libc::pthread_getcpuclockid(thread.as_pthread_t(), &raw mut clock) == 0 {
            libc::clock_gettime(clock, &raw mut time);
        }
    }
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), nanoseconds)
}

fn start_thread(
    vcpu: VcpuHandle,
    context: VcpuContext,
    to_main: Sender<VcpuHandle>,
) -> io::Result<Slot> {
    let (to_thread, inbox) = channel::<VcpuHandle>();
    let thread_id = Arc::new(OnceLock::new());
    let own_id = Arc::clone(&thread_id);
    let counters = Arc::new(ExitCounters::default());
    let thread_counters = Arc::clone(&counters);
    let thread = std::thread::Builder::new()
        .name(format!("thimble-vcpu{}", vcpu.index()))
        .stack_size(STACK_BYTES)
        .spawn(move || {
            own_id.get_or_init(|| rustix::thread::gettid().as_raw_nonzero().get());
            for mut vcpu in inbox {
                run_until_stopped(&mut vcpu, &context, &thread_counters);
                if to_main.send(vcpu).is_err() {
                    return;
                }
                context.events.wake();
            }
        })?;
    Ok(Slot {
        thread: Some(thread),
        to_thread: Some(to_thread),
        held: Some(vcpu),
        thread_id,
        counters,
    })
}

/// Runs the guest on this thread until `stop` is set or the vCPU cannot go on.
fn run_until_stopped(vcpu: &mut VcpuHandle, context: &VcpuContext, counters: &ExitCounters) {
    vcpu.set_immediate_exit(false);
    let _kickable = Kickable::new(vcpu.immediate_exit_flag());
    while !context.stop.load(Ordering::Acquire) {
        let index = vcpu.index();
        let fault = match vcpu.run() {
            Ok(Exit::Interrupted) => {
                count(&counters.interrupted);
                vcpu.set_immediate_exit(false);
                continue;
            }
            Ok(exit) => match serve(exit, context, counters) {
                None => continue,
                Some(fault) => fault,
            },
            Err(error) => VcpuFault::Broken(format!("{error}: {}", error.source)),
        };
        context.events.vcpu_fault(index, fault);
        return;
    }
    // An access that stopped us is still half done for KVM.
    vcpu.complete();
}

/// Serves one exit; a fault means that this vCPU cannot go on.
fn serve(exit: Exit<'_>, context: &VcpuContext, counters: &ExitCounters) -> Option<VcpuFault> {
    match exit {
        Exit::Io(access) => {
            count(&counters.io);
            serve_io(access, &context.pio, counters);
        }
        Exit::MmioRead(address, data) => {
            count(&counters.mmio_read);
            if !context.mmio.read(address, data) {
                data.fill(0xff);
                count(&counters.unclaimed);
            }
        }
        Exit::MmioWrite(address, data) => {
            count(&counters.mmio_write);
            if !context.mmio.write(address, data) {
                count(&counters.unclaimed);
            }
        }
        // The caller's.
        Exit::Interrupted => {}
        Exit::Shutdown => return Some(VcpuFault::TripleFault),
        Exit::InternalError(error) => return Some(VcpuFault::Internal(error)),
        Exit::FailEntry(reason) => return Some(VcpuFault::EntryRefused(reason)),
        Exit::Unexpected(reason) => {
            return Some(VcpuFault::Broken(format!("KVM exit reason {reason}")));
        }
    }
    None
}

/// A floating bus reads as ones.
fn serve_io(access: IoAccess<'_>, pio: &Bus, counters: &ExitCounters) {
    let IoAccess {
        port,
        size,
        write,
        data,
    } = access;
    for unit in data.chunks_exact_mut(size) {
        let claimed = if write {
            pio.write(port.into(), unit)
        } else {
            pio.read(port.into(), unit)
        };
        if !claimed {
            count(&counters.unclaimed);
            if !write {
                unit.fill(0xff);
            }
        }
    }
}

fn count(counter: &AtomicU64) {
    // One writer per counter: no read-modify-write needed.
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(1),
        Ordering::Relaxed,
    );
}

/// The kick: the first real-time signal, which nothing else in the process uses.
fn kick_signal() -> i32 {
    SIGRTMIN()
}

thread_local! {
    /// The running vCPU's immediate-exit flag, or null. Const-initialised and without a destructor,
    /// so that the signal handler may read it at any moment.
    static FLAG: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// While it lives, a kick of this thread sets the vCPU's immediate-exit flag.
struct Kickable;

impl Kickable {
    fn new(flag: *mut u8) -> Self {
        FLAG.set(flag);
        Self
    }
}

impl Drop for Kickable {
    fn drop(&mut self) {
        FLAG.set(ptr::null_mut());
    }
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = FLAG.get();
    if !flag.is_null() {
        // SAFETY: `flag` points into the kvm_run page of the vCPU this very thread is running;
        // Kickable clears it before the vCPU leaves the thread. The write is volatile because the
        // kernel reads it.
        unsafe { flag.write_volatile(1) };
    }
}
