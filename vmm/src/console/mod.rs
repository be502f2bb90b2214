//! Where the guest's terminal is: standard input and output, a file, or a pseudo-terminal.

mod guest;
mod input;
mod os_term;
mod output;
mod pty;
pub mod socket;
mod terminal;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

pub use guest::Terminal;
pub use input::Escape;
pub use os_term::OsTermReport;
pub use output::OutputQueue;
pub use terminal::is_raw;

use crate::setting::Setting;
use crate::spec::ConsoleKind;
use terminal::RawTerminal;

/// Why there is no console.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// Standard input or output cannot be used.
    #[error("cannot use standard input and output as the console")]
    Stdio(#[source] io::Error),
    /// The file cannot be made.
    #[error("cannot write the console to {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no pseudo-terminal.
    #[error("cannot make a pseudo-terminal")]
    Pty(#[source] io::Error),
    /// The console's thread cannot be started.
    #[error("cannot start a thread for the console")]
    Thread(#[source] io::Error),
}

impl ConsoleError {
    /// What of the user's choice it is about.
    pub fn setting(&self) -> Option<Setting> {
        match self {
            Self::Stdio(_) | Self::File { .. } | Self::Pty(_) => Some(Setting::Console),
            Self::Thread(_) => None,
        }
    }
}

/// An open console. Dropping it writes out what is queued, for a bounded time, and gives the
/// terminal back as it was.
pub struct Console {
    /// What the guest writes to.
    pub output: OutputQueue,
    /// What the guest reads from.
    pub input: Option<Box<dyn Read + Send>>,
    /// Whether Ctrl-A x on the input ends the guest.
    pub escape: Escape,
    /// The pseudo-terminal that a user may attach to.
    pub pty_name: Option<PathBuf>,
    /// What it is, to be told to whoever looks for it, say "the file /tmp/console".
    pub place: String,
    // Behind `output`'s flush in drop order: the last lines are written to the raw terminal.
    terminal: Option<RawTerminal>,
    // Held so that a pseudo-terminal without a reader does not report an error.
    _pty_slave: Option<OwnedFd>,
}

impl Console {
    /// Opens the console that `kind` names.
    ///
    /// # Errors
    /// When a file cannot be made or a descriptor cannot be had.
    pub fn open(kind: &ConsoleKind) -> Result<Self, ConsoleError> {
        match kind {
            ConsoleKind::Stdio => Self::on_stdio(Ok),
            ConsoleKind::File(path) => {
                let place = format!("the file {}", path.display());
                let file = File::create(path).map_err(|source| ConsoleError::File {
                    path: path.clone(),
                    source,
                })?;
                Self::new(file, None, Escape::None, place)
            }
            ConsoleKind::Pty => Self::on_pty(Ok),
        }
    }

    /// A console that writes to `output` and reads from `input`; all bytes are the guest's. `place` is
    /// what it is called, as in [`Console::place`].
    ///
    /// # Errors
    /// When there are no threads left.
    pub fn with(
        output: impl Write + Send + 'static,
        input: Option<Box<dyn Read + Send>>,
        place: String,
    ) -> Result<Self, ConsoleError> {
        Self::new(output, input, Escape::None, place)
    }

    /// A console on a new pseudo-terminal. What the guest writes goes through `wrap`.
    ///
    /// # Errors
    /// When there is no pseudo-terminal, or no thread for what `wrap` makes.
    pub fn on_pty<W: Write + Send + 'static>(
        wrap: impl FnOnce(File) -> io::Result<W>,
    ) -> Result<Self, ConsoleError> {
        let pty = pty::open().map_err(ConsoleError::Pty)?;
        let input = pty.master.try_clone().map_err(ConsoleError::Pty)?;
        let output = wrap(pty.master).map_err(ConsoleError::Thread)?;
        let place = format!("the pseudo-terminal {}", pty.name.display());
        let mut console = Self::with(output, Some(Box::new(input)), place)?;
        console.pty_name = Some(pty.name);
        console._pty_slave = Some(pty.slave);
        Ok(console)
    }

    /// A console on standard input and output. A terminal there becomes a raw one, left with Ctrl-A x. What
    /// the guest writes goes through `wrap`.
    ///
    /// # Errors
    /// When they cannot be used, or there is no thread for what `wrap` makes.
    pub fn on_stdio<W: Write + Send + 'static>(
        wrap: impl FnOnce(File) -> io::Result<W>,
    ) -> Result<Self, ConsoleError> {
        let clone = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().map(File::from);
        let input = clone(&io::stdin()).map_err(ConsoleError::Stdio)?;
        let output = clone(&io::stdout()).map_err(ConsoleError::Stdio)?;
        let output = wrap(output).map_err(ConsoleError::Thread)?;
        let terminal = RawTerminal::enter(&input).map_err(ConsoleError::Stdio)?;
        let escape = if terminal.is_some() {
            Escape::CtrlAX
        } else {
            Escape::None
        };
        let place = "standard output".to_owned();
        let mut console = Self::new(output, Some(Box::new(input)), escape, place)?;
        console.terminal = terminal;
        Ok(console)
    }

    fn new(
        output: impl Write + Send + 'static,
        input: Option<Box<dyn Read + Send>>,
        escape: Escape,
        place: String,
    ) -> Result<Self, ConsoleError> {
        Ok(Self {
            output: OutputQueue::spawn(output).map_err(ConsoleError::Thread)?,
            input,
            escape,
            pty_name: None,
            place,
            terminal: None,
            _pty_slave: None,
        })
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.output.drain();
        self.terminal.take();
    }
}
