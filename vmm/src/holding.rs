//! Waiting until nothing of the machine runs, without waiting.
//!
//! A guest is held in microseconds, unless its disks are on a host that is slow to answer, or does
//! not answer at all: its requests there have to end first. The main loop does not stand still for
//! that. Whatever needs a held machine and does not get it within a few milliseconds is put aside, the
//! loop goes on serving everything else, and comes back to it when the last vCPU or worker has
//! come. Only the end of the process does not wait for ever: a guest's requests that the host has
//! not answered after two seconds are lost, as they are when the power fails.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use api_socket::qmp::session::Request;
use api_socket::qmp::types::ShutdownCause;

use crate::lifecycle::{self, Input};
use crate::main_loop::MainLoop;

/// How long the main loop stands still for the machine to be held. A disk's request usually takes
/// less.
pub(crate) const PATIENCE: Duration = Duration::from_millis(10);

/// How long the end of the process waits for the machine to be held; a second request to end makes
/// an end of that, too.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// When the log says what is waited for.
const WORTH_A_WORD: Duration = Duration::from_secs(1);

/// What needs a held machine.
#[derive(Debug)]
enum Waiting {
    /// A client's request, and which client's.
    Request(u32, Request),
    /// The end, by signal or escape key.
    Quit(ShutdownCause),
}

/// What a command needs before it can be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing.
    Nothing,
    /// A held machine.
    Held,
    /// A held machine, but it will do without.
    HeldToEnd,
}

/// What waits for the machine to be held.
#[derive(Debug, Default)]
pub struct Holding {
    /// Since when; `None` if nothing waits.
    since: Option<Instant>,
    /// Whether the log has said so.
    said: bool,
    waiting: VecDeque<Waiting>,
    /// When the process ends, held or not.
    end_by: Option<Instant>,
    /// The machine is as good as gone.
    given_up: bool,
}

impl Holding {
    /// Whether the process ends without the machine having been held.
    #[must_use]
    pub fn given_up(&self) -> bool {
        self.given_up
    }

    /// Whether the machine is on its way to being held.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.since.is_some()
    }

    /// Whether a request of this client waits: what it asked later waits behind.
    #[must_use]
    pub fn keeps(&self, client: u32) -> bool {
        let theirs =
            |waiting: &Waiting| matches!(waiting, Waiting::Request(number, _) if *number == client);
        self.waiting.iter().any(theirs)
    }

    /// How long the main loop may sleep before there is something to look at.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        let Some(since) = self.since else {
            // Held meanwhile for something else: what waits is due.
            return (!self.waiting.is_empty()).then_some(Duration::ZERO);
        };
        let word = (!self.said).then(|| since + WORTH_A_WORD);
        let deadline = [word, self.end_by].into_iter().flatten().min()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }
}

impl MainLoop {
    /// Holds the machine if that is a matter of milliseconds. If not, whoever asks puts aside what
    /// it was about to do; [`Self::look_at_held`] comes back to it.
    pub(crate) fn held_soon(&mut self) -> bool {
        if self.holding.given_up {
            return true;
        }
        let now = Instant::now();
        let until = match self.holding.since {
            None => now + PATIENCE,
            Some(_) => now,
        };
        if self.machine.hold_until(Some(until)) {
            self.holding.since = None;
            self.holding.said = false;
            return true;
        }
        self.holding.since.get_or_insert(now);
        false
    }

    /// Puts a client's request aside if the machine must be held for it and is not yet, or if others
    /// wait for that already: theirs come first.
    pub(crate) fn put_aside(&mut self, client: u32, request: Request) -> Option<Request> {
        let needs = crate::control::needs(&request.command);
        if needs == Needs::HeldToEnd {
            self.hurry();
        }
        let first = self.holding.given_up || self.holding.waiting.is_empty();
        if needs == Needs::Nothing || (first && self.held_soon()) {
            return Some(request);
        }
        let waiting = Waiting::Request(client, request);
        self.holding.waiting.push_back(waiting);
        None
    }

    /// Ends the machine as soon as it is held, or a little later.
    pub(crate) fn quit(&mut self, cause: ShutdownCause) {
        if self.ending.is_some() {
            return;
        }
        self.hurry();
        if self.held_soon() {
            self.must(Input::Quit(cause));
        } else {
            self.holding.waiting.push_back(Waiting::Quit(cause));
        }
    }

    /// The process is to end: from now on it waits for a bounded time, and the second time it is
    /// told so not at all.
    fn hurry(&mut self) {
        let now = Instant::now();
        let end_by = match self.holding.end_by {
            None => now + LAST_PATIENCE,
            Some(_) => now,
        };
        self.holding.end_by = Some(end_by);
        self.give_up_at(now);
    }

    fn give_up_at(&mut self, now: Instant) {
        let due = self.holding.end_by.is_some_and(|at| at <= now);
        if !due || self.holding.given_up || self.machine.is_held() {
            return;
        }
        let awaited = self.machine.awaited();
        log::warn!("ends without waiting any longer for {awaited}: requests to the host are lost");
        self.holding.given_up = true;
        self.holding.waiting.retain(|waiting| match waiting {
            Waiting::Request(_, request) => {
                crate::control::needs(&request.command) == Needs::HeldToEnd
            }
            Waiting::Quit(_) => true,
        });
    }

    /// Looks whether the machine is held by now, if anything waits for that, and carries out what
    /// was put aside, in order.
    pub(crate) fn look_at_held(&mut self) {
        let now = Instant::now();
        let since = match self.holding.since {
            Some(since) => since,
            None if self.holding.waiting.is_empty() => return,
            None => now,
        };
        self.give_up_at(now);
        if !self.held_soon() {
            if !self.holding.said && now >= since + WORTH_A_WORD {
                self.holding.said = true;
                let awaited = self.machine.awaited();
                log::warn!("waiting for {awaited}: the host has not answered its requests yet");
            }
            return;
        }
        // What the guest did before it was held comes first.
        self.guest_events();
        // What is carried out may let the guest go on: the rest holds it again.
        while self.ending.is_none() && !self.holding.waiting.is_empty() && self.held_soon() {
            match self.holding.waiting.pop_front() {
                None => break,
                Some(Waiting::Quit(cause)) => self.must(Input::Quit(cause)),
                Some(Waiting::Request(client, request)) => {
                    crate::control::execute(self, client, request);
                    self.commands(client);
                }
            }
        }
        self.settle();
    }

    /// Lets a guest go on that was held and has turned out to have no reason to stay.
    pub(crate) fn settle(&mut self) {
        let wanted = !self.holding.waiting.is_empty() || self.dump.active();
        if self.ending.is_none() && !wanted && lifecycle::runs(self.state) {
            self.machine.run();
        }
    }
}
