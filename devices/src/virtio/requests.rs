//! What a driver has put into a queue, request by request.
//!
//! virtio-queue walks the rings, and gives up without a word where a descriptor is out of reach or makes no
//! sense; its own messages are not limited, so nothing of it that writes one for a driver's sake is used here
//! or heard (`vmm/src/logging.rs`).

use std::sync::atomic::Ordering;

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Error, Queue, QueueOwnedT, QueueT};

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
    if queue.avail_idx(memory, Ordering::Acquire)?.0 == queue.next_avail() {
        return Ok(None);
    }
    let size = queue.size();
    // The ring's entry is out of reach.
    let chain = queue
        .iter(memory)?
        .next()
        .ok_or(Error::InvalidAvailRingIndex)?;
    let head = chain.head_index();
    let buffers: Vec<Descriptor> = chain.take(size.into()).collect();
    let is_whole = buffers.last().is_some_and(|last| !last.has_next());
    if head >= size || !is_whole {
        return Err(Error::InvalidChain.into());
    }
    Ok(Some(Request { head, buffers }))
}
