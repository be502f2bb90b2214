//! A pseudo-terminal to run a program on, as a user at a terminal would.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{SpecialCodeIndex, tcgetattr};

/// A pseudo-terminal, and what has appeared on its screen.
#[derive(Debug)]
pub struct PseudoTerminal {
    keyboard: File,
    device: File,
    pieces: Receiver<Vec<u8>>,
    seen: Vec<u8>,
}

/// How a terminal treats what goes through it: all that raw mode changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Modes {
    flags: [u64; 4],
    least_bytes: u8,
    time: u8,
}

impl PseudoTerminal {
    /// A new one, in the mode in which the kernel makes them: lines, echo, signals.
    ///
    /// # Errors
    /// When the system has none to give.
    pub fn open() -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let user = openpt(flags)?;
        grantpt(&user)?;
        unlockpt(&user)?;
        let device = File::from(ioctl_tiocgptpeer(&user, flags)?);
        let keyboard = File::from(user);
        let mut screen = keyboard.try_clone()?;
        let (sender, pieces) = mpsc::channel();
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = screen.read(&mut piece) {
                if sender.send(piece[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            keyboard,
            device,
            pieces,
            seen: Vec::new(),
        })
    }

    /// One of a program's streams, on this terminal.
    ///
    /// # Errors
    /// When the process can have no more descriptors.
    pub fn stream(&self) -> io::Result<Stdio> {
        Ok(self.device.try_clone()?.into())
    }

    /// How the terminal is set.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn modes(&self) -> io::Result<Modes> {
        let termios = tcgetattr(&self.device)?;
        Ok(Modes {
            flags: [
                termios.input_modes.bits(),
                termios.output_modes.bits(),
                termios.control_modes.bits(),
                termios.local_modes.bits(),
            ]
            .map(u64::from),
            least_bytes: termios.special_codes[SpecialCodeIndex::VMIN],
            time: termios.special_codes[SpecialCodeIndex::VTIME],
        })
    }

    /// Presses keys.
    ///
    /// # Errors
    /// When the terminal takes none.
    pub fn press(&mut self, keys: &str) -> io::Result<()> {
        self.keyboard.write_all(keys.as_bytes())
    }

    /// Waits until `text` is on the screen; false when the time is over first.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while !self.screen().contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.pieces.recv_timeout(left) {
                Ok(piece) => self.seen.extend(piece),
                Err(_) => return false,
            }
        }
        true
    }

    /// All that has been on the screen.
    pub fn screen(&mut self) -> String {
        self.seen.extend(self.pieces.try_iter().flatten());
        String::from_utf8_lossy(&self.seen).into_owned()
    }
}
