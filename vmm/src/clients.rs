//! The control sockets and who is connected to them. Owned by the main loop.
//!
//! Each client has its own session, its own named descriptors and its own bounds; nothing one
//! client does or leaves undone reaches another.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

use api_socket::qmp::error::QmpError;
use api_socket::qmp::event::{Event, EventLine, Timestamp};
use api_socket::qmp::session::{Reply, Request, Token as RequestToken};
use api_socket::qmp::socket::{Connection, Listener};
use api_socket::qmp::throttle::EventThrottle;
use devices::limited_warn;

use crate::poller::{Interest, Poller, Token, wait_writable};

/// Most clients at a time; more wait in the sockets' backlogs.
const MAX_CLIENTS: usize = 64;

/// Most descriptors one client may keep with `getfd`.
const MAX_NAMED_FDS: usize = 64;

/// How long nobody is let in after that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

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
    /// Whether the listeners are watched; not while [`MAX_CLIENTS`] are connected, nor after a
    /// failure until `listen_at`.
    listening: bool,
    listen_at: Option<Instant>,
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
            listen_at: None,
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
                let why = crate::chain::text(&error);
                limited_warn!("cannot accept a control connection: {why}");
                self.pause_listening(Instant::now(), poller);
            }
        }
    }

    /// Out of descriptors or memory: who waits is let in when somebody leaves, or a little later.
    /// The one who waits would else wake the main loop for ever.
    fn pause_listening(&mut self, now: Instant, poller: &Poller) {
        self.set_listening(false, poller);
        self.listen_at = Some(now + ACCEPT_PAUSE);
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
        self.listen_at = None;
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

    /// How long the main loop may sleep before [`Self::catch_up`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        let deadlines = [self.throttle.next_deadline(), self.listen_at];
        let deadline = deadlines.into_iter().flatten().min()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// Does what is due at `now`: tells the events that were held back, listens again.
    pub fn catch_up(&mut self, now: Instant, poller: &Poller) {
        for (event, timestamp) in self.throttle.due(now) {
            self.broadcast(&EventLine::new(&event, timestamp), poller);
        }
        if self.listen_at.is_some_and(|at| at <= now) {
            self.set_listening(true, poller);
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
            let connections = self.clients.values().map(|client| &client.connection);
            let owed: Vec<_> = connections
                .filter(|connection| connection.wants_write())
                .map(AsFd::as_fd)
                .collect();
            let left = deadline.saturating_duration_since(Instant::now());
            if owed.is_empty() || left.is_zero() || wait_writable(owed, left).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    /// A control socket and a main loop's view of it.
    struct Rig {
        dir: tempfile::TempDir,
        poller: Poller,
        clients: Clients,
    }

    impl Rig {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let listener = Listener::bind(&dir.path().join("qmp")).unwrap();
            let poller = Poller::new().unwrap();
            let clients = Clients::new(vec![listener], &poller).unwrap();
            Self {
                dir,
                poller,
                clients,
            }
        }

        fn connect(&self) -> UnixStream {
            UnixStream::connect(self.dir.path().join("qmp")).unwrap()
        }

        /// Serves what is ready, as the main loop does, but for commands, of which there must be none.
        fn turn(&mut self) {
            loop {
                let ready = self.poller.wait(Some(Duration::ZERO)).unwrap();
                if ready.is_empty() {
                    return;
                }
                for ready in ready {
                    match ready.token {
                        Token::Listener(number) => self.clients.accept(number, &self.poller),
                        Token::Client(number) => {
                            self.clients.receive(number, ready.hung_up, &self.poller);
                            assert!(self.clients.next_request(number).is_none());
                            self.clients.flush(number, &self.poller);
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
    }

    impl Clients {
        fn owes(&self) -> bool {
            let mut clients = self.clients.values();
            clients.any(|client| client.connection.wants_write())
        }
    }

    fn some_fd() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn as_many_as_there_is_room_for_get_in_and_the_next_when_one_leaves() {
        let mut rig = Rig::new();
        let mut streams = Vec::new();
        for _ in 0..MAX_CLIENTS {
            streams.push(rig.connect());
            rig.turn();
        }
        let mut late = rig.connect();
        late.set_nonblocking(true).unwrap();
        rig.turn();
        assert_eq!(rig.clients.clients.len(), MAX_CLIENTS);
        assert!(late.read(&mut [0]).is_err(), "nobody greets it yet");
        streams.pop();
        rig.turn();
        assert_eq!(rig.clients.clients.len(), MAX_CLIENTS);
        assert_eq!(late.read(&mut [0]).unwrap(), 1, "the greeting");
    }

    #[test]
    fn after_a_failure_listeners_are_watched_again_though_nobody_leaves() {
        let mut rig = Rig::new();
        let failed = Instant::now();
        rig.clients.pause_listening(failed, &rig.poller);
        let _waiting = rig.connect();
        rig.turn();
        assert!(rig.clients.clients.is_empty());
        let left = rig.clients.next_deadline().unwrap();
        assert!(left <= ACCEPT_PAUSE);
        rig.clients.catch_up(failed, &rig.poller);
        rig.turn();
        assert!(rig.clients.clients.is_empty());
        rig.clients.catch_up(failed + ACCEPT_PAUSE, &rig.poller);
        rig.turn();
        assert_eq!(rig.clients.clients.len(), 1);
        assert_eq!(rig.clients.next_deadline(), None);
    }

    #[test]
    fn named_descriptors_are_bounded_and_go_with_their_client() {
        let mut rig = Rig::new();
        let stream = rig.connect();
        rig.turn();
        let clients = &mut rig.clients;
        for number in 0..MAX_NAMED_FDS {
            clients
                .keep_fd(0, format!("fd{number}"), some_fd())
                .unwrap();
        }
        clients
            .keep_fd(0, "one-more".into(), some_fd())
            .unwrap_err();
        clients.keep_fd(0, "fd0".into(), some_fd()).unwrap();
        clients.take_fd(0, "fd0").unwrap();
        clients.take_fd(0, "fd0").unwrap_err();
        clients.keep_fd(0, "one-more".into(), some_fd()).unwrap();
        drop(stream);
        rig.turn();
        rig.clients.take_fd(0, "one-more").unwrap_err();
    }

    #[test]
    fn what_is_owed_at_the_end_is_sent_to_who_reads() {
        let mut rig = Rig::new();
        let mut reading = rig.connect();
        rig.turn();
        reading
            .write_all(b"{\"execute\":\"qmp_capabilities\"}")
            .unwrap();
        rig.turn();
        let mut told = 0;
        while !rig.clients.owes() {
            assert!(told < 100_000, "a socket holds less");
            rig.clients.tell(Event::Powerdown, &rig.poller);
            told += 1;
        }
        // Who waits to be let in makes the end neither spin nor wait.
        let _waiting = rig.connect();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            reading.read_to_string(&mut text).unwrap();
            text
        });
        rig.clients.farewell(&rig.poller);
        assert!(!rig.clients.owes());
        drop(rig);
        assert_eq!(reader.join().unwrap().matches("POWERDOWN").count(), told);
    }
}
