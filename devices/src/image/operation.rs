//! What is asked of an image, and the guest memory that it is for.

use std::time::Instant;

use vm_memory::{GuestAddress, GuestMemory, GuestMemoryError, Permissions, VolatileSlice};

use super::Kind;
use crate::dma::DmaMemory;

/// Something to be done with an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Read into guest memory.
    Read,
    /// Write from guest memory; `durable` if it is to be on stable storage when it is done.
    Write {
        /// See there.
        durable: bool,
    },
    /// Have all that was written before on stable storage.
    Flush,
    /// The guest has no use for the range any more.
    Discard,
    /// Fill the range with zeroes.
    Zero {
        /// The host may take the blocks back.
        unmaps: bool,
        /// As for writes.
        durable: bool,
    },
}

impl Operation {
    /// As what it is counted.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Read => Kind::Read,
            Self::Write { .. } => Kind::Write,
            Self::Flush => Kind::Flush,
            Self::Discard => Kind::Discard,
            Self::Zero { .. } => Kind::Zero,
        }
    }
}

/// Pieces of guest memory, for the host's kernel to read or write.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    pieces: Vec<libc::iovec>,
    /// Pieces that are done with.
    done: usize,
}

// SAFETY: the pointers are to guest memory, which no thread owns: it is accessed by the kernel, as a guest's
// processors do. Who has pieces keeps the memory.
unsafe impl Send for Pieces {}

impl Pieces {
    /// Forgets all, and keeps the room.
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.done = 0;
    }

    /// Adds `bytes` from `address` on, to be written by the host if `for_write`.
    ///
    /// # Errors
    /// Some of it is out of the device's reach.
    pub(super) fn add(
        &mut self,
        memory: &DmaMemory,
        address: GuestAddress,
        bytes: usize,
        for_write: bool,
    ) -> Result<(), GuestMemoryError> {
        let access = match for_write {
            true => Permissions::Write,
            false => Permissions::Read,
        };
        for slice in memory.get_slices(address, bytes, access)? {
            let slice = slice?;
            let start = slice.ptr_guard_mut().as_ptr();
            match self.pieces.last_mut() {
                Some(last) if start == last.iov_base.cast::<u8>().wrapping_add(last.iov_len) => {
                    last.iov_len += slice.len();
                }
                _ => self.pieces.push(libc::iovec {
                    iov_base: start.cast(),
                    iov_len: slice.len(),
                }),
            }
        }
        Ok(())
    }

    /// What is next, as much as one call takes.
    pub(super) fn next(&self) -> &[libc::iovec] {
        let left = self.left();
        left.get(..MOST_PIECES).unwrap_or(left)
    }

    /// Takes `bytes` away at the front.
    pub(super) fn advance(&mut self, mut bytes: usize) {
        while let Some(piece) = self.pieces.get_mut(self.done) {
            if bytes < piece.iov_len {
                piece.iov_base = piece.iov_base.wrapping_byte_add(bytes);
                piece.iov_len -= bytes;
                return;
            }
            bytes -= piece.iov_len;
            self.done += 1;
        }
    }

    /// Copies `data` into what is next.
    pub(super) fn write(&self, mut data: &[u8]) {
        for piece in self.left() {
            let (now, later) = data.split_at(piece.iov_len.min(data.len()));
            slice_of(piece).copy_from(now);
            data = later;
        }
    }

    /// Copies what is next into `data`.
    pub(super) fn read(&self, mut data: &mut [u8]) {
        for piece in self.left() {
            let (now, later) = data.split_at_mut(piece.iov_len.min(data.len()));
            slice_of(piece).copy_to(now);
            data = later;
        }
    }

    fn left(&self) -> &[libc::iovec] {
        self.pieces.get(self.done..).unwrap_or_default()
    }

    /// Whether all pieces begin and are as long as these say, both powers of two.
    pub(super) fn are_aligned(&self, address: usize, length: usize) -> bool {
        let is_aligned = |piece: &libc::iovec| {
            piece.iov_base.addr().is_multiple_of(address) && piece.iov_len.is_multiple_of(length)
        };
        self.pieces.iter().all(is_aligned)
    }
}

/// A piece as memory that others may change at any time.
fn slice_of(piece: &libc::iovec) -> VolatileSlice<'_> {
    // SAFETY: pieces are made of guest memory, which who has them keeps.
    unsafe { VolatileSlice::new(piece.iov_base.cast(), piece.iov_len) }
}

/// What one call takes (UIO_MAXIOV).
const MOST_PIECES: usize = 1024;

/// An operation with all that it takes.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) operation: Operation,
    /// Where in the image what is left of it begins.
    pub(super) offset: u64,
    /// How many bytes of it are left.
    pub(super) bytes: u64,
    /// How many it has in all.
    pub(super) whole: u64,
    pub(super) pieces: Pieces,
    /// Not aligned as O_DIRECT wants it.
    pub(super) through_cache: bool,
    /// Since when it is under way.
    pub(super) since: Instant,
}

impl Job {
    /// Counts `bytes` as done; true if it is all done.
    pub(super) fn advance(&mut self, bytes: usize) -> bool {
        let count = bytes as u64;
        self.offset = self.offset.saturating_add(count);
        self.bytes = self.bytes.saturating_sub(count);
        self.pieces.advance(bytes);
        self.bytes == 0
    }
}
