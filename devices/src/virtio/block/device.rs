//! The device.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use virtio_bindings::virtio_blk::{VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::request::{self, Limits, Parsed, Wish};
use super::{MOST_SERIAL_BYTES, config};
use crate::dma::DmaMemory;
use crate::image::Operation;
use crate::virtio::device::{Device, Done, Identity, ServeError, Served};
use crate::virtio::disk::{Disk, Place, Work};
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
struct Task {
    done: Done,
    status: GuestAddress,
}

/// A virtio disk.
pub struct Block {
    work: Work<Task>,
    queue_sizes: Vec<u16>,
    /// How many are under way of each queue: the same descriptors may be offered again meanwhile.
    of_queue: Vec<u16>,
    done: VecDeque<(Task, Status)>,
    /// Queues that were left alone while the machine was to pause.
    due: Vec<usize>,
    write_cache: bool,
    features: u64,
}

impl Block {
    /// The device of `disk`, which does DMA by way of `memory`; `None` if the disk has one already.
    pub fn new(disk: Arc<Disk>, memory: DmaMemory) -> Option<Self> {
        let work = Work::new(disk, memory)?;
        let options = work.disk().options();
        let (queues, write_cache) = (usize::from(options.queues), options.write_cache);
        Some(Self {
            queue_sizes: vec![options.queue_size; queues],
            of_queue: vec![0; queues],
            done: VecDeque::new(),
            due: Vec::new(),
            write_cache,
            features: 0,
            work,
        })
    }

    fn disk(&self) -> &Disk {
        self.work.disk()
    }

    /// Does here and now what waits for a thread that the disk has not.
    #[cfg(feature = "fuzz")]
    pub(super) fn work(&self) {
        self.work.work();
    }

    fn limits(&self) -> Limits {
        let image = self.disk().image();
        Limits {
            disk_bytes: image.bytes(),
            block_bytes: self.disk().options().logical_block_bytes.into(),
            is_read_only: image.options().read_only,
            discards: self.disk().options().discards,
        }
    }

    /// Whether what is written has to last when it is done: a driver that does not flush cannot have it later.
    fn writes_are_durable(&self) -> bool {
        let has_cache = self.write_cache && config::flushes(self.features);
        !has_cache && !self.disk().image().options().ignores_flush
    }

    /// Begins with what the queue holds.
    fn take_requests(
        &mut self,
        index: usize,
        queue: &mut Queue,
        memory: &DmaMemory,
    ) -> Result<Served, ServeError> {
        if self.work.waits() {
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
                self.disk().image().counters().add_invalid(kind);
                return Ok(Some(Status::FAILED));
            }
            Wish::Unsupported => return Ok(Some(Status::UNSUPPORTED)),
        };
        let (readable, writable) = requests::split(&request.buffers)?;
        let (buffers, skipped) = match operation {
            Operation::Read => (writable, 0),
            _ => (readable, HEADER_BYTES),
        };
        let is_transfer = matches!(operation, Operation::Read | Operation::Write { .. });
        let pieces = requests::pieces(buffers, skipped, if is_transfer { bytes } else { 0 });
        let task = Task {
            done: Done {
                queue,
                head: request.head,
                written: written(parsed.writable_bytes),
            },
            status: parsed.status,
        };
        let place = Place { offset, bytes };
        let Some(given) = self.work.give(operation, place, pieces)? else {
            return Ok(Some(Status::FAILED));
        };
        self.work.note(given, task);
        self.of_queue[queue] += 1;
        Ok(None)
    }

    /// Writes the serial number, filled up with zeroes, as far as there is room.
    fn tell_serial(
        &self,
        request: &Request,
        parsed: &Parsed,
        memory: &DmaMemory,
    ) -> Result<(), ServeError> {
        let mut serial = [0; MOST_SERIAL_BYTES];
        let own = self.disk().options().serial.bytes();
        serial.iter_mut().zip(own).for_each(|(to, from)| *to = from);
        let (_, writable) = requests::split(&request.buffers)?;
        let bytes = usize::try_from(parsed.writable_bytes).unwrap_or(usize::MAX);
        let told = &serial[..bytes.min(MOST_SERIAL_BYTES)];
        requests::copy_to(writable, 0, memory, told)
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
        config::features(self.disk())
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        config::read(self.disk(), self.write_cache, offset, data);
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
        self.work.start()?;
        served
    }

    fn host_event(&self) -> Option<Arc<EventFd>> {
        Some(Arc::clone(self.disk().event()))
    }

    fn collect(&mut self) -> io::Result<()> {
        if self.work.try_again() {
            self.due = (0..self.queue_sizes.len()).collect();
        }
        let (done, of_queue) = (&mut self.done, &mut self.of_queue);
        self.work.collect(|task, result| {
            of_queue[task.done.queue] -= 1;
            let status = match result {
                Ok(()) => Status::OK,
                Err(_) => Status::FAILED,
            };
            done.push_back((task, status));
        })
    }

    fn go_on(&mut self) {
        self.work.go_on();
    }

    fn stay(&mut self) {
        self.work.stay();
    }

    fn next_due(&mut self) -> Option<usize> {
        self.due.pop()
    }

    fn in_flight(&self) -> usize {
        self.work.in_flight()
    }

    fn next_done(&mut self, memory: &DmaMemory) -> Result<Option<Done>, ServeError> {
        let Some((task, Status(status))) = self.done.pop_front() else {
            return Ok(None);
        };
        memory.write_obj(status, task.status)?;
        Ok(Some(task.done))
    }

    fn config_has_changed(&mut self) -> bool {
        self.disk().take_size_change()
    }

    fn reset(&mut self) {
        self.done.clear();
        self.work.reset();
        self.of_queue.fill(0);
        self.due.clear();
        self.features = 0;
        self.write_cache = self.disk().options().write_cache;
    }
}
