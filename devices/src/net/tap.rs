//! Linux's tap devices (`Documentation/networking/tuntap.rst`, `include/uapi/linux/if_tun.h`): one
//! descriptor per queue, one frame per `readv` and `writev`, straight from and to guest memory.
//!
//! Macvtap descriptors answer the same calls.
#![expect(
    unsafe_code,
    reason = "vectored I/O on raw addresses of guest memory; tap ioctls"
)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::ranges::GuestRanges;
use super::readiness::Readiness;
use super::{HEADER_LEN, NetBackend, Offloads};

/// Bytes of an interface's name with its NUL (`IFNAMSIZ`).
pub(super) const NAME_SIZE: usize = 16;

/// Ranges of a frame that are sent without an allocation: those of a Linux guest.
const FEW: usize = 24;

/// `struct ifreq`, as far as taps use it.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct InterfaceRequest {
    pub(super) name: [u8; NAME_SIZE],
    pub(super) flags: u16,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>());

impl InterfaceRequest {
    pub(super) fn new(name: [u8; NAME_SIZE], flags: u16) -> Self {
        let rest = [0; 22];
        Self { name, flags, rest }
    }
}

/// Asks with a `struct ifreq`: `TUNSETIFF`, `TUNGETIFF`, `TUNSETQUEUE`, `SIOCGIFFLAGS`.
pub(super) fn ask(
    fd: &impl AsRawFd,
    request: libc::Ioctl,
    argument: &mut InterfaceRequest,
) -> io::Result<()> {
    // SAFETY: all four take a pointer to a `struct ifreq`, which is as large as `argument`, and
    // read and write nothing else.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(argument)) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sets the length of the header before each frame to [`HEADER_LEN`].
pub(super) fn set_header_len(fd: &OwnedFd) -> io::Result<()> {
    let len = HEADER_LEN as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ reads an int.
    let answer = unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            libc::TUNSETVNETHDRSZ,
            std::ptr::from_ref(&len),
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn set_offload_flags(fd: &OwnedFd, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes a number.
    let answer = unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            libc::TUNSETOFFLOAD,
            libc::c_ulong::from(flags),
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The kernel's flags for `offloads`. Without checksums it takes none of the others.
fn offload_flags(offloads: Offloads) -> libc::c_uint {
    let Offloads {
        csum,
        tso4,
        tso6,
        ecn,
        ufo,
        uso,
    } = offloads;
    if !csum {
        return 0;
    }
    let flag = |on: bool, flags: libc::c_uint| if on { flags } else { 0 };
    libc::TUN_F_CSUM
        | flag(tso4, libc::TUN_F_TSO4)
        | flag(tso6, libc::TUN_F_TSO6)
        | flag(ecn && (tso4 || tso6), libc::TUN_F_TSO_ECN)
        | flag(ufo, libc::TUN_F_UFO)
        // The kernel takes both or neither.
        | flag(uso, libc::TUN_F_USO4 | libc::TUN_F_USO6)
}

/// What the tap of `fd` can do; it is left without any. What a kernel that does not know a flag
/// does with it is to refuse them all.
fn probe(fd: &OwnedFd) -> io::Result<Offloads> {
    let mut found = Offloads::default();
    let mut offer = |change: fn(&mut Offloads)| {
        let mut wish = found;
        change(&mut wish);
        if set_offload_flags(fd, offload_flags(wish)).is_ok() {
            found = wish;
        }
    };
    offer(|o| o.csum = true);
    offer(|o| (o.tso4, o.tso6) = (true, true));
    offer(|o| o.ecn = true);
    offer(|o| o.ufo = true);
    offer(|o| o.uso = true);
    set_offload_flags(fd, 0)?;
    Ok(found)
}

/// A queue of a tap.
#[derive(Debug)]
struct Queue {
    fd: OwnedFd,
    /// Whether the kernel spreads frames to it.
    attached: bool,
    readiness: Readiness,
}

/// A tap as a network card's backend.
#[derive(Debug)]
pub struct TapBackend {
    queues: Vec<Queue>,
    offloads: Offloads,
}

impl TapBackend {
    /// A backend of a tap's queues, as [`super::open`] makes them: nonblocking and attached.
    ///
    /// # Errors
    /// When the kernel refuses a header of [`HEADER_LEN`] bytes, there is no queue, or the host is
    /// out of descriptors.
    pub fn new(queues: Vec<OwnedFd>) -> io::Result<Self> {
        queues.iter().try_for_each(set_header_len)?;
        let first = queues.first().ok_or(io::ErrorKind::InvalidInput)?;
        let offloads = probe(first)?;
        let attached = |fd| {
            Ok(Queue {
                fd,
                attached: true,
                readiness: Readiness::new()?,
            })
        };
        let queues = queues.into_iter().map(attached);
        Ok(Self {
            queues: queues.collect::<io::Result<_>>()?,
            offloads,
        })
    }

    fn fd(&self, queue: u16) -> io::Result<RawFd> {
        let queue = self.queues.get(usize::from(queue));
        queue
            .map(|queue| queue.fd.as_raw_fd())
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl NetBackend for TapBackend {
    fn queues(&self) -> u16 {
        u16::try_from(self.queues.len()).unwrap_or(u16::MAX)
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn set_offloads(&mut self, guest: Offloads) -> io::Result<()> {
        // They are the whole interface's.
        let first = self.queues.first().ok_or(io::ErrorKind::NotConnected)?;
        set_offload_flags(&first.fd, offload_flags(guest))
    }

    fn set_active(&mut self, active: u16) -> io::Result<()> {
        if self.queues.len() == 1 {
            // It may not be a tap for several, and then cannot be detached.
            return Ok(());
        }
        for (index, queue) in (0..).zip(&mut self.queues) {
            let wanted = index < active;
            if queue.attached == wanted {
                continue;
            }
            let flag = if wanted {
                libc::IFF_ATTACH_QUEUE
            } else {
                libc::IFF_DETACH_QUEUE
            };
            // Both fit 16 bits.
            let mut request = InterfaceRequest::new([0; NAME_SIZE], flag as u16);
            ask(&queue.fd, libc::TUNSETQUEUE, &mut request)?;
            queue.attached = wanted;
        }
        Ok(())
    }

    fn event(&self, queue: u16) -> Option<RawFd> {
        let queue = self.queues.get(usize::from(queue))?;
        Some(queue.readiness.fd())
    }

    fn watch(&mut self, queue: u16, receiving: bool, sending: bool) -> io::Result<()> {
        let Some(queue) = self.queues.get_mut(usize::from(queue)) else {
            return Ok(());
        };
        queue
            .readiness
            .want(queue.fd.as_raw_fd(), receiving, sending)
    }

    fn receive(
        &mut self,
        queue: u16,
        ranges: &mut GuestRanges,
        overflow: &mut [u8],
    ) -> io::Result<usize> {
        receive_from(self.fd(queue)?, ranges, overflow)
    }

    fn send(
        &mut self,
        queue: u16,
        header: &[u8; HEADER_LEN],
        frame: &GuestRanges,
    ) -> io::Result<()> {
        send_to(self.fd(queue)?, header, frame)
    }
}

/// One `readv` of one frame.
pub(super) fn receive_from(
    fd: RawFd,
    ranges: &mut GuestRanges,
    overflow: &mut [u8],
) -> io::Result<usize> {
    ranges.followed_by(overflow, |vectors| {
        let count = vector_count(vectors)?;
        // SAFETY: the vectors lie in guest memory, which `ranges` keeps mapped and no reference
        // points into, and in `overflow`, borrowed for as long as the call takes.
        transferred(|| unsafe { libc::readv(fd, vectors.as_ptr(), count) })
    })
}

/// One `writev` of one frame.
pub(super) fn send_to(fd: RawFd, header: &[u8; HEADER_LEN], frame: &GuestRanges) -> io::Result<()> {
    let frame = frame.iovecs();
    let first = libc::iovec {
        iov_base: header.as_ptr().cast_mut().cast(),
        iov_len: HEADER_LEN,
    };
    // Seldom more than a page of headers and seventeen of data; no allocation for those.
    let mut few = [first; 1 + FEW];
    let mut long = Vec::new();
    let vectors = match few.get_mut(1..=frame.len()) {
        Some(to) => {
            to.copy_from_slice(frame);
            few.get(..=frame.len()).unwrap_or_default()
        }
        None => {
            long.push(first);
            long.extend_from_slice(frame);
            &long
        }
    };
    let count = vector_count(vectors)?;
    // SAFETY: the first vector is `header`, which is only read; the others lie in guest memory,
    // which the caller's list keeps mapped.
    match transferred(|| unsafe { libc::writev(fd, vectors.as_ptr(), count) }) {
        Ok(_) => Ok(()),
        // The interface is gone, or the queue detached.
        Err(error) if error.raw_os_error() == Some(libc::EBADFD) => {
            Err(io::Error::new(io::ErrorKind::NotConnected, error))
        }
        Err(error) => Err(error),
    }
}

/// The number of vectors as the kernel wants it; it takes `IOV_MAX` of them.
fn vector_count(vectors: &[libc::iovec]) -> io::Result<libc::c_int> {
    libc::c_int::try_from(vectors.len()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Calls until a signal does not interrupt.
fn transferred(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(bytes) => return Ok(bytes),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}
