//! A disk of the machine.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::failures::{Action, DiskFailures, ErrorPolicy, Teller, is_no_space};
use crate::dma::DmaMemory;
use crate::image::{Engine, EngineOptions, Image, Kind, Resizer};

/// How a disk is to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskOptions {
    /// The serial number that it tells, as far as what has the disk tells it.
    pub serial: String,
    /// Number of queues, from 1 on.
    pub queues: u16,
    /// The most entries of each, a power of two.
    pub queue_size: u16,
    /// A driver has to flush before what it has written lasts. Without, each write lasts when it is done.
    pub write_cache: bool,
    /// The driver is offered to discard, and to fill with zeroes.
    pub discards: bool,
    /// Bytes of the smallest block that it reads and writes, a power of two from 512 on.
    pub logical_block_bytes: u32,
    /// Bytes of the smallest block that it writes without reading first, a power of two, not less than the former.
    pub physical_block_bytes: u32,
    /// Offered to drivers that split what they ask for, in bytes; 0 for nothing.
    pub min_io_bytes: u32,
    /// As that, for the best size.
    pub opt_io_bytes: u32,
    /// What is done about requests that the host fails.
    pub on_error: ErrorPolicy,
}

/// How a disk has fared since its machine last went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoStatus {
    /// The machine did not pause for it.
    Ok,
    /// It paused because the host has no room left.
    NoSpace,
    /// It paused for another error.
    Failed,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            serial: String::new(),
            queues: 1,
            queue_size: 256,
            write_cache: true,
            discards: true,
            logical_block_bytes: 512,
            physical_block_bytes: 512,
            min_io_bytes: 0,
            opt_io_bytes: 0,
            on_error: ErrorPolicy::default(),
        }
    }
}

/// What a disk has of the host.
#[derive(Clone, Debug)]
pub struct DiskHost {
    /// The host's kernel is asked (io_uring) where it lets.
    pub uses_ring: bool,
    /// What the disk's thread does first: it gives up what it will not need.
    pub prepare_thread: fn() -> io::Result<()>,
    /// What is signalled when something is done. The disks of one controller have the same one.
    pub event: Arc<EventFd>,
}

impl DiskHost {
    /// With an event of its own.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new(uses_ring: bool, prepare_thread: fn() -> io::Result<()>) -> io::Result<Self> {
        Ok(Self {
            uses_ring,
            prepare_thread,
            event: Arc::new(EventFd::new(EFD_NONBLOCK)?),
        })
    }
}

/// A disk with its image. It outlasts a machine's life: the image stays open and locked, and who works on it stays,
/// since a sandbox has no calls to make either anew.
pub struct Disk {
    options: DiskOptions,
    image: Arc<Image>,
    event: Arc<EventFd>,
    resizer: Resizer,
    /// Where the engine is while no device has it.
    engine: Mutex<Option<Engine>>,
    size_has_changed: AtomicBool,
    /// Where it tells of requests that the host fails.
    teller: Option<Teller>,
    /// Requests wait for the machine to go on.
    waits: AtomicBool,
    status: Mutex<IoStatus>,
}

impl Disk {
    /// A disk with `image`.
    ///
    /// # Errors
    /// When there are no descriptors or threads left.
    pub fn new(
        image: Image,
        options: DiskOptions,
        memory: DmaMemory,
        host: DiskHost,
    ) -> io::Result<Self> {
        let engine_options = engine_options(&options, host);
        let engine = Engine::new(Arc::new(image), memory, engine_options)?;
        Ok(Self::with_engine(options, engine))
    }

    /// The same, of whose image nobody does the work: a fuzzer does ([`Engine::work`]).
    #[cfg(feature = "fuzz")]
    pub(in crate::virtio) fn without_thread(
        image: Image,
        options: DiskOptions,
        memory: DmaMemory,
        host: DiskHost,
    ) -> io::Result<Self> {
        let engine_options = engine_options(&options, host);
        let engine = Engine::without_thread(Arc::new(image), memory, engine_options)?;
        Ok(Self::with_engine(options, engine))
    }

    fn with_engine(options: DiskOptions, engine: Engine) -> Self {
        Self {
            options,
            image: Arc::clone(engine.image()),
            event: Arc::clone(engine.event()),
            resizer: engine.resizer(),
            engine: Mutex::new(Some(engine)),
            size_has_changed: AtomicBool::new(false),
            teller: None,
            waits: AtomicBool::new(false),
            status: Mutex::new(IoStatus::Ok),
        }
    }

    /// Has it tell `failures` of what the host fails, as number `disk` of the machine's.
    #[must_use]
    pub fn telling(mut self, failures: Arc<DiskFailures>, disk: usize) -> Self {
        self.teller = Some(Teller {
            failures,
            disk,
            last: Mutex::new(None),
        });
        self
    }

    /// Whether requests wait for the machine to pause, if it has not, and to go on.
    pub fn waits(&self) -> bool {
        self.waits.load(Ordering::Acquire)
    }

    /// How it has fared.
    pub fn status(&self) -> IoStatus {
        *self.status.lock()
    }

    /// The machine goes on, and what was is past.
    pub fn forget_status(&self) {
        *self.status.lock() = IoStatus::Ok;
    }

    /// What is done about a request that failed. Nobody pauses a machine that nobody is told of.
    pub(super) fn action(&self, kind: Kind, error: &io::Error) -> Action {
        match self.options.on_error.action(kind, error) {
            Action::Stop if self.teller.is_none() => Action::Report,
            action => action,
        }
    }

    /// Tells of a request that failed.
    pub(super) fn tell(&self, kind: Kind, action: Action, error: &io::Error) {
        if action == Action::Stop {
            *self.status.lock() = match is_no_space(error) {
                true => IoStatus::NoSpace,
                false => IoStatus::Failed,
            };
        }
        if let Some(teller) = &self.teller {
            teller.tell(kind, action, error);
        }
    }

    pub(super) fn set_waits(&self, waits: bool) {
        self.waits.store(waits, Ordering::Release);
    }

    /// How it looks.
    pub const fn options(&self) -> &DiskOptions {
        &self.options
    }

    /// What is signalled when something is done, or it has been resized.
    pub(in crate::virtio) const fn event(&self) -> &Arc<EventFd> {
        &self.event
    }

    /// Its image.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Has the image be of `bytes`, and its driver told.
    ///
    /// # Errors
    /// The host's.
    pub fn resize(&self, bytes: u64) -> io::Result<()> {
        self.resizer.resize(bytes)?;
        self.size_has_changed.store(true, Ordering::Release);
        self.event.write(1)
    }

    /// Whether the size has changed since this was last asked.
    pub(in crate::virtio) fn take_size_change(&self) -> bool {
        self.size_has_changed.swap(false, Ordering::AcqRel)
    }

    pub(super) fn take_engine(&self) -> Option<Engine> {
        self.engine.lock().take()
    }

    pub(super) fn put_engine(&self, engine: Engine) {
        *self.engine.lock() = Some(engine);
    }
}

fn engine_options(options: &DiskOptions, host: DiskHost) -> EngineOptions {
    EngineOptions {
        slots: usize::from(options.queues) * usize::from(options.queue_size),
        event: host.event,
        uses_ring: host.uses_ring,
        prepare_thread: host.prepare_thread,
    }
}
