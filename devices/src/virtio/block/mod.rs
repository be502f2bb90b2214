//! The disk (virtio 5.2, "block device").
//!
//! | file | what it holds |
//! |---|---|
//! | `config` | what a driver reads of it |
//! | `request` | what a driver asks for |
//! | `device` | the device |
//! | `fuzz` | a driver as a fuzzer has it |

mod config;
mod device;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod request;
#[cfg(test)]
mod stop_tests;
#[cfg(test)]
mod tests;

pub use device::Block;

/// Bytes of the longest serial number (VIRTIO_BLK_ID_BYTES).
pub const MOST_SERIAL_BYTES: usize = 20;

/// The most bytes of one piece of a request (`size_max`).
const MOST_PIECE_BYTES: u32 = 128 << 10;
