//! One client's connection: bytes in and out, both bounded.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use log::Level;
use serde_json::Value;
use spapr_devices::guest_message;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::framing::{Found, Splitter};
use super::session::Session;
use crate::qemu::fd_sets;
use crate::qemu::monitor::Monitor;

/// Replies wait for a client up to this; then it is not listened to until it reads.
const REPLIES_MOST_BYTES: usize = 256 << 10;
/// A client that so much waits for, events included, is disconnected.
const OUTPUT_MOST_BYTES: usize = 2 << 20;
/// Descriptors that wait for a command that takes them.
const DESCRIPTORS_MOST: usize = 8;
/// Bytes that are read at once.
const CHUNK_BYTES: usize = 16 << 10;

/// A connected stream.
#[derive(Debug)]
pub enum Stream {
    /// In the file system; descriptors can come over it.
    Unix(UnixStream),
    /// Over TCP.
    Tcp(TcpStream),
}

impl Stream {
    pub(super) fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_nonblocking(true),
            Self::Tcp(stream) => stream.set_nonblocking(true),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
        match self {
            Self::Unix(stream) => {
                let (length, file) = stream
                    .recv_with_fd(buffer)
                    .map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
                Ok((length, file.map(OwnedFd::from)))
            }
            Self::Tcp(stream) => Ok((stream.read(buffer)?, None)),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Unix(stream) => stream.as_raw_fd(),
            Self::Tcp(stream) => stream.as_raw_fd(),
        }
    }
}

/// Whether a client is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connection {
    Open,
    Closed,
}

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    stream: Stream,
    session: Session,
    splitter: Splitter,
    /// What has been found in its bytes and not been replied to.
    requests: VecDeque<Found>,
    descriptors: VecDeque<OwnedFd>,
    output: VecDeque<u8>,
    ended: bool,
}

impl Client {
    /// A client that has just connected; it is greeted.
    pub(super) fn new(stream: Stream) -> Self {
        let mut client = Self {
            stream,
            session: Session::default(),
            splitter: Splitter::default(),
            requests: VecDeque::new(),
            descriptors: VecDeque::new(),
            output: VecDeque::new(),
            ended: false,
        };
        client.queue(&Session::greeting());
        client
    }

    /// Whether it is to be read from now.
    pub(super) fn wants_to_read(&self) -> bool {
        !self.ended && self.requests.is_empty() && self.output.len() < REPLIES_MOST_BYTES
    }

    /// Whether something waits to be written, or answered as soon as it can be written.
    pub(super) fn wants_to_write(&self) -> bool {
        let has_requests = !self.requests.is_empty() && !self.session.is_waiting();
        !self.output.is_empty() || has_requests
    }

    fn queue(&mut self, message: &Value) {
        self.output.extend(message.to_string().into_bytes());
        self.output.extend(b"\r\n");
    }

    /// Tells it of an event, if it wants to hear. Closed when it has not read for so long that it
    /// cannot be told.
    pub(super) fn tell(&mut self, event: &Value) -> Connection {
        if self.session.hears_events() {
            self.queue(event);
        }
        if self.output.len() > OUTPUT_MOST_BYTES {
            guest_message!(Level::Warn, "a monitor that does not read was disconnected");
            return Connection::Closed;
        }
        Connection::Open
    }

    /// Reads what has come, once.
    pub(super) fn receive(&mut self) -> Connection {
        let mut chunk = [0; CHUNK_BYTES];
        match self.stream.read(&mut chunk) {
            // Replies to what came before are still written.
            Ok((0, _)) => self.ended = true,
            Ok((length, descriptor)) => {
                self.keep(descriptor);
                let requests = &mut self.requests;
                self.splitter
                    .feed(&chunk[..length], |found| requests.push_back(found));
            }
            Err(error) if is_for_later(&error) => {}
            Err(_) => return Connection::Closed,
        }
        self.state()
    }

    fn keep(&mut self, descriptor: Option<OwnedFd>) {
        if let Some(descriptor) = descriptor
            && self.descriptors.len() < DESCRIPTORS_MOST
        {
            fd_sets::close_on_exec(&descriptor);
            self.descriptors.push_back(descriptor);
        }
    }

    /// Carries out the next request and returns the reply, which is not queued yet: what the command
    /// brought about is told before. `None` when there is no request, one is not done yet, or too many
    /// replies wait.
    pub(super) fn reply_to_next(&mut self, monitor: &Monitor) -> Option<Value> {
        if self.output.len() >= REPLIES_MOST_BYTES {
            return None;
        }
        if self.session.is_waiting() {
            return None;
        }
        if let Some(late) = self.session.late_reply() {
            return Some(late);
        }
        let request = self.requests.pop_front()?;
        let descriptors = &mut self.descriptors;
        let descriptor = || descriptors.pop_front();
        let reply = self.session.reply(&request, monitor, descriptor);
        if self.requests.is_empty() {
            // They came with requests that did not take them.
            self.descriptors.clear();
        }
        reply
    }

    /// Whether a command that was waited for has ended.
    pub(super) fn has_late_reply(&self) -> bool {
        self.session.awaits_reply() && !self.session.is_waiting()
    }

    /// Queues a reply.
    pub(super) fn answer(&mut self, reply: &Value) {
        self.queue(reply);
    }

    /// Writes as much as the client takes.
    pub(super) fn send(&mut self) -> Connection {
        while !self.output.is_empty() {
            let (front, _) = self.output.as_slices();
            match self.stream.write(front) {
                Ok(0) => return Connection::Closed,
                Ok(length) => drop(self.output.drain(..length)),
                Err(error) if is_for_later(&error) => break,
                Err(_) => return Connection::Closed,
            }
        }
        self.state()
    }

    fn state(&self) -> Connection {
        let is_idle = self.requests.is_empty() && !self.session.awaits_reply();
        if self.ended && is_idle && self.output.is_empty() {
            Connection::Closed
        } else {
            Connection::Open
        }
    }
}

impl AsRawFd for Client {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
