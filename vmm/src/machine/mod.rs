//! The pseries machine.

pub mod dma_windows;
pub mod guest_places;
pub mod locked_memory;

mod bar_slots;
mod build;
mod bulk_calls;
mod controller_kind;
mod device_interrupts;
mod device_notices;
#[cfg(all(test, not(target_arch = "powerpc64")))]
mod fake_kvm_tests;
mod host;
mod memory_check;
mod passthrough;
mod populator;
mod processor_facts;
mod report;
mod running;

pub use build::{Machine, MachineError};
pub use running::{MachineControls, RunningMachine};
