//! The entropy device (virtio 5.4): its driver gives it buffers, and it fills them with random bytes.

use std::io;

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::device::{Device, Identity, ServeError, Served};
use super::requests;
use crate::dma::DmaMemory;

const QUEUE_SIZES: &[u16] = &[64];

/// The most that requests get in one turn: a driver takes what comes, and whoever waits for the device waits for
/// one turn at most.
const MOST_BYTES: usize = 64 << 10;
/// What is asked of the host at a time.
const CHUNK_BYTES: usize = 4 << 10;

/// Where random bytes come from.
type Source = Box<dyn FnMut(&mut [u8]) -> io::Result<()> + Send>;

/// An entropy device.
pub struct Rng {
    source: Source,
}

impl Rng {
    /// A device whose bytes are those of `source`, which fills all that it is given.
    pub fn new(source: impl FnMut(&mut [u8]) -> io::Result<()> + Send + 'static) -> Self {
        Self {
            source: Box::new(source),
        }
    }

    /// Fills a buffer, or the first of it.
    fn fill(
        &mut self,
        memory: &DmaMemory,
        start: GuestAddress,
        bytes: usize,
    ) -> Result<(), ServeError> {
        let mut chunk = [0; CHUNK_BYTES];
        for offset in (0..bytes).step_by(CHUNK_BYTES) {
            let chunk = &mut chunk[..CHUNK_BYTES.min(bytes - offset)];
            (self.source)(chunk)?;
            let unreachable = vm_memory::GuestMemoryError::InvalidGuestAddress(start);
            let at = start.0.checked_add(offset as u64).ok_or(unreachable)?;
            memory.write_slice(chunk, GuestAddress(at))?;
        }
        Ok(())
    }
}

impl Device for Rng {
    fn identity(&self) -> Identity {
        Identity {
            name: "virtio-rng",
            device_id: 4,
            // Unclassified, as QEMU's.
            class_code: 0x00_ff00,
        }
    }

    fn queue_sizes(&self) -> &[u16] {
        QUEUE_SIZES
    }

    fn serve(
        &mut self,
        _index: usize,
        queue: &mut Queue,
        memory: &DmaMemory,
    ) -> Result<Served, ServeError> {
        let mut left = MOST_BYTES;
        for _ in 0..queue.size() {
            if left == 0 {
                return Ok(Served::Some);
            }
            let Some(request) = requests::next(queue, memory)? else {
                return Ok(Served::All);
            };
            let before = left;
            for buffer in request.buffers.iter().filter(|it| it.is_write_only()) {
                let bytes = usize::try_from(buffer.len()).unwrap_or(left).min(left);
                self.fill(memory, buffer.addr(), bytes)?;
                left -= bytes;
            }
            // MOST_BYTES is less than 4 GiB.
            let filled = u32::try_from(before - left).unwrap_or(0);
            queue.add_used(memory, request.head, filled)?;
        }
        Ok(Served::Some)
    }
}
