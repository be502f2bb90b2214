//! Raw mode of a terminal, and the way back.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the user's terminal is in raw mode now.
static RAW: AtomicBool = AtomicBool::new(false);

/// Whether the user's terminal is in raw mode now: a line for it ends with a carriage return then.
pub fn is_raw() -> bool {
    RAW.load(Ordering::Relaxed)
}

/// A terminal in raw mode; dropping it restores the mode it had.
#[derive(Debug)]
pub(super) struct RawTerminal {
    terminal: File,
    before: libc::termios,
}

impl RawTerminal {
    /// Puts `input` in raw mode; `None` when it is no terminal.
    pub(super) fn enter(input: &File) -> io::Result<Option<Self>> {
        use std::os::fd::AsFd;
        if !input.is_terminal() {
            return Ok(None);
        }
        let terminal = input.try_clone()?;
        let before = make_raw(terminal.as_fd())?;
        RAW.store(true, Ordering::Relaxed);
        Ok(Some(Self { terminal, before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        use std::os::fd::AsFd;
        let _terminal_is_gone = set_attributes(self.terminal.as_fd(), &self.before);
        RAW.store(false, Ordering::Relaxed);
    }
}

/// No echo, no line editing, no signals: the guest does all that. Returns the mode before.
pub(super) fn make_raw(terminal: BorrowedFd<'_>) -> io::Result<libc::termios> {
    let before = attributes(terminal)?;
    let mut raw = before;
    // SAFETY: the pointer is to a filled termios, which is changed in place.
    unsafe { libc::cfmakeraw(&raw mut raw) };
    set_attributes(terminal, &raw)?;
    Ok(before)
}

fn attributes(terminal: BorrowedFd<'_>) -> io::Result<libc::termios> {
    let mut attributes = MaybeUninit::<libc::termios>::uninit();
    // SAFETY: the descriptor is open and the pointer is good for one termios.
    if unsafe { libc::tcgetattr(terminal.as_raw_fd(), attributes.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: tcgetattr succeeded, so it filled the struct.
    Ok(unsafe { attributes.assume_init() })
}

fn set_attributes(terminal: BorrowedFd<'_>, attributes: &libc::termios) -> io::Result<()> {
    // SAFETY: the descriptor is open and the pointer is to a filled termios.
    if unsafe { libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, attributes) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
