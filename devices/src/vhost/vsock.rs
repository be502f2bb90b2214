//! The kernel as it serves sockets between a guest and the host (AF_VSOCK).

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::handle::Vhost;
use super::requests;
use super::rings::{BackEnd, Ring, WithMemory};

/// The queues of packets: one for each way.
const QUEUES: usize = 2;

/// The kernel.
pub(crate) struct VsockKernel(WithMemory);

impl VsockKernel {
    /// Of a machine with that memory.
    pub(crate) fn new(vhost: Arc<Vhost>, ram: GuestMemoryMmap) -> Self {
        Self(WithMemory::new(vhost, ram))
    }

    fn set_running(&self, runs: bool) -> io::Result<()> {
        let value = libc::c_int::from(runs);
        let request = requests::VSOCK_SET_RUNNING;
        // SAFETY: the request takes a pointer to a number, which it keeps nothing of.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), request, &raw const value) } {
            result if result < 0 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

impl BackEnd for VsockKernel {
    fn queues(&self) -> usize {
        QUEUES
    }

    fn begin(&mut self, features: u64) -> io::Result<()> {
        self.0.begin(features)
    }

    fn place(&mut self, ring: &Ring<'_>) -> io::Result<()> {
        self.0.place(ring)
    }

    fn set_call(&mut self, index: usize, call: &EventFd) -> io::Result<()> {
        self.0.set_call(index, call)
    }

    fn run(&mut self, placed: &[usize]) -> io::Result<()> {
        // One without the other cannot be, and what an earlier driver placed is not to be taken for this one's.
        if placed.len() != QUEUES {
            return Err(io::Error::other("its driver has placed one of two queues"));
        }
        self.set_running(true)
    }

    fn halt(&mut self, _placed: &[usize]) -> io::Result<()> {
        self.set_running(false)
    }

    fn next_avail(&mut self, index: usize) -> io::Result<u16> {
        self.0.next_avail(index)
    }
}
