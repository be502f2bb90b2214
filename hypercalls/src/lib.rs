//! PAPR hypercalls and the TCE engine of a pseries machine.
//!
//! Everything here is pure logic: no ioctl, no file descriptor, no thread. What the engine needs of
//! the world (guest memory, the host's IOMMU, the kernel's TCE table) are the traits of [`world`],
//! so that all of it is tested on any machine.

#![forbid(unsafe_code)]

pub mod abi;
pub mod address;
pub mod tce;
pub mod world;
