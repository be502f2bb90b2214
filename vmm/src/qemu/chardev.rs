//! Opening character devices: the guest's terminal, and the sockets of monitors.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use spapr_devices::virtio::serial::Outlet;

use super::command_line::{Backend, Chardev, OutputFile, SocketAddress};
use super::fd_sets::{FdSetError, FdSets, set_of_path};
use super::inherited::Inherited;
use super::logged;
use super::qmp;
use crate::console::socket::{self, Connection, Listener};
use crate::console::{Console, ConsoleError};

/// Why a character device cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ChardevError {
    /// A file cannot be written.
    #[error("the chardev {id} cannot write to {}", path.display())]
    File {
        /// The chardev.
        id: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A descriptor set has none for it.
    #[error("the chardev {id} cannot use its file descriptor")]
    Descriptor {
        /// The chardev.
        id: String,
        /// Why.
        source: FdSetError,
    },
    /// A socket cannot be used.
    #[error("the chardev {id} cannot use the socket {address}")]
    Socket {
        /// The chardev.
        id: String,
        /// Where the socket is.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// There is no console.
    #[error("the chardev {id} cannot be the guest's terminal")]
    Console {
        /// The chardev.
        id: String,
        /// Why.
        source: ConsoleError,
    },
    /// A monitor on something that is no socket.
    #[error("the chardev {0} is not a socket; a monitor needs one")]
    NoSocket(String),
}

/// A character device that is open.
pub struct Open<T> {
    /// What was opened.
    pub value: T,
    /// What `query-chardev` calls it.
    pub filename: String,
}

/// Where monitors are, opened one after the other.
pub type Endpoints = qmp::Endpoints;

/// Opens the guest's terminal; without a chardev, one that takes all and gives nothing.
///
/// # Errors
/// What cannot be opened.
pub fn open_terminal(
    chardev: Option<&Chardev>,
    inherited: &mut Inherited,
) -> Result<Open<Console>, ChardevError> {
    let Some(chardev) = chardev else {
        let console = Console::with(io::sink(), None, DISCARDED.to_owned());
        let value = console.map_err(|source| ChardevError::Console {
            id: "none".to_owned(),
            source,
        })?;
        return Ok(Open {
            value,
            filename: "null".to_owned(),
        });
    };
    let mut opened = open_console(chardev, inherited)?;
    let console = &mut opened.value;
    if let Some(log) = &chardev.log {
        console.place = format!("{}, logged in {}", console.place, name_file(&log.path));
    }
    if let Some(name) = &console.pty_name {
        opened.filename = format!("pty:{}", name.display());
    }
    Ok(opened)
}

/// A console on what is behind the chardev. It logs what it shows, but its place does not say so; a pseudo-terminal's
/// file name is empty.
fn open_console(
    chardev: &Chardev,
    inherited: &mut Inherited,
) -> Result<Open<Console>, ChardevError> {
    let id = &chardev.id;
    let log = chardev
        .log
        .as_ref()
        .map(|file| open_output(id, file, &inherited.sets))
        .transpose()?;
    let place = place(&chardev.backend);
    let (console, filename) = match &chardev.backend {
        Backend::Null => (with_log(log, io::sink(), None, place), "null".to_owned()),
        Backend::Stdio => (
            Console::on_stdio(|output| logged::with_log(output, log)),
            "stdio".to_owned(),
        ),
        Backend::Pty => (
            Console::on_pty(|terminal| logged::with_log(terminal, log)),
            String::new(),
        ),
        Backend::File(file) => {
            let output = open_output(id, file, &inherited.sets)?;
            (with_log(log, output, None, place), "file".to_owned())
        }
        Backend::Listen(address) => {
            let (output, input) = socket::listen(match bind(id, address, inherited)? {
                qmp::Listener::Unix(listener) => Listener::Unix(listener),
                qmp::Listener::Tcp(listener) => Listener::Tcp(listener),
            });
            let filename = describe(address, true);
            (
                with_log(log, output, Some(Box::new(input)), place),
                filename,
            )
        }
        Backend::Connect(address) => {
            let connection = connect(id, address, inherited)?;
            let filename = describe(address, false);
            let (output, input) = socket::connected(connection)
                .map_err(|source| socket_error(id, &filename, source))?;
            (
                with_log(log, output, Some(Box::new(input)), place),
                filename,
            )
        }
    };
    let value = console.map_err(|source| ChardevError::Console {
        id: id.clone(),
        source,
    })?;
    Ok(Open { value, filename })
}

fn with_log(
    log: Option<File>,
    inner: impl Write + Send + 'static,
    input: Option<Box<dyn Read + Send>>,
    place: String,
) -> Result<Console, ConsoleError> {
    let output = logged::with_log(inner, log).map_err(ConsoleError::Thread)?;
    Console::with(output, input, place)
}

/// A terminal whose output nobody sees.
const DISCARDED: &str = "discarded";

/// What a terminal is called when someone has to look there.
fn place(backend: &Backend) -> String {
    match backend {
        Backend::Null => DISCARDED.to_owned(),
        Backend::Stdio => "standard output".to_owned(),
        // Its name comes with it.
        Backend::Pty => "a pseudo-terminal".to_owned(),
        Backend::File(file) => name_file(&file.path),
        Backend::Listen(address) | Backend::Connect(address) => {
            format!("the socket {}", describe(address, false))
        }
    }
}

fn name_file(path: &Path) -> String {
    match set_of_path(path) {
        // Whoever started this process knows what it is.
        Some(_) => format!("the file passed in as {}", path.display()),
        None => format!("the file {}", path.display()),
    }
}

/// Opens what is at the other end of a serial device's port, with what `query-chardev` calls it.
///
/// # Errors
/// What cannot be opened.
pub fn open_port(
    chardev: &Chardev,
    inherited: &mut Inherited,
) -> Result<Open<Outlet>, ChardevError> {
    let id = &chardev.id;
    let (value, filename) = match &chardev.backend {
        Backend::Listen(address) => {
            let listener = match bind(id, address, inherited)? {
                qmp::Listener::Unix(listener) => OwnedFd::from(listener),
                qmp::Listener::Tcp(listener) => OwnedFd::from(listener),
            };
            (Outlet::Listener(listener), describe(address, true))
        }
        Backend::Connect(address) => {
            let peer = match connect(id, address, inherited)? {
                Connection::Unix(stream) => OwnedFd::from(stream),
                Connection::Tcp(stream) => OwnedFd::from(stream),
            };
            (Outlet::Connected(peer), describe(address, false))
        }
        // The command line has no others for ports.
        _ => (Outlet::Nothing, "null".to_owned()),
    };
    Ok(Open { value, filename })
}

/// Opens the socket of a monitor, and adds it to `endpoints`. Returns what `query-chardev` calls it.
///
/// # Errors
/// What cannot be opened.
pub fn open_monitor(
    chardev: &Chardev,
    inherited: &mut Inherited,
    endpoints: &mut Endpoints,
) -> Result<String, ChardevError> {
    let id = &chardev.id;
    match &chardev.backend {
        Backend::Listen(address) => {
            let listener = bind(id, address, inherited)?;
            keep_open(&listener).map_err(|source| {
                let address = describe(address, true);
                socket_error(id, &address, source)
            })?;
            endpoints.listeners.push(listener);
            Ok(describe(address, true))
        }
        Backend::Connect(address) => {
            endpoints
                .connected
                .push(match connect(id, address, inherited)? {
                    Connection::Unix(stream) => qmp::Stream::Unix(stream),
                    Connection::Tcp(stream) => qmp::Stream::Tcp(stream),
                });
            Ok(describe(address, false))
        }
        _ => Err(ChardevError::NoSocket(id.clone())),
    }
}

/// Keeps a monitor's socket open until the process is gone. libvirt connects before the machine is made:
/// a connection that ended earlier would have it report that, and not why the machine cannot be made.
fn keep_open(listener: &qmp::Listener) -> io::Result<()> {
    let socket = match listener {
        qmp::Listener::Unix(socket) => socket.as_fd(),
        qmp::Listener::Tcp(socket) => socket.as_fd(),
    };
    // Never closed.
    let _raw = socket.try_clone_to_owned()?.into_raw_fd();
    Ok(())
}

fn open_output(id: &str, file: &OutputFile, fd_sets: &FdSets) -> Result<File, ChardevError> {
    if let Some(set) = set_of_path(&file.path) {
        let descriptor = fd_sets.open_for_writing(set);
        return descriptor
            .map(File::from)
            .map_err(|source| ChardevError::Descriptor {
                id: id.to_owned(),
                source,
            });
    }
    let opened = OpenOptions::new()
        .create(true)
        .write(true)
        .append(file.append)
        .truncate(!file.append)
        .open(&file.path);
    opened.map_err(|source| ChardevError::File {
        id: id.to_owned(),
        path: file.path.clone(),
        source,
    })
}

fn socket_error(id: &str, address: &str, source: io::Error) -> ChardevError {
    ChardevError::Socket {
        id: id.to_owned(),
        address: address.to_owned(),
        source,
    }
}

fn take(fd: RawFd, inherited: &mut Inherited) -> io::Result<OwnedFd> {
    let taken = inherited.socket(fd);
    taken.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
}

fn bind(
    id: &str,
    address: &SocketAddress,
    inherited: &mut Inherited,
) -> Result<qmp::Listener, ChardevError> {
    let error = |source| socket_error(id, &describe(address, true), source);
    match address {
        SocketAddress::Unix(path) => {
            let bound = socket::bind(path);
            bound.map(qmp::Listener::Unix).map_err(error)
        }
        SocketAddress::Tcp { host, port } => TcpListener::bind((host.as_str(), *port))
            .map(qmp::Listener::Tcp)
            .map_err(error),
        SocketAddress::Descriptor(fd) => {
            let descriptor = take(*fd, inherited).map_err(error)?;
            Ok(if is_unix(&descriptor).map_err(error)? {
                qmp::Listener::Unix(UnixListener::from(descriptor))
            } else {
                qmp::Listener::Tcp(TcpListener::from(descriptor))
            })
        }
    }
}

fn connect(
    id: &str,
    address: &SocketAddress,
    inherited: &mut Inherited,
) -> Result<Connection, ChardevError> {
    let error = |source| socket_error(id, &describe(address, false), source);
    match address {
        SocketAddress::Unix(path) => UnixStream::connect(path)
            .map(Connection::Unix)
            .map_err(error),
        SocketAddress::Tcp { host, port } => TcpStream::connect((host.as_str(), *port))
            .map(Connection::Tcp)
            .map_err(error),
        SocketAddress::Descriptor(fd) => {
            let descriptor = take(*fd, inherited).map_err(error)?;
            Ok(if is_unix(&descriptor).map_err(error)? {
                Connection::Unix(UnixStream::from(descriptor))
            } else {
                Connection::Tcp(TcpStream::from(descriptor))
            })
        }
    }
}

/// Whether a socket is one of the file system; an error when it is no socket.
fn is_unix(descriptor: &OwnedFd) -> io::Result<bool> {
    use std::os::fd::AsRawFd;
    let mut domain: libc::c_int = 0;
    let mut length = libc::socklen_t::try_from(size_of_val(&domain)).unwrap_or(4);
    // SAFETY: the descriptor is open, and the pointers are good for one int and its length.
    let result = unsafe {
        libc::getsockopt(
            descriptor.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_DOMAIN,
            (&raw mut domain).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(domain == libc::AF_UNIX)
}

/// Where a socket is, as `query-chardev` says it.
fn describe(address: &SocketAddress, server: bool) -> String {
    let place = match address {
        SocketAddress::Unix(path) => format!("unix:{}", path.display()),
        SocketAddress::Descriptor(fd) => format!("fd:{fd}"),
        SocketAddress::Tcp { host, port } => format!("tcp:{host}:{port}"),
    };
    if server {
        format!("{place},server=on")
    } else {
        place
    }
}

#[cfg(test)]
#[path = "chardev_tests.rs"]
mod tests;
