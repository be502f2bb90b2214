//! A stream socket to a program that has a network of its own, such as passt: each frame is behind its length, four
//! bytes of which the first is the greatest (QEMU's `-netdev stream`; passt(1), "--socket").

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use vm_memory::GuestMemoryError;

use super::{Frame, HEADER_BYTES, MOST_FRAME_BYTES, Sent};

/// Bytes of a length.
const LENGTH_BYTES: usize = 4;
/// Bytes that are read ahead: a frame of any length, and more where they are short.
const READ_AHEAD_BYTES: usize = 128 << 10;

/// Why nothing comes any more.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Who is at the other end has ended.
    #[error("the other end has closed it")]
    Closed,
    /// What came is none of the protocol: where the next frame begins is unknown.
    #[error("the other end sent a frame of {0} bytes, and {most} is the most", most = MOST_FRAME_BYTES)]
    TooLong(u32),
    /// The host's error.
    #[error(transparent)]
    Host(#[from] io::Error),
}

/// The socket.
pub struct Stream {
    socket: UnixStream,
    /// What was read ahead, and which of it was not taken yet.
    read: Vec<u8>,
    start: usize,
    end: usize,
    /// What is being written: lengths and frames, of which the first bytes are gone already.
    written: Vec<u8>,
    gone: usize,
    ended: bool,
}

impl Stream {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// The host's.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Self::of(UnixStream::connect(path)?)
    }

    /// A socket that is connected.
    ///
    /// # Errors
    /// The host's.
    pub fn over(socket: OwnedFd) -> io::Result<Self> {
        Self::of(socket.into())
    }

    fn of(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            read: vec![0; READ_AHEAD_BYTES],
            start: 0,
            end: 0,
            written: Vec::new(),
            gone: 0,
            ended: false,
        })
    }

    /// Takes the next frame, behind a header that says nothing of it. It may be too short to be one.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, StreamError> {
        loop {
            match self.next_frame()? {
                Some(bytes) => {
                    let frame = self.read.get(self.start..self.start + bytes);
                    let room = buffer.get_mut(..HEADER_BYTES + bytes);
                    self.start += bytes;
                    if let (Some(frame), Some(room)) = (frame, room) {
                        let (header, to) = room.split_at_mut(HEADER_BYTES);
                        header.fill(0);
                        to.copy_from_slice(frame);
                        return Ok(Some(room.len()));
                    }
                }
                None => match self.read_more() {
                    Ok(()) => {}
                    Err(StreamError::Host(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                        return Ok(None);
                    }
                    Err(error) => return Err(error),
                },
            }
        }
    }

    /// The length of the frame that begins at `start` then, if all of it was read.
    fn next_frame(&mut self) -> Result<Option<usize>, StreamError> {
        let there = self.end - self.start;
        let length = self.read[self.start..self.end].first_chunk::<LENGTH_BYTES>();
        let Some(length) = length else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length);
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if bytes > MOST_FRAME_BYTES {
            return Err(StreamError::TooLong(length));
        }
        if there < LENGTH_BYTES + bytes {
            return Ok(None);
        }
        self.start += LENGTH_BYTES;
        Ok(Some(bytes))
    }

    /// Reads what there is, behind what is left.
    fn read_more(&mut self) -> Result<(), StreamError> {
        // What is left is less than a frame, and there is room for it and another.
        if self.start > 0 {
            self.read.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        loop {
            match self.socket.read(&mut self.read[self.end..]) {
                Ok(0) => return Err(StreamError::Closed),
                Ok(count) => {
                    self.end += count;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes the frame, or begins to: it is whole at the other end, or not there.
    pub(super) fn send(&mut self, frame: Frame<'_>) -> Result<Sent, GuestMemoryError> {
        match self.flush() {
            Ok(true) => {}
            Ok(false) => return Ok(Sent::Later),
            Err(error) => return Ok(Sent::Over(error)),
        }
        let bytes = frame.bytes().saturating_sub(HEADER_BYTES);
        let length = u32::try_from(bytes).unwrap_or(0);
        self.written.extend(length.to_be_bytes());
        if let Err(error) = frame.copy_to(HEADER_BYTES, &mut self.written) {
            self.written.clear();
            return Err(error);
        }
        match self.flush() {
            Ok(_) => Ok(Sent::Sent),
            Err(error) => Ok(Sent::Over(error)),
        }
    }

    pub(super) fn flush(&mut self) -> io::Result<bool> {
        while self.gone < self.written.len() {
            if self.ended {
                // Else nothing would ever be sent, and each turn would end here.
                self.forget();
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            match self.socket.write(&self.written[self.gone..]) {
                Ok(count) => self.gone += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.ended = true;
                    self.forget();
                    return Err(error);
                }
            }
        }
        self.forget();
        Ok(true)
    }

    /// Has nothing left to write.
    fn forget(&mut self) {
        self.written.clear();
        self.gone = 0;
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
