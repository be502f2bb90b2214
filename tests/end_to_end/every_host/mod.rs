//! Tests that run on each kind of host: CPU and page size may make a difference.

pub(crate) mod balloon;
pub(crate) mod disk;
pub(crate) mod disk_kills;
mod dma;
pub(crate) mod dma_windows;
pub(crate) mod entropy;
mod every_device;
pub(crate) mod guest_kernels;
mod host;
mod hostile_driver;
mod hostile_guest;
mod interrupt_controller;
pub(crate) mod network;
mod range_ends;
mod reboot;
pub(crate) mod scsi;
pub(crate) mod serial;
mod virtual_functions;
mod vulnerabilities;
