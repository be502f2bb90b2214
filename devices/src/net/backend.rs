//! What carries frames, to a device.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use vm_memory::GuestMemoryError;

#[cfg(doc)]
use super::BEGINNING_BYTES;
use super::{Frame, Offloads, Stream, StreamError, Tap};
use crate::poll::{polled_for_input, wait};

/// What became of a frame of the guest's.
#[derive(Debug)]
pub enum Sent {
    /// It is on its way.
    Sent,
    /// There is no room for it now; it is to be sent again when the descriptor takes output.
    Later,
    /// The host refused it, and it is lost.
    Refused(io::Error),
    /// Nothing is sent any more, and it is lost.
    Over(io::Error),
}

/// A frame of the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes of it all, with those of the header.
    pub bytes: usize,
    /// Which of them, on from number [`BEGINNING_BYTES`], are in the guest's memory, and in their place in the buffer is
    /// something else.
    pub straight: usize,
}

/// What carries frames between the host and a device.
pub enum Backend {
    /// An interface of the host's kernel.
    Tap(Tap),
    /// A program's socket.
    Stream(Stream),
}

impl Backend {
    /// Which descriptor has input when there are frames, and takes output when there is room for more.
    pub fn descriptor(&self) -> RawFd {
        match self {
            Self::Tap(tap) => tap.as_raw_fd(),
            Self::Stream(stream) => stream.as_raw_fd(),
        }
    }

    /// Whether the host computes checksums and cuts what is longer than its network takes.
    pub const fn has_offloads(&self) -> bool {
        match self {
            Self::Tap(tap) => tap.has_offloads(),
            Self::Stream(_) => false,
        }
    }

    /// Whether nothing comes any more, and nothing goes: the interface, or the program at the other end, is gone. Of
    /// macvtap interfaces the kernel does not say that (tap_poll() in drivers/net/tap.c).
    pub fn is_over(&self) -> bool {
        let mut polled = [polled_for_input(self.descriptor())];
        // Where the kernel does not say, it is taken to be there.
        let asked = wait(&mut polled, Some(Duration::ZERO));
        asked.is_ok() && polled[0].revents & (libc::POLLERR | libc::POLLHUP) != 0
    }

    /// Whether the host has frames for it: it has none for queues of an interface that are not in use.
    pub const fn is_attached(&self) -> bool {
        match self {
            Self::Tap(tap) => tap.is_attached(),
            Self::Stream(_) => true,
        }
    }

    /// Has the host have frames for it, or none.
    ///
    /// # Errors
    /// The host's.
    pub fn attach(&mut self, is_attached: bool) -> io::Result<()> {
        match self {
            Self::Tap(tap) => tap.attach(is_attached),
            Self::Stream(_) => Ok(()),
        }
    }

    /// Has the host leave such work with received frames to the guest, as far as it can.
    ///
    /// # Errors
    /// The host's.
    pub fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        match self {
            Self::Tap(tap) => tap.set_offloads(offloads),
            Self::Stream(_) => Ok(()),
        }
    }

    /// Receives a frame behind its header into `buffer`, which has room for the longest; `None` when there is none now.
    /// What is behind its beginning may go straight into `room` for a whole frame, as far as that is long.
    ///
    /// # Errors
    /// Some of the room is out of reach; or nothing comes any more.
    pub fn receive(
        &mut self,
        buffer: &mut [u8],
        room: Option<Frame<'_>>,
    ) -> Result<Result<Option<Received>, StreamError>, GuestMemoryError> {
        match self {
            Self::Tap(tap) => Ok(tap.receive(buffer, room)?.map_err(StreamError::Host)),
            Self::Stream(stream) => Ok(stream
                .receive(buffer)
                .map(|bytes| bytes.map(|bytes| Received { bytes, straight: 0 }))),
        }
    }

    /// Whether it may have frames of which its descriptor tells no more.
    pub const fn reads_ahead(&self) -> bool {
        match self {
            Self::Tap(_) => false,
            Self::Stream(_) => true,
        }
    }

    /// Sends a frame of the guest's.
    ///
    /// # Errors
    /// Some of it is out of reach.
    pub fn send(&mut self, frame: Frame<'_>) -> Result<Sent, GuestMemoryError> {
        match self {
            Self::Tap(tap) => tap.send(frame),
            Self::Stream(stream) => stream.send(frame),
        }
    }

    /// Sends what is left of a frame, where a frame can be sent in part; false if there is no room for that.
    ///
    /// # Errors
    /// The host's.
    pub fn flush(&mut self) -> io::Result<bool> {
        match self {
            Self::Tap(_) => Ok(true),
            Self::Stream(stream) => stream.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn it_is_over_when_nobody_is_at_its_other_end() {
        let (socket, other) = UnixStream::pair().unwrap();
        // Of a pipe that has no reader the kernel says what it says of an interface that is gone: POLLERR alone.
        let (reader, writer) = io::pipe().unwrap();
        let [socket, pipe] =
            [socket.into(), writer.into()].map(|it| Backend::Tap(Tap::of_socket(it)));
        assert!(!socket.is_over() && !pipe.is_over());
        drop(other);
        assert!(socket.is_over());
        drop(reader);
        assert!(pipe.is_over());
    }
}
