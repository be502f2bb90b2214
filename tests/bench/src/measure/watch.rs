//! Running a VMM and watching what its guest prints, with the time at which it came.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::memory::{self, Memory};

/// Why a run came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    /// It cannot be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It ended badly.
    #[error("{program} ended with {status}; it said:\n{said}")]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// Its last words.
        said: String,
    },
    /// It does not end.
    #[error("{program} has not ended after {} s; its guest said last:\n{said}", .limit.as_secs())]
    Timeout {
        /// The program.
        program: String,
        /// The limit.
        limit: Duration,
        /// The guest's last words.
        said: String,
    },
    /// The process cannot be looked at.
    #[error("cannot look at the process of {program}")]
    Look {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
}

/// A VMM that runs.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    guest_bytes: u64,
    is_ended: Cell<bool>,
}

impl Running {
    const fn new(child: Child, guest_bytes: u64) -> Self {
        let is_ended = Cell::new(false);
        Self {
            child,
            guest_bytes,
            is_ended,
        }
    }

    /// Its memory, while it stands still.
    ///
    /// # Errors
    /// When the process is gone.
    pub(crate) fn memory(&self) -> io::Result<Memory> {
        self.signal(libc::SIGSTOP);
        let memory = memory::of(self.child.id(), self.guest_bytes);
        self.signal(libc::SIGCONT);
        memory
    }

    /// The time that it has run, its guest included, in nanoseconds.
    ///
    /// # Errors
    /// When the process is gone.
    pub(crate) fn run_time(&self) -> io::Result<u64> {
        memory::run_time(self.child.id())
    }

    /// How long it took to come where it is: the time `at` that has passed since its start; where the
    /// clock counts instructions, the time that it has run, for whenever it waits for a disk the clock
    /// leaps.
    ///
    /// # Errors
    /// When the process is gone.
    pub(crate) fn time_since_start(
        &self,
        counts_instructions: bool,
        at: Duration,
    ) -> io::Result<Duration> {
        if counts_instructions {
            Ok(Duration::from_nanos(self.run_time()?))
        } else {
            Ok(at)
        }
    }

    /// Kills it: all has been seen, and how it ends does not matter.
    pub(crate) fn end(&self) {
        self.is_ended.set(true);
        self.signal(libc::SIGKILL);
    }

    fn signal(&self, signal: libc::c_int) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // SAFETY: a signal to a child that has not been waited for, so the number is still its.
            unsafe { libc::kill(pid, signal) };
        }
    }
}

/// What is done about a line: it is given the VMM, the time since its start, and the line.
pub(crate) type OnLine<'a> = &'a mut dyn FnMut(&Running, Duration, &str) -> io::Result<()>;

/// Runs `command` to its end, and gives `on_line` each line that its guest prints.
///
/// # Errors
/// When it cannot be started, takes longer than `limit`, or does not end well.
pub(crate) fn run(
    mut command: Command,
    guest_bytes: u64,
    limit: Duration,
    started: &mut dyn FnMut(&Child) -> io::Result<()>,
    on_line: OnLine<'_>,
) -> Result<(), WatchError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let start_error = |source| WatchError::Start {
        program: program.clone(),
        source,
    };
    let look_error = |source| WatchError::Look {
        program: program.clone(),
        source,
    };
    let mut errors = tempfile::tempfile().map_err(start_error)?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors.try_clone().map_err(start_error)?);
    let begun = Instant::now();
    let mut child = command.spawn().map_err(start_error)?;
    started(&child).map_err(start_error)?;
    let pieces = read_in_background(&mut child);
    let mut running = Running::new(child, guest_bytes);
    let mut line = Vec::new();
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        match pieces.recv_timeout(left) {
            Ok((at, piece)) => {
                for byte in piece {
                    if byte != b'\n' {
                        line.push(byte);
                        continue;
                    }
                    let text = String::from_utf8_lossy(&line).into_owned();
                    line.clear();
                    on_line(&running, at.duration_since(begun), &text).map_err(look_error)?;
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                // What cannot be killed has ended.
                let _ = running.child.kill();
                let _ = running.child.wait();
                let said = String::from_utf8_lossy(&line).into_owned();
                return Err(WatchError::Timeout {
                    program,
                    limit,
                    said,
                });
            }
        }
    }
    let status = running.child.wait().map_err(look_error)?;
    if !status.success() && !running.is_ended.get() {
        let said = last_words(&mut errors);
        return Err(WatchError::Failed {
            program,
            status,
            said,
        });
    }
    Ok(())
}

/// What the child prints, piece by piece with the time at which it came.
fn read_in_background(child: &mut Child) -> mpsc::Receiver<(Instant, Vec<u8>)> {
    let (sender, pieces) = mpsc::channel();
    if let Some(mut stdout) = child.stdout.take() {
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut piece) {
                if sender
                    .send((Instant::now(), piece[..length].to_vec()))
                    .is_err()
                {
                    return;
                }
            }
        });
    }
    pieces
}

fn last_words(errors: &mut File) -> String {
    let mut bytes = Vec::new();
    // Only for the message.
    let _ = errors
        .rewind()
        .and_then(|()| errors.read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
