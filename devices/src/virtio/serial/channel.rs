//! A port's socket, and who is connected to it: one peer at a time.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use vmm_sys_util::epoll::EventSet;

/// Where a port's bytes come from and go to. Any stream will do, whatever kind of socket it is.
#[derive(Debug)]
pub enum Outlet {
    /// A socket that listens: one peer after the other.
    Listener(OwnedFd),
    /// A peer, after which there is no other.
    Connected(OwnedFd),
    /// Nobody ever.
    Nothing,
}

/// What came of reading or writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// So many bytes.
    Bytes(usize),
    /// None now: the peer has to do something first.
    Later,
    /// None any more: the peer is gone.
    Never,
}

/// The socket.
#[derive(Debug)]
pub(super) struct Channel {
    listener: Option<OwnedFd>,
    peer: Option<File>,
    /// What the kernel was asked to tell of each, and has not told yet.
    pub(super) of_listener: Option<EventSet>,
    pub(super) of_peer: Option<EventSet>,
}

impl Channel {
    /// The channel of `outlet`, which never blocks from here on.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn new(outlet: Outlet) -> io::Result<Self> {
        let (listener, peer) = match outlet {
            Outlet::Listener(listener) => (Some(listener), None),
            Outlet::Connected(peer) => (None, Some(File::from(peer))),
            Outlet::Nothing => (None, None),
        };
        let descriptors = listener.iter().map(AsRawFd::as_raw_fd);
        for fd in descriptors.chain(peer.iter().map(AsRawFd::as_raw_fd)) {
            set_nonblocking(fd)?;
        }
        Ok(Self {
            listener,
            peer,
            of_listener: None,
            of_peer: None,
        })
    }

    pub(super) fn listener(&self) -> Option<RawFd> {
        self.listener.as_ref().map(AsRawFd::as_raw_fd)
    }

    pub(super) fn peer(&self) -> Option<RawFd> {
        self.peer.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Takes the next peer, if there is none and one waits.
    ///
    /// # Errors
    /// The host lacks something for it.
    pub(super) fn accept(&mut self) -> io::Result<bool> {
        let (Some(listener), None) = (&self.listener, &self.peer) else {
            return Ok(false);
        };
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: no address is asked for.
        let fd = unsafe {
            libc::accept4(
                listener.as_raw_fd(),
                ptr::null_mut(),
                ptr::null_mut(),
                flags,
            )
        };
        if fd < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock
                | io::ErrorKind::Interrupted
                | io::ErrorKind::ConnectionAborted => Ok(false),
                _ => Err(error),
            };
        }
        // SAFETY: the kernel has just made it, for this process.
        self.peer = Some(File::from(unsafe { OwnedFd::from_raw_fd(fd) }));
        self.of_peer = None;
        Ok(true)
    }

    pub(super) fn read(&mut self, bytes: &mut [u8]) -> Moved {
        match &mut self.peer {
            Some(peer) => moved(peer.read(bytes)),
            None => Moved::Never,
        }
    }

    /// Whether nothing is left to be read of what a peer has sent that sends nothing any more.
    pub(super) fn is_drained(&self) -> bool {
        let Some(fd) = self.peer() else {
            return true;
        };
        let mut byte = [0_u8];
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        // SAFETY: the pointer is good for one byte. What is no socket is an error.
        unsafe { libc::recv(fd, byte.as_mut_ptr().cast(), byte.len(), flags) <= 0 }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Moved {
        match &mut self.peer {
            Some(peer) => moved(peer.write(bytes)),
            None => Moved::Never,
        }
    }

    /// Lets the peer go. The kernel forgets what it was to tell of it.
    pub(super) fn close(&mut self) {
        self.peer = None;
        self.of_peer = None;
    }
}

fn moved(outcome: io::Result<usize>) -> Moved {
    match outcome {
        Ok(0) => Moved::Never,
        Ok(bytes) => Moved::Bytes(bytes),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Moved::Later,
            _ => Moved::Never,
        },
    }
}

fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: fcntl with these commands touches no memory.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as before.
    if unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
