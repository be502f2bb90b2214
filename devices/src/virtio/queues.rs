//! A device with its queues in memory and nothing between the two, for tests and fuzzers: what is offered is served at
//! once, in the same thread, so that a run can be repeated.

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::device::{Device, ServeError, Served};
use crate::dma::DmaMemory;

pub(super) const WRITE: u16 = 2;

/// Entries of each queue.
pub(super) const QUEUE_SIZE: u16 = 8;
/// Each queue has four pages of 4 KiB: descriptors, the driver's ring, the device's ring, and one for buffers.
pub(super) const QUEUE_BYTES: u64 = 0x4000;
pub(super) const BUFFERS: u64 = 0x3000;

/// How often a queue that says that it holds more is served before that is let be.
const MOST_TIMES: usize = 64;

/// The device, and memory in which the queues come first.
pub(super) struct Queues<D> {
    pub(super) device: D,
    pub(super) ram: GuestMemoryMmap,
    memory: DmaMemory,
    queues: Vec<Queue>,
    offered: Vec<u16>,
}

/// Which descriptor of which queue.
pub(super) type Slot = (usize, u16);

impl<D: Device> Queues<D> {
    /// `device`, in `ram`, which has room for its queues.
    pub(super) fn new(device: D, ram: GuestMemoryMmap) -> Self {
        let count = device.queue_sizes().len();
        let queues = (0..count).map(|_| Queue::new(QUEUE_SIZE).expect("a power of two"));
        Self {
            memory: DmaMemory::by_guest_address(ram.clone()),
            queues: queues.collect(),
            offered: vec![0; count],
            device,
            ram,
        }
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        let written = self.ram.write_slice(bytes, GuestAddress(at));
        written.expect("memory");
    }

    /// Resets the device, and starts it with queues that are empty.
    pub(super) fn start(&mut self) {
        self.device.reset();
        for (number, queue) in (0..).zip(&mut self.queues) {
            let start = number * QUEUE_BYTES;
            let written = self.ram.write_slice(&[0; 0x3000], GuestAddress(start));
            written.expect("memory");
            queue.reset();
            queue.set_size(QUEUE_SIZE);
            queue.set_desc_table_address(low(start), Some(0));
            queue.set_avail_ring_address(low(start + 0x1000), Some(0));
            queue.set_used_ring_address(low(start + 0x2000), Some(0));
            queue.set_ready(true);
        }
        self.offered.fill(0);
        let features = self.device.features();
        self.device.start(features);
        self.collect().expect("nothing fails");
    }

    /// Where the buffers of a queue are.
    pub(super) fn buffers(queue: usize) -> u64 {
        queue as u64 * QUEUE_BYTES + BUFFERS
    }

    pub(super) fn descriptor(
        &self,
        (queue, index): Slot,
        address: u64,
        bytes: u32,
        flags: u16,
        next: u16,
    ) {
        let mut entry = address.to_le_bytes().to_vec();
        entry.extend(bytes.to_le_bytes());
        entry.extend(flags.to_le_bytes());
        entry.extend(next.to_le_bytes());
        self.put(queue as u64 * QUEUE_BYTES + 16 * u64::from(index), &entry);
    }

    /// Offers the request that begins with that descriptor.
    pub(super) fn offer(&mut self, (queue, head): Slot) {
        let count = self.offered[queue];
        let ring = queue as u64 * QUEUE_BYTES + 0x1000;
        let entry = 4 + 2 * u64::from(count % QUEUE_SIZE);
        self.put(ring + entry, &head.to_le_bytes());
        self.offered[queue] = count.wrapping_add(1);
        self.put(ring + 2, &self.offered[queue].to_le_bytes());
    }

    /// How many requests of a queue came back.
    pub(super) fn used(&self, queue: usize) -> u16 {
        let at = GuestAddress(queue as u64 * QUEUE_BYTES + 0x2002);
        u16::from_le(self.ram.read_obj(at).expect("memory"))
    }

    /// Serves a queue, and those that are due after it.
    pub(super) fn ring(&mut self, queue: usize) -> Result<(), ServeError> {
        let mut due = vec![queue];
        for _ in 0..MOST_TIMES {
            let Some(queue) = due.pop() else {
                break;
            };
            let served = self
                .device
                .serve(queue, &mut self.queues[queue], &self.memory)?;
            if served == Served::Some {
                due.push(queue);
            }
            while let Some(next) = self.device.next_due() {
                if !due.contains(&next) {
                    due.insert(0, next);
                }
            }
        }
        Ok(())
    }

    /// Has the device learn what the host has done, and serves what is due then.
    pub(super) fn collect(&mut self) -> Result<(), ServeError> {
        self.device.collect()?;
        while let Some(done) = self.device.next_done(&self.memory)? {
            self.queues[done.queue].add_used(&self.memory, done.head, done.written)?;
        }
        let mut due = Vec::new();
        while let Some(queue) = self.device.next_due() {
            due.push(queue);
        }
        due.into_iter().try_for_each(|queue| self.ring(queue))
    }
}

fn low(address: u64) -> Option<u32> {
    Some(u32::try_from(address).expect("little memory"))
}
