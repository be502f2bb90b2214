//! XIVE, the interrupt controller of POWER9 and later, in native exploitation mode (PAPR, "XIVE
//! exploitation mode"; Linux, arch/powerpc/sysdev/xive/spapr.c is the guest's side and
//! Documentation/virt/kvm/devices/xive.rst the host's).
//!
//! Each source has two pages in guest memory, with which a guest triggers, masks and ends it, and
//! all processors share a page (TIMA) where each sees its own pending interrupts. So an interrupt
//! costs no hypercall. Events go to queues in guest memory, one for each processor and priority;
//! where these are, and which source's events go to which, the guest says by hypercalls:
//! [`Xive::serve`]. The hardware is reached through a [`XiveDevice`].
//!
//! | file | what it is for |
//! |---|---|
//! | `hypercalls` | what each hypercall takes and answers |
//! | `book` | what is known of sources and queues |

mod book;
#[cfg(any(test, feature = "fuzz"))]
#[expect(clippy::unwrap_used, reason = "what tests rely on")]
mod fake;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod hypercalls;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::sync::Weak;

use book::Book;
use parking_lot::{Mutex, MutexGuard, RwLock};
use spapr_hypercalls::address::GuestPhysicalAddress;
use spapr_hypercalls::world::GuestRange;

use super::{LevelLine, Lisn, LisnBlock, Trigger};

/// Size, as a power of two, of each page that the controller has in guest memory.
pub const PAGE_SHIFT: u32 = 16;
/// Size of each page that the controller has in guest memory.
pub const PAGE_BYTES: u64 = 1 << PAGE_SHIFT;
/// Size of a source's two pages.
pub const SOURCE_BYTES: u64 = 2 * PAGE_BYTES;

/// Size of an event queue, as a power of two: the only one that KVM takes
/// (`xive_native_validate_queue_size` in arch/powerpc/kvm/book3s_xive_native.c).
pub const QUEUE_SHIFT: u32 = 16;
/// Size of an event queue.
pub const QUEUE_BYTES: u64 = 1 << QUEUE_SHIFT;

/// Where the thread interrupt management area is, as QEMU has it: four pages, of which the guest's
/// operating system has the third.
const THREAD_MANAGEMENT: u64 = 0x0006_0302_0318_0000;
/// The operating system's page of the thread interrupt management area.
pub const OS_THREAD_MANAGEMENT: GuestPhysicalAddress =
    GuestPhysicalAddress(THREAD_MANAGEMENT + 2 * PAGE_BYTES);
/// The page of it for programs, which has nothing.
pub const USER_THREAD_MANAGEMENT: GuestPhysicalAddress =
    GuestPhysicalAddress(THREAD_MANAGEMENT + 3 * PAGE_BYTES);

/// Where the first source's pages are, as QEMU has it; those of the others follow.
const EVENT_STATE_BUFFERS: u64 = 0x0006_0100_0000_0000;

/// The first priority that the hypervisor keeps for itself: the one for escalations, which wake a
/// processor that ceded (`ibm,plat-res-int-priorities`; `xive_prio_from_guest` in
/// arch/powerpc/kvm/book3s_xive.h).
pub const FIRST_RESERVED_PRIORITY: u8 = 7;

/// The page with which the guest triggers source `lisn` itself.
pub const fn trigger_page(lisn: Lisn) -> GuestPhysicalAddress {
    GuestPhysicalAddress(EVENT_STATE_BUFFERS + lisn.0 as u64 * SOURCE_BYTES)
}

/// The page with which the guest masks and ends source `lisn`; it is the trigger page's neighbour.
pub const fn management_page(lisn: Lisn) -> GuestPhysicalAddress {
    GuestPhysicalAddress(trigger_page(lisn).0 + PAGE_BYTES)
}

/// A priority that a guest may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(u8);

impl Priority {
    /// Priority `number`, 0 the most favoured; `None` from [`FIRST_RESERVED_PRIORITY`] on.
    pub fn new(number: u64) -> Option<Self> {
        let number = u8::try_from(number).ok()?;
        (number < FIRST_RESERVED_PRIORITY).then_some(Self(number))
    }

    /// Its number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// An event queue: that of a processor for a priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueName {
    /// The processor's interrupt server number.
    pub server: u32,
    /// The priority.
    pub priority: Priority,
}

/// The event data of a source, as it stands in queues: 31 bits (PAPR "EISN").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventData(u32);

impl EventData {
    /// `data`, unless it has more than 31 bits.
    pub fn new(data: u64) -> Option<Self> {
        let data = u32::try_from(data).ok()?;
        (data >> 31 == 0).then_some(Self(data))
    }

    /// The data.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// How far a queue has been filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueFill {
    /// The bit that marks entries of this time round.
    pub toggle: u32,
    /// The next entry.
    pub index: u32,
}

/// The controller's hardware: KVM's XIVE device and its pages.
///
/// [`Xive`] makes one call at a time of those that configure: the kernel does not guard them against
/// each other. It names sources only that it had made before, and queues of processors that there
/// are.
pub trait XiveDevice: Send + Sync {
    /// Makes the sources of `block` and gives the guest the pages of edge-triggered ones; or resets
    /// those that there are. They are masked then.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn make_sources(&self, block: LisnBlock, trigger: Trigger) -> io::Result<()>;

    /// Sends the events of source `lisn` to `queue`, with `data`.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn target_source(&self, lisn: Lisn, queue: QueueName, data: EventData) -> io::Result<()>;

    /// Sends the events of source `lisn` nowhere.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn mask_source(&self, lisn: Lisn) -> io::Result<()>;

    /// Waits until what source `lisn` has signalled is in its queue.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn sync_source(&self, lisn: Lisn) -> io::Result<()>;

    /// Has `queue` begin at `address`, and not where it was: [`QUEUE_BYTES`] of guest RAM, aligned to
    /// their size.
    ///
    /// # Errors
    /// The kernel's refusal; the queue may be where it was, or nowhere.
    fn place_queue(&self, queue: QueueName, address: GuestPhysicalAddress) -> io::Result<()>;

    /// Lets go of a queue's memory, if it has some; it is nowhere then.
    ///
    /// # Errors
    /// The kernel's refusal; the queue is where it was.
    fn remove_queue(&self, queue: QueueName) -> io::Result<()>;

    /// How far `queue` has been filled.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn queue_fill(&self, queue: QueueName) -> io::Result<QueueFill>;

    /// Masks all sources, and removes all queues.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn reset(&self) -> io::Result<()>;

    /// Loads a doubleword from a source's management page, at an offset inside the page that is a
    /// multiple of 8. The load itself does something, according to the offset.
    fn load(&self, lisn: Lisn, offset: u64) -> u64;

    /// Stores a doubleword to a source's management page, at an offset inside the page that is a
    /// multiple of 8.
    fn store(&self, lisn: Lisn, offset: u64, value: u64);
}

/// The XIVE interrupt controller of a machine, whose processors have the interrupt server numbers
/// from 0 on.
#[derive(Debug)]
pub struct Xive<D> {
    device: D,
    servers: u32,
    /// What of the guest's addresses is RAM.
    ram: Vec<GuestRange>,
    // Held over the device's calls, for the kernel's sake. Guests configure now and then, and take
    // interrupts without coming here.
    book: Mutex<Book>,
    /// The lines of each level-triggered source. They go when their functions do.
    lines: RwLock<BTreeMap<Lisn, Vec<Weak<dyn LevelLine>>>>,
}

impl<D: XiveDevice> Xive<D> {
    /// The controller of a machine with `servers` processors and memory at `ram`.
    /// There are no sources and no queues.
    pub fn new(device: D, servers: u32, ram: Vec<GuestRange>) -> Self {
        Self {
            device,
            servers,
            ram,
            book: Mutex::default(),
            lines: RwLock::default(),
        }
    }

    /// The hardware.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Makes the sources of `block`, or resets those of them that there are: masked, and sent
    /// nowhere until the guest says so.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn make_sources(&self, block: LisnBlock, trigger: Trigger) -> io::Result<()> {
        let mut book = self.book();
        self.device.make_sources(block, trigger)?;
        for lisn in block.iter() {
            book.add_source(lisn, trigger);
        }
        Ok(())
    }

    /// Makes level-triggered source `lisn`, masked, unless another line has it already, and has
    /// `line` sampled whenever the guest lets the source interrupt.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn make_level(&self, lisn: Lisn, line: Weak<dyn LevelLine>) -> io::Result<()> {
        let mut lines = self.lines.write();
        if !lines.contains_key(&lisn) {
            self.make_sources(LisnBlock::of_one(lisn), Trigger::Level)?;
        }
        lines.entry(lisn).or_default().push(line);
        Ok(())
    }

    /// Samples the lines of a level-triggered source.
    fn sample(&self, lisn: Lisn) {
        let lines = self.lines.read();
        let sharing = lines.get(&lisn).into_iter().flatten();
        sharing
            .filter_map(Weak::upgrade)
            .for_each(|line| line.sample());
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock()
    }
}
