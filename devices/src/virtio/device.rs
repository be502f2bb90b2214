//! What a kind of virtio device is.

use virtio_queue::Queue;

use crate::dma::DmaMemory;

/// What a driver knows a kind of device by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// How messages name it, such as `virtio-rng`.
    pub name: &'static str,
    /// Its device ID (virtio 5).
    pub device_id: u16,
    /// Its PCI class, subclass and programming interface.
    pub class_code: u32,
}

/// How far serving a queue got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// There is nothing left.
    All,
    /// There is more, which waits for the next turn.
    Some,
}

/// What a driver did that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A ring makes no sense, or lies where the device reaches no memory.
    #[error("its driver's ring is broken")]
    Ring(#[from] virtio_queue::Error),
    /// A buffer lies where the device reaches no memory.
    #[error("its driver's buffer is out of reach")]
    Buffer(#[from] vm_memory::GuestMemoryError),
    /// The host cannot do what is asked for.
    #[error("the host refused")]
    Host(#[from] std::io::Error),
}

/// A kind of virtio device.
pub trait Device: Send {
    /// What a driver knows it by.
    fn identity(&self) -> Identity;

    /// Features of its kind that it offers (virtio 5, bits 0 to 23 and 50 to 127 of which the first 64).
    fn features(&self) -> u64 {
        0
    }

    /// The most entries of each of its queues, powers of two.
    fn queue_sizes(&self) -> &'static [u16];

    /// Reads its own configuration at `offset`; what lies beyond it reads 0.
    fn read_config(&self, _offset: usize, data: &mut [u8]) {
        data.fill(0);
    }

    /// Writes its own configuration at `offset`.
    fn write_config(&mut self, _offset: usize, _data: &[u8]) {}

    /// Serves what its driver has put into queue number `index`, as much as the queue holds at most.
    ///
    /// # Errors
    /// The driver did what cannot be; the device then stops until it is reset.
    fn serve(
        &mut self,
        index: usize,
        queue: &mut Queue,
        memory: &DmaMemory,
    ) -> Result<Served, ServeError>;
}
