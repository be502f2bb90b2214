//! What a driver has made of a port.

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::EventSet;

use super::channel::{Channel, Moved};
use super::control::Message;
use crate::dma::DmaMemory;
use crate::virtio::device::ServeError;
use crate::virtio::requests::Request;

/// Bytes that are moved at a time.
const CHUNK_BYTES: usize = 4 << 10;

/// A port as its driver sees it; all of that is gone when the device is reset.
#[derive(Default)]
pub(super) struct Port {
    /// What the driver is to be told, in this order.
    to_add: bool,
    to_call_console: bool,
    to_name: bool,
    /// The driver hears of peers.
    is_ready: bool,
    /// The peer that the driver was told of is gone.
    to_close: bool,
    told_of_peer: bool,
    /// The guest has it open.
    pub(super) is_open: bool,
    /// The socket may have something, and may take something.
    pub(super) may_read: bool,
    pub(super) may_write: bool,
    /// The peer is gone, or sends nothing any more; what it sent before may be there still.
    pub(super) hung_up: bool,
    /// A buffer of the guest's that is not filled yet.
    pub(super) empty: Option<Request>,
    /// What is not written yet, and how much of it is.
    pub(super) unwritten: Option<(Request, u64)>,
}

impl Port {
    pub(super) fn new() -> Self {
        Self {
            may_read: true,
            may_write: true,
            ..Self::default()
        }
    }

    /// The driver knows of ports and is to know of this one.
    pub(super) const fn announce(&mut self) {
        self.to_add = true;
    }

    /// The driver has made a port of it, and is to know what it is.
    pub(super) const fn introduce(&mut self, is_console: bool, has_name: bool) {
        self.to_call_console = is_console;
        self.to_name = has_name;
        self.is_ready = true;
        self.told_of_peer = false;
        self.to_close = false;
    }

    /// There is a peer.
    pub(super) const fn connect(&mut self) {
        self.may_read = true;
        self.may_write = true;
        self.hung_up = false;
    }

    /// The peer is gone.
    pub(super) const fn disconnect(&mut self) {
        self.to_close = self.told_of_peer;
        self.hung_up = false;
    }

    /// What the driver is to be told next.
    pub(super) fn next_message(&self, has_peer: bool) -> Option<Message> {
        let all = [
            (self.to_add, Message::Add),
            (self.to_call_console, Message::Console),
            (self.to_name, Message::Name),
            (self.to_close, Message::Open(false)),
            (
                self.is_ready && has_peer && !self.told_of_peer,
                Message::Open(true),
            ),
        ];
        let mut due = all.into_iter().filter(|(is_due, _)| *is_due);
        due.next().map(|(_, message)| message)
    }

    /// The driver was told that.
    pub(super) const fn said(&mut self, message: Message) {
        match message {
            Message::Add => self.to_add = false,
            Message::Console => self.to_call_console = false,
            Message::Name => self.to_name = false,
            Message::Open(is_open) => {
                self.told_of_peer = is_open;
                self.to_close = false;
            }
        }
    }

    /// Whether something may be there for the guest that it would take.
    pub(super) const fn may_receive(&self) -> bool {
        self.is_open && self.may_read
    }

    /// What is to be heard of the peer: nothing more of one that has hung up.
    pub(super) fn wanted(&self) -> Option<EventSet> {
        if self.hung_up {
            return None;
        }
        let mut wanted = EventSet::READ_HANG_UP;
        if self.is_open && !self.may_read {
            wanted |= EventSet::IN;
        }
        if self.unwritten.is_some() && !self.may_write {
            wanted |= EventSet::OUT;
        }
        Some(wanted)
    }
}

/// What sending a request came to.
pub(super) struct Sent {
    /// Bytes of it that are written in all.
    pub(super) written: u64,
    /// Nothing more of it is to be written.
    pub(super) is_done: bool,
}

/// What filling a buffer came to.
pub(super) struct Filled {
    pub(super) bytes: usize,
    /// The peer is gone.
    pub(super) is_over: bool,
}

impl Port {
    /// Fills `request` with what the peer has sent, up to `most` bytes.
    ///
    /// # Errors
    /// The buffer is out of reach.
    pub(super) fn fill(
        &mut self,
        request: &Request,
        channel: &mut Channel,
        memory: &DmaMemory,
        most: usize,
    ) -> Result<Filled, ServeError> {
        let mut chunk = [0; CHUNK_BYTES];
        let mut filled = Filled {
            bytes: 0,
            is_over: false,
        };
        for buffer in request.buffers.iter().filter(|it| it.is_write_only()) {
            let mut offset = 0;
            while offset < u64::from(buffer.len()) {
                let room = usize::try_from(u64::from(buffer.len()) - offset).unwrap_or(most);
                let wanted = room.min(most - filled.bytes).min(CHUNK_BYTES);
                if wanted == 0 {
                    return Ok(filled);
                }
                match channel.read(&mut chunk[..wanted]) {
                    Moved::Bytes(bytes) => {
                        let at = address(buffer.addr(), offset)?;
                        memory.write_slice(&chunk[..bytes], at)?;
                        filled.bytes += bytes;
                        offset += bytes as u64;
                        if bytes < wanted {
                            // That was all, or else the kernel tells of more.
                            self.may_read = self.hung_up;
                            return Ok(filled);
                        }
                    }
                    Moved::Later if !self.hung_up => {
                        self.may_read = false;
                        return Ok(filled);
                    }
                    Moved::Later | Moved::Never => {
                        filled.is_over = true;
                        return Ok(filled);
                    }
                }
            }
        }
        Ok(filled)
    }

    /// Writes what `request` holds from byte `start` on to the peer, up to `most` bytes, or nowhere without one.
    ///
    /// # Errors
    /// The buffer is out of reach.
    pub(super) fn send(
        &mut self,
        request: &Request,
        start: u64,
        channel: &mut Channel,
        memory: &DmaMemory,
        most: usize,
    ) -> Result<Sent, ServeError> {
        let mut sent = Sent {
            written: start,
            is_done: true,
        };
        if channel.peer().is_none() {
            return Ok(sent);
        }
        let mut chunk = [0; CHUNK_BYTES];
        let mut before = 0;
        for buffer in request.buffers.iter().filter(|it| !it.is_write_only()) {
            let end = before + u64::from(buffer.len());
            while sent.written < end {
                let left =
                    most.saturating_sub(usize::try_from(sent.written - start).unwrap_or(most));
                let wanted = usize::try_from(end - sent.written).unwrap_or(left);
                let wanted = wanted.min(left).min(CHUNK_BYTES);
                if wanted == 0 {
                    sent.is_done = false;
                    return Ok(sent);
                }
                let at = address(buffer.addr(), sent.written - before)?;
                memory.read_slice(&mut chunk[..wanted], at)?;
                match channel.write(&chunk[..wanted]) {
                    Moved::Bytes(bytes) => sent.written += bytes as u64,
                    Moved::Later => {
                        self.may_write = false;
                        sent.is_done = false;
                        return Ok(sent);
                    }
                    // What it had sent may be there still: the end of that is the end of the connection.
                    Moved::Never => {
                        self.hung_up = true;
                        self.may_read = true;
                        return Ok(sent);
                    }
                }
            }
            before = end;
        }
        Ok(sent)
    }
}

fn address(start: GuestAddress, offset: u64) -> Result<GuestAddress, ServeError> {
    let unreachable = vm_memory::GuestMemoryError::InvalidGuestAddress(start);
    let at = start.0.checked_add(offset).ok_or(unreachable)?;
    Ok(GuestAddress(at))
}
