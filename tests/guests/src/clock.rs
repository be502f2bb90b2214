//! The time base: a clock that runs alike on all processors.

use core::arch::asm;

/// The time base now.
#[inline(always)]
pub fn ticks() -> u64 {
    let ticks;
    // SAFETY: reads a register that all programs may read. It is taken to change memory, so
    // that what is measured stays between its two readings.
    unsafe { asm!("mftb {}", out(reg) ticks, options(nostack)) };
    ticks
}

/// A clock of which readings are compared.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    hertz: u64,
}

impl Clock {
    /// A clock of `hertz` ticks in a second.
    pub fn new(hertz: u32) -> Self {
        Self {
            hertz: u64::from(hertz).max(1),
        }
    }

    /// Ticks now.
    #[inline(always)]
    pub fn now(self) -> u64 {
        ticks()
    }

    /// What `ticks` are in nanoseconds.
    pub const fn nanoseconds(self, ticks: u64) -> u64 {
        let (seconds, rest) = (ticks / self.hertz, ticks % self.hertz);
        seconds * 1_000_000_000 + rest * 1_000_000_000 / self.hertz
    }

    /// Waits until `holds`, for so many seconds at most. Whether it does.
    pub fn wait_until(self, seconds: u64, mut holds: impl FnMut() -> bool) -> bool {
        let start = self.now();
        let mut result = holds();
        while !result && self.nanoseconds(self.now() - start) < seconds * 1_000_000_000 {
            result = holds();
        }
        result
    }

    /// Waits.
    pub fn wait_milliseconds(self, milliseconds: u64) {
        let start = self.now();
        while self.nanoseconds(self.now() - start) < milliseconds * 1_000_000 {}
    }
}
