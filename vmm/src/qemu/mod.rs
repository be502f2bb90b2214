//! The front end for libvirt's QEMU driver: a command line and a monitor protocol (QMP) such as
//! `qemu-system-ppc64` has, for the machine that `spapr-vmm run` runs.
//!
//! | module | what it is for |
//! |---|---|
//! | [`command_line`] | what libvirt's command line asks for |
//! | [`run`] | from the command line to the end of the process |
//! | [`machine`] | a machine under monitors |
//! | [`chardev`] | opening character devices |
//! | `logged` | a terminal's log |
//! | `last_words` | what is said before the process ends |
//! | [`daemon`] | leaving the terminal |
//! | [`host`] | what monitors are told of the host |
//! | [`state`] | what the guest is doing, and the way to change it |
//! | [`disks`] | disks as monitors know them, and what they are told of requests that the host has failed |
//! | [`dumps`] | dumps of the guest, written by a thread |
//! | [`events`] | events on their way to monitors |
//! | [`inherited`] | file descriptors that whoever started the process left open for it |
//! | [`fd_sets`] | file descriptors that were passed in, by sets and names |
//! | [`monitor`] | what monitors work on |
//! | [`qmp`] | the monitor protocol |

pub mod chardev;
pub mod command_line;
pub mod controls;
pub mod daemon;
pub mod disks;
pub mod dumps;
pub mod events;
pub mod fd_sets;
pub mod host;
pub mod inherited;
mod last_words;
mod logged;
pub mod machine;
pub mod monitor;
pub mod qmp;
pub mod run;
pub mod state;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use log::LevelFilter;

use crate::logging::{self, Prefix};
use crate::process_limits;
use command_line::CommandLine;
use daemon::{Detached, Readiness};
use inherited::Inherited;
use run::QemuError;

/// The program `spapr-vmm-qemu`: runs what its arguments ask for. Its exit status is 0 when the guest
/// or a monitor ended it, and 1 for any failure.
pub fn main() -> ExitCode {
    let started = Instant::now();
    match process_limits::prepare() {
        Ok(()) => run_program(started),
        Err(error) => {
            logging::tell(&format!("error: {error}"));
            last_words::wait_until_heard();
            ExitCode::FAILURE
        }
    }
}

/// With stack enough; it must not become part of `main`'s own frame.
#[inline(never)]
fn run_program(started: Instant) -> ExitCode {
    let arguments: Result<Vec<String>, _> = std::env::args_os()
        .skip(1)
        .map(OsString::into_string)
        .collect();
    let arguments = match arguments {
        Ok(arguments) => arguments,
        Err(argument) => {
            logging::tell(&format!(
                "error: argument {} is not UTF-8",
                argument.display()
            ));
            last_words::wait_until_heard();
            return ExitCode::FAILURE;
        }
    };
    if let Some(answer) = command_line::answer(&arguments) {
        return match std::io::stdout().write_all(answer.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let parsed = CommandLine::parse(arguments).map_err(QemuError::from);
    match parsed.and_then(|line| detach(line, started)) {
        Ok(status) => status,
        Err(error) => {
            logging::tell(&format!("error: {}", error.message()));
            last_words::wait_until_heard();
            ExitCode::FAILURE
        }
    }
}

/// Leaves the terminal if asked to, and runs. Before there is a second thread.
fn detach(line: CommandLine, started: Instant) -> Result<ExitCode, QemuError> {
    let inherited = Inherited::take(&line)?;
    if !line.process.daemonize {
        return run_logged(line, inherited, None, started);
    }
    match daemon::detach()? {
        Detached::Parent { is_ready: true } => Ok(ExitCode::SUCCESS),
        Detached::Parent { is_ready: false } => Ok(ExitCode::FAILURE),
        Detached::Daemon(readiness) => run_logged(line, inherited, Some(readiness), started),
    }
}

fn run_logged(
    line: CommandLine,
    inherited: Inherited,
    readiness: Option<Readiness>,
    started: Instant,
) -> Result<ExitCode, QemuError> {
    let process = &line.process;
    let prefix = Prefix {
        timestamps: process.timestamps,
        guest_name: process
            .guest_name_in_messages
            .then(|| process.name.clone())
            .flatten(),
    };
    prefix.set();
    if process.sandbox {
        crate::sandbox::turn_on();
    }
    let logging = logging::start(process.log.unwrap_or(LevelFilter::Warn));
    let result = run::run(line, inherited, readiness, started);
    // What was logged stands before the last words.
    drop(logging);
    result.map(|()| ExitCode::SUCCESS)
}
