//! Disk images of the host: files and block devices that hold what a guest's disk has.
//!
//! | file | what it holds |
//! |---|---|
//! | `options` | how an image is to be used |
//! | `open` | an image that is open: its files, its size, what the host says of it |
//! | `lock` | locks that keep two programs from writing to one image, as QEMU has them |
//! | `operation` | what is asked of an image, and the guest memory that it is for |
//! | `engine` | doing that without waiting for it |
//! | `ring` | the host's kernel does it (io_uring) |
//! | `helper` | a thread does it: what the kernel does not, and all where there is no io_uring |
//! | `raw` | an operation waited for |
//! | `qcow2` | images of that format, and those that they stand on |
//! | `ordered` | the file of such an image, whose tables are written in an order that leaves it whole |
//! | `counters` | what was done |
//! | `fuzz` | images and operations as a fuzzer has them |

mod counters;
mod engine;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod helper;
mod lock;
mod open;
mod operation;
mod options;
mod ordered;
mod qcow2;
#[cfg(test)]
mod qcow2_tests;
mod raw;
mod ring;
#[cfg(test)]
mod tests;

pub use counters::{Counters, Kind, Tally};
pub use engine::{Completion, Engine, EngineOptions, Failure};
pub use helper::Resizer;
pub use lock::LockError;
pub use open::{Image, OpenError};
pub use operation::Operation;
pub use options::{Backing, Format, ImageOptions};
pub use ring::allowed_in_steady_state;
