//! What was done with an image, counted by the device's thread and read by others.

use std::sync::atomic::{AtomicU64, Ordering};

/// A kind of operation as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Flushes.
    Flush,
    /// Discards.
    Discard,
    /// Writes of zeroes.
    Zero,
}

/// Counts of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Operations that were done.
    pub operations: u64,
    /// Bytes that they were about.
    pub bytes: u64,
    /// Operations that failed at the host.
    pub failed: u64,
    /// Operations that the guest asked for and that cannot be.
    pub invalid: u64,
    /// How long those that were done took, from when they were given to the host.
    pub nanoseconds: u64,
}

#[derive(Debug, Default)]
struct Cell {
    operations: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    invalid: AtomicU64,
    nanoseconds: AtomicU64,
}

/// Counts of all kinds.
#[derive(Debug, Default)]
pub struct Counters {
    cells: [Cell; 5],
    /// The highest offset that was written, and bytes.
    highest_write: AtomicU64,
}

impl Counters {
    const fn cell(&self, kind: Kind) -> &Cell {
        let index = match kind {
            Kind::Read => 0,
            Kind::Write => 1,
            Kind::Flush => 2,
            Kind::Discard => 3,
            Kind::Zero => 4,
        };
        &self.cells[index]
    }

    /// Counts an operation that was done.
    pub fn add(&self, kind: Kind, end: u64, bytes: u64, nanoseconds: u64) {
        let cell = self.cell(kind);
        cell.operations.fetch_add(1, Ordering::Relaxed);
        cell.bytes.fetch_add(bytes, Ordering::Relaxed);
        cell.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        if matches!(kind, Kind::Write | Kind::Zero) {
            self.highest_write.fetch_max(end, Ordering::Relaxed);
        }
    }

    /// Counts an operation that failed.
    pub fn add_failed(&self, kind: Kind) {
        self.cell(kind).failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an operation that cannot be.
    pub fn add_invalid(&self, kind: Kind) {
        self.cell(kind).invalid.fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted of a kind.
    pub fn tally(&self, kind: Kind) -> Tally {
        let cell = self.cell(kind);
        Tally {
            operations: cell.operations.load(Ordering::Relaxed),
            bytes: cell.bytes.load(Ordering::Relaxed),
            failed: cell.failed.load(Ordering::Relaxed),
            invalid: cell.invalid.load(Ordering::Relaxed),
            nanoseconds: cell.nanoseconds.load(Ordering::Relaxed),
        }
    }

    /// Where the last of all that was written ends.
    pub fn highest_write(&self) -> u64 {
        self.highest_write.load(Ordering::Relaxed)
    }
}
