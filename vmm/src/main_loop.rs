//! The main thread: one loop that owns the machine.
//!
//! What the guest did is served before anything a client asks ([`crate::guest_events`]). Whatever
//! comes, it becomes an [`Input`], [`lifecycle::decide`] says what follows, and the steps are
//! carried out here; nothing else changes the machine's state.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api_socket::qmp::error::QmpError;
use api_socket::qmp::event::Event;
use api_socket::qmp::types::{
    BlockDeviceIoStatus, DumpQueryResult, DumpStatus, RunState, ShutdownCause,
};
use devices::events::{BlockErrorAction, GuestEvent};
use devices::io_thread::IoThreadError;

use crate::clients::Clients;
use crate::console::Console;
use crate::control::events;
use crate::control::fds::FdSets;
use crate::control::stats::KvmStats;
use crate::dump_job::DumpJob;
use crate::guest_events::{EventReceiver, MachineEvent, VcpuFault};
use crate::halt_watch::HaltWatch;
use crate::holding::{Holding, PATIENCE};
use crate::lifecycle::{self, Denied, Ending, Input, Plan, Policy, Step};
use crate::machine::{Machine, Quiesced, ResetError};
use crate::poller::{Interest, Poller, Ready, Token};
use crate::signals::Signals;

/// Everything the main thread has.
pub struct MainLoop {
    pub(crate) machine: Machine,
    pub(crate) state: RunState,
    pub(crate) policy: Policy,
    pub(crate) clients: Clients,
    pub(crate) console: Console,
    pub(crate) dump: DumpJob,
    pub(crate) kvm_stats: Option<KvmStats>,
    /// How the last dump ended.
    pub(crate) last_dump: DumpQueryResult,
    pub(crate) fd_sets: FdSets,
    /// Disks whose errors have stopped the guest since it last began to run, by id.
    pub(crate) stopped_disks: BTreeMap<Arc<str>, BlockDeviceIoStatus>,
    poller: Poller,
    events: EventReceiver,
    signals: Signals,
    pub(crate) ending: Option<Ending>,
    pub(crate) holding: Holding,
    halt_watch: HaltWatch,
}

/// How a machine ended.
pub struct Ended {
    /// What the process will tell whoever started it.
    pub ending: Ending,
    /// The machine, held; `None` if it could not be, and parts of it wait for the host still.
    pub machine: Option<Machine>,
}

/// What the loop is made of.
pub struct Start {
    /// The machine, held.
    pub machine: Machine,
    /// What its guest does.
    pub events: EventReceiver,
    /// What follows when the guest ends.
    pub policy: Policy,
    /// The console's host side.
    pub console: Console,
    /// Control sockets, not yet watched.
    pub listeners: Vec<api_socket::qmp::socket::Listener>,
    /// Signals that end the machine.
    pub signals: Signals,
}

impl MainLoop {
    /// Sets up the watches. The machine is still held, in state `prelaunch`.
    ///
    /// # Errors
    /// What epoll answered.
    pub fn new(start: Start) -> io::Result<Self> {
        let Start {
            machine,
            events,
            policy,
            mut console,
            listeners,
            signals,
        } = start;
        let poller = Poller::new()?;
        poller.add(events.wake_fd(), Token::GuestEvents, Interest::READ)?;
        poller.add(&signals, Token::Signal, Interest::READ)?;
        console.process(&machine.serial, &poller);
        let dump = DumpJob::new()?;
        poller.add(dump.done_fd(), Token::Job, Interest::READ)?;
        Ok(Self {
            machine,
            state: RunState::Prelaunch,
            policy,
            clients: Clients::new(listeners, &poller)?,
            console,
            dump,
            kvm_stats: None,
            last_dump: DumpQueryResult {
                status: DumpStatus::None,
                completed: 0,
                total: 0,
            },
            fd_sets: FdSets::default(),
            stopped_disks: BTreeMap::new(),
            poller,
            events,
            signals,
            ending: None,
            holding: Holding::default(),
            halt_watch: HaltWatch::begin(Instant::now()),
        })
    }

    /// Lets the guest begin, unless it is to wait for a client. It begins before the I/O thread does:
    /// what it asks of its devices meanwhile waits for that.
    ///
    /// # Errors
    /// When the host is out of threads.
    pub fn start(&mut self, paused: bool) -> Result<(), IoThreadError> {
        if !paused {
            self.must(Input::Cont);
        }
        self.machine.io.start()
    }

    /// Serves guest, clients, console and signals until the machine ends.
    ///
    /// # Errors
    /// What epoll answered: the loop cannot go on.
    pub fn run(mut self) -> io::Result<Ended> {
        loop {
            let ready = self.poller.wait(self.deadline())?;
            // Before the events are taken: one that is queued in between wakes the loop again.
            if ready.iter().any(|ready| ready.token == Token::GuestEvents) {
                self.events.acknowledge();
            }
            self.guest_events();
            self.look_at_held();
            self.look_for_halt();
            if self
                .console
                .next_deadline()
                .is_some_and(|left| left.is_zero())
            {
                self.console();
            }
            for event in ready {
                if self.ending.is_some() {
                    break;
                }
                self.serve(event);
                if !self.clients.any() {
                    // As in QEMU: whoever comes next cannot know of these sets.
                    self.fd_sets.clear();
                }
            }
            self.clients.catch_up(Instant::now(), &self.poller);
            if let Some(ending) = self.ending {
                return Ok(self.end(ending));
            }
        }
    }

    fn end(mut self, ending: Ending) -> Ended {
        self.dump.abandon();
        self.clients.farewell(&self.poller);
        self.console.finish(&self.machine.serial, &self.poller);
        let machine = if self.holding.given_up() {
            // Taking it apart would wait for its threads; the end of the process does not.
            std::mem::forget(self.machine);
            None
        } else {
            Some(self.machine)
        };
        Ended { ending, machine }
    }

    /// How long nothing may happen before something is due.
    fn deadline(&self) -> Option<Duration> {
        let deadlines = [
            self.clients.next_deadline(),
            self.console.next_deadline(),
            self.holding.next_deadline(),
            lifecycle::runs(self.state).then(|| self.halt_watch.next_deadline(Instant::now())),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Notices a guest that has halted for good.
    fn look_for_halt(&mut self) {
        if self.ending.is_some() || !lifecycle::runs(self.state) {
            return;
        }
        let vcpus = &self.machine.vcpus;
        let idle = self
            .halt_watch
            .look(Instant::now(), || vcpus.processor_time());
        // Whoever has the machine held already looks at it no less; this comes again.
        if !idle || !self.machine.is_out() {
            return;
        }
        let halted = match self.machine.halted_until(Instant::now() + PATIENCE) {
            Ok(Some(false)) => Some(false),
            // What still is out keeps nobody waiting: its own vCPU is in it, or all have halted. The
            // watch looks again when the machine was held in vain.
            Ok(other) if self.held_soon() => other,
            Ok(_) => return,
            Err(error) => {
                log::error!("{}", crate::chain::text(&error));
                Some(false)
            }
        };
        if halted == Some(true) {
            log::info!("all processors are halted with interrupts off");
            self.must(Input::GuestHalted);
        }
        // What the guest did in the instant in which it was held may mean that it does not go on.
        self.guest_events();
        if self.ending.is_none() && !self.holding.waits() {
            self.machine.release_vcpus();
        }
        self.settle();
    }

    fn serve(&mut self, ready: Ready) {
        match ready.token {
            // Served by `run` before everything else.
            Token::GuestEvents => {}
            Token::Signal => {
                while let Some(signal) = self.signals.take() {
                    log::info!("ended by signal {signal}");
                    self.quit(ShutdownCause::HostSignal);
                }
            }
            Token::Console => self.console(),
            Token::Listener(number) => self.clients.accept(number, &self.poller),
            Token::Client(number) => {
                self.clients.receive(number, ready.hung_up, &self.poller);
                self.commands(number);
            }
            Token::Job => {
                if let Some(number) = crate::control::dump::finished(self) {
                    self.commands(number);
                }
            }
        }
    }

    fn console(&mut self) {
        if self.console.process(&self.machine.serial, &self.poller) {
            self.quit(ShutdownCause::HostUi);
        }
    }

    /// Carries out what a client has asked, as far as it can be carried out now.
    pub(crate) fn commands(&mut self, number: u32) {
        loop {
            // Whatever the guest did before the client asked, or in the instant in which the last
            // request stopped it, is told before the answer.
            self.guest_events();
            if self.ending.is_some() || self.holding.keeps(number) {
                break;
            }
            let Some(request) = self.clients.next_request(number) else {
                break;
            };
            if let Some(request) = self.put_aside(number, request) {
                crate::control::execute(self, number, request);
                self.settle();
            }
        }
        self.clients.flush(number, &self.poller);
    }

    /// Runs `act` while nothing of the machine does, and lets a guest that ran go on. Clients are
    /// not told: it is a matter of microseconds.
    pub(crate) fn while_held<T>(&mut self, act: impl FnOnce(&mut Quiesced<'_>) -> T) -> T {
        let result = act(&mut self.machine.hold());
        // What the guest did in the instant in which it was held may mean that it does not go on.
        self.guest_events();
        self.settle();
        result
    }

    /// Lets a guest go on that was stopped for a job, unless what it did in the instant in which it
    /// was stopped leads elsewhere.
    pub(crate) fn resume_after_job(&mut self) {
        self.guest_events();
        let stopped = matches!(self.state, RunState::Paused | RunState::Prelaunch);
        if self.ending.is_none() && stopped {
            self.must(Input::Cont);
        }
    }

    /// An input that the present state cannot deny.
    pub(crate) fn must(&mut self, input: Input) {
        match self.input(input) {
            // A failed reset was logged, with its causes, where it failed.
            Ok(()) | Err(Denied::ResetFailed) => {}
            Err(denied) => log::error!("{input:?} was denied: {denied}"),
        }
    }

    /// Decides and carries out.
    ///
    /// # Errors
    /// When the present state denies it, or the machine cannot be reset.
    pub(crate) fn input(&mut self, input: Input) -> Result<(), Denied> {
        if self.dump.active() && !matches!(input, Input::Quit(_) | Input::SystemPowerdown) {
            return Err(Denied::DumpInProgress);
        }
        let Plan { state, steps } = lifecycle::decide(self.state, &self.policy, input)?;
        for step in steps {
            if let Err(error) = self.step(step) {
                log::error!(
                    "the machine cannot be reset: {}",
                    crate::chain::text(&error)
                );
                // Of what follows from this no step can fail.
                self.input(Input::ResetFailed)?;
                return Err(Denied::ResetFailed);
            }
        }
        self.state = state;
        Ok(())
    }

    /// Carries out one step. The rest makes no sense any more if it fails.
    fn step(&mut self, step: Step) -> Result<(), ResetError> {
        match step {
            // Whoever decided this has seen to it before ([`Self::held_soon`]).
            Step::Hold if self.holding.given_up() => {}
            Step::Hold => drop(self.machine.hold()),
            Step::Run => {
                self.stopped_disks.clear();
                self.halt_watch = HaltWatch::begin(Instant::now());
                self.machine.run();
            }
            Step::ResetMachine => self.reset_machine()?,
            Step::PressPowerButton => self.machine.press_power_button(),
            Step::Tell(notice) => self.tell(events::of(notice)),
            Step::End(ending) => self.ending = Some(ending),
        }
        Ok(())
    }

    fn reset_machine(&mut self) -> Result<(), ResetError> {
        // What the guest did before the reset is history; disk errors are still facts.
        while let Some(event) = self.events.next() {
            if let MachineEvent::Guest(GuestEvent::BlockIoError(error)) = event {
                self.tell(events::block_io_error(&error));
            }
        }
        self.stopped_disks.clear();
        self.machine.hold().reset()
    }

    /// Tells every client.
    pub(crate) fn tell(&mut self, event: Event) {
        self.clients.tell(event, &self.poller);
    }

    /// Serves what the guest has done so far; what it does meanwhile is for the next turn.
    pub(crate) fn guest_events(&mut self) {
        // What a guest did before it was held for a dump is served when the dump is over; what one did
        // that could not be held, never.
        if self.dump.active() || self.holding.given_up() {
            return;
        }
        for _ in 0..self.events.waiting() {
            if self.ending.is_some() {
                return;
            }
            let Some(event) = self.events.next() else {
                break;
            };
            if event.stops_the_guest() && !self.held_soon() {
                // It and what came after it are served when the machine is held.
                self.events.put_back(event);
                return;
            }
            self.guest_event(event);
        }
        self.settle();
    }

    fn guest_event(&mut self, event: MachineEvent) {
        match event {
            MachineEvent::Guest(event) => self.device_event(event),
            MachineEvent::Vcpu { index, fault } => self.vcpu_fault(index, &fault),
            MachineEvent::ClockChanged { offset } => self.tell(events::rtc_change(offset)),
        }
    }

    fn device_event(&mut self, event: GuestEvent) {
        match event {
            GuestEvent::Shutdown => self.must(Input::GuestShutdown),
            GuestEvent::Reset => self.must(Input::GuestReset),
            GuestEvent::Panicked => self.must(Input::GuestPanicked),
            GuestEvent::CrashLoaded => self.must(Input::GuestCrashLoaded),
            GuestEvent::PvShutdown => self.must(Input::GuestPvShutdown),
            GuestEvent::BlockIoError(error) => {
                self.tell(events::block_io_error(&error));
                if error.action == BlockErrorAction::Stop {
                    let status = events::io_status(&error);
                    self.stopped_disks.insert(error.id, status);
                    self.must(Input::DiskStopped);
                }
            }
            GuestEvent::NicRxFilterChanged { id } => {
                self.tell(events::nic_rx_filter_changed(&id));
            }
            GuestEvent::DeviceNeedsReset { id, reason } => {
                devices::limited_warn!("{id}: stopped until its driver resets it: {reason}");
            }
        }
    }

    fn vcpu_fault(&mut self, index: u8, fault: &VcpuFault) {
        match fault {
            // As on a PC, where the processor's shutdown cycle resets the board.
            VcpuFault::TripleFault => self.must(Input::GuestReset),
            VcpuFault::Internal(error) => {
                log::error!("vCPU {index}: {error}");
                if error.suberror == kvm_bindings::KVM_INTERNAL_ERROR_EMULATION {
                    log::error!(
                        "this host's KVM emulates guest kernels in software and lacks that \
                         instruction; run the guest where the processor has VMX or SVM (thimble \
                         check tells), or use the built-in guest"
                    );
                }
                self.must(Input::InternalError);
            }
            VcpuFault::EntryRefused(reason) => {
                log::error!("vCPU {index}: the processor refused the guest, reason {reason:#x}");
                self.must(Input::InternalError);
            }
            VcpuFault::Broken(what) => {
                log::error!("vCPU {index}: {what}");
                self.must(Input::InternalError);
            }
        }
    }
}

impl From<Denied> for QmpError {
    fn from(denied: Denied) -> Self {
        Self::generic(denied)
    }
}
