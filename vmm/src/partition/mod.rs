//! The logical partition: what all processors of a machine share, and what each of them is.

pub mod bridge_iommu;
pub mod counters;
pub mod lasting;
pub mod modes;
pub mod pause;
pub mod processor_threads;
pub mod processors;

pub mod host_iommu;
pub mod interrupt_controller;
pub mod process_table;
pub mod rtas_state;
mod shared;

pub use shared::Partition;
