//! The controller with good mappings, a trial's beginning, and its end.

use core::fmt::{self, Write};

use spapr_test_guests::clock::Clock;
use spapr_test_guests::console::Line;
use spapr_test_guests::nvme::{BLOCK_BYTES, Command, Controller, NvmeError, Page, QueuePages};
use spapr_test_guests::pci::ConfigSpace;
use spapr_test_guests::rtas;

use crate::arena::{Arena, NEEDED, Needed};
use spapr_test_guests::disk::{PAGE_BLOCKS, SCRATCH_BLOCK, is_data, mixed};
use spapr_test_guests::dma_window::{PAGE_BYTES, Permission, Window};

/// Where the device finds the pages that it needs: elsewhere than the processor.
const NEEDED_OFFSET: u64 = 1 << 20;
/// Where the device finds what is tried.
const TRIED_OFFSET: u64 = 16 << 20;
/// How long a command that may never end is waited for.
const TRIAL_NS: u64 = 300_000_000;

/// What became of a command.
pub(crate) type Outcome = Result<(), NvmeError>;

/// The device, its window, and the memory.
pub(crate) struct Bench {
    pub(crate) window: Window,
    pub(crate) arena: Arena,
    pub(crate) config: ConfigSpace,
    pub(crate) controller: Controller,
    trials: u64,
    is_disk_prepared: bool,
}

/// What the block of the disk that is written to holds after a trial.
enum DiskBlock {
    Same,
    Zeros,
    /// A watched page, which the device has read.
    Memory,
    Other,
    /// Nothing was put there before.
    Unknown,
}

impl Bench {
    /// Nothing is mapped, and the controller is off.
    ///
    /// # Safety
    /// The controller's registers must be at guest physical address `registers`.
    pub(crate) unsafe fn new(
        registers: u64,
        config: ConfigSpace,
        window: Window,
        clock: Clock,
    ) -> Self {
        let arena = Arena::new();
        let page = |needed| Page {
            memory: arena.needed(needed),
            ioba: needed_ioba(&window, needed),
        };
        let pages = QueuePages {
            admin_submission: page(Needed::AdminSubmission),
            admin_completion: page(Needed::AdminCompletion),
            io_submission: page(Needed::IoSubmission),
            io_completion: page(Needed::IoCompletion),
        };
        Self {
            window,
            arena,
            config,
            // SAFETY: as the caller vouches; the pages have these names only.
            controller: unsafe { Controller::new(registers, clock, &pages) },
            trials: 0,
            is_disk_prepared: false,
        }
    }

    /// Where the device finds a page that it needs.
    pub(crate) fn needed_ioba(&self, page: Needed) -> u64 {
        needed_ioba(&self.window, page)
    }

    /// The bus address of page `index` of those that are tried.
    pub(crate) fn tried_ioba(&self, index: u64) -> u64 {
        self.window.start + TRIED_OFFSET + index * PAGE_BYTES
    }

    /// How many trials there were.
    pub(crate) const fn trials(&self) -> u64 {
        self.trials
    }

    /// Maps what the controller needs, and starts it afresh.
    pub(crate) fn start_controller(&mut self) -> Outcome {
        self.config.enable(true);
        self.controller.stop()?;
        for page in NEEDED {
            let ioba = self.needed_ioba(page);
            self.window
                .map(ioba, self.arena.needed(page), Permission::ReadWrite);
        }
        self.controller.start()?;
        self.controller.make_io_queues()
    }

    /// Stops the guest unless the disk is the lab's.
    pub(crate) fn check_disk(&mut self) {
        let buffer = self.arena.needed(Needed::Buffer);
        let command = Command::identify_namespace(self.needed_ioba(Needed::Buffer));
        must(self.controller.administer(command), "identify");
        // NSZE, FLBAS, and the format that it names (NVMe 1.4, figure 247).
        let blocks = buffer.read(0);
        let format = buffer.read(3) >> 16 & 0xf;
        let data_shift = buffer.read((128 + 4 * format) / 8) >> (32 * (format % 2) + 16) & 0xff;
        if blocks * BLOCK_BYTES != 72 << 20 || 1 << data_shift != BLOCK_BYTES {
            rtas::stop_with("the NVMe is not the lab's");
        }
    }

    /// Reads blocks of the disk into pages at bus addresses, with good mappings.
    pub(crate) fn read(&mut self, block: u64, ioba: u64) {
        let command = Command::read(block, PAGE_BLOCKS, [ioba, 0]);
        must(self.controller.transfer(command), "a read");
    }

    /// Writes a page at a bus address to the disk, with a good mapping.
    pub(crate) fn write(&mut self, block: u64, ioba: u64) {
        let command = Command::write(block, PAGE_BLOCKS, [ioba, 0]);
        must(self.controller.transfer(command), "a write");
    }

    /// Makes a command that may come to nothing.
    pub(crate) fn attempt(&mut self, command: Command) -> Outcome {
        self.controller.transfer_within(command, TRIAL_NS)
    }

    /// Shows that the device reaches watched page `index` at a bus address, reading and writing.
    pub(crate) fn prove(&mut self, ioba: u64, index: u64) {
        self.prove_write(ioba, index);
        self.prove_read(ioba, index);
    }

    /// A bus address at which the device was shown to reach watched page `index`, and which has been
    /// unmapped since.
    pub(crate) fn unmapped_again(&mut self, index: u64) -> u64 {
        let ioba = self.tried_ioba(0);
        self.window
            .map(ioba, self.arena.watched(index), Permission::ReadWrite);
        self.prove(ioba, index);
        self.prepare_disk();
        self.window.unmap(ioba);
        ioba
    }

    /// Shows that the device writes watched page `index` at a bus address.
    pub(crate) fn prove_read(&mut self, ioba: u64, index: u64) {
        let block = 16 * self.trials;
        self.read(block, ioba);
        if !is_data(self.arena.watched(index), block) {
            rtas::stop_with("a page that is mapped does not hold the disk's data");
        }
        self.arena.restore(index);
    }

    /// Shows that the device reads watched page `index` at a bus address.
    pub(crate) fn prove_write(&mut self, ioba: u64, index: u64) {
        self.write(SCRATCH_BLOCK, ioba);
        let buffer = self.needed_ioba(Needed::Buffer);
        self.read(SCRATCH_BLOCK, buffer);
        if !Arena::is_like_watched(self.arena.needed(Needed::Buffer), index) {
            rtas::stop_with("the disk does not hold what a page that is mapped does");
        }
    }

    /// Puts on the disk what shall stay there during a trial.
    pub(crate) fn prepare_disk(&mut self) {
        let trial = self.trials;
        let word = |index| disk_word(trial, index);
        self.arena.needed(Needed::Buffer).fill(word);
        let buffer = self.needed_ioba(Needed::Buffer);
        self.write(SCRATCH_BLOCK, buffer);
        self.is_disk_prepared = true;
    }

    /// Ends a trial: resets the controller, looks at memory and disk, sees whether the device works
    /// again, and says all of it.
    pub(crate) fn conclude(&mut self, name: &str, outcome: Outcome) {
        let changed = self.arena.first_change();
        let again = self.start_controller();
        // What the device did until it was reset counts, too.
        let changed = changed.or_else(|| self.arena.first_change());
        let (disk, works) = match again {
            Ok(()) => (self.disk_block(), self.works()),
            Err(_) => (DiskBlock::Unknown, false),
        };
        self.trials += 1;
        let mut line = Line::default();
        let memory = Memory(changed);
        let outcome = Said(outcome);
        let disk = match disk {
            DiskBlock::Same => "same",
            DiskBlock::Zeros => "zeros",
            DiskBlock::Memory => "memory",
            DiskBlock::Other => "other",
            DiskBlock::Unknown => "unknown",
        };
        let again = if works { "works" } else { "dead" };
        // A terminal that does not take it shows in what is missing.
        write!(
            line,
            "DMA-ISOLATION {name} device={outcome} memory={memory} disk={disk} again={again}"
        )
        .unwrap_or_default();
        line.print().unwrap_or_default();
        if !works {
            rtas::stop_with("the controller does not work again");
        }
        self.prepare_disk();
    }

    fn disk_block(&mut self) -> DiskBlock {
        if !self.is_disk_prepared {
            return DiskBlock::Unknown;
        }
        let buffer = self.needed_ioba(Needed::Buffer);
        self.read(SCRATCH_BLOCK, buffer);
        let page = self.arena.needed(Needed::Buffer);
        let trial = self.trials;
        if page
            .first_difference(|word| disk_word(trial, word))
            .is_none()
        {
            DiskBlock::Same
        } else if page.first_difference(|_| 0).is_none() {
            DiskBlock::Zeros
        } else if Arena::has_like(page) {
            DiskBlock::Memory
        } else {
            DiskBlock::Other
        }
    }

    fn works(&mut self) -> bool {
        let block = 16 * self.trials + PAGE_BLOCKS;
        let buffer = self.needed_ioba(Needed::Buffer);
        self.read(block, buffer);
        is_data(self.arena.needed(Needed::Buffer), block)
    }
}

/// Where the device finds a page that it needs.
fn needed_ioba(window: &Window, page: Needed) -> u64 {
    window.start + NEEDED_OFFSET + page as u64 * PAGE_BYTES
}

/// What the disk holds during a trial.
fn disk_word(trial: u64, index: u64) -> u64 {
    mixed(trial << 32, index)
}

fn must(outcome: Outcome, what: &str) {
    if let Err(error) = outcome {
        rtas::stop_with(format_args!("{what} with good mappings failed: {error:?}"));
    }
}

struct Memory(Option<u64>);

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("same"),
            Some(word) => write!(f, "changed-at-word-{word}"),
        }
    }
}

struct Said(Outcome);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ok(()) => f.write_str("done"),
            Err(NvmeError::Status(status)) => write!(f, "status={status:#x}"),
            Err(NvmeError::Fatal) => f.write_str("fatal"),
            Err(NvmeError::Gone) => f.write_str("gone"),
            Err(NvmeError::NoAnswer) => f.write_str("no-answer"),
        }
    }
}
