//! A program with a network of its own, as passt is one to the VMM: it listens at a Unix socket, on which each frame is
//! behind its length, and passes frames on to an interface of the host's.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

/// More than the longest frame.
const MOST_BYTES: usize = 0x1_0000;

/// The program; it ends with the test.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Listens at `socket` for one guest, whose frames are those of `interface` from then on.
    pub(crate) fn start(interface: &str, socket: &Path) -> Self {
        let tap = open(interface).expect("an interface that nobody has open");
        let listener = UnixListener::bind(socket).expect("a socket");
        let thread = thread::spawn(move || {
            let (guest, _) = listener.accept().expect("a guest");
            let (tap_again, guest_again) = (tap.try_clone(), guest.try_clone());
            let (tap_again, guest_again) = (tap_again.expect("room"), guest_again.expect("room"));
            let to_guest = thread::spawn(move || to_guest(tap_again, guest_again));
            // Until the guest has ended; the other thread notices, too.
            let _ = from_guest(tap, guest);
            let _ = to_guest.join();
        });
        Self {
            socket: socket.to_owned(),
            thread: Some(thread),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // A guest that never came comes now, and ends at once.
        let _ = UnixStream::connect(&self.socket);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn to_guest(mut tap: File, mut guest: UnixStream) -> io::Result<()> {
    let mut frame = vec![0; MOST_BYTES];
    loop {
        let polled = |fd, events| libc::pollfd {
            fd,
            events,
            revents: 0,
        };
        let mut polled = [
            polled(tap.as_raw_fd(), libc::POLLIN),
            // Its end.
            polled(guest.as_raw_fd(), 0),
        ];
        // SAFETY: the pointer is to as many structures as are said.
        if unsafe { libc::poll(polled.as_mut_ptr(), 2, -1) } < 0 {
            return Err(io::Error::last_os_error());
        }
        if polled[1].revents != 0 {
            return Ok(());
        }
        let count = tap.read(&mut frame)?;
        let length = u32::try_from(count).expect("short").to_be_bytes();
        guest.write_all(&[&length[..], &frame[..count]].concat())?;
    }
}

fn from_guest(mut tap: File, mut guest: UnixStream) -> io::Result<()> {
    loop {
        let mut length = [0; 4];
        guest.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_be_bytes(length)).expect("64 bits");
        assert!(length < MOST_BYTES, "a frame of {length} bytes");
        let mut frame = vec![0; length];
        guest.read_exact(&mut frame)?;
        // The interface may be down by now.
        let _ = tap.write(&frame);
    }
}

/// Opens a TAP interface, without headers before frames.
fn open(interface: &str) -> io::Result<File> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // struct ifreq: a name of 16 bytes, flags, and room for what others have there.
    let mut request = [0_u8; 40];
    request[..interface.len()].copy_from_slice(interface.as_bytes());
    let flags = libc::IFF_TAP | libc::IFF_NO_PI;
    request[16..18].copy_from_slice(&flags.to_ne_bytes()[..2]);
    // SAFETY: the pointer is to a whole request, which the kernel reads and writes.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) };
    match result {
        0 => Ok(device),
        _ => Err(io::Error::last_os_error()),
    }
}
