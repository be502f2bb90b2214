//! What comes of a host's run, and who hears of it meanwhile.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

/// Why a host's run came to nothing.
#[derive(Debug, Error)]
pub(crate) enum HostError {
    #[error("the emulator's package lacks {}", path.display())]
    EmulatorIncomplete { path: PathBuf },
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot start the emulator")]
    Start(#[source] io::Error),
    #[error("cannot make the device tree of a host with huge pages")]
    DeviceTree(#[source] io::Error),
    #[error("cannot talk to the emulator; what it said is in {}", log.display())]
    Connect {
        log: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the host hung while booting {attempts} times; the last log is {}", log.display())]
    BootHang { attempts: u32, log: PathBuf },
    #[error("the emulator ended ({status}) before the host was done; see {} and qemu.log beside it", log.display())]
    Ended { status: String, log: PathBuf },
    #[error("the host's kernel is in trouble: {text} ({}, line {line})", log.display())]
    Kernel {
        text: String,
        line: usize,
        log: PathBuf,
    },
    #[error("the host's init failed: {reason}; its log is {}", log.display())]
    Init { reason: String, log: PathBuf },
    #[error("the host has shown no sign of life for {} s; {processors}; its log is {}", silence.as_secs(), log.display())]
    Stalled {
        silence: Duration,
        processors: String,
        log: PathBuf,
    },
    #[error("the script has not ended after {} s; the host's log is {}", limit.as_secs(), log.display())]
    Timeout { limit: Duration, log: PathBuf },
    #[error("interrupted by a signal")]
    Interrupted,
}

/// Takes what the script prints.
pub(crate) trait Output {
    /// Bytes of standard output.
    fn stdout(&mut self, bytes: &[u8]);
    /// Bytes of standard error.
    fn stderr(&mut self, bytes: &[u8]);
    /// Bytes of the interactive shell's terminal.
    fn terminal(&mut self, _bytes: &[u8]) {}
    /// Whether it tells the user by itself that work goes on.
    fn reports_progress(&self) -> bool {
        false
    }
}

/// What to do with the interactive shell's terminal once the host is ready.
pub(crate) type Input<'a> = &'a mut dyn FnMut(UnixStream);

/// How a run went.
#[derive(Debug)]
pub(crate) struct Run {
    /// The script's exit status.
    pub(crate) status: u8,
    /// What was to be fetched and is not there.
    pub(crate) not_fetched: Vec<String>,
}
