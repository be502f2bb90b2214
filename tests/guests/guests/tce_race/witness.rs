//! The NVMe, which tells by its own DMA where entries of a window lead.

use spapr_test_guests::clock::Clock;
use spapr_test_guests::disk::is_data;
use spapr_test_guests::dma_memory::DmaMemory;
use spapr_test_guests::dma_window::{PAGE_BYTES, Permission, Window};
use spapr_test_guests::nvme::{BLOCK_BYTES, Command, Controller, NvmeError, Page, QueuePages};
use spapr_test_guests::pci::ConfigSpace;
use spapr_test_guests::rtas;

/// Pages to which entries lead.
pub(crate) const TARGETS: u64 = 2;

/// The memory, above the guest's image and below the device tree: four pages of queues, and the targets.
const MEMORY: u64 = 64 << 20;
const QUEUES: u64 = 4;
/// Where in a window entries are tried, behind the queues of the default one: pages of the window.
pub(crate) const FIRST_PAGE: u64 = 1024;
pub(crate) const PAGES: u64 = 2048;
/// Where the device finds the queues in the default window.
const QUEUES_OFFSET: u64 = 1 << 20;
/// Blocks of the disk that are read, one after the other.
const BLOCKS: u64 = 64 << 10;
/// What a target holds before the device writes to it; the disk holds no such word.
const POISON: u64 = 0x6b6b_6b6b_dead_6b6b;

/// The device, its queues, and the pages that it is asked to write to.
pub(crate) struct Witness {
    /// The default window, in which the queues are.
    pub(crate) default: Window,
    config: ConfigSpace,
    controller: Controller,
    memory: DmaMemory,
    block: u64,
}

impl Witness {
    /// The device is off and nothing is mapped.
    ///
    /// # Safety
    /// The controller's registers must be at guest physical address `registers`.
    pub(crate) unsafe fn new(
        registers: u64,
        config: ConfigSpace,
        default: Window,
        clock: Clock,
    ) -> Self {
        // SAFETY: the guest's image ends far below, and the machine puts the device tree at the end
        // of RAM or below 768 MiB.
        let memory = unsafe { DmaMemory::new(MEMORY, (QUEUES + TARGETS) * PAGE_BYTES) };
        let page = |index| Page {
            memory: memory.part(index * PAGE_BYTES, PAGE_BYTES),
            ioba: queue_ioba(&default, index),
        };
        let pages = QueuePages {
            admin_submission: page(0),
            admin_completion: page(1),
            io_submission: page(2),
            io_completion: page(3),
        };
        Self {
            default,
            config,
            // SAFETY: as the caller vouches; the pages are the queues' alone.
            controller: unsafe { Controller::new(registers, clock, &pages) },
            memory,
            block: 0,
        }
    }

    /// Maps the queues in the default window and starts the device afresh.
    pub(crate) fn start(&mut self) {
        self.config.enable(true);
        for index in 0..QUEUES {
            let ioba = queue_ioba(&self.default, index);
            let memory = self.memory.part(index * PAGE_BYTES, PAGE_BYTES);
            self.default.map(ioba, memory, Permission::ReadWrite);
        }
        must(self.controller.stop());
        must(self.controller.start());
        must(self.controller.make_io_queues());
    }

    /// Maps a page of the memory in another window and unmaps it there: what the host locked for it stays locked.
    pub(crate) fn lock_memory_by(&self, window: &Window) {
        let page = self.memory.part(0, PAGE_BYTES);
        window.map(window.start, page, Permission::ReadWrite);
        window.unmap(window.start);
    }

    /// The entry that leads to a target.
    pub(crate) fn entry(&self, target: u64) -> u64 {
        self.target(target).address() | Permission::ReadWrite as u64
    }

    /// Has the device write a block to a bus address; says at which target it arrived, if at one.
    pub(crate) fn arrives_at(&mut self, ioba: u64) -> Option<u64> {
        for target in 0..TARGETS {
            self.block_of(target).fill(|_| POISON);
        }
        self.block = (self.block + 1) % BLOCKS;
        must(
            self.controller
                .transfer(Command::read(self.block, 1, [ioba, 0])),
        );
        let mut arrived = None;
        for target in 0..TARGETS {
            let memory = self.block_of(target);
            if memory.first_difference(|_| POISON).is_none() {
                continue;
            }
            if arrived.is_some() || !is_data(memory, self.block) {
                rtas::stop_with("a page holds neither what was there nor the disk's data");
            }
            arrived = Some(target);
        }
        arrived
    }

    fn target(&self, target: u64) -> DmaMemory {
        self.memory.part((QUEUES + target) * PAGE_BYTES, PAGE_BYTES)
    }

    /// Where the device writes.
    fn block_of(&self, target: u64) -> DmaMemory {
        self.target(target).part(0, BLOCK_BYTES)
    }
}

fn queue_ioba(default: &Window, index: u64) -> u64 {
    default.start + QUEUES_OFFSET + index * PAGE_BYTES
}

/// The emulated controller does not notice when data goes nowhere: its commands succeed.
fn must(outcome: Result<(), NvmeError>) {
    if let Err(error) = outcome {
        rtas::stop_with(format_args!("the NVMe does not work: {error:?}"));
    }
}
