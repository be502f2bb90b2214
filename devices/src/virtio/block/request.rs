//! What a driver asks of a disk (virtio 5.2.6).

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};
use virtio_queue::desc::split::Descriptor;
use vm_memory::GuestAddress;

use crate::dma::DmaMemory;
use crate::image::Kind;
use crate::virtio::device::ServeError;
use crate::virtio::disk::{MOST_BYTES, MOST_DISCARD_SECTORS, MOST_ZERO_SECTORS, SECTOR_BYTES};
use crate::virtio::requests::{Request, copy_from, split};

/// Bytes of what a request begins with: its type and its sector.
const HEADER_BYTES: usize = 16;
/// Bytes of a range that is discarded or filled with zeroes (`struct virtio_blk_discard_write_zeroes`).
const RANGE_BYTES: usize = 16;
/// The host may take the blocks back (VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP).
const UNMAP: u32 = 1;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Bytes of the disk from `offset` on.
    Read { offset: u64, bytes: u64 },
    /// Bytes to be written from `offset` on.
    Write { offset: u64, bytes: u64 },
    /// What was written is to last.
    Flush,
    /// The serial number.
    Serial,
    /// A range that there is no use for.
    Discard { offset: u64, bytes: u64 },
    /// A range to be filled with zeroes.
    Zero {
        offset: u64,
        bytes: u64,
        unmaps: bool,
    },
    /// What cannot be, of a kind that is counted.
    Invalid(Kind),
    /// What a disk of this kind does not do.
    Unsupported,
}

/// A request as it came.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) wish: Wish,
    /// Where its status goes, the last byte that the device writes.
    pub(super) status: GuestAddress,
    /// Bytes that the device may write before.
    pub(super) writable_bytes: u64,
}

/// The disk as far as it says what can be asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) disk_bytes: u64,
    pub(super) block_bytes: u64,
    pub(super) is_read_only: bool,
    pub(super) discards: bool,
}

/// Reads a request.
///
/// # Errors
/// It lacks its header or a place for its status, or is out of reach.
pub(super) fn parse(
    request: &Request,
    memory: &DmaMemory,
    limits: Limits,
) -> Result<Parsed, ServeError> {
    let (readable, writable) = split(&request.buffers)?;
    let readable_bytes: u64 = readable.iter().map(|it| u64::from(it.len())).sum();
    let writable_bytes: u64 = writable.iter().map(|it| u64::from(it.len())).sum();
    let mut header = [0; HEADER_BYTES];
    if !copy_from(readable, 0, memory, &mut header)? {
        return Err(ServeError::Request("no header"));
    }
    let status = status_address(writable)?;
    let [a, b, c, d, _, _, _, _, sector @ ..] = header;
    let kind = u32::from_le_bytes([a, b, c, d]);
    let sector = u64::from_le_bytes(sector);
    let data_bytes = readable_bytes - HEADER_BYTES as u64;
    let space_bytes = writable_bytes - 1;
    let range_wish = |kind| range(kind, readable, data_bytes, memory, limits);
    let wish = match kind {
        VIRTIO_BLK_T_IN => match limits.transfer(sector, space_bytes) {
            Some(offset) => Wish::Read {
                offset,
                bytes: space_bytes,
            },
            None => Wish::Invalid(Kind::Read),
        },
        VIRTIO_BLK_T_OUT => match limits.transfer(sector, data_bytes) {
            Some(offset) if !limits.is_read_only => Wish::Write {
                offset,
                bytes: data_bytes,
            },
            _ => Wish::Invalid(Kind::Write),
        },
        VIRTIO_BLK_T_FLUSH => Wish::Flush,
        VIRTIO_BLK_T_GET_ID => Wish::Serial,
        VIRTIO_BLK_T_DISCARD if limits.discards => range_wish(Kind::Discard)?,
        VIRTIO_BLK_T_WRITE_ZEROES if limits.discards => range_wish(Kind::Zero)?,
        _ => Wish::Unsupported,
    };
    Ok(Parsed {
        wish,
        status,
        writable_bytes: space_bytes,
    })
}

impl Limits {
    /// Where a transfer begins, in bytes, if it can be.
    fn transfer(self, sector: u64, bytes: u64) -> Option<u64> {
        self.place(sector, bytes).filter(|_| bytes <= MOST_BYTES)
    }

    /// Where a range of the disk begins, in bytes, if it is one of whole blocks.
    fn place(self, sector: u64, bytes: u64) -> Option<u64> {
        let offset = sector.checked_mul(SECTOR_BYTES)?;
        let end = offset.checked_add(bytes)?;
        let is_whole = |number: u64| number.is_multiple_of(self.block_bytes);
        (end <= self.disk_bytes && is_whole(offset) && is_whole(bytes)).then_some(offset)
    }
}

/// Where the status goes: the last byte of `writable`.
fn status_address(writable: &[Descriptor]) -> Result<GuestAddress, ServeError> {
    let last = writable.iter().rev().find(|buffer| buffer.len() != 0);
    let last = last.ok_or(ServeError::Request("no place for its status"))?;
    let unreachable = vm_memory::GuestMemoryError::InvalidGuestAddress(last.addr());
    let address = last.addr().0.checked_add(u64::from(last.len() - 1));
    Ok(GuestAddress(address.ok_or(unreachable)?))
}

/// What a range behind the header asks for. There may be one.
fn range(
    kind: Kind,
    readable: &[Descriptor],
    data_bytes: u64,
    memory: &DmaMemory,
    limits: Limits,
) -> Result<Wish, ServeError> {
    let mut range = [0; RANGE_BYTES];
    let is_one = data_bytes == RANGE_BYTES as u64
        && copy_from(readable, HEADER_BYTES as u64, memory, &mut range)?;
    if !is_one || limits.is_read_only {
        return Ok(Wish::Invalid(kind));
    }
    let [sector @ .., a, b, c, d, e, f, g, h] = range;
    let sector = u64::from_le_bytes(sector);
    let sectors = u32::from_le_bytes([a, b, c, d]);
    let flags = u32::from_le_bytes([e, f, g, h]);
    let (most, known) = match kind {
        Kind::Discard => (MOST_DISCARD_SECTORS, 0),
        _ => (MOST_ZERO_SECTORS, UNMAP),
    };
    if flags & !known != 0 {
        return Ok(Wish::Unsupported);
    }
    let bytes = u64::from(sectors) * SECTOR_BYTES;
    Ok(match limits.place(sector, bytes) {
        Some(offset) if sectors <= most => match kind {
            Kind::Discard => Wish::Discard { offset, bytes },
            _ => Wish::Zero {
                offset,
                bytes,
                unmaps: flags & UNMAP != 0,
            },
        },
        _ => Wish::Invalid(kind),
    })
}
