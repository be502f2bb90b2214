//! The memory balloon (virtio 5.5): its driver gives pages away and takes them back as it is told to, and tells how the
//! guest's memory is used.
//!
//! | file | what it holds |
//! |---|---|
//! | `control` | what management programs set and read, which outlasts a machine's lives |
//! | `pages` | guest memory on its way back to the host |
//! | `statistics` | what the guest tells of its memory |
//! | `device` | the device |

mod control;
mod device;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod pages;
mod statistics;
#[cfg(test)]
mod tests;

pub use control::BalloonControl;
pub use device::{Balloon, BalloonOptions};
pub use statistics::{STATISTICS, Statistics};

/// A driver counts in pages of 4 KiB, whatever its own and the host's are (virtio 5.5.6).
const PAGE_SHIFT: u32 = 12;
/// Bytes of such a page.
const PAGE_BYTES: u64 = 1 << PAGE_SHIFT;
