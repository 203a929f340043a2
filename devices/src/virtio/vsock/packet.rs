//! Packets of the socket device (virtio 1.2, 5.10.6): a header of 44 bytes, and data after it.

/// Bytes of a header.
pub const HEADER_LEN: u32 = 44;
/// The same, for arrays.
const HEADER_BYTES: usize = HEADER_LEN as usize;

/// The host's address (5.10.4).
pub const HOST_CID: u64 = 2;

/// Socket type (5.10.6): a stream of bytes.
pub const TYPE_STREAM: u16 = 1;
/// Socket type (5.10.6): a sequence of messages.
pub const TYPE_SEQPACKET: u16 = 2;

/// Operation (5.10.6): asks for a connection.
pub const OP_REQUEST: u16 = 1;
/// Operation (5.10.6): accepts it.
pub const OP_RESPONSE: u16 = 2;
/// Operation (5.10.6): there is no connection, or no longer.
pub const OP_RST: u16 = 3;
/// Operation (5.10.6): ends one direction, or both.
pub const OP_SHUTDOWN: u16 = 4;
/// Operation (5.10.6): carries data.
pub const OP_RW: u16 = 5;
/// Operation (5.10.6): says how much room there is.
pub const OP_CREDIT_UPDATE: u16 = 6;
/// Operation (5.10.6): asks how much room there is.
pub const OP_CREDIT_REQUEST: u16 = 7;

/// Flag of a shutdown (5.10.6.6.1): the sender will receive no more.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// Flag of a shutdown (5.10.6.6.1): the sender will send no more.
pub const SHUTDOWN_SEND: u32 = 2;
/// Both flags of a shutdown.
pub const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// Flag of data in a sequence of messages (5.10.6.6.2): the message ends with it.
pub const SEQ_END_OF_MESSAGE: u32 = 1;

/// Event (5.10.6.7): all connections are gone, and the address may be another.
pub const EVENT_TRANSPORT_RESET: u32 = 0;

/// A packet's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// The sender's address.
    pub src_cid: u64,
    /// The receiver's address.
    pub dst_cid: u64,
    /// The sender's port.
    pub src_port: u32,
    /// The receiver's port.
    pub dst_port: u32,
    /// Bytes of data after the header.
    pub len: u32,
    /// Socket type.
    pub kind: u16,
    /// Operation.
    pub op: u16,
    /// The operation's flags.
    pub flags: u32,
    /// Bytes of room the sender has for the connection in all.
    pub buf_alloc: u32,
    /// Bytes the sender has consumed in all, modulo 2³².
    pub fwd_cnt: u32,
}

impl Header {
    /// As it lies in memory.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let Self {
            src_cid,
            dst_cid,
            src_port,
            dst_port,
            len,
            kind,
            op,
            flags,
            buf_alloc,
            fwd_cnt,
        } = *self;
        let mut bytes = [0; HEADER_BYTES];
        let fields = src_cid
            .to_le_bytes()
            .into_iter()
            .chain(dst_cid.to_le_bytes())
            .chain(src_port.to_le_bytes())
            .chain(dst_port.to_le_bytes())
            .chain(len.to_le_bytes())
            .chain(kind.to_le_bytes())
            .chain(op.to_le_bytes())
            .chain(flags.to_le_bytes())
            .chain(buf_alloc.to_le_bytes())
            .chain(fwd_cnt.to_le_bytes());
        for (byte, value) in bytes.iter_mut().zip(fields) {
            *byte = value;
        }
        bytes
    }

    /// From memory. Every pattern of bits is a header; what it says is for others to judge.
    #[must_use]
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Self {
        let mut rest = &bytes[..];
        Self {
            src_cid: u64::from_le_bytes(take(&mut rest)),
            dst_cid: u64::from_le_bytes(take(&mut rest)),
            src_port: u32::from_le_bytes(take(&mut rest)),
            dst_port: u32::from_le_bytes(take(&mut rest)),
            len: u32::from_le_bytes(take(&mut rest)),
            kind: u16::from_le_bytes(take(&mut rest)),
            op: u16::from_le_bytes(take(&mut rest)),
            flags: u32::from_le_bytes(take(&mut rest)),
            buf_alloc: u32::from_le_bytes(take(&mut rest)),
            fwd_cnt: u32::from_le_bytes(take(&mut rest)),
        }
    }
}

/// Takes the next bytes; the array above has them.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let Some((first, later)) = rest.split_first_chunk() else {
        return [0; N];
    };
    *rest = later;
    *first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_laid_out_as_the_standard_says() {
        let header = Header {
            src_cid: 0x0706_0504_0302_0100,
            dst_cid: 0x0f0e_0d0c_0b0a_0908,
            src_port: 0x1312_1110,
            dst_port: 0x1716_1514,
            len: 0x1b1a_1918,
            kind: 0x1d1c,
            op: 0x1f1e,
            flags: 0x2322_2120,
            buf_alloc: 0x2726_2524,
            fwd_cnt: 0x2b2a_2928,
        };
        let bytes: Vec<u8> = (0..44).collect();
        assert_eq!(header.encode()[..], bytes);
        assert_eq!(Header::decode(&header.encode()), header);
    }
}
