//! The block device's feature bits (virtio 1.2, 5.2.3) and configuration space (5.2.4).

use super::QUEUE_SIZE;
use crate::disk::{Geometry, SECTOR_SIZE};

/// `seg_max` is valid.
pub const F_SEG_MAX: u64 = 1 << 2;
/// The device is read-only.
pub const F_RO: u64 = 1 << 5;
/// `blk_size` is valid.
pub const F_BLK_SIZE: u64 = 1 << 6;
/// Flush requests work.
pub const F_FLUSH: u64 = 1 << 9;
/// `topology` is valid.
pub const F_TOPOLOGY: u64 = 1 << 10;
/// The driver may switch the write cache by `writeback`.
pub const F_CONFIG_WCE: u64 = 1 << 11;
/// `num_queues` is valid.
pub const F_MQ: u64 = 1 << 12;
/// Discard requests work.
pub const F_DISCARD: u64 = 1 << 13;
/// Write-zeroes requests work.
pub const F_WRITE_ZEROES: u64 = 1 << 14;

/// Most data segments in a request: a queue's worth without header and status.
pub const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Most sectors in a discard request: 1 GiB. It is one system call, of bounded time.
pub const MAX_DISCARD_SECTORS: u32 = 1 << 21;
/// Most sectors in a write-zeroes request: 16 MiB. A file system that has no call for it makes
/// this much be written, on the I/O thread.
pub const MAX_WRITE_ZEROES_SECTORS: u32 = 1 << 15;

/// Offset of `writeback`, the only field a driver may write.
pub const WRITEBACK_OFFSET: u64 = 32;
/// Bytes of the configuration space.
pub const CONFIG_LEN: usize = 60;

/// The configuration space. Every field is filled in, also those of features not on offer.
pub(super) fn encode(geometry: &Geometry, queues: u16, writeback: bool) -> [u8; CONFIG_LEN] {
    let Geometry {
        capacity,
        block_size,
        physical_block_size,
        read_only: _,
    } = *geometry;
    let exponent = physical_block_size
        .ilog2()
        .saturating_sub(block_size.ilog2());
    let min_io = u16::try_from(physical_block_size / block_size).unwrap_or(1);
    let discard_alignment = u64::from(block_size) / SECTOR_SIZE;
    let mut space = [0; CONFIG_LEN];
    let fields: [(usize, &[u8]); 12] = [
        (0, &(capacity / SECTOR_SIZE).to_le_bytes()),
        (12, &SEG_MAX.to_le_bytes()),
        (20, &block_size.to_le_bytes()),
        (24, &[u8::try_from(exponent).unwrap_or(0)]),
        (26, &min_io.to_le_bytes()),
        (32, &[u8::from(writeback)]),
        (34, &queues.to_le_bytes()),
        (36, &MAX_DISCARD_SECTORS.to_le_bytes()),
        // One range in a request, for both: each request is then one operation of the backend.
        (40, &1_u32.to_le_bytes()),
        (
            44,
            &u32::try_from(discard_alignment).unwrap_or(1).to_le_bytes(),
        ),
        (48, &MAX_WRITE_ZEROES_SECTORS.to_le_bytes()),
        (52, &1_u32.to_le_bytes()),
    ];
    for (offset, bytes) in fields {
        for (byte, value) in space.iter_mut().skip(offset).zip(bytes) {
            *byte = *value;
        }
    }
    // write_zeroes_may_unmap.
    if let Some(byte) = space.get_mut(56) {
        *byte = 1;
    }
    space
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_bindings::virtio_blk as linux;

    #[test]
    fn bits_are_those_of_the_linux_headers() {
        for (ours, theirs) in [
            (F_SEG_MAX, linux::VIRTIO_BLK_F_SEG_MAX),
            (F_RO, linux::VIRTIO_BLK_F_RO),
            (F_BLK_SIZE, linux::VIRTIO_BLK_F_BLK_SIZE),
            (F_FLUSH, linux::VIRTIO_BLK_F_FLUSH),
            (F_TOPOLOGY, linux::VIRTIO_BLK_F_TOPOLOGY),
            (F_CONFIG_WCE, linux::VIRTIO_BLK_F_CONFIG_WCE),
            (F_MQ, linux::VIRTIO_BLK_F_MQ),
            (F_DISCARD, linux::VIRTIO_BLK_F_DISCARD),
            (F_WRITE_ZEROES, linux::VIRTIO_BLK_F_WRITE_ZEROES),
        ] {
            assert_eq!(ours, 1 << theirs);
        }
    }

    #[test]
    fn fields_are_where_the_linux_headers_have_them() {
        use linux::virtio_blk_config as layout;
        use std::mem::offset_of;
        let geometry = Geometry {
            capacity: 0x1234 * 512,
            block_size: 512,
            physical_block_size: 4096,
            read_only: false,
        };
        let space = encode(&geometry, 3, true);
        let u16_at = |at: usize| u16::from_le_bytes(space[at..at + 2].try_into().unwrap());
        let u32_at = |at: usize| u32::from_le_bytes(space[at..at + 4].try_into().unwrap());
        assert_eq!(space[..8], 0x1234_u64.to_le_bytes());
        assert_eq!(u32_at(offset_of!(layout, seg_max)), 254);
        assert_eq!(u32_at(offset_of!(layout, blk_size)), 512);
        assert_eq!(space[offset_of!(layout, physical_block_exp)], 3);
        assert_eq!(u16_at(offset_of!(layout, min_io_size)), 8);
        assert_eq!(offset_of!(layout, wce) as u64, WRITEBACK_OFFSET);
        assert_eq!(space[offset_of!(layout, wce)], 1);
        assert_eq!(u16_at(offset_of!(layout, num_queues)), 3);
        assert_eq!(
            u32_at(offset_of!(layout, max_discard_sectors)),
            MAX_DISCARD_SECTORS
        );
        assert_eq!(u32_at(offset_of!(layout, max_discard_seg)), 1);
        assert_eq!(u32_at(offset_of!(layout, discard_sector_alignment)), 1);
        let zeroes = u32_at(offset_of!(layout, max_write_zeroes_sectors));
        assert_eq!(zeroes, MAX_WRITE_ZEROES_SECTORS);
        assert_eq!(u32_at(offset_of!(layout, max_write_zeroes_seg)), 1);
        assert_eq!(space[offset_of!(layout, write_zeroes_may_unmap)], 1);
    }
}
