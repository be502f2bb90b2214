//! What is said before the process ends.
//!
//! When the emulator is gone, libvirt shows in its own error what its daemon for logs has taken from
//! the emulator's standard error by then. What is still in the pipe is not shown.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::thread;
use std::time::{Duration, Instant};

/// The most time that a reader is given.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is looked whether it has read.
const TICK: Duration = Duration::from_millis(2);

/// Waits until all of standard error has been read, for a bounded time, if it is a pipe.
pub(super) fn wait_until_heard() {
    wait_for(io::stderr().as_fd(), PATIENCE);
}

/// True when all was read in time, or there is nothing to wait for.
fn wait_for(stream: BorrowedFd<'_>, patience: Duration) -> bool {
    let Ok(owned) = stream.try_clone_to_owned() else {
        return true;
    };
    let is_pipe = File::from(owned)
        .metadata()
        .is_ok_and(|metadata| metadata.file_type().is_fifo());
    let deadline = Instant::now() + patience;
    while is_pipe && unread_bytes(stream) > 0 {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(TICK);
    }
    true
}

/// Bytes in a pipe that nobody has read yet; 0 also when that is not to be known.
fn unread_bytes(pipe: BorrowedFd<'_>) -> libc::c_int {
    let mut bytes = 0;
    // SAFETY: the descriptor is open, and the pointer is good for one int.
    let result = unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    if result == 0 { bytes } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_pipe_is_waited_for_until_it_is_read() {
        let (mut reader, mut writer) = io::pipe().expect("pipe");
        assert!(wait_for(writer.as_fd(), Duration::ZERO));
        writer.write_all(b"error: no memory\n").expect("write");
        assert!(!wait_for(writer.as_fd(), Duration::from_millis(20)));
        let reading = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            let mut seen = [0; 17];
            reader.read_exact(&mut seen).map(|()| reader)
        });
        assert!(wait_for(writer.as_fd(), Duration::from_secs(30)));
        reading.join().expect("no panic").expect("read");
    }

    #[test]
    fn nothing_else_is_waited_for() {
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(b"x").expect("write");
        assert!(wait_for(file.as_fd(), Duration::ZERO));
    }
}
