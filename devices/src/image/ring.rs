//! An image's operations done by the host's kernel (io_uring).
//!
//! Calls that a ring does are not seen by filters of system calls. So it is made able to do nothing but read, write
//! and flush the files of this image, before anything is asked of it (IORING_REGISTER_RESTRICTIONS, Linux 5.10).

use std::io;
use std::os::fd::AsRawFd;

use io_uring::register::Restriction;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{IoUring, opcode};
use vmm_sys_util::eventfd::EventFd;

use super::Image;
use super::operation::{Job, Operation};

/// The files of the image, by their numbers in the ring.
const FILE: Fixed = Fixed(0);
const THROUGH_CACHE: Fixed = Fixed(1);

/// The system calls that a thread needs for rings that were made before.
pub const fn allowed_in_steady_state() -> &'static [libc::c_long] {
    &[libc::SYS_io_uring_enter]
}

/// A ring.
pub(super) struct Ring {
    ring: IoUring,
}

impl Ring {
    /// A ring for as many operations at a time, which signals `event` when one is done.
    ///
    /// # Errors
    /// The kernel has none, or does not let this process have one.
    pub(super) fn new(image: &Image, slots: usize, event: &EventFd) -> io::Result<Self> {
        let entries = u32::try_from(slots.next_power_of_two()).unwrap_or(MOST_ENTRIES);
        let ring = IoUring::builder()
            .setup_r_disabled()
            .setup_clamp()
            .setup_cqsize(entries.max(2))
            .build(entries.min(MOST_ENTRIES))?;
        let submitter = ring.submitter();
        let files = [false, true].map(|through_cache| image.file_for(through_cache).as_raw_fd());
        submitter.register_files(&files)?;
        submitter.register_eventfd(event.as_raw_fd())?;
        let mut restrictions = [
            Restriction::sqe_op(opcode::Read::CODE),
            Restriction::sqe_op(opcode::Readv::CODE),
            Restriction::sqe_op(opcode::Write::CODE),
            Restriction::sqe_op(opcode::Writev::CODE),
            Restriction::sqe_op(opcode::Fsync::CODE),
            Restriction::sqe_flags_required(Flags::FIXED_FILE.bits()),
        ];
        submitter.register_restrictions(&mut restrictions)?;
        submitter.register_enable_rings()?;
        Ok(Self { ring })
    }

    /// Puts what is left of `job` into the ring, by the number of its slot.
    ///
    /// # Errors
    /// The kernel takes no more.
    ///
    /// # Safety
    /// The job and the memory of its pieces stay as they are until the ring has done it.
    pub(super) unsafe fn push(&mut self, slot: usize, job: &Job) -> io::Result<()> {
        let entry = entry(job).user_data(slot as u64);
        for _ in 0..2 {
            // SAFETY: the caller's promise, for the pieces and what they point to.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            if pushed.is_ok() {
                return Ok(());
            }
            self.submit()?;
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Has the kernel begin what was put in. What it does not take now, it is to be given again.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        match self.ring.submit() {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Whether there is something that the kernel has not taken yet.
    pub(super) fn has_more(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// Takes what is done: slots, with what their calls returned.
    pub(super) fn take_done(&mut self, done: &mut Vec<(usize, i32)>) {
        let completions = self.ring.completion();
        done.extend(completions.map(|it| {
            let slot = usize::try_from(it.user_data()).unwrap_or(usize::MAX);
            (slot, it.result())
        }));
    }

    /// Waits until something is done.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }
}

/// Entries of a ring's submission queue: what is put in at a time.
const MOST_ENTRIES: u32 = 128;

fn entry(job: &Job) -> Entry {
    let file = match job.through_cache {
        true => THROUGH_CACHE,
        false => FILE,
    };
    let pieces = job.pieces.next();
    let count = u32::try_from(pieces.len()).unwrap_or(0);
    let durable = if matches!(job.operation, Operation::Write { durable: true }) {
        libc::RWF_DSYNC
    } else {
        0
    };
    // One piece needs no list, which the kernel would copy.
    let single = match pieces {
        [piece] => u32::try_from(piece.iov_len)
            .ok()
            .map(|bytes| (piece.iov_base.cast::<u8>(), bytes)),
        _ => None,
    };
    match (job.operation, single) {
        (Operation::Read, Some((start, bytes))) => opcode::Read::new(file, start, bytes)
            .offset(job.offset)
            .build(),
        (Operation::Read, None) => opcode::Readv::new(file, pieces.as_ptr(), count)
            .offset(job.offset)
            .build(),
        (Operation::Write { .. }, Some((start, bytes))) => opcode::Write::new(file, start, bytes)
            .offset(job.offset)
            .rw_flags(durable)
            .build(),
        (Operation::Write { .. }, None) => opcode::Writev::new(file, pieces.as_ptr(), count)
            .offset(job.offset)
            .rw_flags(durable)
            .build(),
        // All else is the helper's.
        _ => opcode::Fsync::new(FILE).flags(FsyncFlags::DATASYNC).build(),
    }
}
