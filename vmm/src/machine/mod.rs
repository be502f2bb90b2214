//! The pseries machine.

pub mod dma_windows;
pub mod guest_places;
pub mod locked_memory;

#[cfg(target_arch = "powerpc64")]
mod bar_slots;
#[cfg(target_arch = "powerpc64")]
mod bridges;
#[cfg(target_arch = "powerpc64")]
mod build;
#[cfg(target_arch = "powerpc64")]
mod bulk_calls;
#[cfg(any(target_arch = "powerpc64", test))]
mod device_interrupts;
#[cfg(target_arch = "powerpc64")]
mod device_notices;
#[cfg(target_arch = "powerpc64")]
mod error;
#[cfg(target_arch = "powerpc64")]
mod kept;
#[cfg(target_arch = "powerpc64")]
mod memory_check;
#[cfg(target_arch = "powerpc64")]
mod passthrough;
#[cfg(target_arch = "powerpc64")]
mod policy;
#[cfg(any(test, target_arch = "powerpc64"))]
mod populator;
#[cfg(target_arch = "powerpc64")]
mod processor_facts;
#[cfg(target_arch = "powerpc64")]
mod report;
#[cfg(target_arch = "powerpc64")]
mod running;
#[cfg(target_arch = "powerpc64")]
mod virtual_devices;

#[cfg(target_arch = "powerpc64")]
pub use build::Machine;
#[cfg(target_arch = "powerpc64")]
pub use error::MachineError;
#[cfg(target_arch = "powerpc64")]
pub use kept::Kept;
#[cfg(target_arch = "powerpc64")]
pub use running::{MachineControls, RunningMachine};
