//! A driver for an NVMe controller (NVM Express Base Specification 1.4): one queue for its
//! administration and one for reads and writes, polled, a command at a time.
//!
//! It does no mapping: who uses it says at which bus address the device finds what.

mod command;
mod queue;
mod registers;

use crate::clock::Clock;
use crate::dma_memory::DmaMemory;
use crate::machine::{HostBridge, Machine, PciFunction};
use crate::rtas;

pub use command::{BLOCK_BYTES, Command};
use queue::QueuePair;
use registers::{Registers, Status};

/// Bytes of a page of the device's: what queues and buffers are aligned to.
pub const PAGE_BYTES: u64 = 4096;

/// Mass storage, non-volatile memory, NVM Express.
const CLASS: u32 = 0x01_0802;

/// How long a controller that works may take to start, to stop or to answer.
const PATIENCE_NS: u64 = 20_000_000_000;

/// Number of the queue pair that reads and writes.
const IO_QUEUE: u16 = 1;

/// Why a command has not been carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NvmeError {
    /// The controller refused it: the status field of the completion, type and code, without the
    /// bits that say whether to try again.
    Status(u16),
    /// The controller has stopped with a fatal error (CSTS.CFS).
    Fatal,
    /// There is no controller: its registers read as ones.
    Gone,
    /// It has not answered in time.
    NoAnswer,
}

/// The machine's first NVMe and the bridge that it is behind; a machine without one is stopped.
pub fn find(machine: &Machine<'static>) -> (HostBridge<'static>, PciFunction<'static>) {
    let mut found = machine.host_bridges().filter_map(|bridge| {
        let mut functions = bridge.functions();
        let function = functions.find(|function| function.class_code == CLASS)?;
        Some((bridge, function))
    });
    found
        .next()
        .unwrap_or_else(|| rtas::stop_with("there is no NVMe"))
}

/// A page of memory that the controller reads or writes.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Where the processor finds it.
    pub memory: DmaMemory,
    /// Where the device finds it: a bus address.
    pub ioba: u64,
}

/// The pages of the queues.
#[derive(Clone, Copy, Debug)]
pub struct QueuePages {
    /// Submissions for administration.
    pub admin_submission: Page,
    /// Completions for administration.
    pub admin_completion: Page,
    /// Submissions of reads and writes.
    pub io_submission: Page,
    /// Completions of reads and writes.
    pub io_completion: Page,
}

/// A controller.
#[derive(Debug)]
pub struct Controller {
    registers: Registers,
    clock: Clock,
    admin: QueuePair,
    io: QueuePair,
}

impl Controller {
    /// The controller whose registers are at guest physical address `registers`. It is not touched
    /// before [`Controller::start`].
    ///
    /// # Safety
    /// Its registers must be there and stay there. The pages must be for nothing but the queues.
    pub unsafe fn new(registers: u64, clock: Clock, pages: &QueuePages) -> Self {
        Self {
            // SAFETY: as the caller vouches.
            registers: unsafe { Registers::at(registers) },
            clock,
            admin: QueuePair::new(0, pages.admin_submission, pages.admin_completion),
            io: QueuePair::new(IO_QUEUE, pages.io_submission, pages.io_completion),
        }
    }

    /// Stops the controller: it does no DMA until it is started.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn stop(&mut self) -> Result<(), NvmeError> {
        self.registers.configure(false);
        self.wait_until(|status| !status.is_ready())
    }

    /// Starts a controller that is stopped, and tells it where the administration's queues are.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(&mut self) -> Result<(), NvmeError> {
        self.admin.clear();
        self.registers
            .set_admin_queues(self.admin.submission_ioba(), self.admin.completion_ioba());
        self.registers.configure(true);
        self.wait_until(Status::is_ready)
    }

    /// Makes the queues for reads and writes.
    ///
    /// # Errors
    /// The controller's refusal.
    pub fn make_io_queues(&mut self) -> Result<(), NvmeError> {
        self.io.clear();
        let completion = Command::create_completion_queue(IO_QUEUE, self.io.completion_ioba());
        self.administer(completion)?;
        self.administer(Command::create_submission_queue(
            IO_QUEUE,
            self.io.submission_ioba(),
        ))
    }

    /// Has an administrative command carried out.
    ///
    /// # Errors
    /// Why it has not been.
    pub fn administer(&mut self, command: Command) -> Result<(), NvmeError> {
        let Self {
            registers,
            clock,
            admin,
            ..
        } = self;
        admin.make(registers, *clock, command, PATIENCE_NS)
    }

    /// Has a read or a write carried out.
    ///
    /// # Errors
    /// Why it has not been.
    pub fn transfer(&mut self, command: Command) -> Result<(), NvmeError> {
        self.transfer_within(command, PATIENCE_NS)
    }

    /// The same, with a limit in nanoseconds on the time that the controller may take.
    ///
    /// # Errors
    /// Why it has not been.
    pub fn transfer_within(&mut self, command: Command, limit_ns: u64) -> Result<(), NvmeError> {
        let Self {
            registers,
            clock,
            io,
            ..
        } = self;
        io.make(registers, *clock, command, limit_ns)
    }

    fn wait_until(&self, reached: impl Fn(Status) -> bool) -> Result<(), NvmeError> {
        let started = self.clock.now();
        loop {
            let status = self.registers.status();
            if status.is_gone() {
                return Err(NvmeError::Gone);
            }
            if reached(status) {
                return Ok(());
            }
            if self.clock.nanoseconds(self.clock.now() - started) > PATIENCE_NS {
                return Err(NvmeError::NoAnswer);
            }
        }
    }
}
