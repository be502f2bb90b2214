//! The device.

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::sync::Arc;

use log::Level;
use virtio_bindings::virtio_blk::{VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::disk::Disk;
use super::failures::Action;
use super::parked::ParkedRequests;
use super::request::{self, Limits, Parsed, Wish};
use super::{MOST_SERIAL_BYTES, config};
use crate::dma::DmaMemory;
use crate::guest_message;
use crate::image::{Completion, Engine, Failure, Operation};
use crate::virtio::device::{Device, Done, Identity, ServeError, Served};
use crate::virtio::requests::{self, Request};

/// Bytes of a request's header, behind which is what is written.
const HEADER_BYTES: u64 = 16;

/// A disk's status for a request.
#[derive(Clone, Copy, Debug)]
struct Status(u8);

impl Status {
    const OK: Self = Self(VIRTIO_BLK_S_OK.to_le_bytes()[0]);
    const FAILED: Self = Self(VIRTIO_BLK_S_IOERR.to_le_bytes()[0]);
    const UNSUPPORTED: Self = Self(VIRTIO_BLK_S_UNSUPP.to_le_bytes()[0]);
}

/// A request that the host works on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    done: Done,
    status: GuestAddress,
    /// Counts up with each request.
    pub(super) number: u64,
}

/// A virtio disk.
pub struct Block {
    disk: Arc<Disk>,
    /// The disk's while there is no device.
    engine: ManuallyDrop<Engine>,
    queue_sizes: Vec<u16>,
    /// Requests under way, by the engine's slots, and the slots that are free.
    pending: Vec<Option<Pending>>,
    free: Vec<usize>,
    /// How many are under way of each queue: the same descriptors may be offered again meanwhile.
    of_queue: Vec<u16>,
    completions: Vec<Completion>,
    done: VecDeque<(Pending, Status)>,
    /// What waits for the machine to go on.
    parked: ParkedRequests,
    /// Queues that were left alone meanwhile.
    due: Vec<usize>,
    /// Requests so far.
    number: u64,
    write_cache: bool,
    features: u64,
}

impl Block {
    /// The device of `disk`, which does DMA by way of `memory`; `None` if the disk has one already.
    pub fn new(disk: Arc<Disk>, memory: DmaMemory) -> Option<Self> {
        let mut engine = disk.take_engine()?;
        engine.set_memory(memory);
        let options = disk.options();
        let slots = engine.slots();
        Some(Self {
            engine: ManuallyDrop::new(engine),
            queue_sizes: vec![options.queue_size; options.queues.into()],
            pending: vec![None; slots],
            free: (0..slots).collect(),
            of_queue: vec![0; options.queues.into()],
            completions: Vec::new(),
            done: VecDeque::new(),
            parked: ParkedRequests::default(),
            due: Vec::new(),
            number: 0,
            write_cache: options.write_cache,
            features: 0,
            disk,
        })
    }

    /// Does here and now what waits for a thread that the disk has not.
    #[cfg(feature = "fuzz")]
    pub(super) fn work(&self) {
        self.engine.work();
    }

    fn limits(&self) -> Limits {
        let image = self.disk.image();
        Limits {
            disk_bytes: image.bytes(),
            block_bytes: self.disk.options().logical_block_bytes.into(),
            is_read_only: image.options().read_only,
            discards: self.disk.options().discards,
        }
    }

    /// Whether what is written has to last when it is done: a driver that does not flush cannot have it later.
    fn writes_are_durable(&self) -> bool {
        let has_cache = self.write_cache && config::flushes(self.features);
        !has_cache && !self.disk.image().options().ignores_flush
    }

    /// Begins with what the queue holds.
    fn take_requests(
        &mut self,
        index: usize,
        queue: &mut Queue,
        memory: &DmaMemory,
    ) -> Result<Served, ServeError> {
        if !self.parked.is_empty() {
            // What the host has no room for now would wait, too.
            return Ok(Served::Full);
        }
        let limits = self.limits();
        for _ in 0..queue.size() {
            if self.of_queue[index] >= queue.size() {
                return Ok(Served::Full);
            }
            let Some(request) = requests::next(queue, memory)? else {
                return Ok(Served::All);
            };
            let parsed = request::parse(&request, memory, limits)?;
            if let Some(Status(status)) = self.begin(index, &request, &parsed, memory)? {
                memory.write_obj(status, parsed.status)?;
                queue.add_used(memory, request.head, written(parsed.writable_bytes))?;
            }
        }
        Ok(Served::Some)
    }

    /// Begins with a request; its status if it is done with already.
    fn begin(
        &mut self,
        queue: usize,
        request: &Request,
        parsed: &Parsed,
        memory: &DmaMemory,
    ) -> Result<Option<Status>, ServeError> {
        let durable = self.writes_are_durable();
        let (operation, offset, bytes) = match parsed.wish {
            Wish::Read { bytes: 0, .. } | Wish::Write { bytes: 0, .. } => {
                return Ok(Some(Status::OK));
            }
            Wish::Read { offset, bytes } => (Operation::Read, offset, bytes),
            Wish::Write { offset, bytes } => (Operation::Write { durable }, offset, bytes),
            Wish::Flush => (Operation::Flush, 0, 0),
            Wish::Serial => {
                self.tell_serial(request, parsed, memory)?;
                return Ok(Some(Status::OK));
            }
            Wish::Discard { offset, bytes } => (Operation::Discard, offset, bytes),
            Wish::Zero {
                offset,
                bytes,
                unmaps,
            } => (Operation::Zero { unmaps, durable }, offset, bytes),
            Wish::Invalid(kind) => {
                self.disk.image().counters().add_invalid(kind);
                return Ok(Some(Status::FAILED));
            }
            Wish::Unsupported => return Ok(Some(Status::UNSUPPORTED)),
        };
        let (readable, writable) = request::split(&request.buffers)?;
        let (buffers, skipped) = match operation {
            Operation::Read => (writable, 0),
            _ => (readable, HEADER_BYTES),
        };
        let is_transfer = matches!(operation, Operation::Read | Operation::Write { .. });
        let pieces = request::pieces(buffers, skipped, if is_transfer { bytes } else { 0 });
        let Some(slot) = self.free.pop() else {
            return Ok(Some(Status::FAILED));
        };
        if let Err(error) = self.engine.give(slot, operation, offset, bytes, pieces) {
            self.free.push(slot);
            return Err(error.into());
        }
        self.number += 1;
        self.pending[slot] = Some(Pending {
            number: self.number,
            done: Done {
                queue,
                head: request.head,
                written: written(parsed.writable_bytes),
            },
            status: parsed.status,
        });
        self.of_queue[queue] += 1;
        Ok(None)
    }

    /// What comes of a request that the host has failed: its status, unless it waits.
    fn fails(&mut self, slot: usize, pending: Pending, failure: Failure) -> Option<Status> {
        let kind = failure.operation.kind();
        let action = self.disk.action(kind, &failure.error);
        let path = self.disk.image().options().path.display();
        let error = &failure.error;
        if action == Action::Stop {
            // One is told of for all that the host fails before the machine has paused.
            if self.parked.is_empty() {
                self.disk.set_waits(true);
                self.disk.tell(kind, action, error);
                guest_message!(
                    Level::Warn,
                    "{path}: {error}: the machine pauses, and the request is tried again when it goes on"
                );
            }
            self.parked.park(slot, pending, failure);
            return None;
        }
        guest_message!(
            Level::Warn,
            "{path}: the host fails a request, and {}: {error}",
            match action {
                Action::Ignore => "the guest is told that it was done",
                _ => "so the disk does",
            }
        );
        self.disk.tell(kind, action, error);
        self.is_over(slot, pending);
        Some(match action {
            Action::Ignore => Status::OK,
            _ => Status::FAILED,
        })
    }

    /// A request needs its slot no more.
    fn is_over(&mut self, slot: usize, pending: Pending) {
        self.free.push(slot);
        self.of_queue[pending.done.queue] -= 1;
    }

    /// Tries again what has waited for the machine to go on.
    fn try_again(&mut self) {
        let due = self.parked.take_due();
        if due.is_empty() {
            return;
        }
        self.disk.set_waits(false);
        for (slot, pending, failure) in due {
            self.pending[slot] = Some(pending);
            self.engine.give_again(slot, failure);
        }
        self.due = (0..self.queue_sizes.len()).collect();
    }

    /// Writes the serial number, filled up with zeroes, as far as there is room.
    fn tell_serial(
        &self,
        request: &Request,
        parsed: &Parsed,
        memory: &DmaMemory,
    ) -> Result<(), ServeError> {
        let mut serial = [0; MOST_SERIAL_BYTES];
        let own = self.disk.options().serial.bytes();
        serial.iter_mut().zip(own).for_each(|(to, from)| *to = from);
        let (_, writable) = request::split(&request.buffers)?;
        let bytes = parsed.writable_bytes.min(MOST_SERIAL_BYTES as u64);
        let mut left = &serial[..];
        for (address, bytes) in request::pieces(writable, 0, bytes) {
            let (piece, rest) = left.split_at(bytes);
            memory.write_slice(piece, address)?;
            left = rest;
        }
        Ok(())
    }
}

/// What the driver is told was written: data and status.
fn written(bytes: u64) -> u32 {
    u32::try_from(bytes + 1).unwrap_or(u32::MAX)
}

impl Device for Block {
    fn identity(&self) -> Identity {
        Identity {
            name: "virtio-blk",
            device_id: 2,
            // SCSI mass storage, as QEMU's.
            class_code: 0x01_0000,
        }
    }

    fn features(&self) -> u64 {
        config::features(&self.disk)
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        config::read(&self.disk, self.write_cache, offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        if let (config::WRITEBACK, [value]) = (offset, data)
            && config::switches_cache(self.features)
        {
            self.write_cache = *value != 0;
        }
    }

    fn start(&mut self, features: u64) {
        self.features = features;
    }

    fn serve(
        &mut self,
        index: usize,
        queue: &mut Queue,
        memory: &DmaMemory,
    ) -> Result<Served, ServeError> {
        let served = self.take_requests(index, queue, memory);
        // Also when a request makes no sense: those before it are under way, and a reset waits for them.
        self.engine.start()?;
        served
    }

    fn host_event(&self) -> Option<Arc<EventFd>> {
        Some(Arc::clone(self.engine.event()))
    }

    fn collect(&mut self) -> io::Result<()> {
        self.try_again();
        let mut completions = std::mem::take(&mut self.completions);
        self.engine.collect(&mut completions)?;
        for Completion { slot, result } in completions.drain(..) {
            let Some(pending) = self.pending.get_mut(slot).and_then(Option::take) else {
                continue;
            };
            let status = match result {
                Ok(()) => {
                    self.is_over(slot, pending);
                    Some(Status::OK)
                }
                Err(failure) => self.fails(slot, pending, failure),
            };
            if let Some(status) = status {
                self.done.push_back((pending, status));
            }
        }
        self.completions = completions;
        Ok(())
    }

    fn go_on(&mut self) {
        self.parked.go_on();
    }

    fn stay(&mut self) {
        self.parked.stay();
    }

    fn next_due(&mut self) -> Option<usize> {
        self.due.pop()
    }

    fn in_flight(&self) -> usize {
        self.engine.in_flight()
    }

    fn next_done(&mut self, memory: &DmaMemory) -> Result<Option<Done>, ServeError> {
        let Some((pending, Status(status))) = self.done.pop_front() else {
            return Ok(None);
        };
        memory.write_obj(status, pending.status)?;
        Ok(Some(pending.done))
    }

    fn config_has_changed(&mut self) -> bool {
        self.disk.take_size_change()
    }

    fn reset(&mut self) {
        self.done.clear();
        for (slot, pending) in self.parked.forget() {
            self.is_over(slot, pending);
        }
        self.due.clear();
        self.disk.set_waits(false);
        self.features = 0;
        self.write_cache = self.disk.options().write_cache;
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: nothing uses it here any more.
        let engine = unsafe { ManuallyDrop::take(&mut self.engine) };
        self.disk.set_waits(false);
        // What is under way has this device's slots; dropping waits for it.
        if engine.in_flight() == 0 {
            self.disk.put_engine(engine);
        }
    }
}
