//! What a descriptor chain asks of the block device (virtio 1.2, 5.2.6). Validation only: nothing
//! is read from or written to a disk here.
//!
//! A request has a 16-byte header in its readable part, data, and a status byte at the end of its
//! writable part; how they are cut into descriptors does not matter. Three things can be wrong:
//!
//! * there is no header or no place for the status: the driver is broken ([`Malformed`]);
//! * it asks for what cannot be: answered with a status, without touching the disk ([`Refused`]);
//! * the disk fails: the worker's business.

use super::config::{F_DISCARD, F_WRITE_ZEROES, MAX_DISCARD_SECTORS, MAX_WRITE_ZEROES_SECTORS};
use super::stats::OpKind;
use crate::disk::{Geometry, SECTOR_SIZE};
use crate::io_thread::Fault;
use crate::memory::GuestMemory;
use crate::virtio::chain::{ChainBuffers, Reader, Writer};

/// Request types (5.2.6).
pub const T_IN: u32 = 0;
/// Write.
pub const T_OUT: u32 = 1;
/// Flush.
pub const T_FLUSH: u32 = 4;
/// Read the serial number.
pub const T_GET_ID: u32 = 8;
/// Discard.
pub const T_DISCARD: u32 = 11;
/// Write zeroes.
pub const T_WRITE_ZEROES: u32 = 13;

/// Status byte (5.2.6): success.
pub const S_OK: u8 = 0;
/// Status byte: it failed.
pub const S_IOERR: u8 = 1;
/// Status byte: the device does not do that.
pub const S_UNSUPP: u8 = 2;

/// Flag of a write-zeroes range: the space may be given back.
const RANGE_F_UNMAP: u32 = 1;
/// Bytes of a header.
pub const HEADER_LEN: usize = 16;
/// Bytes of a discard or write-zeroes range.
const RANGE_LEN: u32 = 16;

/// What a request is checked against.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The disk.
    pub geometry: Geometry,
    /// The negotiated features.
    pub features: u64,
}

/// A chain that cannot even be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The readable part is shorter than a header.
    #[error("a block request without a header")]
    NoHeader,
    /// There is no writable byte.
    #[error("a block request without room for its status")]
    NoStatus,
}

impl From<Malformed> for Fault {
    fn from(error: Malformed) -> Self {
        Self::new(&error)
    }
}

/// A request that gets its answer without the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// [`S_IOERR`] or [`S_UNSUPP`].
    pub status: u8,
    /// What it would have been, if the device knows its type.
    pub kind: Option<OpKind>,
}

/// What to do, checked.
#[derive(Debug, Clone, Copy)]
pub enum Command<'a> {
    /// Something the disk does.
    Disk(DiskCommand<'a>),
    /// Copy the serial number into `data`.
    GetId {
        /// Where to.
        data: Writer<'a>,
    },
}

/// What the disk is to do. Offsets and lengths are in bytes, multiples of the block size, and inside
/// the disk.
#[derive(Debug, Clone, Copy)]
pub enum DiskCommand<'a> {
    /// Read into `data`.
    Read {
        /// First byte on the disk.
        offset: u64,
        /// Where to.
        data: Writer<'a>,
    },
    /// Write from `data`.
    Write {
        /// First byte on the disk.
        offset: u64,
        /// Where from.
        data: Reader<'a>,
    },
    /// Flush.
    Flush,
    /// Discard.
    Discard {
        /// First byte on the disk.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Write zeroes.
    WriteZeroes {
        /// First byte on the disk.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Whether the space may be given back.
        unmap: bool,
    },
}

/// A request that can be answered.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Guest-physical address of the status byte.
    pub status: u64,
    /// What it asks for.
    pub command: Result<Command<'a>, Refused>,
}

/// Reads a request from a chain.
///
/// # Errors
/// [`Malformed`].
pub fn parse<'a>(
    chain: &'a ChainBuffers,
    memory: &'a GuestMemory,
    limits: &Limits,
) -> Result<Request<'a>, Malformed> {
    let mut readable = chain.readable(memory);
    let mut header = [0; HEADER_LEN];
    readable
        .read(&mut header)
        .map_err(|_| Malformed::NoHeader)?;
    let mut status = chain.writable(memory);
    let data_len = status
        .remaining()
        .checked_sub(1)
        .ok_or(Malformed::NoStatus)?;
    let writable = status.take(data_len).map_err(|_| Malformed::NoStatus)?;
    let status = status.address().map_err(|_| Malformed::NoStatus)?;
    let [t0, t1, t2, t3, _, _, _, _, s0, s1, s2, s3, s4, s5, s6, s7] = header;
    let header = Header {
        kind: u32::from_le_bytes([t0, t1, t2, t3]),
        sector: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
    };
    Ok(Request {
        status,
        command: command(header, readable, writable, limits),
    })
}

#[derive(Clone, Copy)]
struct Header {
    kind: u32,
    sector: u64,
}

fn command<'a>(
    header: Header,
    readable: Reader<'a>,
    writable: Writer<'a>,
    limits: &Limits,
) -> Result<Command<'a>, Refused> {
    match header.kind {
        T_IN => {
            let kind = OpKind::Read;
            if readable.remaining() != 0 {
                return Err(io_error(kind));
            }
            let offset = limits.range(kind, header.sector, u64::from(writable.remaining()))?;
            Ok(Command::Disk(DiskCommand::Read {
                offset,
                data: writable,
            }))
        }
        T_OUT => {
            let kind = OpKind::Write;
            limits.writable(kind)?;
            let offset = limits.range(kind, header.sector, u64::from(readable.remaining()))?;
            Ok(Command::Disk(DiskCommand::Write {
                offset,
                data: readable,
            }))
        }
        T_FLUSH => Ok(Command::Disk(DiskCommand::Flush)),
        T_GET_ID => Ok(Command::GetId { data: writable }),
        T_DISCARD if limits.features & F_DISCARD != 0 => {
            let kind = OpKind::Unmap;
            let range = limits.zone(kind, readable, MAX_DISCARD_SECTORS)?;
            if range.flags != 0 {
                return Err(Refused {
                    status: S_UNSUPP,
                    kind: Some(kind),
                });
            }
            Ok(Command::Disk(DiskCommand::Discard {
                offset: range.offset,
                len: range.len,
            }))
        }
        T_WRITE_ZEROES if limits.features & F_WRITE_ZEROES != 0 => {
            let kind = OpKind::Write;
            let range = limits.zone(kind, readable, MAX_WRITE_ZEROES_SECTORS)?;
            if range.flags & !RANGE_F_UNMAP != 0 {
                return Err(Refused {
                    status: S_UNSUPP,
                    kind: Some(kind),
                });
            }
            let unmap = range.flags & RANGE_F_UNMAP != 0;
            Ok(Command::Disk(DiskCommand::WriteZeroes {
                offset: range.offset,
                len: range.len,
                unmap,
            }))
        }
        _ => Err(Refused {
            status: S_UNSUPP,
            kind: None,
        }),
    }
}

fn io_error(kind: OpKind) -> Refused {
    Refused {
        status: S_IOERR,
        kind: Some(kind),
    }
}

/// A discard or write-zeroes range.
struct Range {
    offset: u64,
    len: u64,
    flags: u32,
}

impl Limits {
    fn writable(&self, kind: OpKind) -> Result<(), Refused> {
        if self.geometry.read_only {
            Err(io_error(kind))
        } else {
            Ok(())
        }
    }

    /// The first byte of `len` bytes at `sector`, if they are blocks of the disk.
    fn range(&self, kind: OpKind, sector: u64, len: u64) -> Result<u64, Refused> {
        let Geometry {
            capacity,
            block_size,
            ..
        } = self.geometry;
        let block = u64::from(block_size);
        let offset = sector.checked_mul(SECTOR_SIZE);
        offset
            .filter(|at| at.is_multiple_of(block) && len.is_multiple_of(block))
            .filter(|at| at.checked_add(len).is_some_and(|end| end <= capacity))
            .ok_or(io_error(kind))
    }

    /// The one range that a discard or write-zeroes request names (5.2.6).
    fn zone(&self, kind: OpKind, mut data: Reader<'_>, most: u32) -> Result<Range, Refused> {
        self.writable(kind)?;
        if data.remaining() > RANGE_LEN {
            // More ranges than the configuration space says.
            return Err(Refused {
                status: S_UNSUPP,
                kind: Some(kind),
            });
        }
        let mut raw = [0; RANGE_LEN as usize];
        data.read(&mut raw).map_err(|_| io_error(kind))?;
        let [
            s0,
            s1,
            s2,
            s3,
            s4,
            s5,
            s6,
            s7,
            n0,
            n1,
            n2,
            n3,
            f0,
            f1,
            f2,
            f3,
        ] = raw;
        let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        // No backend takes an empty range, and no driver sends one.
        if sectors == 0 || sectors > most {
            return Err(io_error(kind));
        }
        let len = u64::from(sectors) * SECTOR_SIZE;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        Ok(Range {
            offset: self.range(kind, sector, len)?,
            len,
            flags,
        })
    }
}
