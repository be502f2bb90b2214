//! A pseudo-terminal.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use super::terminal::make_raw;

/// Both ends of a pseudo-terminal.
#[derive(Debug)]
pub(super) struct Pty {
    /// What the guest reads and writes.
    pub(super) master: File,
    /// Kept open, so that the master works before and after a user attaches.
    pub(super) slave: OwnedFd,
    /// The device node that a user attaches to.
    pub(super) name: PathBuf,
}

/// Makes a pseudo-terminal in raw mode.
pub(super) fn open() -> io::Result<Pty> {
    let (mut master, mut slave): (RawFd, RawFd) = (-1, -1);
    // SAFETY: both pointers are good for a descriptor; null asks for no name and default modes.
    let result = unsafe {
        libc::openpty(
            &raw mut master,
            &raw mut slave,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: openpty succeeded: the descriptor is open and nobody else's.
    let master = unsafe { File::from_raw_fd(master) };
    // SAFETY: likewise.
    let slave = unsafe { OwnedFd::from_raw_fd(slave) };
    close_on_exec(master.as_raw_fd())?;
    close_on_exec(slave.as_raw_fd())?;
    make_raw(slave.as_fd())?;
    let name = std::fs::read_link(format!("/proc/self/fd/{}", slave.as_raw_fd()))?;
    Ok(Pty {
        master,
        slave,
        name,
    })
}

fn close_on_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: the descriptor is open; F_SETFD takes an int.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn bytes_pass_both_ways_unchanged() {
        let mut pty = open().expect("pty");
        let mut user = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&pty.name)
            .expect("attach");
        pty.master.write_all(b"login:\n").expect("write");
        let mut seen = [0; 7];
        user.read_exact(&mut seen).expect("read");
        assert_eq!(&seen, b"login:\n");
        user.write_all(b"\x03q\r").expect("write");
        let mut typed = [0; 3];
        pty.master.read_exact(&mut typed).expect("read");
        assert_eq!(&typed, b"\x03q\r");
    }
}
