//! A frame of a guest's, where it lies in memory.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryError, Permissions};

use crate::dma::DmaMemory;

/// The most pieces that the kernel takes in one call (UIO_MAXIOV).
const MOST_PIECES: usize = 1024;

/// A frame in a guest's memory, with the header before it.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    /// The memory.
    pub memory: &'a DmaMemory,
    /// Where its pieces are, with how many bytes each.
    pub pieces: &'a [(GuestAddress, usize)],
}

/// Pieces of memory as the kernel takes them. It is kept for its room: nothing is in it between two frames.
#[derive(Default)]
pub(super) struct Gather(Vec<libc::iovec>);

// SAFETY: there are no pointers in it but while a frame is written, which one thread does.
unsafe impl Send for Gather {}

impl Frame<'_> {
    /// Bytes of it all.
    pub fn bytes(&self) -> usize {
        let lengths = self.pieces.iter().map(|(_, bytes)| *bytes);
        lengths.fold(0, usize::saturating_add)
    }

    /// Appends it to `to`, without its first `skipped` bytes.
    ///
    /// # Errors
    /// Some of it is out of reach.
    pub(super) fn copy_to(
        &self,
        mut skipped: usize,
        to: &mut Vec<u8>,
    ) -> Result<(), GuestMemoryError> {
        for (address, bytes) in self.pieces {
            let before = skipped.min(*bytes);
            skipped -= before;
            let start = to.len();
            to.resize(start + bytes - before, 0);
            self.memory
                .read_slice(&mut to[start..], behind(*address, before)?)?;
        }
        Ok(())
    }

    /// Writes it in one call, without its first `skipped` bytes.
    ///
    /// # Errors
    /// Some of it is out of reach, or the host's error.
    pub(super) fn write_to(
        &self,
        mut skipped: usize,
        file: BorrowedFd<'_>,
        Gather(pieces): &mut Gather,
    ) -> Result<io::Result<usize>, GuestMemoryError> {
        pieces.clear();
        for (address, bytes) in self.pieces {
            let before = skipped.min(*bytes);
            skipped -= before;
            let start = behind(*address, before)?;
            let slices = self
                .memory
                .get_slices(start, bytes - before, Permissions::Read)?;
            for slice in slices {
                let slice = slice?;
                pieces.push(libc::iovec {
                    iov_base: slice.ptr_guard().as_ptr().cast_mut().cast(),
                    iov_len: slice.len(),
                });
            }
        }
        if pieces.len() > MOST_PIECES {
            pieces.clear();
            return Ok(Err(io::ErrorKind::InvalidInput.into()));
        }
        let count = libc::c_int::try_from(pieces.len()).unwrap_or(0);
        let written = loop {
            // SAFETY: the pieces are guest memory, which `self.memory` keeps mapped and which the kernel only reads;
            // there are as many as are said.
            let result = unsafe { libc::writev(file.as_raw_fd(), pieces.as_ptr(), count) };
            match usize::try_from(result) {
                Ok(count) => break Ok(count),
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        break Err(error);
                    }
                }
            }
        };
        pieces.clear();
        Ok(written)
    }
}

/// The address that many bytes behind another.
fn behind(address: GuestAddress, bytes: usize) -> Result<GuestAddress, GuestMemoryError> {
    let unreachable = GuestMemoryError::InvalidGuestAddress(address);
    let at = address.0.checked_add(bytes as u64).ok_or(unreachable)?;
    Ok(GuestAddress(at))
}
