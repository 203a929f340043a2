//! KVM's binary statistics: `KVM_GET_STATS_FD`.
//!
//! Opened by the machine once per VM and per vCPU descriptor; read by the main thread for
//! `query-stats` and `query-stats-schemas`, by `pread`, while the guest runs: nothing stops.
//! Format: Linux `Documentation/virt/kvm/api.rst` section 4.133. The bytes come from the kernel; they
//! are checked all the same, so that a future layout is an error and not nonsense.

#![expect(unsafe_code, reason = "one ioctl that no crate of ours wraps")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use kvm_bindings::{
    KVM_STATS_BASE_MASK, KVM_STATS_BASE_POW2, KVM_STATS_BASE_POW10, KVM_STATS_TYPE_CUMULATIVE,
    KVM_STATS_TYPE_INSTANT, KVM_STATS_TYPE_LINEAR_HIST, KVM_STATS_TYPE_LOG_HIST,
    KVM_STATS_TYPE_MASK, KVM_STATS_TYPE_PEAK, KVM_STATS_UNIT_BOOLEAN, KVM_STATS_UNIT_BYTES,
    KVM_STATS_UNIT_CYCLES, KVM_STATS_UNIT_MASK, KVM_STATS_UNIT_NONE, KVM_STATS_UNIT_SECONDS,
    kvm_stats_desc, kvm_stats_header,
};

/// `_IO(KVMIO, 0xce)`, linux/kvm.h. VM and vCPU descriptors both take it.
const KVM_GET_STATS_FD: std::ffi::c_ulong = 0xAECE;

/// Bytes of the header.
const HEADER: usize = size_of::<kvm_stats_header>();
/// Bytes of a descriptor without its name.
const DESCRIPTOR: usize = size_of::<kvm_stats_desc>();
const _: () = assert!(
    HEADER == 24 && DESCRIPTOR == 16,
    "as api.rst 4.133 draws them"
);
/// Most descriptors taken; today's kernels have about 60.
const MAX_DESCRIPTORS: usize = 4096;
/// Longest name field taken; today's is 48 (`KVM_STATS_NAME_SIZE`).
const MAX_NAME: usize = 1024;
/// Most data words taken for all statistics together.
const MAX_WORDS: usize = 1 << 16;

/// How a value behaves, in QMP's terms (`StatsType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Cumulative,
    /// The value now.
    Instant,
    /// The greatest value so far.
    Peak,
    /// Buckets of equal width.
    LinearHistogram,
    /// Buckets of doubling width.
    Log2Histogram,
}

/// What a value counts, in QMP's terms (`StatsUnit`); a plain number has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Seconds, scaled by base and exponent.
    Seconds,
    /// Clock cycles.
    Cycles,
    /// False or true, as 0 or 1.
    Boolean,
}

/// One statistic's schema: QMP's `StatsSchemaValue`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// The kernel's name, unchanged, which is also QMP's.
    pub name: String,
    /// How the value behaves.
    pub kind: Kind,
    /// What it counts.
    pub unit: Option<Unit>,
    /// 10 or 2: the value counts units of base to the power `exponent`. QMP leaves it out where the
    /// exponent is 0.
    pub base: u8,
    /// See `base`; -9 with base 10 and seconds is nanoseconds.
    pub exponent: i16,
    /// Width of a linear histogram's bucket, absent elsewhere.
    pub bucket_size: Option<u32>,
    /// Byte offset in the data block.
    offset: usize,
    /// Number of 64-bit values.
    count: usize,
}

/// One statistic with its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub descriptor: Descriptor,
    /// The value, or a histogram's buckets. Never empty.
    pub values: Vec<u64>,
}

/// Why statistics cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// The kernel gave no descriptor; EINVAL or ENOTTY before Linux 5.14.
    #[error("KVM_GET_STATS_FD failed{}", remedy(.0))]
    Open(#[source] io::Error),
    /// Reading failed.
    #[error("reading KVM's statistics failed")]
    Read(#[source] io::Error),
    /// The bytes are not laid out as documented.
    #[error("KVM's statistics: {0}")]
    Format(&'static str),
}

/// What to do about it, where that is known.
fn remedy(refusal: &io::Error) -> &'static str {
    match refusal.raw_os_error() {
        Some(libc::EINVAL | libc::ENOTTY) => "; it needs Linux 5.14",
        Some(libc::EMFILE) => "; thimble needs more open files: raise ulimit -n",
        _ => "",
    }
}

/// The parts of the header that place everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    name_size: usize,
    descriptors: usize,
    descriptors_at: usize,
    data_at: usize,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, StatsError> {
        let word = |at| {
            u32_at(bytes, at)
                .and_then(|word| usize::try_from(word).ok())
                .ok_or(StatsError::Format("the header is cut short"))
        };
        let header = Self {
            name_size: word(4)?,
            descriptors: word(8)?,
            descriptors_at: word(16)?,
            data_at: word(20)?,
        };
        if header.name_size == 0 || header.name_size > MAX_NAME {
            return Err(StatsError::Format("the name size is out of range"));
        }
        if header.descriptors > MAX_DESCRIPTORS {
            return Err(StatsError::Format("there are too many descriptors"));
        }
        Ok(header)
    }

    /// Bytes of one descriptor with its name.
    fn stride(&self) -> usize {
        DESCRIPTOR + self.name_size
    }
}

/// An open statistics descriptor, with its schema read once: it does not change.
#[derive(Debug)]
pub struct StatsFd {
    file: File,
    descriptors: Vec<Descriptor>,
    data_at: u64,
    data_len: usize,
}

impl StatsFd {
    /// Opens the statistics of a VM or vCPU descriptor and reads the schema. The result keeps the
    /// VM alive in the kernel until it is dropped.
    ///
    /// # Errors
    /// [`StatsError`]; without statistics the machine runs just as well.
    pub fn open(owner: &impl AsRawFd) -> Result<Self, StatsError> {
        // SAFETY: the request takes no argument, and a descriptor of another kind answers ENOTTY.
        let fd = unsafe { vmm_sys_util::ioctl::ioctl(owner, KVM_GET_STATS_FD) };
        if fd < 0 {
            return Err(StatsError::Open(io::Error::last_os_error()));
        }
        // SAFETY: the kernel has just made this descriptor (close-on-exec) and nobody else has it.
        let file = unsafe { File::from_raw_fd(fd) };
        let mut header = [0u8; HEADER];
        file.read_exact_at(&mut header, 0)
            .map_err(StatsError::Read)?;
        let header = Header::parse(&header)?;
        let mut bytes = vec![0u8; header.descriptors * header.stride()];
        let at = u64::try_from(header.descriptors_at).unwrap_or(u64::MAX);
        file.read_exact_at(&mut bytes, at)
            .map_err(StatsError::Read)?;
        let descriptors = parse_descriptors(&header, &bytes)?;
        let data_len = data_length(&descriptors)?;
        let data_at = u64::try_from(header.data_at).unwrap_or(u64::MAX);
        Ok(Self {
            file,
            descriptors,
            data_at,
            data_len,
        })
    }

    /// The schema, in the kernel's order.
    #[must_use]
    pub fn descriptors(&self) -> &[Descriptor] {
        &self.descriptors
    }

    /// The values now: one `pread`.
    ///
    /// # Errors
    /// [`StatsError::Read`], as when the VM is gone.
    pub fn read(&self) -> Result<Vec<Stat>, StatsError> {
        let mut data = vec![0u8; self.data_len];
        self.file
            .read_exact_at(&mut data, self.data_at)
            .map_err(StatsError::Read)?;
        values(&self.descriptors, &data)
    }
}

/// Parses a whole image of a statistics descriptor: header, names, descriptors and data. What
/// [`StatsFd`] does piecewise; for tests and fuzzing.
///
/// # Errors
/// [`StatsError::Format`] says which part is wrong.
pub fn parse(image: &[u8]) -> Result<Vec<Stat>, StatsError> {
    let header = Header::parse(image)?;
    let length = header.descriptors * header.stride();
    let descriptors = image
        .get(header.descriptors_at..)
        .and_then(|rest| rest.get(..length))
        .ok_or(StatsError::Format("the descriptors are cut short"))?;
    let descriptors = parse_descriptors(&header, descriptors)?;
    let data = image
        .get(header.data_at..)
        .ok_or(StatsError::Format("the data lies outside the file"))?;
    values(&descriptors, data)
}

fn parse_descriptors(header: &Header, bytes: &[u8]) -> Result<Vec<Descriptor>, StatsError> {
    // The stride is never zero: it holds at least the fixed part.
    let mut descriptors: Vec<Descriptor> = Vec::with_capacity(header.descriptors);
    let mut words = 0usize;
    for bytes in bytes.chunks_exact(header.stride()).take(header.descriptors) {
        // Unknown kinds and units are a newer kernel's: left out, the others hold.
        if let Some(descriptor) = Descriptor::parse(bytes)? {
            words = words.saturating_add(descriptor.count);
            descriptors.push(descriptor);
        }
    }
    if words > MAX_WORDS {
        return Err(StatsError::Format("there is too much data"));
    }
    Ok(descriptors)
}

impl Descriptor {
    /// `None` for a kind, unit or base this build does not know.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, StatsError> {
        let short = StatsError::Format("a descriptor is cut short");
        let (Some(flags), Some(scale), Some(offset), Some(bucket), Some(name)) = (
            u32_at(bytes, 0),
            u32_at(bytes, 4),
            u32_at(bytes, 8).and_then(|offset| usize::try_from(offset).ok()),
            u32_at(bytes, 12),
            bytes.get(DESCRIPTOR..),
        ) else {
            return Err(short);
        };
        // Two 16-bit fields, the exponent (signed) first.
        let [exponent_low, exponent_high, count_low, count_high] = scale.to_le_bytes();
        let count = usize::from(u16::from_le_bytes([count_low, count_high]));
        if count == 0 {
            return Err(StatsError::Format("a statistic has no value"));
        }
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = std::str::from_utf8(name)
            .map_err(|_| StatsError::Format("a name is not text"))?
            .to_owned();
        if name.is_empty() {
            return Err(StatsError::Format("a name is empty"));
        }
        let (Some(kind), Some(unit), Some(base)) = (kind_of(flags), unit_of(flags), base_of(flags))
        else {
            return Ok(None);
        };
        let bucket_size = (kind == Kind::LinearHistogram).then_some(bucket);
        let exponent = i16::from_le_bytes([exponent_low, exponent_high]);
        Ok(Some(Self {
            name,
            kind,
            unit,
            base,
            exponent,
            bucket_size,
            offset,
            count,
        }))
    }

    /// A descriptor of one value, for tests of what is made of it.
    #[cfg(test)]
    pub(crate) fn sample(name: &str, kind: Kind, unit: Option<Unit>) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            unit,
            base: 10,
            exponent: 0,
            bucket_size: None,
            offset: 0,
            count: 1,
        }
    }

    /// One past the last byte of its values.
    fn end(&self) -> Option<usize> {
        self.count.checked_mul(8)?.checked_add(self.offset)
    }
}

fn kind_of(flags: u32) -> Option<Kind> {
    Some(match flags & KVM_STATS_TYPE_MASK {
        KVM_STATS_TYPE_CUMULATIVE => Kind::Cumulative,
        KVM_STATS_TYPE_INSTANT => Kind::Instant,
        KVM_STATS_TYPE_PEAK => Kind::Peak,
        KVM_STATS_TYPE_LINEAR_HIST => Kind::LinearHistogram,
        KVM_STATS_TYPE_LOG_HIST => Kind::Log2Histogram,
        _ => return None,
    })
}

fn unit_of(flags: u32) -> Option<Option<Unit>> {
    Some(match flags & KVM_STATS_UNIT_MASK {
        KVM_STATS_UNIT_NONE => None,
        KVM_STATS_UNIT_BYTES => Some(Unit::Bytes),
        KVM_STATS_UNIT_SECONDS => Some(Unit::Seconds),
        KVM_STATS_UNIT_CYCLES => Some(Unit::Cycles),
        KVM_STATS_UNIT_BOOLEAN => Some(Unit::Boolean),
        _ => return None,
    })
}

fn base_of(flags: u32) -> Option<u8> {
    match flags & KVM_STATS_BASE_MASK {
        KVM_STATS_BASE_POW10 => Some(10),
        KVM_STATS_BASE_POW2 => Some(2),
        _ => None,
    }
}

/// Bytes of the data block that all descriptors together reach over.
fn data_length(descriptors: &[Descriptor]) -> Result<usize, StatsError> {
    let end = descriptors
        .iter()
        .map(Descriptor::end)
        .try_fold(0, |end, each| each.map(|each| each.max(end)))
        .filter(|end| *end <= MAX_WORDS * 8);
    end.ok_or(StatsError::Format("a value lies outside the data"))
}

fn values(descriptors: &[Descriptor], data: &[u8]) -> Result<Vec<Stat>, StatsError> {
    descriptors
        .iter()
        .map(|descriptor| {
            let bytes = descriptor
                .end()
                .and_then(|end| data.get(descriptor.offset..end))
                .ok_or(StatsError::Format("a value lies outside the data"))?;
            let (words, _) = bytes.as_chunks::<8>();
            let values = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
            Ok(Stat {
                descriptor: descriptor.clone(),
                values,
            })
        })
        .collect()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk::<4>()
        .map(|bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAME_SIZE: usize = 16;

    fn descriptor(
        flags: u32,
        exponent: i16,
        count: u16,
        at: u32,
        bucket: u32,
        name: &str,
    ) -> Vec<u8> {
        let mut bytes = flags.to_le_bytes().to_vec();
        bytes.extend(exponent.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(at.to_le_bytes());
        bytes.extend(bucket.to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.resize(DESCRIPTOR + NAME_SIZE, 0);
        bytes
    }

    fn image(descriptors: &[Vec<u8>], data: &[u64]) -> Vec<u8> {
        let count = u32::try_from(descriptors.len()).unwrap();
        let data_at = 24 + 16 + count * 32;
        let mut bytes = Vec::new();
        for word in [0, 16, count, 24, 24 + 16, data_at] {
            bytes.extend(u32::to_le_bytes(word));
        }
        bytes.extend(*b"kvm-4711\0\0\0\0\0\0\0\0");
        descriptors
            .iter()
            .for_each(|descriptor| bytes.extend(descriptor));
        data.iter()
            .for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes
    }

    fn sample() -> Vec<u8> {
        image(
            &[
                descriptor(0, 0, 1, 0, 0, "exits"),
                descriptor(0x20 | 4, -9, 3, 8, 0, "wait_hist"),
                descriptor(0x100 | 0x10 | 3, 10, 2, 32, 50, "sizes"),
                descriptor(0x40 | 1, 0, 1, 48, 0, "blocking"),
                descriptor(0xF, 0, 1, 0, 0, "from_the_future"),
            ],
            &[7, 1, 2, 3, 40, 50, 1],
        )
    }

    #[test]
    fn a_whole_image_is_read() {
        let stats = parse(&sample()).unwrap();
        let [exits, wait, sizes, blocking] = &stats[..] else {
            panic!("four: {stats:?}")
        };
        assert_eq!(
            (exits.descriptor.name.as_str(), &exits.values[..]),
            ("exits", &[7][..])
        );
        assert_eq!(
            (exits.descriptor.kind, exits.descriptor.unit),
            (Kind::Cumulative, None)
        );
        assert_eq!(wait.values, [1, 2, 3]);
        assert_eq!(wait.descriptor.kind, Kind::Log2Histogram);
        assert_eq!(wait.descriptor.unit, Some(Unit::Seconds));
        assert_eq!((wait.descriptor.base, wait.descriptor.exponent), (10, -9));
        assert_eq!(wait.descriptor.bucket_size, None);
        assert_eq!(
            (sizes.descriptor.base, sizes.descriptor.bucket_size),
            (2, Some(50))
        );
        assert_eq!(sizes.values, [40, 50]);
        assert_eq!(blocking.descriptor.unit, Some(Unit::Boolean));
    }

    #[test]
    fn every_cut_is_an_error() {
        let whole = sample();
        // The last descriptor's value is the first word, so all seven words are needed.
        for length in 0..whole.len() {
            assert!(
                parse(&whole[..length]).is_err(),
                "{length} of {}",
                whole.len()
            );
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let text = |bytes: &[u8]| parse(bytes).unwrap_err().to_string();
        let far = image(&[descriptor(0, 0, 1, u32::MAX, 0, "far")], &[1]);
        assert_eq!(
            text(&far),
            "KVM's statistics: a value lies outside the data"
        );
        let empty = image(&[descriptor(0, 0, 0, 0, 0, "empty")], &[1]);
        assert_eq!(text(&empty), "KVM's statistics: a statistic has no value");
        let nameless = image(&[descriptor(0, 0, 1, 0, 0, "")], &[1]);
        assert_eq!(text(&nameless), "KVM's statistics: a name is empty");
        let many = vec![descriptor(0, 0, u16::MAX, 0, 0, "many"); 2];
        assert_eq!(
            text(&image(&many, &[1])),
            "KVM's statistics: there is too much data"
        );
        let mut header = sample();
        header[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(
            text(&header),
            "KVM's statistics: there are too many descriptors"
        );
        header[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(
            text(&header),
            "KVM's statistics: the name size is out of range"
        );
    }

    #[test]
    fn a_descriptor_of_another_kind_is_refused() {
        let file = tempfile::tempfile().unwrap();
        let refusal = StatsFd::open(&file).unwrap_err();
        assert!(matches!(refusal, StatsError::Open(_)));
        assert!(refusal.to_string().ends_with("it needs Linux 5.14"));
        let full = StatsError::Open(io::Error::from_raw_os_error(libc::EMFILE));
        assert!(full.to_string().ends_with("raise ulimit -n"), "{full}");
        let other = StatsError::Open(io::Error::from_raw_os_error(libc::ENOMEM));
        assert!(other.to_string().ends_with("failed"), "{other}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn nor_do_bytes_changed(at in 0usize..260, to in any::<u8>()) {
            let mut bytes = sample();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = to;
            }
            let _ = parse(&bytes);
        }
    }
}
