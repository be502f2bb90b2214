//! Giving several buffers back at once.

use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Error, Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use crate::dma::DmaMemory;

/// Bytes before the entries of either ring: flags and index (virtio 2.7.6, 2.7.8).
const RING_HEADER_BYTES: u64 = 4;
/// Where the index is.
const INDEX_AT: u64 = 2;
/// Bytes of an entry of the driver's ring, and of the device's.
const DRIVER_ENTRY_BYTES: u64 = 2;
const DEVICE_ENTRY_BYTES: u64 = 8;

/// Gives back buffers, each with how many bytes were written to it. The driver finds all of them or none: a frame's
/// belong together (virtio 5.1.6.4).
///
/// # Errors
/// The ring is out of reach, or a buffer's number beyond it.
pub(super) fn add_all(
    queue: &mut Queue,
    memory: &DmaMemory,
    used: &[(u16, u32)],
) -> Result<(), Error> {
    let mut next = queue.next_used();
    for (head, written) in used {
        if *head >= queue.size() {
            return Err(Error::InvalidDescriptorIndex);
        }
        let entry = u64::from(*head) | u64::from(*written) << 32;
        let behind = DEVICE_ENTRY_BYTES * u64::from(next % queue.size());
        let at = place(queue.used_ring(), RING_HEADER_BYTES + behind)?;
        memory
            .write_obj(entry.to_le(), at)
            .map_err(Error::GuestMemory)?;
        next = next.wrapping_add(1);
    }
    queue.set_next_used(next);
    let index = place(queue.used_ring(), INDEX_AT)?;
    let stored = memory.store(next.to_le(), index, Ordering::Release);
    stored.map_err(Error::GuestMemory)
}

/// Whether the driver waits for one of the buffers that were given back since the device's index was `before`
/// (virtio 2.7.10). Without VIRTIO_F_EVENT_IDX it does.
///
/// # Errors
/// The ring is out of reach.
pub(super) fn are_awaited(queue: &Queue, memory: &DmaMemory, before: u16) -> Result<bool, Error> {
    if !queue.event_idx_enabled() {
        return Ok(true);
    }
    // What was given back is seen before it is asked whether that is waited for.
    fence(Ordering::SeqCst);
    let behind = DRIVER_ENTRY_BYTES * u64::from(queue.size());
    let at = place(queue.avail_ring(), RING_HEADER_BYTES + behind)?;
    let loaded = memory.load::<u16>(at, Ordering::Relaxed);
    let awaited = u16::from_le(loaded.map_err(Error::GuestMemory)?);
    let now = queue.next_used();
    Ok(now.wrapping_sub(awaited).wrapping_sub(1) < now.wrapping_sub(before))
}

fn place(ring: u64, offset: u64) -> Result<GuestAddress, Error> {
    let at = ring.checked_add(offset).ok_or(Error::AddressOverflow)?;
    Ok(GuestAddress(at))
}
