//! The device.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::timerfd::TimerFd;

use super::PAGE_SHIFT;
use super::control::BalloonControl;
use super::pages::{NoMemory, Pages};
use super::statistics::{self, Statistics};
use crate::dma::DmaMemory;
use crate::virtio::device::{Device, Done, Identity, ServeError, Served, read_config};
use crate::virtio::requests::{self, Request};

/// VIRTIO_BALLOON_F_STATS_VQ, _DEFLATE_ON_OOM and _PAGE_REPORTING, which virtio-bindings has not.
const F_STATISTICS: u64 = 1 << 1;
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
const F_REPORTING: u64 = 1 << 5;

/// Its queues. Linux counts those that there are, so the last has this number as there are no hints.
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATISTICS: usize = 2;
const REPORTING: usize = 3;
const QUEUE_SIZES: &[u16] = &[64, 64, 16, 64];

/// The configuration (`struct virtio_balloon_config`): how many pages are wanted, and what the driver has.
const WANTED: usize = 0;
const ACTUAL: usize = 4;
const CONFIG_BYTES: usize = 8;

/// The longest list of pages in one request: Linux has 1 KiB.
const MOST_LIST_BYTES: usize = 64 << 10;
/// Bytes of lists that are read in one turn, more or less a request, and that are read at a time.
const TURN_BYTES: usize = 16 << 10;
const CHUNK_BYTES: usize = 1 << 10;

/// How a balloon is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalloonOptions {
    /// The driver is asked to take pages back by itself before it ends programs.
    pub deflates_on_oom: bool,
    /// The driver is asked to tell of pages that it has no use for.
    pub reports_free_pages: bool,
    /// Bytes of the host's pages behind guest memory; `None` if none may be given back to the host, as when a
    /// device reaches them by themselves.
    pub released_page_bytes: Option<u64>,
}

/// The timer of the device's thread.
struct Timer(Mutex<TimerFd>);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.lock().as_raw_fd()
    }
}

/// A balloon.
pub struct Balloon {
    control: Arc<BalloonControl>,
    options: BalloonOptions,
    pages: Pages,
    actual: [u8; 4],
    /// What the configuration said last.
    known_wanted: u32,
    /// The driver's buffer for statistics, which it fills when it gets it back.
    held: Option<u16>,
    done: Option<u16>,
    timer: Arc<Timer>,
    /// When the timer rings.
    rings_at: Option<Instant>,
    /// The interval in force, and when it ends.
    interval: u64,
    due_at: Option<Instant>,
}

impl Balloon {
    /// The device of `control`, in a guest with `ram`.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn new(
        control: Arc<BalloonControl>,
        ram: GuestMemoryMmap,
        options: BalloonOptions,
    ) -> io::Result<Self> {
        let timer = TimerFd::new().map_err(io::Error::from)?;
        Ok(Self {
            known_wanted: control.wanted_pages(),
            control,
            pages: Pages::new(ram, options.released_page_bytes),
            options,
            actual: [0; 4],
            held: None,
            done: None,
            timer: Arc::new(Timer(Mutex::new(timer))),
            rings_at: None,
            interval: 0,
            due_at: None,
        })
    }

    /// Serves lists of pages that the driver gives away or takes back.
    fn serve_lists(
        &mut self,
        is_given: bool,
        queue: &mut Queue,
        memory: &DmaMemory,
    ) -> Result<Served, ServeError> {
        let mut left = TURN_BYTES;
        for _ in 0..queue.size() {
            if left == 0 {
                return Ok(Served::Some);
            }
            let Some(request) = requests::next(queue, memory)? else {
                return Ok(Served::All);
            };
            let served = self.serve_list(is_given, &request, memory);
            // Before the driver hears of it: then it may have them back.
            self.pages.flush();
            left = left.saturating_sub(served?);
            queue.add_used(memory, request.head, 0)?;
        }
        Ok(Served::Some)
    }

    /// Reads a list of page numbers, little-endian; how long it is.
    fn serve_list(
        &mut self,
        is_given: bool,
        request: &Request,
        memory: &DmaMemory,
    ) -> Result<usize, ServeError> {
        let mut total = 0;
        for buffer in request.buffers.iter().filter(|it| !it.is_write_only()) {
            let length = usize::try_from(buffer.len()).unwrap_or(usize::MAX);
            total = length.saturating_add(total);
            if total > MOST_LIST_BYTES {
                return Err(ServeError::Request("a list of pages that is too long"));
            }
            let mut chunk = [0; CHUNK_BYTES];
            for offset in (0..length).step_by(CHUNK_BYTES) {
                let chunk = &mut chunk[..CHUNK_BYTES.min(length - offset)];
                let unreachable = vm_memory::GuestMemoryError::InvalidGuestAddress(buffer.addr());
                let at = buffer.addr().0.checked_add(offset as u64);
                memory.read_slice(chunk, GuestAddress(at.ok_or(unreachable)?))?;
                // A piece of a number at the end is none.
                for number in chunk.chunks_exact(4) {
                    let number = number.try_into().map_or(0, u32::from_le_bytes);
                    let address = u64::from(number) << PAGE_SHIFT;
                    if is_given {
                        self.pages.give(address).map_err(no_memory)?;
                    } else {
                        self.pages.take(address);
                    }
                }
            }
        }
        Ok(total)
    }

    /// Keeps the driver's buffer, with what it tells, until it is to tell anew.
    fn serve_statistics(
        &mut self,
        queue: &mut Queue,
        memory: &DmaMemory,
    ) -> Result<Served, ServeError> {
        for _ in 0..queue.size() {
            let Some(request) = requests::next(queue, memory)? else {
                return Ok(Served::All);
            };
            let mut bytes = [0; statistics::MOST_BYTES];
            let mut filled = 0;
            for buffer in request.buffers.iter().filter(|it| !it.is_write_only()) {
                let left = &mut bytes[filled..];
                let length = usize::try_from(buffer.len()).unwrap_or(left.len());
                let length = length.min(left.len());
                memory.read_slice(&mut left[..length], buffer.addr())?;
                filled += length;
            }
            self.control
                .set_statistics(Statistics::read(&bytes[..filled]));
            // There should be one at a time.
            if let Some(earlier) = self.held.replace(request.head) {
                queue.add_used(memory, earlier, 0)?;
            }
        }
        Ok(Served::Some)
    }

    /// Gives back to the host what the driver has no use for.
    fn serve_reports(
        &mut self,
        queue: &mut Queue,
        memory: &DmaMemory,
    ) -> Result<Served, ServeError> {
        // Each may be of gigabytes.
        const MOST_REQUESTS: u16 = 4;
        for _ in 0..queue.size().min(MOST_REQUESTS) {
            let Some(request) = requests::next(queue, memory)? else {
                return Ok(Served::All);
            };
            for buffer in request.buffers.iter().filter(|it| it.is_write_only()) {
                let reported = self.pages.report(buffer.addr().0, buffer.len().into());
                reported.map_err(no_memory)?;
            }
            self.pages.flush();
            queue.add_used(memory, request.head, 0)?;
        }
        Ok(Served::Some)
    }

    /// Has the driver told anew, when it is time for that.
    fn ask_for_statistics(&mut self, now: Instant) {
        let interval = self.control.interval_seconds();
        let next = || now.checked_add(Duration::from_secs(interval));
        if interval != self.interval {
            self.interval = interval;
            self.due_at = (interval != 0).then(next).flatten();
        }
        if self.due_at.is_some_and(|at| at <= now) {
            self.due_at = next();
            if self.done.is_none() {
                self.done = self.held.take();
            }
        }
    }

    /// Has the timer ring when there is something to do next.
    fn run_timer(&mut self, next: Option<Instant>, now: Instant) -> io::Result<()> {
        if next == self.rings_at {
            return Ok(());
        }
        let mut timer = self.timer.0.lock();
        match next {
            Some(at) => {
                // A time of 0 would stop it.
                let time = at.saturating_duration_since(now);
                let time = time.max(Duration::from_millis(1));
                timer.reset(time, None).map_err(io::Error::from)?;
            }
            None => timer.clear().map_err(io::Error::from)?,
        }
        drop(timer);
        self.rings_at = next;
        Ok(())
    }
}

fn no_memory(_: NoMemory) -> ServeError {
    ServeError::Request("a page that is not memory")
}

impl Device for Balloon {
    fn identity(&self) -> Identity {
        Identity {
            name: "virtio-balloon",
            device_id: 5,
            // Unclassified, as QEMU's.
            class_code: 0x00_ff00,
        }
    }

    fn features(&self) -> u64 {
        let reports = self.options.reports_free_pages && self.pages.are_released();
        let offered = [
            (F_STATISTICS, true),
            (F_DEFLATE_ON_OOM, self.options.deflates_on_oom),
            (F_REPORTING, reports),
        ];
        let offered = offered.iter().filter(|(_, offered)| *offered);
        offered.fold(0, |all, (feature, _)| all | feature)
    }

    fn queue_sizes(&self) -> &[u16] {
        QUEUE_SIZES
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let mut config = [0; CONFIG_BYTES];
        config[WANTED..ACTUAL].copy_from_slice(&self.control.wanted_pages().to_le_bytes());
        config[ACTUAL..].copy_from_slice(&self.actual);
        read_config(&config, offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        let mut changes = false;
        for (at, &byte) in (offset..).zip(data) {
            let place = at.checked_sub(ACTUAL);
            if let Some(known) = place.and_then(|place| self.actual.get_mut(place)) {
                *known = byte;
                changes = true;
            }
        }
        if changes {
            self.control
                .set_actual_pages(u32::from_le_bytes(self.actual));
        }
    }

    fn serve(
        &mut self,
        index: usize,
        queue: &mut Queue,
        memory: &DmaMemory,
    ) -> Result<Served, ServeError> {
        match index {
            INFLATE => self.serve_lists(true, queue, memory),
            DEFLATE => self.serve_lists(false, queue, memory),
            STATISTICS => self.serve_statistics(queue, memory),
            REPORTING => self.serve_reports(queue, memory),
            _ => Ok(Served::All),
        }
    }

    fn host_event(&self) -> Option<Arc<EventFd>> {
        Some(Arc::clone(self.control.event()))
    }

    fn watched(&self) -> Option<Arc<dyn AsRawFd + Send + Sync>> {
        Some(Arc::clone(&self.timer) as Arc<_>)
    }

    fn collect(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if self.rings_at.is_some_and(|at| at <= now) {
            // It rings, or does so at once.
            self.timer.0.lock().wait().map_err(io::Error::from)?;
            self.rings_at = None;
        }
        let again = self.control.tell().and_then(|time| now.checked_add(time));
        self.ask_for_statistics(now);
        let next = [again, self.due_at].into_iter().flatten().min();
        self.run_timer(next, now)
    }

    fn next_done(&mut self, _: &DmaMemory) -> Result<Option<Done>, ServeError> {
        Ok(self.done.take().map(|head| Done {
            queue: STATISTICS,
            head,
            written: 0,
        }))
    }

    fn config_has_changed(&mut self) -> bool {
        let wanted = self.control.wanted_pages();
        std::mem::replace(&mut self.known_wanted, wanted) != wanted
    }

    fn reset(&mut self) {
        self.pages.reset();
        (self.held, self.done) = (None, None);
        self.actual = [0; 4];
        self.control.set_actual_pages(0);
    }
}

impl Drop for Balloon {
    fn drop(&mut self) {
        self.control.end();
    }
}
