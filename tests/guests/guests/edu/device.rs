//! An edu's registers (docs/specs/edu.rst in QEMU).

use core::sync::atomic::{Ordering, fence};

use spapr_test_guests::access::{Width, load, store};
use spapr_test_guests::dma_window::PAGE_BYTES;
use spapr_test_guests::rtas;

const IDENTITY: u64 = 0x00;
const INVERTED: u64 = 0x04;
const FACTORIAL: u64 = 0x08;
const STATUS: u64 = 0x20;
const INTERRUPT_STATUS: u64 = 0x24;
const INTERRUPT_RAISE: u64 = 0x60;
const INTERRUPT_ACKNOWLEDGE: u64 = 0x64;
const DMA_SOURCE: u64 = 0x80;
const DMA_DESTINATION: u64 = 0x88;
const DMA_BYTES: u64 = 0x90;
const DMA_COMMAND: u64 = 0x98;

/// Of the status: an interrupt follows when the factorial is there.
const INTERRUPT_AFTER_FACTORIAL: u32 = 0x80;
/// Of the command: it begins, it is to memory, an interrupt follows.
const DMA_RUN: u32 = 1;
const DMA_TO_MEMORY: u32 = 2;
const DMA_INTERRUPT: u32 = 4;
/// Where DMA has the device's own buffer, of a page.
const BUFFER: u32 = 0x4_0000;
/// The lowest byte of its identity, which has a version in its highest.
const MAGIC: u32 = 0xed;

/// Which way a page is copied.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Direction {
    FromMemory,
    ToMemory,
}

/// The device.
pub(crate) struct Edu {
    address: u64,
    /// Whether its registers have the other byte order than PCI's, as those of an emulator for a big-endian machine do.
    is_swapped: bool,
}

impl Edu {
    /// The device with registers from `address` on.
    ///
    /// # Safety
    /// They must be there.
    pub(crate) unsafe fn new(address: u64) -> Self {
        let mut edu = Self {
            address,
            is_swapped: false,
        };
        edu.is_swapped = edu.identity() & 0xff != MAGIC;
        edu
    }

    pub(crate) fn identity(&self) -> u32 {
        self.read(IDENTITY)
    }

    pub(crate) fn invert(&self, number: u32) -> u32 {
        self.write(INVERTED, number);
        self.read(INVERTED)
    }

    /// Begins to reckon; an interrupt says that it has ended.
    pub(crate) fn reckon_factorial(&self, number: u32) {
        self.write(STATUS, INTERRUPT_AFTER_FACTORIAL);
        self.write(FACTORIAL, number);
    }

    pub(crate) fn factorial(&self) -> u32 {
        self.read(FACTORIAL)
    }

    /// Begins to copy a page between a bus address and its buffer; an interrupt says that it has ended.
    pub(crate) fn copy(&self, direction: Direction, ioba: u64) {
        let ioba = u32::try_from(ioba).unwrap_or(u32::MAX);
        let (source, destination, command) = match direction {
            Direction::FromMemory => (ioba, BUFFER, 0),
            Direction::ToMemory => (BUFFER, ioba, DMA_TO_MEMORY),
        };
        self.write(DMA_SOURCE, source);
        self.write(DMA_DESTINATION, destination);
        self.write(DMA_BYTES, u32::try_from(PAGE_BYTES).unwrap_or(0));
        self.write(DMA_COMMAND, DMA_RUN | DMA_INTERRUPT | command);
    }

    /// Raises an interrupt for `reason`.
    pub(crate) fn raise(&self, reason: u32) {
        self.write(INTERRUPT_RAISE, reason);
    }

    /// Why it has interrupted.
    pub(crate) fn status(&self) -> u32 {
        self.read(INTERRUPT_STATUS)
    }

    /// Ends its interrupts; whether it had raised one.
    pub(crate) fn acknowledge(&self) -> bool {
        let status = self.status();
        self.write(INTERRUPT_ACKNOWLEDGE, status);
        status != 0
    }

    fn read(&self, register: u64) -> u32 {
        // SAFETY: reading its registers changes nothing.
        match unsafe { load(self.address + register, Width::Word) } {
            Ok(value) => self.ordered(u32::try_from(value).unwrap_or(0)),
            Err(interrupted) => stop(register, interrupted.0),
        }
    }

    fn write(&self, register: u64, value: u32) {
        // What was written to memory before is there when the device looks.
        fence(Ordering::SeqCst);
        let value = self.ordered(value).into();
        // SAFETY: there are registers, as who made this vouched; what the device then does to memory is ruled by the
        // DMA windows.
        if let Err(interrupted) = unsafe { store(self.address + register, Width::Word, value) } {
            stop(register, interrupted.0);
        }
    }

    const fn ordered(&self, value: u32) -> u32 {
        if self.is_swapped {
            value.swap_bytes()
        } else {
            value
        }
    }
}

fn stop(register: u64, vector: u64) -> ! {
    rtas::stop_with(format_args!(
        "interrupt {vector:#x} at the edu's register {register:#x}"
    ))
}
