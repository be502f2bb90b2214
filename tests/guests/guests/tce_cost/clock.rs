//! The time base.

use core::arch::asm;

/// A clock of which readings are compared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    hertz: u64,
}

impl Clock {
    /// A clock of `hertz` ticks in a second.
    pub(crate) fn new(hertz: u32) -> Self {
        Self {
            hertz: u64::from(hertz).max(1),
        }
    }

    /// Ticks now.
    #[inline(always)]
    pub(crate) fn now(self) -> u64 {
        let ticks;
        // SAFETY: reads a register that all programs may read. It is taken to change memory, so
        // that what is measured stays between its two readings.
        unsafe { asm!("mftb {}", out(reg) ticks, options(nostack)) };
        ticks
    }

    /// What `ticks` are in nanoseconds.
    pub(crate) fn nanoseconds(self, ticks: u64) -> u64 {
        ticks.saturating_mul(1_000_000_000 / 1000) / (self.hertz / 1000).max(1)
    }
}
