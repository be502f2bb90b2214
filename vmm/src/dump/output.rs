//! Where a dump goes. Whoever reads it may do so slowly, not at all, or go away.

use std::fs::File;
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::DumpError;

/// Ends a dump, from any thread.
#[derive(Debug)]
pub struct Cancel(EventFd);

impl Cancel {
    /// For one dump.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(EventFd::new(EFD_NONBLOCK)?))
    }

    /// Has the dump end at the next piece, and not wait for its reader any more.
    pub fn cancel(&self) {
        // Fails only when the counter is full, and then it has been signalled.
        let _signalled = self.0.write(1);
    }

    /// Whether it was told to end.
    #[cfg(test)]
    pub(crate) fn is_cancelled(&self) -> bool {
        let event = self.0.try_clone().expect("eventfd");
        let is_cancelled = event.read().is_ok();
        if is_cancelled {
            self.cancel();
        }
        is_cancelled
    }
}

/// A descriptor that a dump is written to.
#[derive(Debug)]
pub struct Output {
    file: File,
    /// Its status flags before.
    flags: libc::c_int,
    cancel: Arc<Cancel>,
    /// Whether what is skipped reads as zeroes.
    is_sparse: bool,
    skipped: i64,
}

impl Output {
    /// Writes to `descriptor` from where it stands.
    ///
    /// # Errors
    /// When it cannot be written to, or not without waiting.
    pub fn new(descriptor: OwnedFd, cancel: Arc<Cancel>) -> io::Result<Self> {
        // SAFETY: the descriptor is open; F_GETFL takes no argument.
        let flags = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GETFL) };
        if flags < 0 {
            return Err(io::Error::last_os_error());
        }
        if flags & libc::O_ACCMODE == libc::O_RDONLY {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        set_flags(&descriptor, flags | libc::O_NONBLOCK)?;
        let mut file = File::from(descriptor);
        let is_sparse = flags & libc::O_APPEND == 0 && ends_here(&mut file);
        Ok(Self {
            file,
            flags,
            cancel,
            is_sparse,
            skipped: 0,
        })
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// When the target fails, or the dump is cancelled.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), DumpError> {
        if self.skipped != 0 {
            let place = SeekFrom::Current(std::mem::take(&mut self.skipped));
            self.file.seek(place).map_err(DumpError::Write)?;
        }
        while !bytes.is_empty() {
            self.wait_for_room()?;
            match self.file.write(bytes) {
                Ok(0) => return Err(DumpError::Write(ErrorKind::WriteZero.into())),
                Ok(length) => bytes = &bytes[length..],
                Err(error) if is_for_later(&error) => {}
                Err(error) => return Err(DumpError::Write(error)),
            }
        }
        Ok(())
    }

    /// Writes `zeroes`, which have to be some; a file gets a hole, which something has to be written
    /// behind.
    ///
    /// # Errors
    /// As for [`Output::write`].
    pub fn write_zeroes(&mut self, zeroes: &[u8]) -> Result<(), DumpError> {
        if !self.is_sparse {
            return self.write(zeroes);
        }
        self.skipped += i64::try_from(zeroes.len()).unwrap_or(i64::MAX);
        match self.cancel.0.read() {
            Ok(_) => Err(DumpError::Cancelled),
            Err(_) => Ok(()),
        }
    }

    /// Waits until something can be written, or fails to be.
    fn wait_for_room(&self) -> Result<(), DumpError> {
        let watch = |fd: &dyn AsRawFd, events| libc::pollfd {
            fd: fd.as_raw_fd(),
            events,
            revents: 0,
        };
        let mut watched = [
            watch(&self.file, libc::POLLOUT),
            watch(&self.cancel.0, libc::POLLIN),
        ];
        loop {
            // SAFETY: the pointer is good for two entries, whose descriptors are open.
            let ready = unsafe { libc::poll(watched.as_mut_ptr(), 2, -1) };
            if ready >= 0 {
                break;
            }
            let error = io::Error::last_os_error();
            if error.kind() != ErrorKind::Interrupted {
                return Err(DumpError::Write(error));
            }
        }
        if watched[1].revents != 0 {
            return Err(DumpError::Cancelled);
        }
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // Others may have the descriptor, too, and expect it as it was.
        if let Err(error) = set_flags(&self.file, self.flags) {
            log::debug!("a dump's target stays non-blocking: {error}");
        }
    }
}

fn set_flags(descriptor: &impl AsRawFd, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open; F_SETFL takes flags.
    if unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFL, flags) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether a file has nothing from where it stands on, so that holes will read as zeroes.
fn ends_here(file: &mut File) -> bool {
    let Ok(place) = file.stream_position() else {
        return false;
    };
    let end = file.seek(SeekFrom::End(0));
    let is_back = file.seek(SeekFrom::Start(place)).is_ok();
    is_back && end.is_ok_and(|end| end <= place)
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_given_back_as_it_was() {
        let (_reader, writer) = io::pipe().expect("pipe");
        let shared = writer.try_clone().expect("clone");
        // SAFETY: the descriptor is open; F_GETFL takes no argument.
        let flags = || unsafe { libc::fcntl(shared.as_raw_fd(), libc::F_GETFL) };
        let cancel = Arc::new(Cancel::new().expect("eventfd"));
        let output = Output::new(writer.into(), cancel).expect("output");
        assert_ne!(flags() & libc::O_NONBLOCK, 0);
        drop(output);
        assert_eq!(flags() & libc::O_NONBLOCK, 0);
    }

    #[test]
    fn what_can_only_be_read_is_refused() {
        let (reader, _writer) = io::pipe().expect("pipe");
        let cancel = Arc::new(Cancel::new().expect("eventfd"));
        let error = Output::new(reader.into(), cancel).expect_err("refused");
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }
}
