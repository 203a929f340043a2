//! The host's end of the testbed's command port; tests/testbed/init is the other and describes the
//! protocol.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use crate::wait::{self, Deadline};

/// What a command said and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// stdout and stderr.
    pub output: Vec<u8>,
    /// Its exit status.
    pub status: i32,
}

impl Reply {
    /// The output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }
}

/// The connected port.
pub(super) struct Channel {
    stream: UnixStream,
    buffer: Vec<u8>,
    commands: u64,
}

impl Channel {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            commands: 0,
        }
    }

    /// Waits for the unasked first reply.
    pub(super) fn wait_ready(&mut self, deadline: Deadline) -> io::Result<()> {
        self.reply("ready", deadline).map(drop)
    }

    /// Runs one line of shell.
    pub(super) fn command(&mut self, line: &str, deadline: Deadline) -> io::Result<Reply> {
        self.request(line, &[], deadline)
    }

    /// Writes a file.
    pub(super) fn put(
        &mut self,
        path: &str,
        content: &[u8],
        deadline: Deadline,
    ) -> io::Result<Reply> {
        self.request(&format!("@put {} {path}", content.len()), content, deadline)
    }

    fn request(&mut self, line: &str, payload: &[u8], deadline: Deadline) -> io::Result<Reply> {
        if line.contains('\n') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a command is one line",
            ));
        }
        self.commands += 1;
        // Not to be found in the output of a command, nor in that of one which came too late.
        let token = format!("{}-{}", std::process::id(), self.commands);
        // Zero would mean for ever.
        self.stream.set_write_timeout(Some(
            deadline.left().max(std::time::Duration::from_millis(1)),
        ))?;
        self.stream
            .write_all(format!("{token}\n{line}\n").as_bytes())?;
        self.stream.write_all(payload)?;
        self.reply(&token, deadline)
    }

    /// Everything up to `LF @@TOKEN rc=N LF`.
    fn reply(&mut self, token: &str, deadline: Deadline) -> io::Result<Reply> {
        let marker = format!("\n@@{token} rc=");
        let mut searched = 0;
        loop {
            if let Some(reply) = self.take_reply(marker.as_bytes(), searched) {
                return Ok(reply);
            }
            searched = self.buffer.len().saturating_sub(marker.len() + 16);
            match wait::readable([self.stream.as_fd()], deadline)? {
                [true] if wait::read_some(&self.stream, &mut self.buffer)? => {}
                [true] => return Err(io::ErrorKind::UnexpectedEof.into()),
                [false] => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }

    /// The reply, once its last line is complete.
    fn take_reply(&mut self, marker: &[u8], searched: usize) -> Option<Reply> {
        let unseen = self.buffer.get(searched..)?;
        let at = searched
            + unseen
                .windows(marker.len())
                .position(|part| part == marker)?;
        let tail = self.buffer.get(at + marker.len()..)?;
        let length = tail.iter().position(|byte| *byte == b'\n')?;
        let status = String::from_utf8_lossy(tail.get(..length)?)
            .parse()
            .unwrap_or(-1);
        let rest = self.buffer.split_off(at + marker.len() + length + 1);
        let mut output = std::mem::replace(&mut self.buffer, rest);
        output.truncate(at);
        Some(Reply { output, status })
    }

    /// What has come and belongs to no reply yet, for a failure's text.
    pub(super) fn unanswered(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn answered(bytes: &[u8]) -> io::Result<Reply> {
        let (ours, mut theirs) = UnixStream::pair()?;
        theirs.write_all(bytes)?;
        let mut channel = Channel::new(ours);
        channel.command("true", Deadline::after(Duration::from_millis(20)))
    }

    fn token() -> String {
        format!("{}-1", std::process::id())
    }

    #[test]
    fn output_may_be_any_bytes() {
        let mut bytes = b"\n@@other rc=0\n\xFF\0\n".to_vec();
        let wanted = bytes.clone();
        bytes.extend(format!("\n@@{} rc=7\n", token()).as_bytes());
        assert_eq!(
            answered(&bytes).unwrap(),
            Reply {
                output: wanted,
                status: 7
            }
        );
    }

    #[test]
    fn no_reply_is_an_error() {
        let half = format!("out\n@@{} rc=1", token());
        assert_eq!(
            answered(half.as_bytes()).unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
    }

    #[test]
    fn a_command_of_two_lines_is_refused() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut channel = Channel::new(ours);
        assert!(
            channel
                .command("a\nb", Deadline::after(Duration::ZERO))
                .is_err()
        );
    }
}
