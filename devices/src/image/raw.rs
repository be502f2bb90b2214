//! Operations with an image, waited for.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::Image;
use super::operation::{Job, Operation};

/// Bytes of zeroes that are written at a time where the host has no better way.
const ZEROES: usize = 64 << 10;

/// Does a whole job.
///
/// # Errors
/// The host's.
pub(super) fn perform(image: &Image, job: &mut Job) -> io::Result<()> {
    if let Some(qcow2) = image.qcow2() {
        return qcow2.perform(job, image.options().discards);
    }
    match job.operation {
        Operation::Read | Operation::Write { durable: false } => transfer_all(image, job, 0),
        // Once more: all is written, and was not flushed.
        Operation::Write { durable: true } if job.bytes == 0 => sync(image),
        Operation::Write { durable: true } => match transfer_all(image, job, libc::RWF_DSYNC) {
            // Emulated kernels need not know the flag.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                transfer_all(image, job, 0)?;
                sync(image)
            }
            result => result,
        },
        Operation::Flush => sync(image),
        Operation::Discard => discard(image, job),
        Operation::Zero { unmaps, durable } => {
            zero(image, job, unmaps)?;
            match durable {
                true => sync(image),
                false => Ok(()),
            }
        }
    }
}

/// Has what was written be on the disk. Once that has failed, it does for good: what the host's kernel could not write
/// it has forgotten.
fn sync(image: &Image) -> io::Result<()> {
    if let Some(error) = image.lost_writes() {
        return Err(error);
    }
    let result = image.file().sync_data();
    result.inspect_err(|error| image.flush_failed(error))
}

/// Reads or writes what is left of a job, writes with `flags` of pwritev2(2).
fn transfer_all(image: &Image, job: &mut Job, flags: libc::c_int) -> io::Result<()> {
    while job.bytes != 0 {
        let count = transfer(image, job, flags)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        job.advance(count);
    }
    Ok(())
}

/// Reads or writes what one call does.
fn transfer(image: &Image, job: &Job, flags: libc::c_int) -> io::Result<usize> {
    let file = image.file_for(job.through_cache).as_raw_fd();
    let pieces = job.pieces.next();
    let count = libc::c_int::try_from(pieces.len()).unwrap_or(0);
    let offset = offset(job.offset)?;
    loop {
        let result = match job.operation {
            // SAFETY: the pieces are guest memory, which the engine keeps; the kernel only reads it.
            Operation::Write { .. } => unsafe {
                libc::pwritev2(file, pieces.as_ptr(), count, offset, flags)
            },
            // SAFETY: the pieces are guest memory, which the engine keeps, and which anyone may write.
            _ => unsafe { libc::preadv(file, pieces.as_ptr(), count, offset) },
        };
        if let Ok(count) = usize::try_from(result) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn offset(bytes: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn fallocate(file: &File, mode: libc::c_int, job: &Job) -> io::Result<()> {
    let (start, bytes) = (offset(job.offset)?, offset(job.bytes)?);
    // SAFETY: no pointers are passed.
    match unsafe {
        libc::fallocate(
            file.as_raw_fd(),
            mode | libc::FALLOC_FL_KEEP_SIZE,
            start,
            bytes,
        )
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the host cannot do that with this file, in no case.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::ENODEV)
    )
}

/// Gives blocks back. A discard is a hint: where the host cannot, nothing is lost.
fn discard(image: &Image, job: &Job) -> io::Result<()> {
    if !image.options().discards {
        return Ok(());
    }
    match fallocate(image.file(), libc::FALLOC_FL_PUNCH_HOLE, job) {
        Err(error) if is_unsupported(&error) => Ok(()),
        result => result,
    }
}

fn zero(image: &Image, job: &mut Job, unmaps: bool) -> io::Result<()> {
    let ways = [libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_ZERO_RANGE];
    let first = usize::from(!(unmaps && image.options().discards));
    for way in &ways[first..] {
        match fallocate(image.file(), *way, job) {
            Err(error) if is_unsupported(&error) => {}
            result => return result,
        }
    }
    // What is not aligned for O_DIRECT goes through the cache.
    image.note_cached_write();
    let zeroes = vec![0_u8; ZEROES];
    while job.bytes != 0 {
        let bytes = usize::try_from(job.bytes.min(ZEROES as u64)).unwrap_or(ZEROES);
        let file = image.file_for(true).as_raw_fd();
        let start = offset(job.offset)?;
        // SAFETY: the pointer is good for as many bytes as are said.
        let result = unsafe { libc::pwrite(file, zeroes.as_ptr().cast(), bytes, start) };
        match usize::try_from(result) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                job.advance(count);
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}
