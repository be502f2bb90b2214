//! Room that a driver has made for frames, taken before there is a frame: the host's kernel writes one straight into it.

use virtio_queue::Queue;
use virtio_queue::desc::split::Descriptor;
use vm_memory::GuestAddress;

use super::Turn;
use crate::dma::DmaMemory;
use crate::virtio::device::ServeError;
use crate::virtio::requests;

/// Pieces beyond which no more room is taken for a frame ahead: the longest one is in so many of the shortest buffers
/// that Linux offers.
pub(super) const MOST_PIECES: usize = 48;

/// A piece of the driver's memory, with its length in bytes.
type Piece = (GuestAddress, usize);

/// A chain of buffers for the device to write.
#[derive(Clone, Copy)]
pub(super) struct Chain {
    /// By which it is given back.
    pub(super) head: u16,
    /// How many pieces it has.
    pub(super) pieces: usize,
}

/// Chains that were taken from the queue, in their order.
#[derive(Default)]
pub(super) struct Room {
    chains: Vec<Chain>,
    pieces: Vec<Piece>,
    bytes: usize,
    buffers: Vec<Descriptor>,
}

impl Room {
    /// How many chains there are.
    pub(super) const fn len(&self) -> usize {
        self.chains.len()
    }

    /// Chain number `index`.
    pub(super) fn chain(&self, index: usize) -> Option<Chain> {
        self.chains.get(index).copied()
    }

    /// The pieces of all chains.
    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Takes chains until there is room for `bytes` bytes, as far as the driver has made it and the turn lasts.
    ///
    /// # Errors
    /// The driver's ring is broken.
    pub(super) fn take_for(
        &mut self,
        bytes: usize,
        queue: &mut Queue,
        memory: &DmaMemory,
        turn: &mut Turn,
    ) -> Result<(), ServeError> {
        // Chains without pieces count, too.
        while self.bytes < bytes
            && self.pieces.len().max(self.chains.len()) < MOST_PIECES
            && !turn.is_over()
            && self.take(queue, memory, turn)?
        {}
        Ok(())
    }

    /// Takes the next chain; false if there is none.
    ///
    /// # Errors
    /// The driver's ring is broken.
    pub(super) fn take(
        &mut self,
        queue: &mut Queue,
        memory: &DmaMemory,
        turn: &mut Turn,
    ) -> Result<bool, ServeError> {
        let Some(head) = requests::next_into(queue, memory, &mut self.buffers)? else {
            return Ok(false);
        };
        turn.charge(0, self.buffers.len());
        let before = self.pieces.len();
        // One of no bytes is no room: a driver would have them kept without end.
        let rooms = self.buffers.iter();
        for buffer in rooms.filter(|it| it.is_write_only() && it.len() != 0) {
            let bytes = usize::try_from(buffer.len()).unwrap_or(usize::MAX);
            self.pieces.push((buffer.addr(), bytes));
            self.bytes += bytes;
        }
        let pieces = self.pieces.len() - before;
        self.chains.push(Chain { head, pieces });
        Ok(true)
    }

    /// Has the first `count` chains no more.
    pub(super) fn remove(&mut self, count: usize) {
        let chains = self.chains.drain(..count);
        let pieces: usize = chains.map(|chain| chain.pieces).sum();
        let removed = self.pieces.drain(..pieces);
        self.bytes -= removed.map(|(_, bytes)| bytes).sum::<usize>();
    }

    /// Has none.
    pub(super) fn clear(&mut self) {
        self.chains.clear();
        self.pieces.clear();
        self.bytes = 0;
    }
}
