//! The memory of the device's rings and buffers, and memory around it that is watched.
//!
//! ```text
//! 64 MiB    a page that is watched
//! + 4 KiB   the rings: descriptors, driver's ring, device's ring, a table of descriptors
//! + 8 KiB   the buffer
//! + 12 KiB  a page that is watched
//! ```

use spapr_test_guests::disk::mixed;
use spapr_test_guests::dma_memory::DmaMemory;
use spapr_test_guests::dma_window::PAGE_BYTES;

/// Above the guest's image, below the device tree.
const START: u64 = 64 << 20;
const PAGES: u64 = 4;
/// What the watched pages are filled from.
const SEED: u64 = 0x5ec2_e701;

/// Descriptors of the queue, a power of two.
pub(crate) const QUEUE_SIZE: u64 = 4;
/// Descriptors of the table that a descriptor may name.
pub(crate) const TABLE_SIZE: u64 = 8;

const DESCRIPTORS: u64 = 0;
const DRIVER_RING: u64 = 0x100;
const DEVICE_RING: u64 = 0x200;
const TABLE: u64 = 0x400;

/// The memory, and where the device finds it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arena {
    memory: DmaMemory,
    /// What is added to a guest address for the device.
    bus_offset: u64,
}

/// A descriptor (`struct virtq_desc`).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Descriptor {
    pub(crate) address: u64,
    pub(crate) bytes: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

impl Arena {
    /// The arena; the device finds it `bus_offset` above its guest address.
    pub(crate) fn new(bus_offset: u64) -> Self {
        // SAFETY: the guest's image ends far below, and the machine puts the device tree at the end
        // of RAM or below 768 MiB.
        let memory = unsafe { DmaMemory::new(START, PAGES * PAGE_BYTES) };
        let arena = Self { memory, bus_offset };
        arena.watch();
        arena
    }

    /// The pages that are the device's: rings and buffer.
    pub(crate) fn pages(self) -> DmaMemory {
        self.memory.part(PAGE_BYTES, 2 * PAGE_BYTES)
    }

    /// Where the device finds what is `offset` bytes into its pages.
    pub(crate) fn of_device(self, offset: u64) -> u64 {
        self.pages().address() + offset + self.bus_offset
    }

    /// Where the device finds descriptors, driver's ring and device's ring.
    pub(crate) fn rings(self) -> [u64; 3] {
        [DESCRIPTORS, DRIVER_RING, DEVICE_RING].map(|offset| self.of_device(offset))
    }

    /// Where the device finds the table.
    pub(crate) fn table(self) -> u64 {
        self.of_device(TABLE)
    }

    /// Where the device finds the buffer.
    pub(crate) fn buffer(self) -> u64 {
        self.of_device(PAGE_BYTES)
    }

    /// The buffer.
    pub(crate) fn buffer_memory(self) -> DmaMemory {
        self.pages().part(PAGE_BYTES, PAGE_BYTES)
    }

    /// Clears rings and table.
    pub(crate) fn clear_rings(self) {
        self.pages().part(0, PAGE_BYTES).fill(|_| 0);
    }

    /// Writes descriptor `index` of the queue.
    pub(crate) fn set_descriptor(self, index: u64, descriptor: Descriptor) {
        self.set(DESCRIPTORS, index, descriptor);
    }

    /// Writes descriptor `index` of the table.
    pub(crate) fn set_table(self, index: u64, descriptor: Descriptor) {
        self.set(TABLE, index, descriptor);
    }

    fn set(self, start: u64, index: u64, descriptor: Descriptor) {
        let Descriptor {
            address,
            bytes,
            flags,
            next,
        } = descriptor;
        let place = self.pages().part(start + index * 16, 16);
        place.write(0, address);
        let rest = u64::from(bytes) | u64::from(flags) << 32 | u64::from(next) << 48;
        place.write(1, rest);
    }

    /// Offers chains that begin at `heads`, of which there are `index` in all.
    pub(crate) fn offer(self, heads: [u16; 4], index: u16) {
        let [first, second, third, fourth] = heads.map(u64::from);
        let ring = self.pages().part(DRIVER_RING, 16);
        ring.write(1, third | fourth << 16);
        ring.write(0, u64::from(index) << 16 | first << 32 | second << 48);
    }

    /// How many chains the device has used.
    pub(crate) fn used(self) -> u16 {
        let word = self.pages().part(DEVICE_RING, 8).read(0);
        u16::try_from(word >> 16 & 0xffff).unwrap_or(0)
    }

    /// Fills the watched pages.
    pub(crate) fn watch(self) {
        for page in self.watched() {
            page.fill(|word| mixed(SEED, word));
        }
    }

    /// The first word of a watched page that has changed.
    pub(crate) fn first_change(self) -> Option<u64> {
        let mut pages = self.watched().into_iter();
        pages.find_map(|page| page.first_difference(|word| mixed(SEED, word)))
    }

    fn watched(self) -> [DmaMemory; 2] {
        [0, 3].map(|page| self.memory.part(page * PAGE_BYTES, PAGE_BYTES))
    }
}
