//! The pseries machine.

pub mod dma_windows;
pub mod guest_places;
pub mod locked_memory;

mod attachments;
mod bar_slots;
mod bridges;
mod build;
mod bulk_calls;
mod controller_kind;
mod device_interrupts;
mod device_notices;
mod device_resets;
mod disks;
mod error;
#[cfg(all(test, not(target_arch = "powerpc64")))]
mod fake_kvm_tests;
mod freeze_watch;
#[cfg(all(feature = "fuzz", not(target_arch = "powerpc64")))]
pub mod fuzz;
mod host;
mod kept;
mod memory_check;
mod passthrough;
mod policy;
mod populator;
mod processor_facts;
mod report;
mod running;
mod virtual_devices;

pub use attachments::Attachments;
pub use build::Machine;
pub use error::MachineError;
pub use kept::Kept;
pub use running::{MachineControls, RunningMachine};
