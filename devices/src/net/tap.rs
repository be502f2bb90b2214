//! A TAP interface (Documentation/networking/tuntap.rst in the kernel): frames to it are the guest's, and what the
//! guest sends comes from it. macvtap's devices are the same to a program.

use std::ffi::{CStr, CString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use vm_memory::GuestMemoryError;

use super::frame::{Gather, read};
use super::{BEGINNING_BYTES, Frame, HEADER_BYTES, Received, Sent};

/// Where the kernel makes connections to TAP interfaces.
const DEVICE: &str = "/dev/net/tun";

/// The call of [`Tap::set_offloads`], which a device's thread makes.
pub const SET_OFFLOADS: libc::c_ulong = libc::TUNSETOFFLOAD;
/// The call of [`Tap::attach`], which a device's thread makes.
pub const SET_QUEUE: libc::c_ulong = libc::TUNSETQUEUE;

/// Bytes of an interface's name, with the zero behind it.
const NAME_BYTES: usize = libc::IFNAMSIZ;

bitflags::bitflags! {
    /// Work with received frames that the host leaves to the guest (`TUN_F_*` in linux/if_tun.h).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Offloads: u32 {
        /// Computing checksums.
        const CHECKSUM = libc::TUN_F_CSUM;
        /// Taking what is longer than the network's frames, by TCP over IPv4.
        const TSO4 = libc::TUN_F_TSO4;
        /// By TCP over IPv6.
        const TSO6 = libc::TUN_F_TSO6;
        /// With TCP's congestion notification.
        const ECN = libc::TUN_F_TSO_ECN;
    }
}

/// Why there is no such interface.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// A name that no interface can have.
    #[error(
        "{0:?} is no name of an interface: it has 1 to 15 bytes, none of them / or white space"
    )]
    Name(String),
    /// There is no interface of that name.
    #[error(
        "this host has no interface {name}; make it: ip tuntap add dev {name} mode {mode} user USER"
    )]
    Missing {
        /// Its name.
        name: String,
        /// What `ip tuntap` is to make.
        mode: &'static str,
    },
    /// There is no TUN driver, or the user may not use it.
    #[error("cannot open {DEVICE}, by which programs use TAP interfaces")]
    Device(#[source] io::Error),
    /// Another program has the interface.
    #[error("another program has the interface {0} open")]
    Busy(String),
    /// It is another user's.
    #[error(
        "this user may not use the interface {name}; give it to the user: ip tuntap add dev {name} mode {mode} user USER"
    )]
    NotAllowed {
        /// Its name.
        name: String,
        /// What `ip tuntap` is to make.
        mode: &'static str,
    },
    /// It is none, or one of several queues.
    #[error("{0} is no TAP interface with one queue")]
    OtherKind(String),
    /// It is none, or one of one queue.
    #[error(
        "{0} is no TAP interface with several queues; make it: ip tuntap add dev {0} mode tap multi_queue user USER"
    )]
    OneQueue(String),
    /// Descriptors of several interfaces, or of one queue twice.
    #[error("file descriptors {0:?} are not those of queues of one TAP interface")]
    NotOne(Vec<RawFd>),
    /// The kernel refused something else.
    #[error("the kernel refuses the interface {name}")]
    Refused {
        /// Which.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A descriptor that is not one of a TAP interface.
    #[error("file descriptor {fd} is not that of a TAP interface")]
    Descriptor {
        /// Which.
        fd: RawFd,
        /// Why.
        source: io::Error,
    },
    /// A descriptor whose frames have something else before them.
    #[error("the interface {0} has packet information before frames (IFF_NO_PI is not set)")]
    PacketInformation(String),
}

/// An interface.
pub struct Tap {
    file: Arc<File>,
    name: String,
    /// The kernel has headers before frames.
    has_header: bool,
    /// It takes and gives frames that are not cut yet.
    has_offloads: bool,
    /// The kernel has frames for it: it is the interface's only queue, or one of those that are in use.
    is_attached: bool,
    /// There is no interface: a socket stands for it.
    #[cfg(any(test, feature = "fuzz"))]
    is_socket: bool,
    gather: Gather,
}

/// `struct ifreq` as far as it counts here, at its full length.
#[repr(C)]
struct Request {
    name: [u8; NAME_BYTES],
    flags: libc::c_short,
    rest: [u8; 22],
}

impl Request {
    const fn new() -> Self {
        Self {
            name: [0; NAME_BYTES],
            flags: 0,
            rest: [0; 22],
        }
    }

    fn name(&self) -> String {
        let name = CStr::from_bytes_until_nul(&self.name).unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    fn has(&self, flag: libc::c_int) -> bool {
        libc::c_int::from(self.flags) & flag != 0
    }
}

/// Makes a call of the driver's that takes a pointer to a `T`.
fn call<T>(file: BorrowedFd<'_>, request: libc::Ioctl, argument: &mut T) -> io::Result<()> {
    // SAFETY: each caller passes what the request is about; the kernel uses the pointer during the call alone.
    match unsafe { libc::ioctl(file.as_raw_fd(), request, argument) } {
        result if result < 0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

impl Tap {
    /// Opens the interface of that name, which is there and has one queue.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn open(name: &str) -> Result<Self, TapError> {
        Self::open_queue(name, 0)
    }

    /// Opens that many queues of the interface of that name, which is there; the kernel has frames for the first one alone.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn open_queues(name: &str, count: u16) -> Result<Vec<Self>, TapError> {
        if count <= 1 {
            return Ok(vec![Self::open(name)?]);
        }
        let queues = (0..count).map(|_| Self::open_queue(name, libc::IFF_MULTI_QUEUE));
        let mut queues: Vec<Self> = queues.collect::<Result<_, _>>()?;
        for queue in queues.iter_mut().skip(1) {
            queue.put(false)?;
        }
        Ok(queues)
    }

    /// Those that are open already, of one interface; the kernel has frames for the first one alone.
    ///
    /// # Errors
    /// Why they cannot be used.
    pub fn of_descriptors(descriptors: Vec<(OwnedFd, RawFd)>) -> Result<Vec<Self>, TapError> {
        let numbers: Vec<RawFd> = descriptors.iter().map(|(_, fd)| *fd).collect();
        let queues = descriptors
            .into_iter()
            .map(|(descriptor, fd)| Self::of_descriptor(descriptor, fd));
        let queues: Vec<Self> = queues.collect::<Result<_, _>>()?;
        let mut apart = numbers.clone();
        apart.sort_unstable();
        apart.dedup();
        let is_one = queues.windows(2).all(|pair| pair[0].name == pair[1].name);
        match is_one && apart.len() == numbers.len() {
            true => Self::in_order(queues)?.ok_or(TapError::NotOne(numbers)),
            false => Err(TapError::NotOne(numbers)),
        }
    }

    /// Has the kernel have frames for the first of them alone, whatever their last user left; `None` if they are not all
    /// different queues, of which some are attached then.
    fn in_order(mut queues: Vec<Self>) -> Result<Option<Vec<Self>>, TapError> {
        for queue in &mut queues {
            queue.put(true)?;
        }
        let mut are_apart = true;
        for queue in queues.iter_mut().skip(1) {
            are_apart &= queue.put(false)?;
        }
        // One that is attached still cannot be attached: this is another file than those.
        let is_apart = queues.len() == 1 || !queues[0].put(true)?;
        Ok((are_apart && is_apart).then_some(queues))
    }

    /// Attaches or detaches it, whatever it was; false if it already was.
    fn put(&mut self, is_attached: bool) -> Result<bool, TapError> {
        self.is_attached = !is_attached;
        match self.attach(is_attached) {
            Ok(()) => Ok(true),
            // What the kernel says of one that is as asked for, and of the one queue of an interface.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.is_attached = is_attached;
                Ok(false)
            }
            Err(source) => Err(TapError::Refused {
                name: self.name.clone(),
                source,
            }),
        }
    }

    fn open_queue(name: &str, kind: libc::c_int) -> Result<Self, TapError> {
        let is_name = (1..NAME_BYTES).contains(&name.len())
            && !name.contains(|it: char| it == '/' || it == '%' || it.is_whitespace());
        let c_name = CString::new(name).ok().filter(|_| is_name);
        let c_name = c_name.ok_or_else(|| TapError::Name(name.to_owned()))?;
        let mode = if kind == 0 { "tap" } else { "tap multi_queue" };
        // SAFETY: the pointer is to a string that ends.
        if unsafe { libc::if_nametoindex(c_name.as_ptr()) } == 0 {
            let name = name.to_owned();
            return Err(TapError::Missing { name, mode });
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(DEVICE)
            .map_err(TapError::Device)?;
        let mut request = Request::new();
        let bytes = name.bytes();
        request
            .name
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = from);
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | kind;
        request.flags = libc::c_short::try_from(flags).unwrap_or(0);
        call(file.as_fd(), libc::TUNSETIFF, &mut request).map_err(|source| {
            let name = name.to_owned();
            match source.raw_os_error() {
                Some(libc::EBUSY) => TapError::Busy(name),
                Some(libc::EPERM) => TapError::NotAllowed { name, mode },
                Some(libc::EINVAL) if kind == 0 => TapError::OtherKind(name),
                Some(libc::EINVAL) => TapError::OneQueue(name),
                _ => TapError::Refused { name, source },
            }
        })?;
        Self::of(file, &request)
    }

    /// An interface that is open already; `fd` is its number, for messages.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn of_descriptor(descriptor: OwnedFd, fd: RawFd) -> Result<Self, TapError> {
        let no_tap = |source| TapError::Descriptor { fd, source };
        let file = File::from(descriptor);
        let mut request = Request::new();
        call(file.as_fd(), libc::TUNGETIFF, &mut request).map_err(no_tap)?;
        if !request.has(libc::IFF_TAP) {
            return Err(no_tap(io::Error::other("it is one of IP packets (TUN)")));
        }
        if !request.has(libc::IFF_NO_PI) {
            return Err(TapError::PacketInformation(request.name()));
        }
        // SAFETY: no pointers are passed.
        let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
        // SAFETY: as above.
        let set = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) };
        if flags < 0 || set < 0 {
            return Err(no_tap(io::Error::last_os_error()));
        }
        Self::of(file, &request)
    }

    fn of(file: File, request: &Request) -> Result<Self, TapError> {
        let mut tap = Self {
            file: Arc::new(file),
            name: request.name(),
            has_header: request.has(libc::IFF_VNET_HDR),
            has_offloads: false,
            is_attached: true,
            #[cfg(any(test, feature = "fuzz"))]
            is_socket: false,
            gather: Gather::default(),
        };
        if tap.has_header {
            let refused = |source| TapError::Refused {
                name: tap.name.clone(),
                source,
            };
            let mut bytes = libc::c_int::try_from(HEADER_BYTES).unwrap_or(0);
            call(tap.file.as_fd(), libc::TUNSETVNETHDRSZ, &mut bytes).map_err(refused)?;
            tap.has_offloads = tap.set_offloads(Offloads::all()).is_ok();
            tap.set_offloads(Offloads::empty())
                .map_err(|source| TapError::Refused {
                    name: tap.name.clone(),
                    source,
                })?;
        }
        Ok(tap)
    }

    /// What stands for one in tests: a socket that keeps frames apart, with headers before them.
    #[cfg(any(test, feature = "fuzz"))]
    pub fn of_socket(socket: OwnedFd) -> Self {
        Self {
            file: Arc::new(File::from(socket)),
            name: "test".to_owned(),
            has_header: true,
            has_offloads: true,
            is_attached: true,
            is_socket: true,
            gather: Gather::default(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the kernel passes frames to by itself, and whether headers are before them there.
    pub(crate) fn file(&self) -> (Arc<File>, bool) {
        (Arc::clone(&self.file), self.has_header)
    }

    pub(super) const fn has_offloads(&self) -> bool {
        self.has_offloads
    }

    pub(super) fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        if !self.has_header {
            return Ok(());
        }
        let argument = libc::c_ulong::from(offloads.bits());
        let request = libc::TUNSETOFFLOAD;
        // SAFETY: the argument is a number.
        match unsafe { libc::ioctl(self.file.as_raw_fd(), request, argument) } {
            result if result < 0 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// Has the kernel have frames for this one of an interface's queues, or have none (tun_set_queue() in
    /// drivers/net/tun.c).
    pub(super) fn attach(&mut self, is_attached: bool) -> io::Result<()> {
        if self.is_attached == is_attached {
            return Ok(());
        }
        let mut request = Request::new();
        let flag = match is_attached {
            true => libc::IFF_ATTACH_QUEUE,
            false => libc::IFF_DETACH_QUEUE,
        };
        request.flags = libc::c_short::try_from(flag).unwrap_or(0);
        #[cfg(any(test, feature = "fuzz"))]
        if self.is_socket {
            self.is_attached = is_attached;
            return Ok(());
        }
        call(self.file.as_fd(), SET_QUEUE, &mut request)?;
        self.is_attached = is_attached;
        Ok(())
    }

    pub(super) const fn is_attached(&self) -> bool {
        self.is_attached
    }

    pub(super) fn receive(
        &mut self,
        buffer: &mut [u8],
        room: Option<Frame<'_>>,
    ) -> Result<io::Result<Option<Received>>, GuestMemoryError> {
        let skipped = if self.has_header { 0 } else { HEADER_BYTES };
        buffer[..skipped].fill(0);
        let file = self.file.as_fd();
        let read = match room {
            Some(room) if room.bytes() > BEGINNING_BYTES => {
                room.read_behind_beginning(skipped, buffer, file, &mut self.gather)?
            }
            _ => read(file, &mut buffer[skipped..]).map(|bytes| Received { bytes, straight: 0 }),
        };
        Ok(match read {
            // Each frame has a length.
            Ok(Received { bytes: 0, .. }) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(mut received) => {
                received.bytes += skipped;
                Ok(Some(received))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        })
    }

    pub(super) fn send(&mut self, frame: Frame<'_>) -> Result<Sent, GuestMemoryError> {
        let skipped = if self.has_header { 0 } else { HEADER_BYTES };
        let written = frame.write_to(skipped, self.file.as_fd(), &mut self.gather)?;
        Ok(match written {
            Ok(_) => Sent::Sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sent::Later,
            Err(error) => Sent::Refused(error),
        })
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
