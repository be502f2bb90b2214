//! The logical partition: what all processors of a machine share, and what each of them is.

#[cfg(target_arch = "powerpc64")]
pub mod bridge_iommu;
pub mod counters;
pub mod lasting;
pub mod modes;
pub mod pause;
pub mod processor_threads;
pub mod processors;

#[cfg(target_arch = "powerpc64")]
pub mod host_iommu;
#[cfg(target_arch = "powerpc64")]
pub mod interrupt_controller;
#[cfg(target_arch = "powerpc64")]
pub mod process_table;
#[cfg(target_arch = "powerpc64")]
pub mod rtas_state;
#[cfg(target_arch = "powerpc64")]
mod shared;

#[cfg(target_arch = "powerpc64")]
pub use shared::Partition;
