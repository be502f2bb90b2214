//! Devices of a pseries machine: passed-through PCI functions (VFIO on SPAPR), PCI host bridges and
//! configuration space, RTAS services, interrupt source numbers, and the virtual terminal.
//!
//! Nothing here knows KVM: what a device needs of the machine (guest memory slots, interrupt
//! lines, other processors) are traits that the machine implements.

pub mod board;
pub mod dma;
pub mod dma_windows;
pub mod error_chain;
pub mod image;
pub mod interrupts;
pub mod net;
pub mod pci;
mod poll;
pub mod rate_limit;
pub mod rtas;
pub mod tree;
pub mod vfio;
pub mod vhost;
pub mod virtio;
pub mod vty;
