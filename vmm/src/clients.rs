//! The control sockets and who is connected to them. Owned by the main loop.
//!
//! Each client has its own session, its own named descriptors and its own bounds; nothing one
//! client does or leaves undone reaches another.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime};

use api_socket::qmp::error::QmpError;
use api_socket::qmp::event::{Event, EventLine, Timestamp};
use api_socket::qmp::session::{Reply, Request, Token as RequestToken};
use api_socket::qmp::socket::{Connection, Listener};
use api_socket::qmp::throttle::EventThrottle;

use crate::poller::{Interest, Poller, Token};

/// Most clients at a time; more wait in the sockets' backlogs.
const MAX_CLIENTS: usize = 64;

/// Most descriptors one client may keep with `getfd`.
const MAX_NAMED_FDS: usize = 64;

/// How long nobody is let in after a connection could not be accepted. The host may be out of
/// descriptors for a moment, and then nobody need ever leave to tell us that it has some again.
const PAUSE: Duration = Duration::from_millis(200);

/// How long the end of the process waits for clients to take what is addressed to them.
const FAREWELL: Duration = Duration::from_millis(200);

struct Client {
    connection: Connection,
    interest: Interest,
    named_fds: BTreeMap<String, OwnedFd>,
}

/// Every listener and client.
pub struct Clients {
    listeners: Vec<Listener>,
    clients: BTreeMap<u32, Client>,
    next_number: u32,
    throttle: EventThrottle,
    /// Whether the listeners are watched; not while [`MAX_CLIENTS`] are connected, nor for a while
    /// after a connection could not be accepted.
    listening: bool,
    /// When that while is over.
    listen_again: Option<Instant>,
}

impl Clients {
    /// Begins to watch `listeners`.
    ///
    /// # Errors
    /// What epoll answered.
    pub fn new(listeners: Vec<Listener>, poller: &Poller) -> io::Result<Self> {
        for (number, listener) in (0..).zip(&listeners) {
            poller.add(listener, Token::Listener(number), Interest::READ)?;
        }
        Ok(Self {
            listeners,
            clients: BTreeMap::new(),
            next_number: 0,
            throttle: EventThrottle::default(),
            listening: true,
            listen_again: None,
        })
    }

    /// Whether there is a control socket at all.
    #[must_use]
    pub fn any_socket(&self) -> bool {
        !self.listeners.is_empty()
    }

    /// Whether anybody is connected.
    #[must_use]
    pub fn any(&self) -> bool {
        !self.clients.is_empty()
    }

    /// Takes one connection from a listener that is ready.
    pub fn accept(&mut self, number: u32, poller: &Poller) {
        let Some(listener) = usize::try_from(number)
            .ok()
            .and_then(|n| self.listeners.get(n))
        else {
            return;
        };
        match listener.accept() {
            Ok(Some(connection)) => self.greet(connection, poller),
            Ok(None) => {}
            Err(error) => {
                devices::limited_warn!("cannot accept a control connection: {error}");
                self.set_listening(false, poller);
                self.listen_again = Some(Instant::now() + PAUSE);
            }
        }
    }

    fn greet(&mut self, connection: Connection, poller: &Poller) {
        let number = self.next_number;
        self.next_number = self.next_number.wrapping_add(1);
        if let Err(error) = poller.add(&connection, Token::Client(number), Interest::READ) {
            log::warn!("cannot watch a control connection: {error}");
            return;
        }
        let client = Client {
            connection,
            interest: Interest::READ,
            named_fds: BTreeMap::new(),
        };
        self.clients.insert(number, client);
        self.flush(number, poller);
        if self.clients.len() >= MAX_CLIENTS {
            self.set_listening(false, poller);
        }
    }

    fn set_listening(&mut self, on: bool, poller: &Poller) {
        if self.listening == on {
            return;
        }
        let interest = if on {
            Interest::READ
        } else {
            Interest::default()
        };
        for (number, listener) in (0..).zip(&self.listeners) {
            if let Err(error) = poller.modify(listener, Token::Listener(number), interest) {
                log::warn!("cannot change the watch on a control socket: {error}");
            }
        }
        self.listening = on;
    }

    /// Reads what a client has sent.
    pub fn receive(&mut self, number: u32, hung_up: bool, poller: &Poller) {
        let Some(client) = self.clients.get_mut(&number) else {
            return;
        };
        let failed = client.connection.receive().is_err();
        // A peer that closed its socket can send no more; one that is still owed something and
        // shut down its sending side only is served first.
        if failed || (hung_up && !client.connection.wants_read()) {
            self.drop_client(number, poller);
        }
    }

    /// The client's next command, if there is one to be carried out now.
    pub fn next_request(&mut self, number: u32) -> Option<Request> {
        self.clients
            .get_mut(&number)?
            .connection
            .session()
            .next_request()
    }

    /// Answers a command. A client that has gone meanwhile needs no answer.
    pub fn reply(&mut self, number: u32, token: RequestToken, result: Result<Reply, QmpError>) {
        if let Some(client) = self.clients.get_mut(&number) {
            client.connection.session().reply(token, result);
        }
    }

    /// Sends what a client is owed as far as it takes it, and drops it if it is done.
    pub fn flush(&mut self, number: u32, poller: &Poller) {
        let Some(client) = self.clients.get_mut(&number) else {
            return;
        };
        let failed = client.connection.transmit().is_err();
        if failed || client.connection.done() {
            self.drop_client(number, poller);
            return;
        }
        let interest = Interest {
            read: client.connection.wants_read(),
            write: client.connection.wants_write(),
        };
        if interest != client.interest {
            client.interest = interest;
            if let Err(error) = poller.modify(&client.connection, Token::Client(number), interest) {
                log::warn!("cannot change the watch on a control connection: {error}");
                self.drop_client(number, poller);
            }
        }
    }

    fn drop_client(&mut self, number: u32, poller: &Poller) {
        if let Some(client) = self.clients.remove(&number) {
            // Closing it would do as well; a copy of the descriptor elsewhere would keep it alive.
            drop(poller.remove(&client.connection));
            self.set_listening(true, poller);
        }
    }

    /// Tells every client, now or, if clients would be flooded, a second after the last of its
    /// kind.
    pub fn tell(&mut self, event: Event, poller: &Poller) {
        let timestamp = Timestamp::from(SystemTime::now());
        if let Some((event, timestamp)) = self.throttle.offer(event, timestamp, Instant::now()) {
            self.broadcast(&EventLine::new(&event, timestamp), poller);
        }
    }

    /// How long the main loop may sleep before [`Self::do_due`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        let throttled = self.throttle.next_deadline();
        let deadline = throttled.into_iter().chain(self.listen_again).min()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// Tells the events that were held back and are due, and lets clients in again.
    pub fn do_due(&mut self, poller: &Poller) {
        let now = Instant::now();
        if self.listen_again.is_some_and(|again| again <= now) {
            self.listen_again = None;
            self.set_listening(self.clients.len() < MAX_CLIENTS, poller);
        }
        for (event, timestamp) in self.throttle.due(now) {
            self.broadcast(&EventLine::new(&event, timestamp), poller);
        }
    }

    fn broadcast(&mut self, line: &EventLine, poller: &Poller) {
        let numbers: Vec<u32> = self.clients.keys().copied().collect();
        for number in numbers {
            if let Some(client) = self.clients.get_mut(&number) {
                client.connection.session().event(line);
            }
            self.flush(number, poller);
        }
    }

    /// Keeps a descriptor under a name, for one client; one of that name before is closed.
    ///
    /// # Errors
    /// When the client keeps too many.
    pub fn keep_fd(&mut self, number: u32, name: String, fd: OwnedFd) -> Result<(), QmpError> {
        let Some(client) = self.clients.get_mut(&number) else {
            return Ok(());
        };
        if client.named_fds.len() >= MAX_NAMED_FDS && !client.named_fds.contains_key(&name) {
            return Err(QmpError::generic(format_args!(
                "At most {MAX_NAMED_FDS} descriptors can be kept; close one first"
            )));
        }
        client.named_fds.insert(name, fd);
        Ok(())
    }

    /// Gives a named descriptor up.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn take_fd(&mut self, number: u32, name: &str) -> Result<OwnedFd, QmpError> {
        self.clients
            .get_mut(&number)
            .and_then(|client| client.named_fds.remove(name))
            .ok_or_else(|| QmpError::fd_not_found(name))
    }

    /// Sends what is still owed, for a bounded time: the last reply is the one to `quit`.
    pub fn farewell(&mut self, poller: &Poller) {
        let deadline = Instant::now() + FAREWELL;
        loop {
            let numbers: Vec<u32> = self.clients.keys().copied().collect();
            for &number in &numbers {
                self.flush(number, poller);
            }
            let owed = self
                .clients
                .values()
                .any(|client| client.connection.wants_write());
            let left = deadline.saturating_duration_since(Instant::now());
            if !owed || left.is_zero() || poller.wait(Some(left)).is_err() {
                return;
            }
        }
    }
}
