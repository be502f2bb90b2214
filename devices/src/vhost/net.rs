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

/// A pair's queues: one for each way.
const QUEUES: usize = 2;
/// The kernel puts headers before frames, where the interface does not (VHOST_NET_F_VIRTIO_NET_HDR).
const OWN_HEADER: u64 = 1 << 27;

/// `struct vhost_vring_file`.
#[repr(C)]
struct QueueFile {
    index: u32,
    fd: i32,
}

/// The kernel for all pairs of a card's queues: each has a device of the kernel's, and with it a thread of its own there.
pub(crate) struct NetKernels(Vec<NetKernel>);

impl NetKernels {
    /// Of those pairs, in their order.
    pub(crate) const fn new(pairs: Vec<NetKernel>) -> Self {
        Self(pairs)
    }

    /// The pair of a card's queue, and the queue's number there.
    fn of_queue(&mut self, index: usize) -> io::Result<(&mut NetKernel, usize)> {
        let pair = self.0.get_mut(index / QUEUES);
        let pair = pair.ok_or(io::ErrorKind::NotFound)?;
        Ok((pair, index % QUEUES))
    }
}

impl BackEnd for NetKernels {
    fn queues(&self) -> usize {
        QUEUES * self.0.len()
    }

    fn begin(&mut self, features: u64) -> io::Result<()> {
        self.0.iter().try_for_each(|pair| pair.begin(features))
    }

    fn place(&mut self, ring: &Ring<'_>) -> io::Result<()> {
        let (pair, index) = self.of_queue(ring.index)?;
        pair.vhost.place(&Ring { index, ..*ring })
    }

    fn set_call(&mut self, index: usize, call: &EventFd) -> io::Result<()> {
        let (pair, index) = self.of_queue(index)?;
        pair.vhost.set_call(index, call)
    }

    fn run(&mut self, placed: &[usize]) -> io::Result<()> {
        placed.iter().try_for_each(|index| {
            let (pair, index) = self.of_queue(*index)?;
            pair.set_backend(index, Some(&pair.tap))
        })
    }

    fn halt(&mut self, placed: &[usize]) -> io::Result<()> {
        let outcomes = placed.iter().map(|index| {
            let (pair, index) = self.of_queue(*index)?;
            pair.set_backend(index, None)
        });
        outcomes.fold(Ok(()), Result::and)
    }

    fn next_avail(&mut self, index: usize) -> io::Result<u16> {
        let (pair, index) = self.of_queue(index)?;
        pair.vhost.next_avail(index)
    }
}

/// The kernel and an interface, or one of its queues: what serves a pair.
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

    fn begin(&self, features: u64) -> io::Result<()> {
        let own_header = if self.has_header { 0 } else { OWN_HEADER };
        self.vhost.begin(features | own_header)
    }
}
