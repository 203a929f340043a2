//! What the event loop does for a character device: clients, input, and output that waits.
//!
//! Main thread only. Nothing here blocks, so all of it is tried at each call.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::escape::{EscapeFilter, HELP, Key};
use super::host_fd::HostFd;
use super::{Activity, Chardev, MASTER, Peer, Port, PtySlave};
use crate::legacy::serial::SerialBackend;
use crate::limited_warn;

/// Bytes read from the host at once.
const READ_LEN: usize = 4096;

/// Input kept for a guest that does not read: what was typed while Ctrl-A must still be seen, and
/// the last words of a client that is gone.
const HELD_LEN: usize = 64 << 10;

/// Clients accepted in one call: enough for any burst of clients that are gone already, bounded so
/// that such a burst cannot keep the main loop here.
const ACCEPTS: usize = 16;

/// What a read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// The other side sends no more.
    End,
}

impl Chardev {
    /// Does what there is to do at time `now`, and appends at most `room` bytes of input to
    /// `input`: as many as the chip said it takes.
    pub fn process(&mut self, now: Instant, room: usize, input: &mut Vec<u8>) -> Activity {
        self.shared.woken();
        let mut activity = Activity::default();
        {
            let mut outbound = self.shared.outbound();
            let flushed = outbound.is_waiting() && outbound.flush();
            activity.output_drained = flushed || outbound.expire(now);
        }
        match &self.port {
            Port::Mute { .. } => {}
            Port::Stdio { .. } => self.read_stdio(room, &mut activity),
            Port::Pty { .. } => self.serve_pty(room, &mut activity),
            Port::Socket { .. } => self.serve_socket(room, &mut activity),
        }
        let delivered = room.min(self.held.len());
        input.extend(self.held.drain(..delivered));
        self.input_wanted = delivered < room;
        if self.input_wanted && self.more_without_waiting() {
            self.shared.wake();
        }
        activity
    }

    /// Whether there is input that no watched descriptor will tell of.
    fn more_without_waiting(&self) -> bool {
        matches!(&self.port, Port::Stdio { input: Some(input), .. } if !input.is_pollable())
    }

    /// How many bytes of input are worth reading now. From a terminal always some: Ctrl-A x must
    /// work on a guest that reads nothing.
    fn read_allowance(&self, room: usize) -> usize {
        match (&self.escape, self.held.is_empty()) {
            (Some(_), _) => READ_LEN,
            (None, true) => room.min(READ_LEN),
            (None, false) => 0,
        }
    }

    fn read_stdio(&mut self, room: usize, activity: &mut Activity) {
        let allowance = self.read_allowance(room);
        let Port::Stdio {
            input: Some(input), ..
        } = &self.port
        else {
            return;
        };
        let mut buffer = [0; READ_LEN];
        match read_some(input, &mut buffer, allowance) {
            Found::Nothing => {}
            Found::Bytes(count) => {
                self.take_in(buffer.get(..count).unwrap_or_default(), activity);
            }
            Found::End => {
                if let Port::Stdio { input, .. } = &mut self.port {
                    *input = None;
                }
            }
        }
    }

    fn serve_pty(&mut self, room: usize, activity: &mut Activity) {
        if let Port::Pty {
            master,
            slave,
            peer,
            ..
        } = &mut self.port
        {
            if let PtySlave::Watched(opens) = slave {
                // That somebody opened it is all there is to know, and polling tells it better.
                let mut events = [0; 4096];
                while rustix::io::read(&*opens, &mut events).is_ok_and(|count| count > 0) {}
            }
            if peer.is_none() && !master.is_hung_up() {
                self.shared.outbound().attach(Arc::clone(master));
                *peer = Some(Peer {
                    id: MASTER,
                    fd: Arc::clone(master),
                    ended: false,
                });
            }
        }
        self.serve_peer(room, activity);
    }

    fn serve_socket(&mut self, room: usize, activity: &mut Activity) {
        for _ in 0..ACCEPTS {
            if matches!(&self.port, Port::Socket { peer: None, .. }) && !self.accept() {
                return;
            }
            if !self.serve_peer(room, activity) {
                return;
            }
        }
        // More are waiting; others of the main loop first.
        self.shared.wake();
    }

    /// Takes the next client. Returns whether there was one.
    fn accept(&mut self) -> bool {
        let Port::Socket { listener, peer, .. } = &mut self.port else {
            return false;
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let client = match accept_with(&*listener, flags)
            .map_err(Into::into)
            .and_then(HostFd::own)
        {
            Ok(client) => Arc::new(client),
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    limited_warn!("{}: cannot take a client: {error}", self.label);
                }
                return false;
            }
        };
        self.shared.outbound().attach(Arc::clone(&client));
        *peer = Some(Peer {
            id: self.next_client,
            fd: client,
            ended: false,
        });
        self.next_client += 1;
        true
    }

    /// Reads from the peer, and lets it go when it is gone. Returns whether it was.
    fn serve_peer(&mut self, room: usize, activity: &mut Activity) -> bool {
        let (Port::Pty {
            peer: Some(peer), ..
        }
        | Port::Socket {
            peer: Some(peer), ..
        }) = &self.port
        else {
            return false;
        };
        let (fd, mut ended) = (Arc::clone(&peer.fd), peer.ended);
        // Asked first: what it sent before it went is then all there to be read.
        let gone = fd.is_hung_up();
        let mut buffer = [0; READ_LEN];
        let mut allowance = self.read_allowance(room);
        while !ended {
            if gone {
                allowance = HELD_LEN.saturating_sub(self.held.len());
            }
            match read_some(&fd, &mut buffer, allowance) {
                Found::Bytes(count) => {
                    self.take_in(buffer.get(..count).unwrap_or_default(), activity);
                }
                Found::Nothing => break,
                Found::End => ended = true,
            }
            if !gone {
                break;
            }
        }
        match &mut self.port {
            Port::Pty { peer, .. } | Port::Socket { peer, .. } if gone => {
                *peer = None;
                self.shared.outbound().detach();
                activity.output_drained = true;
            }
            // A pty does not end but hangs up, and another user may open it right after.
            Port::Socket {
                peer: Some(peer), ..
            } => peer.ended = ended,
            _ => {}
        }
        gone
    }

    /// Takes in what was read: through the escape filter, and as far as there is room to hold it.
    fn take_in(&mut self, bytes: &[u8], activity: &mut Activity) {
        for byte in bytes {
            let key = self
                .escape
                .as_mut()
                .map_or(Key::Guest(*byte), |f: &mut EscapeFilter| f.key(*byte));
            match key {
                Key::Guest(byte) if self.held.len() < HELD_LEN => self.held.push_back(byte),
                // A terminal outran a guest that does not read.
                Key::Guest(_) | Key::Swallowed => {}
                Key::Quit => activity.quit = true,
                Key::Help => self.show_help(),
            }
        }
    }

    fn show_help(&self) {
        let mut output = self.output();
        // Behind a terminal that is stuck there is nobody to help.
        if output.room() > 2 * HELP.len() {
            HELP.iter().for_each(|byte| output.put(*byte));
        }
    }
}

fn read_some(fd: &HostFd, buffer: &mut [u8], allowance: usize) -> Found {
    let len = allowance.min(buffer.len());
    let Some(buffer) = buffer.get_mut(..len).filter(|buffer| !buffer.is_empty()) else {
        return Found::Nothing;
    };
    match fd.read(buffer) {
        Ok(0) => Found::End,
        Ok(count) => Found::Bytes(count),
        Err(Errno::AGAIN) => Found::Nothing,
        // A terminal that hung up, a pty without users, a reset connection.
        Err(_) => Found::End,
    }
}
