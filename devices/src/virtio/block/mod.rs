//! The disk (virtio 5.2, "block device").
//!
//! | file | what it holds |
//! |---|---|
//! | `disk` | a disk of the machine: its image, and how it is to look |
//! | `config` | what a driver reads of it |
//! | `request` | what a driver asks for |
//! | `device` | the device |
//! | `failures` | what becomes of requests that the host fails, and how others hear of it |
//! | `parked` | requests that wait for the machine to go on |
//! | `fuzz` | a driver as a fuzzer has it |

mod config;
mod device;
mod disk;
mod failures;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod parked;
mod request;
#[cfg(test)]
mod stop_tests;
#[cfg(test)]
mod tests;

pub use device::Block;
pub use disk::{Disk, DiskOptions, IoStatus};
pub use failures::{Action, DiskFailure, DiskFailures, ErrorPolicy, OnError};

/// Bytes of a sector, by which a driver counts, whatever the disk's blocks are.
const SECTOR_BYTES: u64 = 512;

/// Bytes of the longest serial number (VIRTIO_BLK_ID_BYTES).
pub const MOST_SERIAL_BYTES: usize = 20;

/// The most bytes of one piece of a request (`size_max`), and of all of them.
const MOST_PIECE_BYTES: u32 = 128 << 10;
const MOST_BYTES: u64 = MOST_PIECE_BYTES as u64 * 254;

/// The most sectors that one request discards, and that it fills with zeroes: a host that has to write them is busy
/// for a while.
const MOST_DISCARD_SECTORS: u32 = 1 << 22;
const MOST_ZERO_SECTORS: u32 = 1 << 18;
