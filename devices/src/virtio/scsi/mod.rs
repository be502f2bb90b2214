//! The SCSI controller (virtio 5.6, "SCSI host device"), with disks and CD drives as logical units of its targets.
//!
//! | file | what it holds |
//! |---|---|
//! | `address` | where a logical unit is |
//! | `unit` | a logical unit: what it is, what it remembers, and whose command is whose |
//! | `cdb` | a command as its initiator wrote it |
//! | `sense` | what a command did not do, in the standards' codes |
//! | `primary` | commands that all units know (SPC-4) |
//! | `inquiry` | what a unit tells of itself |
//! | `mode` | mode pages |
//! | `blocks` | commands of block devices (SBC-3) |
//! | `optical` | commands of CD drives (MMC-6) |
//! | `request` | what a driver puts into a request queue, and what it gets back |
//! | `control` | what a driver puts into the control queue |
//! | `device` | the controller |
//! | `lun` | its units with what is under way of them, and which there are |
//! | `manage` | its task management, and the events that it tells |
//! | `fuzz` | a driver as a fuzzer has it |

mod address;
mod blocks;
mod cdb;
mod control;
mod device;
#[cfg(test)]
mod driver;
#[cfg(feature = "fuzz")]
pub mod fuzz;
#[cfg(test)]
mod hostile_tests;
mod inquiry;
mod lun;
mod manage;
mod mode;
mod optical;
mod primary;
mod request;
mod sense;
#[cfg(test)]
mod tests;
mod unit;

pub use address::{Address, MOST_LUN, MOST_TARGET};
pub use device::{Scsi, ScsiOptions};
pub use unit::{UnitKind, UnitOptions};

/// Bytes of a CD's block.
pub const CD_BLOCK_BYTES: u32 = 2048;
