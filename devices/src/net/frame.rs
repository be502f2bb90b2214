//! A frame of a guest's, where it lies in memory.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryError, Permissions};

use super::{BEGINNING_BYTES, Received};
use crate::dma::{DmaMemory, behind};

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
        skipped: usize,
        file: BorrowedFd<'_>,
        Gather(pieces): &mut Gather,
    ) -> Result<io::Result<usize>, GuestMemoryError> {
        pieces.clear();
        self.gather(skipped, usize::MAX, Permissions::Read, pieces)?;
        if pieces.len() > MOST_PIECES {
            pieces.clear();
            return Ok(Err(io::ErrorKind::InvalidInput.into()));
        }
        let count = libc::c_int::try_from(pieces.len()).unwrap_or(0);
        let written = uninterrupted(|| {
            // SAFETY: the pieces are guest memory, which `self.memory` keeps mapped and which the kernel only reads;
            // there are as many as are said.
            unsafe { libc::writev(file.as_raw_fd(), pieces.as_ptr(), count) }
        });
        pieces.clear();
        Ok(written)
    }

    /// Reads a frame in one call: its beginning, without its first `skipped` bytes, into `buffer`, what is behind it into
    /// this one's memory, and what that has no room for into `buffer` again, each byte in its place.
    ///
    /// # Errors
    /// Some of the memory is out of reach, or the host's error.
    pub(super) fn read_behind_beginning(
        &self,
        skipped: usize,
        buffer: &mut [u8],
        file: BorrowedFd<'_>,
        Gather(pieces): &mut Gather,
    ) -> Result<io::Result<Received>, GuestMemoryError> {
        let (beginning, rest) = buffer.split_at_mut(BEGINNING_BYTES);
        pieces.clear();
        pieces.push(piece(&mut beginning[skipped..]));
        let most = rest.len();
        let straight = self.gather(BEGINNING_BYTES, most, Permissions::Write, pieces)?;
        pieces.push(piece(&mut rest[straight..]));
        let count = libc::c_int::try_from(pieces.len().min(MOST_PIECES)).unwrap_or(0);
        let read = uninterrupted(|| {
            // SAFETY: the pieces are guest memory, which `self.memory` keeps mapped, and of which nobody holds a
            // reference, and parts of a buffer that is borrowed for writing; there are as many as are said.
            unsafe { libc::readv(file.as_raw_fd(), pieces.as_ptr(), count) }
        });
        pieces.clear();
        Ok(read.map(|bytes| Received {
            bytes,
            straight: straight.min((bytes + skipped).saturating_sub(BEGINNING_BYTES)),
        }))
    }

    /// Appends its pieces to `to` as the kernel takes them, without the first `skipped` bytes and `most` bytes of what
    /// follows at most; returns how many bytes there are.
    fn gather(
        &self,
        mut skipped: usize,
        most: usize,
        access: Permissions,
        to: &mut Vec<libc::iovec>,
    ) -> Result<usize, GuestMemoryError> {
        let mut left = most;
        for (address, bytes) in self.pieces {
            let before = skipped.min(*bytes);
            skipped -= before;
            let start = behind(*address, before)?;
            let bytes = left.min(bytes - before);
            left -= bytes;
            for slice in self.memory.get_slices(start, bytes, access)? {
                let slice = slice?;
                to.push(libc::iovec {
                    iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                    iov_len: slice.len(),
                });
            }
        }
        Ok(most - left)
    }
}

/// Reads what there is, in one call.
///
/// # Errors
/// The host's.
pub(super) fn read(file: BorrowedFd<'_>, to: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes to what is borrowed for writing.
    uninterrupted(|| unsafe { libc::read(file.as_raw_fd(), to.as_mut_ptr().cast(), to.len()) })
}

/// Makes a call again as long as a signal interrupts it.
fn uninterrupted(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn piece(of: &mut [u8]) -> libc::iovec {
    libc::iovec {
        iov_base: of.as_mut_ptr().cast(),
        iov_len: of.len(),
    }
}
