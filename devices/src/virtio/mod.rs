//! virtio devices behind a PCI host bridge (Virtual I/O Device Version 1.2, "virtio" below), of which this process is
//! the device: modern ones alone, with MSI-X.
//!
//! A driver's registers come by exits, as they are used when a device is set up. What it says while it works
//! costs none: its doorbells are eventfds that KVM signals, interrupts are eventfds that KVM takes.
//!
//! | file | what it holds |
//! |---|---|
//! | `device` | what a kind of device is, to the rest |
//! | `rng` | the entropy device |
//! | `block` | the disk |
//! | `scsi` | the SCSI controller, with disks and CD drives |
//! | `disk` | disks of a machine, which both of those have |
//! | `balloon` | the memory balloon |
//! | `net` | the network card |
//! | `vsock` | the socket device |
//! | `fs` | the file system device |
//! | `serial` | the serial device, with ports |
//! | `requests` | what a driver has put into a queue |
//! | `used` | giving it several buffers back at once |
//! | `registers` | the common configuration: status, features, queues |
//! | `layout` | configuration space, and what lies where in the BAR |
//! | `msi_x` | the table of MSI-X vectors |
//! | `shared` | a device with its registers, and how its queues are served |
//! | `function` | all that as the back end of a PCI function |
//! | `worker` | the thread that serves the queues |
//! | `vhost_queues` | queues that a vhost back end serves |
//!
//! A driver is a guest's, hence hostile. Whatever it writes into registers and rings, the device stops and asks to
//! be reset (DEVICE_NEEDS_RESET, virtio 2.1.1); memory is reached through [`DmaMemory`](crate::dma::DmaMemory) alone,
//! and no more is done for it at a time than a queue holds.

pub mod balloon;
pub mod block;
mod device;
pub mod disk;
#[cfg(test)]
mod driver;
mod fs;
#[cfg(test)]
mod fs_tests;
mod function;
#[cfg(feature = "fuzz")]
pub mod fuzz;
#[cfg(test)]
mod later_tests;
mod layout;
mod msi_x;
pub mod net;
#[cfg(any(test, feature = "fuzz"))]
mod queues;
mod registers;
mod requests;
mod rng;
pub mod scsi;
pub mod serial;
mod shared;
mod signals;
#[cfg(test)]
mod tests;
mod used;
mod vhost_queues;
#[cfg(test)]
mod vhost_queues_tests;
#[cfg(test)]
mod vhost_share_tests;
mod vsock;
mod worker;

pub use device::{Device, Done, Identity, ServeError, Served};
pub use fs::{FileSystem, FsHost, FsRefusal, TAG_BYTES};
pub use function::{VirtioFunction, VirtioOptions};
pub use rng::Rng;
pub use vhost_queues::VhostQueues;
pub use vsock::{Vsock, VsockHost};
