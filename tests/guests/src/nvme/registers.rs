//! A controller's registers (NVMe 1.4, section 3.1).

use crate::access::{Width, load, store};
use crate::rtas;

/// CAP, the high half: bits 35 to 32 are the doorbells' stride.
const CAPABILITIES_HIGH: u64 = 0x04;
const CONFIGURATION: u64 = 0x14;
const STATUS: u64 = 0x1c;
const ADMIN_QUEUE_ATTRIBUTES: u64 = 0x24;
const ADMIN_SUBMISSION_QUEUE: u64 = 0x28;
const ADMIN_COMPLETION_QUEUE: u64 = 0x30;
const DOORBELLS: u64 = 0x1000;

/// CC: entries of 64 and of 16 bytes, as powers of two; pages of 4 KiB.
const ENTRY_SIZES: u64 = 6 << 16 | 4 << 20;
const ENABLE: u64 = 1;

/// The controller's status, CSTS.
#[derive(Clone, Copy, Debug)]
pub(super) struct Status(u64);

impl Status {
    /// CSTS.RDY: it works.
    pub(super) fn is_ready(self) -> bool {
        self.0 & 1 != 0
    }

    /// CSTS.CFS: it has met a fatal error.
    pub(super) fn is_fatal(self) -> bool {
        self.0 & 2 != 0
    }

    /// Nobody answered.
    pub(super) fn is_gone(self) -> bool {
        self.0 == 0xffff_ffff
    }
}

/// The registers.
#[derive(Debug)]
pub(super) struct Registers {
    address: u64,
    /// Bytes from one doorbell to the next.
    stride: u64,
}

impl Registers {
    /// The registers at a guest physical address.
    ///
    /// # Safety
    /// They must be there and stay there.
    pub(super) unsafe fn at(address: u64) -> Self {
        let mut registers = Self { address, stride: 4 };
        registers.stride = 4 << (registers.read(CAPABILITIES_HIGH) & 0xf);
        registers
    }

    pub(super) fn status(&self) -> Status {
        Status(self.read(STATUS))
    }

    /// Starts or stops the controller.
    pub(super) fn configure(&self, enable: bool) {
        let enable = if enable { ENABLE } else { 0 };
        self.write(CONFIGURATION, ENTRY_SIZES | enable);
    }

    /// Says where the administration's queues are.
    pub(super) fn set_admin_queues(&self, submission: u64, completion: u64) {
        let last = super::queue::ENTRIES - 1;
        self.write(ADMIN_QUEUE_ATTRIBUTES, last << 16 | last);
        for (register, ioba) in [
            (ADMIN_SUBMISSION_QUEUE, submission),
            (ADMIN_COMPLETION_QUEUE, completion),
        ] {
            self.write(register, ioba & 0xffff_ffff);
            self.write(register + 4, ioba >> 32);
        }
    }

    /// Tells the controller of new submissions.
    pub(super) fn ring_submission(&self, queue: u16, tail: u64) {
        self.write(DOORBELLS + 2 * u64::from(queue) * self.stride, tail);
    }

    /// Tells the controller which completions have been seen.
    pub(super) fn ring_completion(&self, queue: u16, head: u64) {
        self.write(DOORBELLS + (2 * u64::from(queue) + 1) * self.stride, head);
    }

    fn read(&self, register: u64) -> u64 {
        // SAFETY: reading a controller's registers changes nothing.
        match unsafe { load(self.address + register, Width::Word) } {
            Ok(value) => value,
            Err(interrupted) => stop(register, interrupted.0),
        }
    }

    fn write(&self, register: u64, value: u64) {
        // What was written to memory before is there when the controller looks.
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        // SAFETY: there are registers, as who made this vouched; what the controller then does to
        // memory is ruled by the DMA windows.
        if let Err(interrupted) = unsafe { store(self.address + register, Width::Word, value) } {
            stop(register, interrupted.0);
        }
    }
}

fn stop(register: u64, vector: u64) -> ! {
    rtas::stop_with(format_args!(
        "interrupt {vector:#x} at the controller's register {register:#x}"
    ))
}
