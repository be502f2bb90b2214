//! Disks of a machine, as what has them stands on them: a virtio disk has one, a SCSI controller has many.
//!
//! | file | what it holds |
//! |---|---|
//! | `disk` | a disk of the machine: its image, and how it is to look |
//! | `work` | requests that its image is at work on |
//! | `failures` | what becomes of requests that the host fails, and how others hear of it |
//! | `parked` | requests that wait for the machine to go on |

#[expect(
    clippy::module_inception,
    reason = "a disk is one of the things that there are of disks"
)]
mod disk;
mod failures;
mod parked;
mod work;

pub use disk::{Disk, DiskHost, DiskOptions, IoStatus};
pub use failures::{Action, DiskFailure, DiskFailures, ErrorPolicy, OnError};
pub(super) use work::{Place, Work};

/// Bytes of a sector, of which an image has a whole number.
pub(super) const SECTOR_BYTES: u64 = 512;

/// The most bytes of all pieces of a request.
pub(super) const MOST_BYTES: u64 = (128 << 10) * 254;

/// The most sectors that one request discards, and that it fills with zeroes: a host that has to write them is busy
/// for a while.
pub(super) const MOST_DISCARD_SECTORS: u32 = 1 << 22;
pub(super) const MOST_ZERO_SECTORS: u32 = 1 << 18;
