//! What a driver has put into a queue, request by request.
//!
//! virtio-queue walks the rings, and gives up without a word where a descriptor is out of reach or makes no
//! sense; its own messages are not limited, so nothing of it that writes one for a driver's sake is used here
//! or heard (`vmm/src/logging.rs`).

use std::sync::atomic::Ordering;

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Error, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::device::ServeError;
use crate::dma::DmaMemory;

/// One request.
pub(super) struct Request {
    /// By which it is given back.
    pub(super) head: u16,
    /// Its buffers, in order: as many as the queue has entries at most.
    pub(super) buffers: Vec<Descriptor>,
}

/// The next request of `queue`, if there is one.
///
/// # Errors
/// The ring or a descriptor is out of reach or makes no sense, or the request is longer than the queue
/// (virtio 2.7.5.3.1).
pub(super) fn next(queue: &mut Queue, memory: &DmaMemory) -> Result<Option<Request>, ServeError> {
    let mut buffers = Vec::new();
    let head = next_into(queue, memory, &mut buffers)?;
    Ok(head.map(|head| Request { head, buffers }))
}

/// Whether there is a request in `queue`.
///
/// # Errors
/// The ring is out of reach.
pub(super) fn is_there(queue: &Queue, memory: &DmaMemory) -> Result<bool, ServeError> {
    Ok(queue.avail_idx(memory, Ordering::Acquire)?.0 != queue.next_avail())
}

/// As [`next`], with its buffers in place of those that are in `buffers`; returns by what it is given back.
///
/// # Errors
/// As [`next`].
pub(super) fn next_into(
    queue: &mut Queue,
    memory: &DmaMemory,
    buffers: &mut Vec<Descriptor>,
) -> Result<Option<u16>, ServeError> {
    if !is_there(queue, memory)? {
        return Ok(None);
    }
    let size = queue.size();
    // The ring's entry is out of reach.
    let chain = queue
        .iter(memory)?
        .next()
        .ok_or(Error::InvalidAvailRingIndex)?;
    let head = chain.head_index();
    buffers.clear();
    buffers.extend(chain.take(size.into()));
    let is_whole = buffers.last().is_some_and(|last| !last.has_next());
    if head >= size || !is_whole {
        return Err(Error::InvalidChain.into());
    }
    Ok(Some(head))
}

/// The buffers that the device reads, and those behind them that it writes (virtio 2.7.4.2).
pub(super) fn split(buffers: &[Descriptor]) -> Result<(&[Descriptor], &[Descriptor]), ServeError> {
    let first = buffers.iter().position(Descriptor::is_write_only);
    let (readable, writable) = buffers.split_at(first.unwrap_or(buffers.len()));
    if !writable.iter().all(Descriptor::is_write_only) {
        return Err(ServeError::Request("a buffer to read behind one to write"));
    }
    Ok((readable, writable))
}

/// The pieces of `bytes` bytes in `buffers`, from `skipped` on.
pub(super) fn pieces(
    buffers: &[Descriptor],
    skipped: u64,
    bytes: u64,
) -> impl Iterator<Item = (GuestAddress, usize)> + '_ {
    let (mut skipped, mut left) = (skipped, bytes);
    buffers.iter().filter_map(move |buffer| {
        let length = u64::from(buffer.len());
        let before = skipped.min(length);
        skipped -= before;
        let bytes = (length - before).min(left);
        left -= bytes;
        // What goes beyond all addresses is out of reach, as its first byte shows.
        let address = buffer.addr().0.saturating_add(before);
        let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes != 0)?;
        Some((GuestAddress(address), bytes))
    })
}

/// Copies what lies `skipped` bytes into `buffers`; false if there is not so much.
pub(super) fn copy_from(
    buffers: &[Descriptor],
    skipped: u64,
    memory: &DmaMemory,
    data: &mut [u8],
) -> Result<bool, ServeError> {
    let mut filled = 0;
    for (address, bytes) in pieces(buffers, skipped, data.len() as u64) {
        memory.read_slice(&mut data[filled..filled + bytes], address)?;
        filled += bytes;
    }
    Ok(filled == data.len())
}

/// Copies `data` to what lies `skipped` bytes into `buffers`, as far as there is room.
pub(super) fn copy_to(
    buffers: &[Descriptor],
    skipped: u64,
    memory: &DmaMemory,
    data: &[u8],
) -> Result<(), ServeError> {
    let mut left = data;
    for (address, bytes) in pieces(buffers, skipped, data.len() as u64) {
        let (piece, rest) = left.split_at(bytes);
        memory.write_slice(piece, address)?;
        left = rest;
    }
    Ok(())
}
