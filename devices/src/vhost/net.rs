//! The kernel as it serves a network card: it passes frames between the card's rings and a TAP interface.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::handle::Vhost;
use super::requests;
use super::rings::{BackEnd, Ring, WithMemory};

/// A card's queues: one for each way.
const QUEUES: usize = 2;
/// The kernel puts headers before frames, where the interface does not (VHOST_NET_F_VIRTIO_NET_HDR).
const OWN_HEADER: u64 = 1 << 27;

/// `struct vhost_vring_file`.
#[repr(C)]
struct QueueFile {
    index: u32,
    fd: i32,
}

/// The kernel and the interface.
pub(crate) struct NetKernel {
    vhost: WithMemory,
    tap: Arc<File>,
    has_header: bool,
}

impl NetKernel {
    /// Of a machine with that memory and an interface, which has headers before frames or has not.
    pub(crate) fn new(
        vhost: Arc<Vhost>,
        ram: GuestMemoryMmap,
        tap: Arc<File>,
        has_header: bool,
    ) -> Self {
        Self {
            vhost: WithMemory::new(vhost, ram),
            tap,
            has_header,
        }
    }

    fn set_backend(&self, index: usize, tap: Option<&File>) -> io::Result<()> {
        let file = QueueFile {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            fd: tap.map_or(-1, AsRawFd::as_raw_fd),
        };
        let request = requests::NET_SET_BACKEND;
        // SAFETY: the request takes a pointer to this structure, and the kernel keeps none of it.
        match unsafe { libc::ioctl(self.vhost.as_raw_fd(), request, &raw const file) } {
            result if result < 0 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

impl BackEnd for NetKernel {
    fn queues(&self) -> usize {
        QUEUES
    }

    fn begin(&mut self, features: u64) -> io::Result<()> {
        let own_header = if self.has_header { 0 } else { OWN_HEADER };
        self.vhost.begin(features | own_header)
    }

    fn place(&mut self, ring: &Ring<'_>) -> io::Result<()> {
        self.vhost.place(ring)
    }

    fn set_call(&mut self, index: usize, call: &EventFd) -> io::Result<()> {
        self.vhost.set_call(index, call)
    }

    fn run(&mut self, placed: &[usize]) -> io::Result<()> {
        let mut placed = placed.iter();
        placed.try_for_each(|index| self.set_backend(*index, Some(&self.tap)))
    }

    fn halt(&mut self, placed: &[usize]) -> io::Result<()> {
        let outcomes = placed.iter().map(|index| self.set_backend(*index, None));
        outcomes.fold(Ok(()), Result::and)
    }

    fn next_avail(&mut self, index: usize) -> io::Result<u16> {
        self.vhost.next_avail(index)
    }
}
