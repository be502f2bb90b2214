//! The socket device (virtio 5.10), by which programs of a guest and of the host have connections without a network
//! (AF_VSOCK). The host's kernel passes its packets.

use std::io;
use std::sync::Arc;

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::{Device, Identity, ServeError, Served, read_config};
use super::vhost_queues::VhostQueues;
use crate::dma::DmaMemory;
use crate::vhost::{Vhost, VsockKernel};

/// Received packets, packets to send, and events.
const QUEUE_SIZES: &[u16] = &[128, 128, 16];
/// Packets keep their bounds (VIRTIO_VSOCK_F_SEQPACKET).
const SEQPACKET: u64 = 1 << 1;

/// A machine's sockets. They outlast a machine's life, as the kernel has them by a descriptor.
pub struct VsockHost {
    vhost: Arc<Vhost>,
    cid: u32,
}

impl VsockHost {
    /// Those of the guest with context ID `cid`, which is given to `vhost`.
    pub fn new(vhost: Vhost, cid: u32) -> Self {
        Self {
            vhost: Arc::new(vhost),
            cid,
        }
    }
}

/// A socket device.
pub struct Vsock {
    host: Arc<VsockHost>,
    queues: VhostQueues,
    event: Arc<EventFd>,
}

impl Vsock {
    /// That of a machine with that memory.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new(host: Arc<VsockHost>, ram: &GuestMemoryMmap) -> io::Result<Self> {
        let kernel = VsockKernel::new(Arc::clone(&host.vhost), ram.clone());
        Ok(Self {
            queues: VhostQueues::new(Box::new(kernel))?,
            event: Arc::new(EventFd::new(EFD_NONBLOCK)?),
            host,
        })
    }
}

impl Device for Vsock {
    fn identity(&self) -> Identity {
        Identity {
            name: "virtio-vsock",
            device_id: 19,
            // Communication, of another kind.
            class_code: 0x07_8000,
        }
    }

    fn features(&self) -> u64 {
        self.host.vhost.features() & SEQPACKET
    }

    fn queue_sizes(&self) -> &[u16] {
        QUEUE_SIZES
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        read_config(&u64::from(self.host.cid).to_le_bytes(), offset, data);
    }

    /// That of events, of which there are none: machines do not move.
    fn serve(&mut self, _: usize, _: &mut Queue, _: &DmaMemory) -> Result<Served, ServeError> {
        Ok(Served::Full)
    }

    fn host_event(&self) -> Option<Arc<EventFd>> {
        Some(Arc::clone(&self.event))
    }

    fn vhost_queues(&mut self) -> Option<&mut VhostQueues> {
        Some(&mut self.queues)
    }
}
