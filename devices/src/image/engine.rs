//! Doing what is asked of an image without waiting for it.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use log::Level;
use vm_memory::{GuestAddress, GuestMemoryError};
use vmm_sys_util::eventfd::EventFd;

use super::Image;
use super::helper::{DoneJob, Helper, Resizer};
use super::operation::{Job, Operation, Pieces};
use super::ring::Ring;
use crate::dma::DmaMemory;
use crate::guest_message;

/// How an engine is made.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// How many operations may be under way.
    pub slots: usize,
    /// What it signals when something is done; several may have the same one.
    pub event: Arc<EventFd>,
    /// The host's kernel is asked (io_uring) where it lets.
    pub uses_ring: bool,
    /// What the engine's thread does first: it gives up what it will not need.
    pub prepare_thread: fn() -> io::Result<()>,
}

/// An operation that is done.
#[derive(Debug)]
pub struct Completion {
    /// The slot that it was given.
    pub slot: usize,
    /// How it went.
    pub result: Result<(), Failure>,
}

/// An operation that the host has failed, with what is left of it.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub error: io::Error,
    /// What it was.
    pub operation: Operation,
    left: Job,
}

/// Who does what is asked of an image.
///
/// Dropping it waits for what is under way: the host writes into guest memory until then.
pub struct Engine {
    image: Arc<Image>,
    /// What is under way, by its slot; what the helper has is not here.
    jobs: Vec<Option<Job>>,
    in_flight: usize,
    in_ring: usize,
    ring: Option<Ring>,
    helper: Helper,
    event: Arc<EventFd>,
    /// What needs no host.
    at_once: Vec<Completion>,
    spare: Vec<Pieces>,
    by_ring: Vec<(usize, i32)>,
    by_helper: Vec<DoneJob>,
    /// Goes after who may write into it.
    memory: DmaMemory,
}

impl Engine {
    /// An engine for `image`, whose operations are for `memory`.
    ///
    /// # Errors
    /// When there are no descriptors or threads left.
    pub fn new(image: Arc<Image>, memory: DmaMemory, options: EngineOptions) -> io::Result<Self> {
        let prepare_thread = options.prepare_thread;
        let mut engine = Self::without_thread(image, memory, options)?;
        engine.helper.start(prepare_thread)?;
        Ok(engine)
    }

    /// The same, whose helper has not started.
    pub(crate) fn without_thread(
        image: Arc<Image>,
        memory: DmaMemory,
        options: EngineOptions,
    ) -> io::Result<Self> {
        let EngineOptions {
            slots,
            event,
            uses_ring,
            ..
        } = options;
        let is_raw = image.qcow2().is_none();
        let ring = match (uses_ring && is_raw).then(|| Ring::new(&image, slots, &event)) {
            Some(Ok(ring)) => Some(ring),
            Some(Err(error)) => {
                let path = image.options().path.display();
                guest_message!(Level::Info, "no io_uring for {path}: {error}");
                None
            }
            None => None,
        };
        Ok(Self {
            jobs: (0..slots).map(|_| None).collect(),
            in_flight: 0,
            in_ring: 0,
            ring,
            helper: Helper::new(Arc::clone(&image), Arc::clone(&event)),
            event,
            at_once: Vec::new(),
            spare: Vec::new(),
            by_ring: Vec::new(),
            by_helper: Vec::new(),
            image,
            memory,
        })
    }

    /// Does here and now what waits for a helper that has not started.
    #[cfg(feature = "fuzz")]
    pub(crate) fn work(&self) {
        self.helper.work();
    }

    /// Its image.
    pub const fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// What has the image be of another size.
    pub fn resizer(&self) -> Resizer {
        self.helper.resizer()
    }

    /// What is signalled when something is done.
    pub const fn event(&self) -> &Arc<EventFd> {
        &self.event
    }

    /// How many operations are under way.
    pub const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// How many there may be.
    pub const fn slots(&self) -> usize {
        self.jobs.len()
    }

    /// Whether the host's kernel does reads and writes by itself.
    pub const fn has_ring(&self) -> bool {
        self.ring.is_some()
    }

    /// Has operations be for `memory` from now on. Nothing may be under way: what is keeps the memory that it has.
    pub fn set_memory(&mut self, memory: DmaMemory) {
        if self.in_flight == 0 {
            self.memory = memory;
        }
    }

    /// Gives the host an operation, with `ranges` of memory of as many bytes in all. `slot` is free, and below
    /// [`Engine::slots`]. It begins with the next [`Engine::start`] at the latest.
    ///
    /// # Errors
    /// Memory is out of the device's reach.
    pub fn give(
        &mut self,
        slot: usize,
        operation: Operation,
        offset: u64,
        bytes: u64,
        ranges: impl Iterator<Item = (GuestAddress, usize)>,
    ) -> Result<(), GuestMemoryError> {
        let mut pieces = self.spare.pop().unwrap_or_default();
        pieces.clear();
        for (address, bytes) in ranges {
            pieces.add(&self.memory, address, bytes, operation == Operation::Read)?;
        }
        let job = Job {
            operation,
            offset,
            bytes,
            whole: bytes,
            pieces,
            through_cache: false,
            since: Instant::now(),
        };
        self.in_flight += 1;
        self.dispatch(slot, job);
        Ok(())
    }

    /// Gives the host once more what it has failed, in its slot, which has had nothing else meanwhile. It begins as
    /// after [`Engine::give`].
    pub fn give_again(&mut self, slot: usize, failure: Failure) {
        let mut job = failure.left;
        job.since = Instant::now();
        self.in_flight += 1;
        self.dispatch(slot, job);
    }

    /// Has the kernel begin with what it was given.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(&mut self) -> io::Result<()> {
        let Some(ring) = &mut self.ring else {
            return Ok(());
        };
        if !ring.has_more() {
            return Ok(());
        }
        ring.submit()?;
        if ring.has_more() {
            // It is tried again before long.
            let _ = self.event.write(1);
        }
        Ok(())
    }

    /// Learns what is done.
    ///
    /// # Errors
    /// The kernel's.
    pub fn collect(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        self.in_flight -= self.at_once.len();
        done.append(&mut self.at_once);
        let mut by_helper = std::mem::take(&mut self.by_helper);
        self.helper.take_done(&mut by_helper);
        for (slot, job, result) in by_helper.drain(..) {
            done.push(self.finish(slot, job, result));
        }
        self.by_helper = by_helper;
        let Some(ring) = &mut self.ring else {
            return Ok(());
        };
        let mut by_ring = std::mem::take(&mut self.by_ring);
        ring.take_done(&mut by_ring);
        for (slot, result) in by_ring.drain(..) {
            self.in_ring -= 1;
            if let Some(completion) = self.went(slot, result) {
                done.push(completion);
            }
        }
        self.by_ring = by_ring;
        self.start()
    }

    /// What comes of what the ring says of a slot: it is done, or goes on.
    fn went(&mut self, slot: usize, result: i32) -> Option<Completion> {
        let mut job = self.jobs.get_mut(slot)?.take()?;
        let is_transfer = matches!(job.operation, Operation::Read | Operation::Write { .. });
        match usize::try_from(result) {
            Ok(_) if !is_transfer => Some(self.finish(slot, job, Ok(()))),
            Ok(0) => Some(self.finish(slot, job, Err(io::ErrorKind::UnexpectedEof.into()))),
            Ok(bytes) => {
                if job.advance(bytes) {
                    return Some(self.finish(slot, job, Ok(())));
                }
                self.dispatch(slot, job);
                None
            }
            Err(_) => match -result {
                libc::EINTR => {
                    self.dispatch(slot, job);
                    None
                }
                // The ring would have to wait, or cannot: the helper does.
                libc::EAGAIN | libc::EOPNOTSUPP => {
                    self.helper.give(slot, job);
                    None
                }
                error => {
                    let error = io::Error::from_raw_os_error(error);
                    Some(self.finish(slot, job, Err(error)))
                }
            },
        }
    }

    /// Gives what is left of a job to who does it.
    fn dispatch(&mut self, slot: usize, mut job: Job) {
        let at_once = match job.operation {
            Operation::Flush if self.image.options().ignores_flush => Some(Ok(())),
            // What the kernel could not write it has forgotten: the next flush would find nothing wrong.
            Operation::Flush => self.image.lost_writes().map(Err),
            _ => None,
        };
        if let Some(result) = at_once {
            let completion = self.finish(slot, job, result);
            // It is under way until it is collected.
            self.in_flight += 1;
            self.at_once.push(completion);
            let _ = self.event.write(1);
            return;
        }
        job.through_cache = self.image.alignment().is_some_and(|alignment| {
            let is_aligned = job.offset.is_multiple_of(alignment.offset as u64)
                && job.pieces.are_aligned(alignment.memory, alignment.offset);
            !is_aligned
        });
        if job.through_cache && matches!(job.operation, Operation::Write { .. }) {
            self.image.note_cached_write();
        }
        let is_for_ring = matches!(
            job.operation,
            Operation::Read | Operation::Write { .. } | Operation::Flush
        );
        if let Some(ring) = self.ring.as_mut().filter(|_| is_for_ring) {
            // SAFETY: the job is kept in its slot, and the memory by the engine, until the ring has done it.
            if unsafe { ring.push(slot, &job) }.is_ok()
                && let Some(place) = self.jobs.get_mut(slot)
            {
                self.in_ring += 1;
                *place = Some(job);
                return;
            }
        }
        self.helper.give(slot, job);
    }

    fn finish(&mut self, slot: usize, job: Job, result: io::Result<()>) -> Completion {
        self.in_flight -= 1;
        let (counters, kind) = (self.image.counters(), job.operation.kind());
        let result = match result {
            Ok(()) => {
                let nanoseconds = u64::try_from(job.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
                let end = job.offset.saturating_add(job.bytes);
                counters.add(kind, end, job.whole, nanoseconds);
                self.spare.push(job.pieces);
                Ok(())
            }
            Err(error) => {
                counters.add_failed(kind);
                if job.operation == Operation::Flush {
                    self.image.flush_failed(&error);
                }
                Err(Failure {
                    error,
                    operation: job.operation,
                    left: job,
                })
            }
        };
        Completion { slot, result }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let mut done = Vec::new();
        while self.in_ring != 0 {
            let waited = self.ring.as_mut().map_or(Ok(()), Ring::wait);
            if waited.and_then(|()| self.collect(&mut done)).is_err() {
                // What cannot be waited for may still write.
                std::mem::forget(self.memory.clone());
                return;
            }
        }
    }
}
