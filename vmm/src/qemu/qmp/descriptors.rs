//! Commands about file descriptors that come with them.

use serde_json::{Value, json};

use super::commands::{Answer, Request};
use super::error::QmpError;
use crate::qemu::fd_sets::{Described, FdSetError};

impl From<FdSetError> for QmpError {
    fn from(error: FdSetError) -> Self {
        Self::Generic(error.to_string())
    }
}

fn take(request: &mut Request<'_>) -> Result<std::os::fd::OwnedFd, QmpError> {
    request
        .descriptor
        .take()
        .ok_or_else(|| QmpError::Generic("No file descriptor supplied via SCM_RIGHTS".to_owned()))
}

fn fd_name<'a>(request: &'a Request<'_>) -> Result<&'a str, QmpError> {
    let name = request.text("fdname").unwrap_or_default();
    if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(QmpError::Generic(
            "Parameter 'fdname' expects a name not starting with a digit".to_owned(),
        ));
    }
    Ok(name)
}

pub(super) fn getfd(request: &mut Request<'_>) -> Answer {
    let name = fd_name(request)?.to_owned();
    let descriptor = take(request)?;
    request.monitor.fd_sets.name(name, descriptor)?;
    Ok(json!({}))
}

pub(super) fn closefd(request: &mut Request<'_>) -> Answer {
    let name = fd_name(request)?;
    request.monitor.fd_sets.close_named(name)?;
    Ok(json!({}))
}

fn set_number(request: &Request<'_>) -> Result<Option<u32>, QmpError> {
    let Some(number) = request.number("fdset-id") else {
        return Ok(None);
    };
    u32::try_from(number).map(Some).map_err(|_| {
        QmpError::Generic("Parameter 'fdset-id' expects a non-negative value".to_owned())
    })
}

pub(super) fn add_fd(request: &mut Request<'_>) -> Answer {
    let set = set_number(request)?;
    let opaque = request.text("opaque").map(str::to_owned);
    let descriptor = take(request)?;
    let (set, fd) = request.monitor.fd_sets.add(set, descriptor, opaque)?;
    Ok(json!({"fdset-id": set, "fd": fd}))
}

pub(super) fn remove_fd(request: &mut Request<'_>) -> Answer {
    let set = set_number(request)?.unwrap_or_default();
    let fd = request.number("fd").map(i32::try_from).transpose();
    let fd = fd.map_err(|_| QmpError::Generic("File descriptor named not found".to_owned()))?;
    request.monitor.fd_sets.remove(set, fd)?;
    Ok(json!({}))
}

pub(super) fn query_fdsets(request: &mut Request<'_>) -> Answer {
    let sets = request.monitor.fd_sets.list();
    let describe = |(number, fds): (u32, Vec<Described>)| {
        let fds: Vec<Value> = fds
            .into_iter()
            .map(|(fd, opaque)| match opaque {
                Some(opaque) => json!({"fd": fd, "opaque": opaque}),
                None => json!({"fd": fd}),
            })
            .collect();
        json!({"fdset-id": number, "fds": fds})
    };
    Ok(sets.into_iter().map(describe).collect())
}
