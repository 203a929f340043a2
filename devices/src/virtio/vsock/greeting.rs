//! The line with which a host peer says where it wants to go: `CONNECT <port>` and a line end.

/// Bytes within which the line must end: twenty, and some room for blanks.
pub(super) const LINE_MAX: usize = 32;

/// What the beginning of a peer's data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greeting {
    /// The line, of `length` bytes with its end, asks for `port`.
    Port {
        /// The guest's port.
        port: u32,
        /// Bytes to be taken.
        length: usize,
    },
    /// Not all of it is there.
    Incomplete,
    /// Something else.
    Wrong,
}

/// Reads what has arrived, [`LINE_MAX`] bytes of it at most.
pub(super) fn read(bytes: &[u8]) -> Greeting {
    let bytes = bytes.get(..LINE_MAX).unwrap_or(bytes);
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        return if bytes.len() < LINE_MAX {
            Greeting::Incomplete
        } else {
            Greeting::Wrong
        };
    };
    let line = bytes.get(..end).unwrap_or_default();
    let words = std::str::from_utf8(line).unwrap_or_default();
    let mut words = words.split_ascii_whitespace();
    let command = words.next().unwrap_or_default();
    let port = words.next().unwrap_or_default();
    // `parse` alone would take a sign.
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse() {
        Ok(port) if digits && command.eq_ignore_ascii_case("connect") && words.next().is_none() => {
            Greeting::Port {
                port,
                length: end + 1,
            }
        }
        _ => Greeting::Wrong,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_line_is_taken() {
        for (bytes, port, length) in [
            (&b"CONNECT 52\n"[..], 52, 11),
            (b"CONNECT 52\nCONNECT 53\n", 52, 11),
            (b"connect 4294967295\r\n", u32::MAX, 20),
            (b"CONNECT 0\n", 0, 10),
        ] {
            assert_eq!(read(bytes), Greeting::Port { port, length });
        }
        for bytes in [&b""[..], b"C", b"CONNECT 52", b"\0\0"] {
            assert_eq!(read(bytes), Greeting::Incomplete);
        }
        for bytes in [
            &b"\n"[..],
            b"CONNECT\n",
            b"CONNECT x\n",
            b"CONNECT -1\n",
            b"CONNECT +1\n",
            b"CONNECT 4294967296\n",
            b"CONNECT 1 2\n",
            b"HELLO 1\n",
            b"\xff\xff 1\n",
            b"CONNECT 00000000000000000000000000000001\n",
            &[b'A'; LINE_MAX],
            &[b'A'; 1000],
        ] {
            assert_eq!(read(bytes), Greeting::Wrong);
        }
    }
}
