//! An open device of the kernel's.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, LazyLock};

use vhost::VhostBackend;
use vhost::vhost_kern::VhostKernBackend;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::GuestMemoryMmap;

use super::requests;

/// What the kernel is to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Network cards.
    Net,
    /// Sockets between guests and the host.
    Vsock,
}

impl Kind {
    /// Where the kernel makes connections to it.
    const fn path(self) -> &'static str {
        match self {
            Self::Net => "/dev/vhost-net",
            Self::Vsock => "/dev/vhost-vsock",
        }
    }

    const fn module(self) -> &'static str {
        match self {
            Self::Net => "vhost_net",
            Self::Vsock => "vhost_vsock",
        }
    }

    /// What it has to know of virtio: what drivers are offered whoever serves them.
    const fn needed(self) -> u64 {
        let common = 1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | 1 << VIRTIO_RING_F_INDIRECT_DESC;
        match self {
            Self::Net => common | 1 << VIRTIO_NET_F_MRG_RXBUF,
            Self::Vsock => common,
        }
    }
}

/// Why the kernel cannot serve a device.
#[derive(Debug, thiserror::Error)]
pub enum VhostError {
    /// There is no such device, or the user may not use it.
    #[error("cannot open {path}, by which the kernel serves queues (modprobe {module})")]
    Open {
        /// Where it was looked for.
        path: &'static str,
        /// The kernel's module that makes it.
        module: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A descriptor that is not one of it.
    #[error("file descriptor {fd} is not an open {path} that nobody has used")]
    Descriptor {
        /// Which.
        fd: RawFd,
        /// What it is to be.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A context ID that is not to be had.
    #[error("{}", refused_cid(*cid, source))]
    Cid {
        /// Which.
        cid: u32,
        /// Why.
        source: io::Error,
    },
    /// A kernel that knows less of virtio than drivers are offered.
    #[error("{path} lacks features of virtio: it has {has:#x}, and {needed:#x} are needed")]
    Features {
        /// Which it is.
        path: &'static str,
        /// What it has.
        has: u64,
        /// What is needed.
        needed: u64,
    },
}

fn refused_cid(cid: u32, why: &io::Error) -> String {
    match why.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            format!("another guest of this host has the context ID {cid}; choose another one")
        }
        _ => format!("the kernel refuses the context ID {cid}"),
    }
}

/// An open device, which this process owns: the kernel reaches no other's memory by it.
#[derive(Debug)]
pub struct Vhost {
    file: File,
    features: u64,
}

/// What the kernel has said no to.
pub(super) fn refusal(error: vhost::Error) -> io::Error {
    match error {
        vhost::Error::IoctlError(error) | vhost::Error::VhostOpen(error) => error,
        error => io::Error::other(error),
    }
}

impl Vhost {
    /// Opens one.
    ///
    /// # Errors
    /// Why there is none.
    pub fn open(kind: Kind) -> Result<Self, VhostError> {
        let (path, module) = (kind.path(), kind.module());
        let cannot = |source| VhostError::Open {
            path,
            module,
            source,
        };
        let file = OpenOptions::new().read(true).write(true).open(path);
        Self::of(file.map_err(cannot)?, kind, cannot)
    }

    /// One that is open already; `fd` is its number, for messages.
    ///
    /// # Errors
    /// Why it is of no use.
    pub fn of_descriptor(kind: Kind, descriptor: OwnedFd, fd: RawFd) -> Result<Self, VhostError> {
        let path = kind.path();
        Self::of(descriptor.into(), kind, |source| VhostError::Descriptor {
            fd,
            path,
            source,
        })
    }

    fn of(
        file: File,
        kind: Kind,
        cannot: impl Fn(io::Error) -> VhostError,
    ) -> Result<Self, VhostError> {
        let mut vhost = Self { file, features: 0 };
        vhost.set_owner().map_err(refusal).map_err(&cannot)?;
        let features = vhost.get_features();
        vhost.features = features.map_err(refusal).map_err(&cannot)?;
        let (path, has, needed) = (kind.path(), vhost.features, kind.needed());
        if has & needed != needed {
            return Err(VhostError::Features { path, has, needed });
        }
        Ok(vhost)
    }

    /// Gives the guest whose sockets it is to serve a context ID.
    ///
    /// # Errors
    /// Another guest has it, or no guest can.
    pub fn set_cid(&self, cid: u32) -> Result<(), VhostError> {
        let value = u64::from(cid);
        // SAFETY: the request takes a pointer to a number of 64 bits, which it keeps nothing of.
        match unsafe {
            libc::ioctl(
                self.as_raw_fd(),
                requests::VSOCK_SET_GUEST_CID,
                &raw const value,
            )
        } {
            result if result < 0 => Err(VhostError::Cid {
                cid,
                source: io::Error::last_os_error(),
            }),
            _ => Ok(()),
        }
    }

    /// What stands for one in tests, and does nothing.
    #[cfg(test)]
    pub(super) const fn of_file(file: File) -> Self {
        Self { file, features: 0 }
    }

    /// Features that it knows.
    pub(crate) const fn features(&self) -> u64 {
        self.features
    }
}

impl AsRawFd for Vhost {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl VhostKernBackend for Vhost {
    type AS = Arc<GuestMemoryMmap>;

    /// Memory of no guest's: nothing that needs it is done without a machine.
    fn mem(&self) -> &Self::AS {
        static NONE: LazyLock<Arc<GuestMemoryMmap>> = LazyLock::new(Arc::default);
        &NONE
    }
}
