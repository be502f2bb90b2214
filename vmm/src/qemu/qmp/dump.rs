//! Commands that dump the guest.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::json;

use super::commands::{Answer, Request};
use super::error::QmpError;
use crate::qemu::dumps::BeginError;
use crate::qemu::fd_sets;
use crate::sandbox;
use spapr_devices::error_chain::chain;

impl From<BeginError> for QmpError {
    fn from(error: BeginError) -> Self {
        Self::Generic(chain(&error).to_string())
    }
}

fn refused(text: &str) -> QmpError {
    QmpError::Generic(text.to_owned())
}

pub(super) fn dump_guest_memory(request: &mut Request<'_>) -> Answer {
    if request.flag("paging") == Some(true) {
        return Err(refused(
            "Parameter 'paging' has to be false: memory is dumped by its physical addresses, from \
             which crash and gdb find the guest's own",
        ));
    }
    let part = part(request)?;
    // Before a file is opened, which may be that of the dump that is being written.
    let is_dumpable = request.monitor.guest.check_dumpable();
    is_dumpable.map_err(|error| QmpError::Generic(error.to_string()))?;
    let target = target(request)?;
    let outcome = request.monitor.dumps.begin(target, part)?;
    if request.flag("detach") != Some(true) {
        request.awaits = Some(outcome);
    }
    Ok(json!({}))
}

/// What is to be dumped, unless it is everything: where it begins, and how many bytes it has.
fn part(request: &Request<'_>) -> Result<Option<(u64, u64)>, QmpError> {
    let number = |name: &str| {
        let number = request.number(name).map(u64::try_from).transpose();
        number.map_err(|_| {
            QmpError::Generic(format!("Parameter '{name}' expects a non-negative value"))
        })
    };
    match (number("begin")?, number("length")?) {
        (None, None) => Ok(None),
        (Some(begin), Some(length)) => Ok(Some((begin, length))),
        (Some(_), None) => Err(refused("Parameter 'length' is missing; 'begin' is given")),
        (None, Some(_)) => Err(refused("Parameter 'begin' is missing; 'length' is given")),
    }
}

/// The descriptor that is written to: one that was passed before, or that of a file.
fn target(request: &Request<'_>) -> Result<OwnedFd, QmpError> {
    let protocol = request.text("protocol").unwrap_or_default();
    if let Some(name) = protocol.strip_prefix("fd:") {
        return Ok(request.monitor.fd_sets.take_named(name)?);
    }
    let Some(path) = protocol.strip_prefix("file:").map(Path::new) else {
        return Err(QmpError::Generic(format!(
            "Parameter 'protocol' expects 'fd:NAME' or 'file:PATH', not '{protocol}'"
        )));
    };
    if let Some(set) = fd_sets::set_of_path(path) {
        return Ok(request.monitor.fd_sets.open_for_writing(set)?);
    }
    if sandbox::is_on() {
        return Err(QmpError::Generic(format!(
            "{} cannot be opened: the sandbox (-sandbox on) keeps monitors from files. Pass a \
             descriptor with getfd, and give its name as 'fd:NAME'",
            path.display()
        )));
    }
    // A pipe that nobody reads is refused, in place of being waited for.
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path);
    opened
        .map(OwnedFd::from)
        .map_err(|error| QmpError::Generic(format!("{} cannot be opened: {error}", path.display())))
}

pub(super) fn query_dump(request: &mut Request<'_>) -> Answer {
    Ok(request.monitor.dumps.progress())
}
