//! The controller: its queues, and what is under way of its units.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use virtio_bindings::virtio_scsi::{VIRTIO_SCSI_F_CHANGE, VIRTIO_SCSI_F_HOTPLUG};
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::address::{Address, MOST_LUN, MOST_TARGET};
use super::cdb;
use super::lun::{Lun, Task, UnderWay, of_no_unit};
use super::manage::Management;
use super::request::{self, Answer, Parsed, Sizes};
use super::sense::Sense;
use super::unit::{Unit, UnitOptions, Wish, has_parameters};
use crate::dma::DmaMemory;
use crate::image::Operation;
use crate::virtio::device::{Device, Done, Identity, ServeError, Served, read_config};
use crate::virtio::disk::{Disk, MOST_BYTES, SECTOR_BYTES, Work};
use crate::virtio::requests::{self, Request};

/// The queues that come before those for requests.
pub(super) const CONTROL_QUEUE: usize = 0;
pub(super) const EVENT_QUEUE: usize = 1;
const FIRST_REQUEST_QUEUE: usize = 2;

/// Where a driver changes what it leaves for sense data and commands (`struct virtio_scsi_config`).
const SENSE_SIZE: usize = 20;
const CDB_SIZE: usize = 24;
const CONFIG_BYTES: usize = 36;
/// Bytes of an event.
const EVENT_BYTES: u32 = 16;

/// The most that is read of a command's parameters: a block, of the largest that there are.
const MOST_PARAMETER_BYTES: u64 = 2 << 20;

/// How a controller is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScsiOptions {
    /// Number of queues for requests, from 1 on.
    pub queues: u16,
    /// The most entries of each queue, a power of two.
    pub queue_size: u16,
    /// The most commands that a driver has each unit do at a time; it is told so.
    pub commands_per_unit: u32,
    /// The most sectors of 512 bytes of a command; it is told so.
    pub most_sectors: u32,
}

impl Default for ScsiOptions {
    fn default() -> Self {
        Self {
            queues: 1,
            queue_size: 256,
            commands_per_unit: 128,
            most_sectors: 0xffff,
        }
    }
}

/// A SCSI controller.
pub struct Scsi {
    options: ScsiOptions,
    queue_sizes: Vec<u16>,
    /// In the order of their addresses.
    pub(super) luns: Vec<Lun>,
    event: Arc<EventFd>,
    features: u64,
    sizes: Sizes,
    /// How many are under way of each queue: the same descriptors may be offered again meanwhile.
    of_queue: Vec<u16>,
    done: VecDeque<(Task, Answer)>,
    pub(super) management: Management,
    /// Queues that are to be served though nobody rang, by their bits.
    pub(super) due: u128,
    /// Commands so far.
    pub(super) number: u64,
    parameters: Vec<u8>,
}

impl Scsi {
    /// A controller with `units`, each with its disk, which does DMA by way of `memory`. A CD drive may have none. All
    /// disks signal one event. `None` if another device has one of them, or they do not.
    pub fn new(
        options: ScsiOptions,
        units: impl IntoIterator<Item = (UnitOptions, Option<Arc<Disk>>)>,
        memory: &DmaMemory,
    ) -> io::Result<Option<Self>> {
        let mut event: Option<Arc<EventFd>> = None;
        let mut luns = Vec::new();
        for (unit, disk) in units {
            let work = match &disk {
                None => None,
                Some(disk) => {
                    let event = event.get_or_insert_with(|| Arc::clone(disk.event()));
                    let work = Work::new(Arc::clone(disk), memory.clone());
                    let (Some(work), true) = (work, Arc::ptr_eq(event, disk.event())) else {
                        return Ok(None);
                    };
                    Some(work)
                }
            };
            luns.push(Lun {
                unit: Unit::new(unit, disk),
                work,
                size_has_changed: false,
            });
        }
        luns.sort_by_key(|lun| lun.unit.options.address);
        let queues = FIRST_REQUEST_QUEUE + usize::from(options.queues);
        Ok(Some(Self {
            queue_sizes: vec![options.queue_size; queues],
            event: match event {
                Some(event) => event,
                None => Arc::new(EventFd::new(EFD_NONBLOCK)?),
            },
            luns,
            features: 0,
            sizes: Sizes::USUAL,
            of_queue: vec![0; queues],
            done: VecDeque::new(),
            management: Management::default(),
            due: 0,
            number: 0,
            parameters: Vec::new(),
            options,
        }))
    }

    /// Does here and now what waits for threads that the disks have not.
    #[cfg(feature = "fuzz")]
    pub(super) fn work(&self) {
        let works = self.luns.iter().filter_map(|lun| lun.work.as_ref());
        works.for_each(Work::work);
    }

    /// Which of the units is there.
    pub(super) fn place(&self, address: Address) -> Option<usize> {
        let key = |lun: &Lun| lun.unit.options.address;
        self.luns.binary_search_by_key(&address, key).ok()
    }

    pub(super) fn has_target(&self, target: u8) -> bool {
        let mut luns = self.luns.iter();
        luns.any(|lun| lun.unit.options.address.target == target)
    }

    /// Requests that the host has no room for now wait for the machine to go on: others would wait, too.
    fn waits(&self) -> bool {
        let mut works = self.luns.iter().filter_map(|lun| lun.work.as_ref());
        works.any(Work::waits)
    }

    /// Has a command that has waited come back with `answer` when the device next learns what is done.
    pub(super) fn end(&mut self, task: Task, answer: Answer) {
        self.of_queue[task.queue] -= 1;
        self.done.push_back((task, answer));
        // It fails only where 2^64 - 2 signals have not been heard.
        let _ = self.event.write(1);
    }

    pub(super) fn set_all_due(&mut self) {
        self.due = (1 << self.queue_sizes.len().min(127)) - 1;
    }

    /// Begins with what the queue holds.
    fn take_requests(
        &mut self,
        index: usize,
        queue: &mut Queue,
        memory: &DmaMemory,
    ) -> Result<Served, ServeError> {
        if self.waits() {
            return Ok(Served::Full);
        }
        for _ in 0..queue.size() {
            if self.of_queue[index] >= queue.size() {
                return Ok(Served::Full);
            }
            let Some(request) = requests::next(queue, memory)? else {
                return Ok(Served::All);
            };
            let parsed = request::parse(&request, memory, self.sizes)?;
            let head = request.head;
            let layout = parsed.layout;
            if let Some((buffers, answer)) = self.begin(index, request, &parsed, memory)? {
                let written = answer.write(&buffers, layout, memory)?;
                queue.add_used(memory, head, written)?;
            }
        }
        Ok(Served::Some)
    }

    /// Begins with a request; its buffers with the answer if it is done with already.
    fn begin(
        &mut self,
        queue: usize,
        request: Request,
        parsed: &Parsed,
        memory: &DmaMemory,
    ) -> Result<Option<(Vec<Descriptor>, Answer)>, ServeError> {
        let Request { head, buffers } = request;
        let layout = parsed.layout;
        let over = |buffers, answer| Ok(Some((buffers, answer)));
        let Some(address) = Address::read(parsed.lun) else {
            return over(buffers, Answer::BAD_TARGET);
        };
        let place = self.place(address);
        if place.is_none() && !self.has_target(address.target) {
            return over(buffers, Answer::BAD_TARGET);
        }
        if layout.in_bytes != 0 && layout.out_bytes != 0 {
            return over(buffers, Answer::FAILURE);
        }
        self.parameters.clear();
        let outcome = match place {
            _ if parsed.cdb.opcode() == cdb::REPORT_LUNS => self.report_luns(address, &parsed.cdb),
            None => of_no_unit(&parsed.cdb),
            Some(place) => {
                self.read_parameters(&buffers, parsed, memory)?;
                let unit = &mut self.luns[place].unit;
                unit.command(&parsed.cdb, &self.parameters)
            }
        };
        let (operation, at) = match outcome {
            Err(sense) => return over(buffers, Answer::check(sense)),
            Ok(Wish::Nothing) => return over(buffers, Answer::good(self.parameters.len() as u64)),
            Ok(Wish::Data(data)) => {
                let moved = layout.in_bytes.min(data.len() as u64);
                let data = &data[..usize::try_from(moved).unwrap_or(0)];
                let (_, writable) = requests::split(&buffers)?;
                requests::copy_to(writable, layout.in_skipped, memory, data)?;
                return over(buffers, Answer::good(moved));
            }
            Ok(Wish::Medium(operation, at)) => (operation, at),
        };
        let under_way = UnderWay {
            queue,
            head,
            place,
            operation,
            at,
        };
        self.give(under_way, buffers, parsed)
    }

    /// Gives a command to its unit's medium; its buffers with the answer if that does not take it.
    fn give(
        &mut self,
        given: UnderWay,
        buffers: Vec<Descriptor>,
        parsed: &Parsed,
    ) -> Result<Option<(Vec<Descriptor>, Answer)>, ServeError> {
        let (layout, operation, at) = (parsed.layout, given.operation, given.at);
        let (moved, room, skipped) = match operation {
            Operation::Read => (at.bytes, layout.in_bytes, layout.in_skipped),
            Operation::Write { .. } => (at.bytes, layout.out_bytes, layout.out_skipped),
            _ => (0, 0, 0),
        };
        if moved > room {
            return Ok(Some((buffers, Answer::OVERRUN)));
        }
        let lun = given.place.and_then(|place| self.luns.get_mut(place));
        let Some(work) = lun.and_then(|lun| lun.work.as_mut()) else {
            return Ok(Some((buffers, Answer::FAILURE)));
        };
        let (readable, writable) = requests::split(&buffers)?;
        let own = match operation {
            Operation::Read => writable,
            _ => readable,
        };
        let pieces = requests::pieces(own, skipped, moved);
        let Some(slot) = work.give(operation, at, pieces)? else {
            return Ok(Some((buffers, Answer::FULL)));
        };
        self.number += 1;
        let task = Task {
            queue: given.queue,
            head: given.head,
            buffers,
            layout,
            operation,
            // Of parameters, all that was sent has been taken.
            moved: match operation {
                Operation::Read | Operation::Write { .. } => moved,
                _ => layout.out_bytes,
            },
            tag: parsed.tag,
            number: self.number,
            ended: None,
        };
        work.note(slot, task);
        self.of_queue[given.queue] += 1;
        Ok(None)
    }

    /// Reads the parameters of a command that has some.
    fn read_parameters(
        &mut self,
        buffers: &[Descriptor],
        parsed: &Parsed,
        memory: &DmaMemory,
    ) -> Result<(), ServeError> {
        if !has_parameters(parsed.cdb.opcode()) {
            return Ok(());
        }
        let layout = parsed.layout;
        let bytes = layout.out_bytes.min(MOST_PARAMETER_BYTES);
        self.parameters
            .resize(usize::try_from(bytes).unwrap_or(0), 0);
        let (readable, _) = requests::split(buffers)?;
        requests::copy_from(readable, layout.out_skipped, memory, &mut self.parameters)?;
        Ok(())
    }
}

impl Device for Scsi {
    fn identity(&self) -> Identity {
        Identity {
            name: "virtio-scsi",
            device_id: 8,
            // SCSI mass storage, as QEMU's.
            class_code: 0x01_0000,
        }
    }

    fn features(&self) -> u64 {
        // Linux leaves no room for events, among them those of sizes, where units do not come and go.
        1 << VIRTIO_SCSI_F_HOTPLUG | 1 << VIRTIO_SCSI_F_CHANGE
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let options = self.options;
        let pieces = u32::from(options.queue_size)
            .saturating_sub(2)
            .clamp(1, 254);
        let most = u32::try_from(MOST_BYTES / SECTOR_BYTES).unwrap_or(u32::MAX);
        let numbers = [
            u32::from(options.queues),
            pieces,
            options.most_sectors.min(most),
            options.commands_per_unit,
            EVENT_BYTES,
            self.sizes.sense,
            self.sizes.cdb,
            // The highest channel and the highest target, of 16 bits each.
            u32::from(MOST_TARGET) << 16,
            u32::from(MOST_LUN),
        ];
        let all: Vec<u8> = numbers.iter().flat_map(|it| it.to_le_bytes()).collect();
        debug_assert_eq!(all.len(), CONFIG_BYTES);
        read_config(&all, offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        let &[a, b, c, d] = data else {
            return;
        };
        let size = u32::from_le_bytes([a, b, c, d]);
        match offset {
            SENSE_SIZE if size <= Sizes::MOST => self.sizes.sense = size,
            CDB_SIZE if size <= Sizes::MOST => self.sizes.cdb = size,
            _ => {}
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
        let served = match index {
            CONTROL_QUEUE => self.serve_control(queue, memory),
            EVENT_QUEUE => self.tell_events(queue, memory),
            _ => self.take_requests(index, queue, memory),
        };
        // Also when a request makes no sense: those before it are under way, and a reset waits for them.
        for work in self.luns.iter_mut().filter_map(|lun| lun.work.as_mut()) {
            work.start()?;
        }
        served
    }

    fn host_event(&self) -> Option<Arc<EventFd>> {
        Some(Arc::clone(&self.event))
    }

    fn collect(&mut self) -> io::Result<()> {
        let (mut goes_on, mut has_changed) = (false, false);
        for lun in &mut self.luns {
            let Some(work) = &mut lun.work else {
                continue;
            };
            goes_on |= work.try_again();
            let (done, of_queue) = (&mut self.done, &mut self.of_queue);
            work.collect(|task, result| {
                of_queue[task.queue] -= 1;
                let answer = task.answer(&result);
                done.push_back((task, answer));
            })?;
            if work.disk().take_size_change() {
                has_changed = true;
                lun.unit.note(Sense::CAPACITY_CHANGED);
                lun.size_has_changed = self.features & 1 << VIRTIO_SCSI_F_CHANGE != 0;
            }
        }
        if goes_on {
            self.set_all_due();
        }
        if has_changed {
            self.due |= 1 << EVENT_QUEUE;
        }
        self.finish_functions();
        Ok(())
    }

    fn go_on(&mut self) {
        let works = self.luns.iter_mut().filter_map(|lun| lun.work.as_mut());
        works.for_each(Work::go_on);
    }

    fn stay(&mut self) {
        let works = self.luns.iter_mut().filter_map(|lun| lun.work.as_mut());
        works.for_each(Work::stay);
    }

    fn next_due(&mut self) -> Option<usize> {
        let queue = self.due.trailing_zeros();
        self.due &= self.due.wrapping_sub(1);
        (queue < u128::BITS).then_some(queue as usize)
    }

    fn in_flight(&self) -> usize {
        let works = self.luns.iter().filter_map(|lun| lun.work.as_ref());
        works.map(Work::in_flight).sum()
    }

    fn next_done(&mut self, memory: &DmaMemory) -> Result<Option<Done>, ServeError> {
        if let Some((task, answer)) = self.done.pop_front() {
            return Ok(Some(Done {
                queue: task.queue,
                head: task.head,
                written: answer.write(&task.buffers, task.layout, memory)?,
            }));
        }
        self.next_function_done(memory)
    }

    fn reset(&mut self) {
        self.done.clear();
        self.management.clear();
        for lun in &mut self.luns {
            lun.unit.power_on();
            lun.size_has_changed = false;
            if let Some(work) = &mut lun.work {
                work.reset();
            }
        }
        self.of_queue.fill(0);
        self.due = 0;
        self.features = 0;
        self.sizes = Sizes::USUAL;
    }
}
