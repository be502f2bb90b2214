//! Leaving the terminal (`-daemonize`) and the file with the process' id (`-pidfile`).

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Why the process cannot become a daemon, or say who it is.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A system call failed.
    #[error("cannot leave the terminal (-daemonize): {call} failed")]
    Call {
        /// The call.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write {} (-pidfile)", path.display())]
    PidFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Which process goes on after [`detach`].
pub enum Detached {
    /// The one that was started: the daemon is set up, or has failed.
    Parent {
        /// Whether it is set up.
        is_ready: bool,
    },
    /// The daemon, which tells when it is set up.
    Daemon(Readiness),
}

/// Tells the process that waits for the daemon. Dropping it says that the daemon has failed.
pub struct Readiness(PipeWriter);

/// Goes on in a process of a session of its own; the one that was started waits until that says
/// that it is set up. Messages still go to the terminal until then.
///
/// For a process with one thread: no other would be there afterwards.
///
/// # Errors
/// The system call that failed.
pub fn detach() -> Result<Detached, DaemonError> {
    let call = |call| move |source| DaemonError::Call { call, source };
    let (reader, writer) = io::pipe().map_err(call("pipe"))?;
    if fork().map_err(call("fork"))? {
        drop(writer);
        return Ok(Detached::Parent {
            is_ready: wait_for(reader),
        });
    }
    drop(reader);
    // SAFETY: setsid touches no memory.
    if unsafe { libc::setsid() } < 0 {
        return Err(call("setsid")(io::Error::last_os_error()));
    }
    // Once more, so that it can never take over a terminal.
    if fork().map_err(call("fork"))? {
        // SAFETY: ends the process between the two at once; nothing of it is to be cleaned up.
        unsafe { libc::_exit(0) };
    }
    Ok(Detached::Daemon(Readiness(writer)))
}

/// True in the parent.
fn fork() -> io::Result<bool> {
    // SAFETY: the process has one thread yet, so the child is complete.
    match unsafe { libc::fork() } {
        0 => Ok(false),
        1.. => Ok(true),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the daemon said that it is set up before it closed the pipe.
fn wait_for(mut reader: PipeReader) -> bool {
    let mut byte = [0];
    reader.read_exact(&mut byte).is_ok()
}

impl Readiness {
    /// Leaves the folder, does `last` of all that may fail, leaves the terminal and lets the process
    /// that waits end.
    ///
    /// # Errors
    /// The system call that failed, or what `last` says.
    pub fn tell<E: From<DaemonError>>(
        mut self,
        last: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let call = |call| move |source| DaemonError::Call { call, source };
        std::env::set_current_dir("/").map_err(call("chdir"))?;
        let null = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(call("open of /dev/null"))?;
        last()?;
        for standard in 0..=2 {
            // SAFETY: both are numbers of descriptors; dup2 touches no memory, and standard streams
            // may be replaced while they are in use.
            if unsafe { libc::dup2(null.as_raw_fd(), standard) } < 0 {
                return Err(call("dup2")(io::Error::last_os_error()).into());
            }
        }
        // A parent that is gone needs no word.
        let _gone = self.0.write_all(b"1");
        Ok(())
    }
}

/// A file with this process' id, which goes with the process' end.
#[derive(Debug)]
pub struct PidFile(PathBuf);

impl PidFile {
    /// Writes the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(path: &Path) -> Result<Self, DaemonError> {
        let text = format!("{}\n", std::process::id());
        std::fs::write(path, text).map_err(|source| DaemonError::PidFile {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Whoever removed it before wanted it gone.
        let _gone = std::fs::remove_file(&self.0);
    }
}
