//! What a driver reads of a disk: features and configuration (virtio 5.2.3, 5.2.4).

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX,
    VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};

use super::MOST_PIECE_BYTES;
use crate::virtio::device::read_config;
use crate::virtio::disk::{Disk, MOST_DISCARD_SECTORS, MOST_ZERO_SECTORS, SECTOR_BYTES};

/// Where the switch of the write cache is (`struct virtio_blk_config`, `writeback`).
pub(super) const WRITEBACK: usize = 32;
/// Bytes of the configuration.
const BYTES: usize = 60;

/// The features that a driver is offered.
pub(super) fn features(disk: &Disk) -> u64 {
    let options = disk.options();
    let is_read_only = disk.image().options().read_only;
    let offered = [
        (VIRTIO_BLK_F_SIZE_MAX, true),
        (VIRTIO_BLK_F_SEG_MAX, true),
        (VIRTIO_BLK_F_RO, is_read_only),
        (VIRTIO_BLK_F_BLK_SIZE, true),
        (VIRTIO_BLK_F_FLUSH, true),
        (VIRTIO_BLK_F_TOPOLOGY, true),
        (VIRTIO_BLK_F_CONFIG_WCE, !is_read_only),
        (VIRTIO_BLK_F_MQ, options.queues > 1),
        (VIRTIO_BLK_F_DISCARD, options.discards && !is_read_only),
        (VIRTIO_BLK_F_WRITE_ZEROES, options.discards && !is_read_only),
    ];
    let bits = offered.iter().filter(|(_, offered)| *offered);
    bits.fold(0, |all, (bit, _)| all | 1 << bit)
}

/// Whether a driver that has accepted `features` flushes what is to last.
pub(super) const fn flushes(features: u64) -> bool {
    features & 1 << VIRTIO_BLK_F_FLUSH != 0
}

/// Whether it switches the write cache.
pub(super) const fn switches_cache(features: u64) -> bool {
    features & 1 << VIRTIO_BLK_F_CONFIG_WCE != 0
}

/// Reads the configuration at `offset`; what lies beyond it reads 0.
pub(super) fn read(disk: &Disk, write_cache: bool, offset: usize, data: &mut [u8]) {
    let options = disk.options();
    let logical = options.logical_block_bytes;
    let blocks = |bytes: u32| bytes / logical.max(1);
    let mut all = [0; BYTES];
    let mut put = |at: usize, bytes: &[u8]| all[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &(disk.image().bytes() / SECTOR_BYTES).to_le_bytes());
    put(8, &MOST_PIECE_BYTES.to_le_bytes());
    put(12, &most_pieces(options.queue_size).to_le_bytes());
    put(20, &logical.to_le_bytes());
    let exponent = blocks(options.physical_block_bytes).checked_ilog2();
    put(24, &[u8::try_from(exponent.unwrap_or(0)).unwrap_or(0)]);
    let min_io = u16::try_from(blocks(options.min_io_bytes)).unwrap_or(0);
    put(26, &min_io.to_le_bytes());
    put(28, &blocks(options.opt_io_bytes).to_le_bytes());
    put(WRITEBACK, &[u8::from(write_cache)]);
    put(34, &options.queues.to_le_bytes());
    put(36, &MOST_DISCARD_SECTORS.to_le_bytes());
    put(40, &1_u32.to_le_bytes());
    put(44, &(logical / 512).to_le_bytes());
    put(48, &MOST_ZERO_SECTORS.to_le_bytes());
    put(52, &1_u32.to_le_bytes());
    put(56, &[1]);
    read_config(&all, offset, data);
}

/// Pieces of a request's data: it has a header and a status, too, and all of them fit into the queue.
fn most_pieces(queue_size: u16) -> u32 {
    u32::from(queue_size).saturating_sub(2).clamp(1, 254)
}
